"""The end of a proxy, step by step: not ready, still serving, then closed; and who may begin it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.programs import COMMAND, PATIENCE_S, Program, configuration, run_program, write_configuration
from tests.end_to_end.test_reload import Load
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.programs import Place, ProxyProgram

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def status_of(proxy: ProxyProgram, path: str, *, method: str = "GET", **fields: str) -> int:
    """Returns the status the admin site answers with."""
    url = next(line for line in proxy.lines if "health and metrics on" in line).rpartition(" ")[2] + path
    try:
        with OPENER.open(urllib.request.Request(url, method=method, headers=fields), timeout=PATIENCE_S) as answer:  # noqa: S310
            status: int = answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    return status


def test_until_the_delay_is_over_it_serves_although_it_is_not_ready(place: Place, start_proxy: StartProxy) -> None:
    """As a load balancer needs it: what it still sends for a while gets its answer, on old connections and new ones."""
    proxy = start_proxy(configuration(place, timeouts={"drain_s": 30, "drain_delay_s": 600}))
    load = Load(proxy, place)
    with load.running():
        load.wait_for(10)  # with a token: so it is ready
        assert status_of(proxy, "/readyz") == 200
        proxy.signal(signal.SIGTERM)
        proxy.wait_for_line("draining")
        assert status_of(proxy, "/readyz") == 503
        assert status_of(proxy, "/livez") == 200
        load.wait_for(20)
    assert set(load.outcomes) == {"200"}, load.outcomes
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_within_the_delay_each_response_says_that_its_connection_ends(
    place: Place, start_proxy: StartProxy, workers: int
) -> None:
    """A client that keeps its connection goes elsewhere in time, and finds none closed that it counted on (RFC 9112 §9.6)."""
    host, port = "127.0.0.1", free_port()
    delay = {"drain_s": 30, "drain_delay_s": 600}
    proxy = start_proxy(
        configuration(place, listeners=[{"address": f"{host}:{port}"}], workers=workers, timeouts=delay)
    )
    kept = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    target = f"http://{place.alias_host}/orders"

    def ask(connection: http.client.HTTPConnection) -> str | None:
        connection.request("GET", target)
        with connection.getresponse() as response:
            response.read()
            assert response.status == 200
            return response.getheader("Connection")

    assert [ask(kept), ask(kept)] == [None, None]
    opened = kept.sock
    proxy.signal(signal.SIGTERM)
    proxy.wait_for_line("draining")
    assert kept.sock is opened
    give_up_at = time.monotonic() + PATIENCE_S
    while (said := ask(kept)) is None:  # a relay process hears of the signal a moment later
        assert time.monotonic() < give_up_at
    assert said == "close"
    # New connections are still taken, for one exchange each.
    assert ask(kept) == "close"
    kept.close()
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0


def test_when_the_delay_is_over_it_ends(place: Place, start_proxy: StartProxy) -> None:
    proxy = start_proxy(configuration(place, timeouts={"drain_delay_s": 1}))
    began = time.monotonic()
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0
    assert time.monotonic() - began >= 1


def test_an_exchange_in_flight_is_finished(place: Place, start_proxy: StartProxy) -> None:
    """The API has the request and waits for its content (RFC 9110 §10.1.1), which the client sends once the proxy has closed."""
    host, port = "127.0.0.1", free_port()
    proxy = start_proxy(configuration(place, listeners=[{"address": f"{host}:{port}"}], timeouts={"drain_s": 60}))
    head = f"POST http://{place.alias_host}/orders HTTP/1.1\r\nHost: {place.alias_host}\r\n"
    with socket.create_connection((host, port), timeout=PATIENCE_S) as client, client.makefile("rb") as answer:
        client.sendall(f"{head}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n".encode())
        assert [answer.readline(), answer.readline()] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
        proxy.signal(signal.SIGTERM)
        wait_until_closed(host, port)
        client.sendall(b"whole")
        assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
        assert b'"length": 5' in answer.read()
    assert proxy.wait() == 0


def wait_until_closed(host: str, port: int) -> None:
    """Waits until nobody listens at an address any more."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection((host, port), timeout=PATIENCE_S).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass  # the kernel had it in the queue of a listener that closed just then
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def test_a_second_signal_ends_the_delay_too(place: Place, start_proxy: StartProxy) -> None:
    proxy = start_proxy(configuration(place, timeouts={"drain_delay_s": 600}))
    proxy.signal(signal.SIGTERM)
    proxy.wait_for_line("draining")
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0


