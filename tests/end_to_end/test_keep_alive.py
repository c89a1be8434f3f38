"""TCP keep-alive on both legs, as Linux shows it in /proc/net/tcp."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.programs import PATIENCE_S, Configuration, configuration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.programs import Place, ProxyProgram

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux' /proc")

KEEP_ALIVE = "02"  # net/ipv4/tcp_ipv4.c: which timer of a connection runs
JIFFIES_PER_S = 100
IDLE_S = 45


def timers(pid: int) -> Iterator[tuple[int, int, str, int]]:
    """The connections of a process: local port, remote port, which timer runs, and until when at most in jiffies."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(str(entry.readlink()))
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        words = line.split()
        if words[3] == "01" and f"socket:[{words[9]}]" in inodes:
            local, remote = (int(address.rpartition(":")[2], 16) for address in words[1:3])
            kind, _, left = words[5].partition(":")
            yield local, remote, kind, int(left, 16)


def wait_for_probes(proxy: ProxyProgram, wanted: set[tuple[str, int]]) -> None:
    """Returns once each of these connections will be probed: ``local`` or ``remote``, and that end's port."""
    give_up_at = time.monotonic() + PATIENCE_S
    found: set[tuple[str, int]] = set()
    while not wanted <= found:
        assert time.monotonic() < give_up_at, list(timers(proxy.process.pid))
        for local, remote, kind, left in timers(proxy.process.pid):
            if kind == KEEP_ALIVE and left <= IDLE_S * JIFFIES_PER_S:
                found |= {("local", local), ("remote", remote)}
        time.sleep(0.01)


def settings(place: Place) -> Configuration:
    return configuration(
        place,
        timeouts={"tcp_keep_alive_s": IDLE_S, "drain_s": 1},
        other_hosts="tunnel",
        destinations={"allow": ["127.0.0.0/8"], "ports": [int(place.port)]},
    )


def test_both_legs_of_an_exchange_are_probed(start_proxy: StartProxy, place: Place) -> None:
    """C5: load balancers forget a connection that is silent for minutes."""
    proxy = start_proxy(settings(place))
    host, _, port = proxy.address("forward").rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as client:
        client.sendall(f"GET http://{place.api_authority}/orders HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.recv(12) == b"HTTP/1.1 200"
        wait_for_probes(proxy, {("local", int(port)), ("remote", int(place.port))})


def test_both_legs_of_a_tunnel_are_probed(start_proxy: StartProxy, place: Place) -> None:
    """C5."""
    proxy = start_proxy(settings(place))
    host, _, port = proxy.address("forward").rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as client:
        client.sendall(f"CONNECT 127.0.0.1:{place.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.recv(12) == b"HTTP/1.1 200"
        wait_for_probes(proxy, {("local", int(port)), ("remote", int(place.port))})
