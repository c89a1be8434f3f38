"""Another configuration while requests run: none of them fails, tokens are kept, and one that is wrong changes nothing."""

from __future__ import annotations

import http.client
import os
import signal
import ssl
import threading
import time
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.sandbox import create_client_certificate
from tests.end_to_end.programs import COMMAND, PATIENCE_S, Program, configuration, write_configuration
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Configuration, Place, ProxyProgram


def rewrite(proxy: ProxyProgram, settings: Configuration, *, how: str = "signal") -> None:
    """Puts another configuration in place, and waits until the proxy has judged it.

    With a signal, the proxy stands still meanwhile: it must not judge twice, because it saw the file before the signal came.
    """
    before = len([line for line in proxy.lines if _is_verdict(line)])
    if how == "signal":
        proxy.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, proxy.process.pid, os.WSTOPPED)
    write_configuration(settings, proxy.config_file.parent)
    if how == "signal":
        proxy.signal(signal.SIGHUP)
        proxy.signal(signal.SIGCONT)
    proxy.wait_for(lambda lines: len([line for line in lines if _is_verdict(line)]) > before)


def _is_verdict(line: str) -> bool:
    return line.startswith("apim-auth-proxy: reloaded") or "the old one stays:" in line


def metric(proxy: ProxyProgram, name: str) -> float:
    """Returns the sum of a metric's samples whose text begins so."""
    lines = proxy.ask_admin("/metrics").decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"apim_auth_proxy_{name}"))


class Load:
    """Threads that make one request after another, each on connections that are kept.

    Attributes:
        outcomes: how often each status came; an exception counts by its name.
    """

    def __init__(self, proxy: ProxyProgram, place: Place) -> None:
        self.outcomes: Counter[str] = Counter()
        self._stop = threading.Event()
        host, _, port = proxy.address("forward").partition(":")
        context = ssl.create_default_context(cafile=proxy.ca_file)

        def tunnel() -> http.client.HTTPConnection:
            connection = http.client.HTTPSConnection(host, int(port), timeout=PATIENCE_S, context=context)
            connection.set_tunnel(place.alias_host, 443)
            return connection

        kinds = [
            (
                lambda: http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S),
                f"http://{place.alias_host}/orders",
            ),
            (tunnel, "/orders"),
        ]
        self._threads = [
            threading.Thread(target=self._run, args=(*kind, keep)) for kind in kinds for keep in (True, False)
        ]

    def _run(self, connect: object, target: str, keep: bool) -> None:
        assert callable(connect)
        connection = connect()
        while not self._stop.is_set():
            try:
                connection.request("GET", target)
                answer = connection.getresponse()
                answer.read()
                self.outcomes[str(answer.status)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.outcomes[type(error).__name__] += 1
                connection.close()
                connection = connect()
            if not keep:
                connection.close()
                connection = connect()
        connection.close()

    def wait_for(self, more: int) -> None:
        """Waits until so many more requests were answered."""
        wanted = self.outcomes.total() + more
        give_up_at = time.monotonic() + 2 * PATIENCE_S
        while self.outcomes.total() < wanted:
            assert time.monotonic() < give_up_at, f"requests stand still: {self.outcomes}"
            time.sleep(0.01)

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Runs the threads."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(2 * PATIENCE_S)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_fails_through_reloads_that_change_everything(
    place: Place, tmp_path: Path, start_proxy: StartProxy, workers: int
) -> None:
    """Routes, limits, a listener and the certificate's file change on the way; the token is the first one throughout."""
    certificate = tmp_path / "own.pem"
    certificate.write_bytes(Path(place.certificate).read_bytes())
    certificate.chmod(0o600)
    usual = configuration(place, credential={"certificate": str(certificate)}, workers=workers)
    proxy = start_proxy(usual)
    with Load(proxy, place).running() as load:
        load.wait_for(40)
        rewrite(proxy, usual | {"limits": {"head_bytes": 30_000}})
        load.wait_for(40)
        listeners = usual["listeners"]
        assert isinstance(listeners, list)
        if workers == 1:
            more = [*listeners, {"address": f"127.0.0.1:{free_port()}"}]
            rewrite(proxy, usual | {"listeners": more})
            load.wait_for(40)
            rewrite(proxy, usual)
            load.wait_for(40)
        certificate.write_bytes(Path(place.certificate).read_bytes() + b"\n")
        routes = configuration(
            place, route={"set_headers": {"Ocp-Apim-Subscription-Key": place.subscription_key, "X-New": "1"}}
        )
        rewrite(proxy, usual | {"routes": routes["routes"]})
        load.wait_for(40)
    assert set(load.outcomes) == {"200"}, load.outcomes
    assert load.outcomes["200"] >= 40 * (5 if workers == 1 else 3), "as many as were waited for"
    assert metric(proxy, 'reloads_total{outcome="ok"}') == (4 if workers == 1 else 2)
    assert metric(proxy, "token_requests_total{") <= 2, "one at the start, one for the certificate that was replaced"


