"""A name server that stays silent, and what the rest of the proxy notices of it: nothing. In a mount namespace, as root."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.end_to_end.programs import COMMAND, PATIENCE_S, ProxyProgram, configuration, run_program, write_configuration
from tests.end_to_end.test_errors import check_problem
from tests.wire.name_server import NameServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TypeAlias

    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Configuration, Place

    StartNamed: TypeAlias = Callable[[Configuration], ProxyProgram]

SILENT = ".onprem.lab.test"
ELSEWHERE = ".elsewhere.test"  # below no route
HANGING = 50


def _may_have_namespaces() -> bool:
    return os.geteuid() == 0 and shutil.which("unshare") is not None


pytestmark = pytest.mark.skipif(
    not _may_have_namespaces() and "CI" not in os.environ, reason="a resolv.conf of its own takes root and unshare"
)


@pytest.fixture
def names() -> Iterator[NameServer]:
    """Answers nothing for two domains. At an address of this test process's own, since resolv.conf knows port 53 only."""
    number = os.getpid() % 65_000 + 256
    with NameServer(silent=[SILENT, ELSEWHERE], host=f"127.53.{number >> 8}.{number & 255}", port=53) as server:
        yield server


@pytest.fixture
def wrapper(names: NameServer, tmp_path: Path) -> list[str]:
    """Runs a program where the silent server is the only one; c-ares asks it, 5 s each time at most, for longer than any test."""
    resolv, hosts = tmp_path / "resolv.conf", tmp_path / "hosts"
    resolv.write_text(f"nameserver {names.host}\noptions timeout:5 attempts:100\n", encoding="ascii")
    hosts.write_text("127.0.0.1 localhost hosted.test\n::1 localhost\n", encoding="ascii")
    script = 'mount --bind "$0" /etc/resolv.conf && mount --bind "$1" /etc/hosts && shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(resolv), str(hosts)]


def _settings(place: Place, **changes: Any) -> Configuration:
    """Three routes: to a name in the hosts file, whose token is still to come; to an address; and below the silent domain."""
    settings = configuration(place, route={"hosts": [place.alias_host]}, **changes)
    credentials, routes = settings["credentials"], settings["routes"]
    assert isinstance(credentials, dict)
    assert isinstance(routes, list)
    credentials["lazy-client"] = {**credentials["orders-client"], "lazy": True}
    usual = {key: value for key, value in routes[0].items() if key != "dial"}
    routes += [
        {**usual, "hosts": [f"localhost:{place.port}"], "credential": "lazy-client"},
        {**usual, "hosts": [f"*{SILENT}"]},
    ]
    return settings


@pytest.fixture
def start(wrapper: list[str], evidence: Path, tmp_path: Path) -> Iterator[StartNamed]:
    with ExitStack() as stack:

        def start(settings: Configuration) -> ProxyProgram:
            return stack.enter_context(
                ProxyProgram(settings, tmp_path / "proxy", evidence, f"names-{tmp_path.name}", wrapper=wrapper)
            )

        yield start


def _ask(stack: ExitStack, proxy: ProxyProgram, request: str) -> socket.socket:
    host, _, port = proxy.address("forward").rpartition(":")
    client = stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S))
    client.sendall(f"{request} HTTP/1.1\r\nHost: x.test\r\n\r\n".encode())
    return client


@pytest.mark.parametrize("workers", [1, 2])
def test_a_silent_name_server_delays_nobody_else(
    workers: int, names: NameServer, start: StartNamed, curl: Curl, place: Place
) -> None:
    """A1: while 100 names hang, routed and tunnelled, all else is served."""
    proxy = start(
        _settings(place, workers=workers, other_hosts="tunnel", timeouts={"connect_s": 120, "drain_s": 0.1})
        | {"destinations": {"allow": ["127.0.0.0/8"], "ports": [int(place.port)]}}
    )
    with ExitStack() as stack:
        hanging = []
        for number in range(HANGING):
            tunnelled, routed = f"t{number}{ELSEWHERE}", f"r{number}{SILENT}"
            hanging.append(_ask(stack, proxy, f"CONNECT {tunnelled}:{place.port}"))
            hanging.append(_ask(stack, proxy, f"GET http://{routed}/orders"))
            names.wait_for(tunnelled)
            names.wait_for(routed)

        through = ["--proxy", proxy.forward]
        assert curl(*through, f"http://{place.alias_host}/orders").status == 200  # an address in `dial`
        assert curl(*through, f"http://localhost:{place.port}/orders").status == 200  # a name, and a token on demand
        tunnel = curl(*through, "--proxytunnel", "--insecure", f"https://hosted.test:{place.port}/")
        assert tunnel.report["http_connect"] == 200, proxy.lines  # a name that no route knows
        assert proxy.ask_admin("/readyz")
        assert b'name_lookups_total{outcome="found"}' in proxy.ask_admin("/metrics")
        assert select.select(hanging, [], [], 0)[0] == []  # all of that came before an answer for any of these


def test_the_answer_says_that_the_name_did_not_resolve(start: StartNamed, curl: Curl, place: Place) -> None:
    """A1: a name that does not resolve in time is no upstream that does not answer."""
    proxy = start(_settings(place, other_hosts="tunnel", timeouts={"connect_s": 1}))
    name = f"api{SILENT}"
    answer = curl("--proxy", proxy.forward, f"http://{name}/orders")
    check_problem(answer, 504, "dns_timeout", f"The name {name} did not resolve", "timeouts.connect_s", "name server")

    line = proxy.wait_for_exchange(authority=f"{name}:443")
    assert (line["outcome"], line["code"]) == ("dns_timeout", "name_timeout")
    assert line["name_ms"]

    refused = curl("--proxy", proxy.forward, f"https://api{ELSEWHERE}/")
    assert refused.report["http_connect"] == 504
    assert proxy.wait_for_exchange(mode="tunnel", code="name_timeout")["name_ms"]


def test_the_doctor_tells_a_slow_name_from_a_closed_port(wrapper: list[str], place: Place, tmp_path: Path) -> None:
    """A1: `check --online` names what is slow."""
    settings = _settings(place)
    routes = settings["routes"]
    assert isinstance(routes, list)
    routes[2]["hosts"] = [f"api{SILENT}"]
    file = write_configuration(settings, tmp_path / "doctor")
    done = run_program([*wrapper, COMMAND, "check", "--online", "--json", "--config", file])
    found = [one for one in json.loads(done.stdout)["findings"] if f"api{SILENT}" in one["message"]]
    slow = [one for one in found if one["level"] == "error"]
    assert len(slow) == 1
    assert "does not resolve in time" in slow[0]["message"]
    assert "resolv.conf" in slow[0]["advice"]
