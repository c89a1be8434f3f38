"""How the proxy refuses to start, and how it stops: with an exit status, and with words for whoever started it."""

from __future__ import annotations

import re
import signal
import socket
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

import pytest

from proxy.sandbox import create_client_certificate
from tests.end_to_end.programs import (
    COMMAND,
    PATIENCE_S,
    Configuration,
    Finished,
    ProxyProgram,
    configuration,
    environment,
    run_program,
    write_configuration,
)
from tests.end_to_end.test_drain import wait_until_closed
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Place

BeginCall: TypeAlias = "Callable[[ProxyProgram, str], Call]"

# Starting.


def run_with(settings: Configuration, directory: Path) -> Finished:
    return run_program([COMMAND, "run", "--config", write_configuration(settings, directory)])


def check_refusal(done: Finished, *words: str) -> None:
    assert done.status == 2, done.stderr
    assert done.stdout == b""
    assert "Traceback" not in done.stderr
    assert "apim-auth-proxy: ready" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_every_fault_of_a_configuration_is_told_with_key_path_and_line(tmp_path: Path, place: Place) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""\
listeners:
  - address: 127.0.0.1:0
    mode: backward
credentials:
  orders-client:
    tenant_id: common
    client_id: {place.client_id}
    certificate: absent.pem
routes:
  - hosts: [{place.api_authority}]
    credential: order-client
    scope: api://orders/Orders.Read
    retries: 3
timeouts:
  token_s: soon