def test_a_file_that_is_wrong_changes_nothing_and_is_told_with_its_line(
    place: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    usual = configuration(place)
    proxy = start_proxy(usual)
    for wrong, words in (
        ({"listners": []}, "listners: there is no such key"),
        ({"listeners": [{"address": f"127.0.0.1:{place.port}"}]}, "another program listens there already"),
        ({"workers": 3}, "change with a restart only: workers"),
        ({"admin": {"address": f"127.0.0.1:{place.port}"}, "routes": []}, "routes"),
        ({"admin": {"address": f"127.0.0.1:{place.port}"}}, "Cannot open the admin site"),
    ):
        rewrite(proxy, usual | wrong)
        proxy.wait_for_line(words)
        assert curl("--proxy", proxy.forward, f"http://{place.alias_host}/orders").status == 200
        assert proxy.ask_admin("/readyz")
    assert metric(proxy, 'reloads_total{outcome="refused"}') == 5
    assert metric(proxy, 'reloads_total{outcome="ok"}') == 0
    assert metric(proxy, "token_requests_total{") == 1


def test_a_changed_file_is_taken_up_without_a_signal(place: Place, start_proxy: StartProxy, curl: Curl) -> None:
    usual = configuration(place)
    proxy = start_proxy(usual)
    rewrite(proxy, usual | {"limits": {"target_bytes": 300}}, how="file")
    url = f"http://{place.alias_host}/orders?x={'y' * 400}"
    assert curl("--proxy", proxy.forward, url).status == 414


def test_what_changes_while_the_proxy_starts_is_taken_up(place: Place, tmp_path: Path, evidence: Path) -> None:
    """The start is held where the configuration has been read: at a pipe from which the certificate is to come."""
    certificate, usual = tmp_path / "clientapp.pem", Path(place.certificate).read_bytes()
    os.mkfifo(certificate, 0o600)
    settings = configuration(place, credential={"certificate": str(certificate)})
    config_file = write_configuration(settings, tmp_path)
    with Program([COMMAND, "run", "--config", config_file], evidence, "proxy-held-at-its-start") as program:
        with certificate.open("wb") as pipe:
            write_configuration(settings | {"limits": {"target_bytes": 300}}, tmp_path)
            certificate.unlink()
            certificate.write_bytes(usual)
            certificate.chmod(0o600)
            pipe.write(usual)
        program.wait_for_line("apim-auth-proxy: reloaded")
        program.wait_for_line("credential orders-client: the new files are in use")


def test_a_listener_comes_and_goes(place: Place, start_proxy: StartProxy, curl: Curl) -> None:
    usual = configuration(place)
    proxy = start_proxy(usual)
    new = f"127.0.0.1:{free_port()}"
    listeners = usual["listeners"]
    assert isinstance(listeners, list)
    rewrite(proxy, usual | {"listeners": [*listeners, {"address": new}]})
    url = f"http://{place.alias_host}/orders"
    assert curl("--proxy", f"http://{new}", url).status == 200
    rewrite(proxy, usual)
    assert curl("--proxy", f"http://{new}", url).exit_status == 7, "nobody listens there any more"
    assert curl("--proxy", proxy.forward, url).status == 200


def test_open_connections_follow_the_routes(place: Place, start_proxy: StartProxy) -> None:
    """A tunnel that stays open gets what the new routes say: other fields, then no more answers once its host is gone."""
    usual = configuration(place)
    proxy = start_proxy(usual)
    host, _, port = proxy.address("forward").partition(":")
    context = ssl.create_default_context(cafile=proxy.ca_file)
    connection = http.client.HTTPSConnection(host, int(port), timeout=PATIENCE_S, context=context)
    connection.set_tunnel(place.alias_host, 443)

    def ask() -> tuple[int, bytes]:
        connection.request("GET", "/orders")
        answer = connection.getresponse()
        return answer.status, answer.read()

    status, content = ask()
    assert (status, b"X-New" in content) == (200, False)
    key = place.subscription_key
    fields = {"Ocp-Apim-Subscription-Key": key, "X-New": "here"}
    rewrite(proxy, usual | {"routes": configuration(place, route={"set_headers": fields})["routes"]})
    status, content = ask()
    assert (status, b"X-New" in content) == (200, True)
    rewrite(proxy, usual | {"routes": configuration(place, route={"hosts": [place.api_authority]})["routes"]})
    status, content = ask()
    assert status == 403
    assert place.alias_host.encode() in content
    connection.close()


def test_a_credential_that_changes_is_proved_anew_and_others_keep_their_tokens(
    place: Place, tmp_path: Path, start_proxy: StartProxy, curl: Curl
) -> None:
    """The new certificate is registered nowhere, so the route whose credential has it fails, and the other goes on."""
    usual = configuration(place)
    credentials, routes = usual["credentials"], usual["routes"]
    assert isinstance(credentials, dict)
    assert isinstance(routes, list)
    both = usual | {
        "credentials": {"orders-client": credentials["orders-client"], "other": credentials["orders-client"]},
        "routes": [
            routes[0] | {"hosts": [place.api_authority]},
            routes[0] | {"hosts": [place.alias_host], "credential": "other"},
        ],
    }
    proxy = start_proxy(both)
    first, second = f"http://{place.api_authority}/orders", f"http://{place.alias_host}/orders"
    assert [curl("--proxy", proxy.forward, url).status for url in (first, second)] == [200, 200]
    strange = create_client_certificate(datetime.now(UTC))
    pem = tmp_path / "strange.pem"
    pem.touch(0o600)
    pem.write_bytes(strange.certificate_pem + strange.private_key_pem)
    changed = {**credentials["orders-client"], "certificate": str(pem)}
    rewrite(proxy, both | {"credentials": {"orders-client": credentials["orders-client"], "other": changed}})
    assert [curl("--proxy", proxy.forward, url).status for url in (first, second)] == [200, 502]
    rewrite(proxy, both)
    assert [curl("--proxy", proxy.forward, url).status for url in (first, second)] == [200, 200]


def test_the_access_log_is_opened_anew(place: Place, tmp_path: Path, start_proxy: StartProxy, curl: Curl) -> None:
    """As after logrotate has moved it, and where the configuration names another."""
    log, other = tmp_path / "access.log", tmp_path / "other.log"
    usual = configuration(place, access_log={"file": str(log)})
    proxy = start_proxy(usual)
    url = f"http://{place.alias_host}/orders"
    curl("--proxy", proxy.forward, url)
    rewrite(proxy, usual | {"access_log": {"file": str(other)}})
    curl("--proxy", proxy.forward, f"{url}?second")
    assert proxy.stop() == 0
    assert log.read_text().count("\n") == 1
    assert other.read_text().count("\n") == 1


def test_the_admin_site_moves(place: Place, start_proxy: StartProxy) -> None:
    import urllib.request

    usual = configuration(place, admin={"address": f"127.0.0.1:{free_port()}"})
    proxy = start_proxy(usual)
    port = free_port()
    rewrite(proxy, usual | {"admin": {"address": f"127.0.0.1:{port}"}})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/livez", timeout=PATIENCE_S) as answer:
        assert answer.status == 200
    with pytest.raises(OSError, match="refused"):
        proxy.ask_admin("/livez")
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0


def _ask_metrics(proxy: ProxyProgram, *, token: str = "", host: str = "127.0.0.1") -> int:
    """Returns the status, always from the port that it first said."""
    line = next(line for line in proxy.lines if "health and metrics on" in line)
    asking = http.client.HTTPConnection("127.0.0.1", int(line.rpartition(":")[2]), timeout=PATIENCE_S)
    try:
        asking.request(
            "GET", "/metrics", headers={"Host": host, **({"Authorization": f"Bearer {token}"} if token else {})}
        )
        return asking.getresponse().status
    finally:
        asking.close()


def test_the_admin_site_changes_at_its_address(place: Place, start_proxy: StartProxy) -> None:
    """Its own listener is not in its way."""
    admin: dict[str, object] = {"address": "127.0.0.1:0"}
    proxy = start_proxy(configuration(place, admin=admin))
    assert _ask_metrics(proxy, host="proxy.example") == 421
    rewrite(proxy, configuration(place, admin=admin | {"server_names": ["proxy.example"]}))
    assert _ask_metrics(proxy, host="proxy.example") == 200


def test_another_admin_token_counts_from_a_reload_on(place: Place, tmp_path: Path, start_proxy: StartProxy) -> None:
    file, first, second = tmp_path / "token", "a" * 40, "b" * 40
    file.write_text(first)
    file.chmod(0o600)
    settings = configuration(place, admin={"address": "0.0.0.0:0", "token_file": str(file)})
    proxy = start_proxy(settings)
    assert [_ask_metrics(proxy, token=token) for token in (first, second)] == [200, 401]
    file.write_text(second)
    rewrite(proxy, settings)
    assert [_ask_metrics(proxy, token=token) for token in (first, second)] == [401, 200]
