"""How the proxy refuses to start, and how it stops: with an exit status, and with words for whoever started it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

import pytest

from proxy.sandbox import create_client_certificate
from tests.end_to_end.programs import (
    COMMAND,
    Configuration,
    Finished,
    configuration,
    environment,
    run_program,
    write_configuration,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Place, ProxyProgram

BeginCall: TypeAlias = "Callable[[ProxyProgram, str], subprocess.Popen[bytes]]"

# curl's words for a connection that ends without a response.
NO_RESPONSE = {52, 56}

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


def test_other_machines_are_not_let_in_unasked(tmp_path: Path, place: Place) -> None:
    """Whoever reaches the proxy may use its identity."""
    done = run_with(configuration(place, listeners=[{"address": "0.0.0.0:0"}]), tmp_path)
    check_refusal(done, "listeners[0].address")


# Stopping.


@pytest.fixture
def begin_call(place: Place) -> Iterator[BeginCall]:
    """Begins a call with curl, which prints the status it gets, and returns when the proxy has the request."""
    with ExitStack() as stack:

        def begin(proxy: ProxyProgram, path: str) -> subprocess.Popen[bytes]:
            before = clients_so_far(proxy)
            arguments = ["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--proxy", proxy.forward]
            command = ["curl", *arguments, f"http://{place.api_authority}{path}"]
            calling = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment())
            stack.enter_context(calling)
            stack.callback(calling.kill)
            give_up_at = time.monotonic() + 10
            while clients_so_far(proxy) == before:
                assert time.monotonic() < give_up_at
                time.sleep(0.05)
            return calling

        yield begin


def clients_so_far(proxy: ProxyProgram) -> int:
    """Returns how many client connections there have been: metrics tell of them before an exchange is over."""
    found = re.search(rb"^apim_auth_proxy_client_connections\S* (\d+)", proxy.ask_admin("/metrics"), re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_an_exchange_in_flight_finishes_and_a_new_one_is_not_taken(
    number: signal.Signals,
    place: Place,
    start_proxy: StartProxy,
    curl: Curl,
    begin_call: BeginCall,
) -> None:
    proxy = start_proxy(configuration(place, timeouts={"drain_s": 10}))
    calling = begin_call(proxy, "/slow/1.5")
    proxy.signal(number)
    proxy.wait_for_line("draining")
    assert curl("--proxy", proxy.forward, f"http://{place.api_authority}/bytes/1").exit_status == 7, "not refused"
    assert calling.communicate(timeout=10)[0] == b"200"
    assert proxy.wait() == 0
    assert [each["status"] for each in proxy.exchanges] == [200]


def test_an_exchange_that_outlasts_the_drain_is_cut(
    place: Place, start_proxy: StartProxy, begin_call: BeginCall
) -> None:
    proxy = start_proxy(configuration(place, timeouts={"drain_s": 0.5}))
    calling = begin_call(proxy, "/slow/20")
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0
    assert calling.wait(10) in NO_RESPONSE


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_ends_the_wait(
    workers: int, place: Place, start_proxy: StartProxy, begin_call: BeginCall
) -> None:
    proxy = start_proxy(configuration(place, timeouts={"drain_s": 60}, workers=workers))
    calling = begin_call(proxy, "/slow/20")
    proxy.signal(signal.SIGINT)
    proxy.wait_for_line("draining")
    proxy.signal(signal.SIGINT)
    assert proxy.wait(10) == 0
    assert calling.wait(10) in NO_RESPONSE
    assert "Traceback" not in "\n".join(proxy.lines)