"""
    )
    done = run_program([COMMAND, "run", "--config", path])

    check_refusal(done)
    told = {(key, int(line)) for line, key in re.findall(r"config\.yaml:(\d+): (\S+?):? ", done.stderr)}
    keys = {
        ("listeners[0].mode", 3),
        ("credentials.orders-client.tenant_id", 6),
        ("credentials.orders-client.certificate", 8),
        ("routes[0].credential", 11),
        ("routes[0].retries", 13),
        ("timeouts.token_s", 15),
    }
    assert keys <= told, done.stderr


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    check_refusal(run_program([COMMAND, "run", "--config", tmp_path / "absent.yaml"]), "absent.yaml")


def another_key(directory: Path) -> dict[str, object]:
    other = create_client_certificate(datetime.now(UTC))
    key = directory / "other.key"
    key.touch(0o600)
    key.write_bytes(other.private_key_pem)
    return {"private_key": str(key)}


def not_a_certificate(directory: Path) -> dict[str, object]:
    path = directory / "noise.pem"
    path.write_text("no certificate\n")
    path.chmod(0o600)
    return {"certificate": str(path)}


@pytest.mark.parametrize(
    ("spoil", "words"), [(another_key, ["other.key", "fit"]), (not_a_certificate, ["noise.pem"])], ids=["key", "noise"]
)
def test_a_certificate_that_cannot_be_used_is_named(
    spoil: Callable[[Path], dict[str, object]], words: list[str], tmp_path: Path, place: Place
) -> None:
    check_refusal(run_with(configuration(place, credential=spoil(tmp_path)), tmp_path), *words)


def test_a_port_in_use_is_named(tmp_path: Path, place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_with(configuration(place, listeners=[{"address": address}]), tmp_path)
    check_refusal(done, address, "another program listens there")


@pytest.mark.parametrize("conflict", ["listener", "admin", "workers"])
def test_a_second_start_names_the_proxy_that_runs_already(
    start_proxy: StartProxy, tmp_path: Path, place: Place, conflict: str
) -> None:
    """F10"""
    running = start_proxy(configuration(place) | {"workers": 2 if conflict == "workers" else 1})
    admin = next(line for line in running.lines if "health and metrics on" in line).rpartition("http://")[2]
    second = configuration(place) | {"workers": 2 if conflict == "workers" else 1}
    if conflict == "admin":
        second["admin"] = {"address": admin}
    else:
        second["listeners"] = [{"address": running.address("forward")}]
    done = run_with(second, tmp_path)
    address = admin if conflict == "admin" else running.address("forward")
    assert done.status == 2
    assert f"A proxy is already running and listens on {address}: process {running.process.pid}" in done.stderr
    assert f"configuration {running.config_file}" in done.stderr
    assert "configuration is wrong" not in done.stderr
    assert running.exchanges == []


def test_other_machines_are_not_let_in_unasked(tmp_path: Path, place: Place) -> None:
    """Whoever reaches the proxy may use its identity."""
    done = run_with(configuration(place, listeners=[{"address": "0.0.0.0:0"}]), tmp_path)
    check_refusal(done, "listeners[0].address")


# Stopping.


class Call:
    """A request that the API has, since it has asked for the content (RFC 9110 §10.1.1), and has not answered.

    Args:
        proxy: through which.
        place: whose API.
        path: what the API is asked for.
    """

    def __init__(self, proxy: ProxyProgram, place: Place, path: str) -> None:
        host, _, port = proxy.address("forward").partition(":")
        self._client = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self._answer = self._client.makefile("rb")
        head = f"POST http://{place.api_authority}{path} HTTP/1.1\r\nHost: {place.api_authority}\r\n"
        self._client.sendall(f"{head}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n".encode())
        assert [self._answer.readline(), self._answer.readline()] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]

    def send_content(self) -> None:
        """Lets the API go on."""
        self._client.sendall(b"whole")

    def read(self) -> bytes:
        """Returns what comes until the connection ends, in whatever way."""
        received = bytearray()
        try:
            while block := self._answer.read1():
                received += block
        except ConnectionResetError:
            pass
        return bytes(received)

    def close(self) -> None:
        """Ends the connection."""
        self._answer.close()
        self._client.close()


@pytest.fixture
def begin_call(place: Place) -> Iterator[BeginCall]:
    """Begins a call, and returns when the API has the request."""
    with ExitStack() as stack:

        def begin(proxy: ProxyProgram, path: str) -> Call:
            calling = Call(proxy, place, path)
            stack.callback(calling.close)
            return calling

        yield begin


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_an_exchange_in_flight_finishes_and_a_new_one_is_not_taken(
    number: signal.Signals,
    place: Place,
    start_proxy: StartProxy,
    curl: Curl,
    begin_call: BeginCall,
) -> None:
    port = free_port()
    listeners = [{"address": f"127.0.0.1:{port}"}]
    proxy = start_proxy(configuration(place, listeners=listeners, timeouts={"drain_s": 120}))
    calling = begin_call(proxy, "/orders")
    proxy.signal(number)
    proxy.wait_for_line("draining")
    wait_until_closed("127.0.0.1", port)
    assert curl("--proxy", proxy.forward, f"http://{place.api_authority}/bytes/1").exit_status == 7, "not refused"
    calling.send_content()
    assert calling.read().startswith(b"HTTP/1.1 200 ")
    assert proxy.wait() == 0
    assert [each["status"] for each in proxy.exchanges] == [200]


def test_an_exchange_that_outlasts_the_drain_is_cut(
    place: Place, start_proxy: StartProxy, begin_call: BeginCall
) -> None:
    proxy = start_proxy(configuration(place, timeouts={"drain_s": 0.5}))
    calling = begin_call(proxy, "/slow/300")
    calling.send_content()
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0
    assert calling.read() == b""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_ends_the_wait(
    workers: int, place: Place, start_proxy: StartProxy, begin_call: BeginCall
) -> None:
    proxy = start_proxy(configuration(place, timeouts={"drain_s": 300}, workers=workers))
    calling = begin_call(proxy, "/slow/300")
    calling.send_content()
    proxy.signal(signal.SIGINT)
    proxy.wait_for_line("draining")
    proxy.signal(signal.SIGINT)
    assert proxy.wait() == 0
    assert calling.read() == b""
    assert not [line for line in proxy.lines if "Traceback" in line or "takes its place" in line]


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_left_open_when_it_ends(
    place: Place, tmp_path: Path, evidence: Path, curl: Curl, workers: int
) -> None:
    """With warnings as errors, what is collected while it is open would be told with a traceback."""
    with ProxyProgram(
        configuration(place, workers=workers),
        tmp_path,
        evidence,
        f"proxy-warnings-{workers}",
        environ=environment(PYTHONWARNINGS="error"),
    ) as proxy:
        assert curl("--proxy", proxy.forward, f"http://{place.alias_host}/orders").status == 200
        assert proxy.stop() == 0
        assert not [line for line in proxy.lines if "ResourceWarning" in line or "Traceback" in line]
