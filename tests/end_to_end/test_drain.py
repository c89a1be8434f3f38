"""The end of a proxy, step by step: not ready, still serving, then closed; and who may begin it."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.programs import COMMAND, Program, configuration, run_program, write_configuration
from tests.end_to_end.test_reload import Load
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Place, ProxyProgram

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def status_of(proxy: ProxyProgram, path: str, *, method: str = "GET", **fields: str) -> int:
    """Returns the status the admin site answers with."""
    url = next(line for line in proxy.lines if "health and metrics on" in line).rpartition(" ")[2] + path
    try:
        with OPENER.open(urllib.request.Request(url, method=method, headers=fields), timeout=20) as answer:  # noqa: S310
            status: int = answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    return status


def test_until_the_delay_is_over_it_serves_although_it_is_not_ready(place: Place, start_proxy: StartProxy) -> None:
    """As a load balancer needs it: what it still sends for a while gets its answer, on old connections and new ones."""
    proxy = start_proxy(configuration(place, timeouts={"drain_s": 5, "drain_delay_s": 3}))
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
    assert proxy.wait() == 0


def test_an_exchange_in_flight_is_finished(place: Place, start_proxy: StartProxy, curl: Curl) -> None:
    proxy = start_proxy(configuration(place))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(curl, "--proxy", proxy.forward, f"http://{place.alias_host}/slow/2")
        time.sleep(0.7)
        proxy.signal(signal.SIGTERM)
        assert slow.result().status == 200
    assert proxy.wait() == 0


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
    with Program([COMMAND, "wait", "--config", config, "--timeout", "50"], tmp_path, "wait") as waiting:
        time.sleep(1.0)
        assert waiting.process.poll() is None
        start_proxy(settings)
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
    assert "no access token yet for orders-client" in verdict["reasons"][0]
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