def test_a_job_can_end_its_sidecar(place: Place, start_proxy: StartProxy) -> None:
    proxy = start_proxy(configuration(place, admin={"address": "127.0.0.1:0", "allow_quit": True}))
    assert status_of(proxy, "/quit") == 405, "a link or an image must not end it"
    assert status_of(proxy, "/quit", method="POST", Origin="https://evil.example") == 403
    assert status_of(proxy, "/quit", method="POST", Host="evil.example") == 421
    assert status_of(proxy, "/livez") == 200
    assert status_of(proxy, "/quit", method="POST") == 200
    assert proxy.wait() == 0


def test_without_leave_nobody_can(place: Place, start_proxy: StartProxy) -> None:
    proxy = start_proxy(configuration(place))
    assert status_of(proxy, "/quit", method="POST") == 405
    assert status_of(proxy, "/livez") == 200
    assert not any("draining" in line for line in proxy.lines)


def test_wait_returns_once_the_proxy_is_ready(place: Place, tmp_path: Path, start_proxy: StartProxy) -> None:
    port = free_port()
    settings = configuration(place, admin={"address": f"127.0.0.1:{port}"})
    config = write_configuration(settings, tmp_path)
    with socket.create_server(("127.0.0.1", port)) as other:
        other.settimeout(PATIENCE_S)
        with Program([COMMAND, "wait", "--config", config, "--timeout", "600"], tmp_path, "wait") as waiting:
            for _ in range(2):  # who asks again was not content with what came, which is nothing
                other.accept()[0].close()
            other.close()
            start_proxy(settings)
            assert waiting.wait() == 0
    assert waiting.lines == []


def test_wait_has_patience_with_a_proxy_that_is_busy(tmp_path: Path) -> None:
    """The last question is answered after 2.5 s, as by a process that had no turn before."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        busy.settimeout(PATIENCE_S)
        words = ["--address", f"127.0.0.1:{busy.getsockname()[1]}", "--timeout", "0"]
        with Program([COMMAND, "wait", *words], tmp_path, "wait") as waiting:
            with busy.accept()[0] as connection:
                assert connection.recv(65_536).startswith(b"GET /readyz ")
                time.sleep(2.5)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert waiting.wait() == 0
    assert waiting.lines == []


def test_wait_says_what_was_missing_when_the_time_is_over(
    place: Place, tmp_path: Path, start_proxy: StartProxy
) -> None:
    port = free_port()
    settings = configuration(
        place, admin={"address": f"127.0.0.1:{port}"}, credential={"authority": "https://127.0.0.1:9"}
    )
    config = write_configuration(settings, tmp_path)
    nobody = run_program([COMMAND, "wait", "--config", config, "--timeout", "0"])
    assert (nobody.status, nobody.stdout) == (1, b"")
    assert f"nothing answers at 127.0.0.1:{port}" in nobody.stderr
    start_proxy(settings)
    done = run_program([COMMAND, "wait", "--config", config, "--timeout", "0", "--json"])
    assert done.status == 1
    verdict = json.loads(done.stdout)
    assert verdict["ready"] is False
    assert "(credential orders-client, " in verdict["reasons"][0]
    other = run_program([COMMAND, "wait", "--address", f"127.0.0.1:{place.port}", "--timeout", "0"])
    assert "is not the admin site" in other.stderr


@pytest.mark.parametrize("words", [["--address", "nowhere"], ["--timeout", "-1"]], ids=" ".join)
def test_wait_used_wrongly_exits_2(words: list[str]) -> None:
    assert run_program([COMMAND, "wait", *words]).status == 2


def test_the_auto_config_file_names_routed_hosts_only(place: Place, start_proxy: StartProxy) -> None:
    """Evaluated by a JavaScript engine, as a browser does."""
    import shutil

    settings = configuration(place, route={"hosts": [place.api_authority, place.alias_host, "*.apis.contoso.com"]})
    proxy = start_proxy(settings)
    script = proxy.ask_admin("/proxy.pac").decode()
    if shutil.which("node") is None:
        pytest.skip("node is not installed here")
    hosts = [
        place.alias_host,
        place.alias_host.upper(),
        "a.apis.contoso.com",
        "apis.contoso.com",
        "example.com",
        "localhost",
    ]
    program = (
        "const dnsDomainIs = (host, domain) => host.endsWith(domain);"
        f"{script}; console.log(JSON.stringify({json.dumps(hosts)}.map((host) => FindProxyForURL('', host))))"
    )
    through = f"PROXY {proxy.address('forward')}"
    answers = json.loads(run_program(["node", "-e", program]).stdout)
    assert answers == [through, through, through, "DIRECT", "DIRECT", through]
