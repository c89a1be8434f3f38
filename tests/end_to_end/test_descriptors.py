"""What is said when file descriptors run out: to clients, in the log, and at the start."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.programs import PATIENCE_S, ProxyProgram, configuration

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.programs import Place

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits differ elsewhere")

LIMIT = 160


def limited(place: Place, directory: Path, evidence: Path) -> ProxyProgram:
    wrapper = ["sh", "-c", f'ulimit -n {LIMIT} && exec "$0" "$@"']
    return ProxyProgram(
        configuration(place), directory / "proxy", evidence, f"limited-{directory.name}", wrapper=wrapper
    )


def test_no_client_is_reset_and_those_who_are_connected_go_on(place: Place, tmp_path: Path, evidence: Path) -> None:
    """A7: more clients than descriptors. The limit is in the answer, and once in the log."""
    with limited(place, tmp_path, evidence) as proxy, ExitStack() as stack:
        host, _, port = proxy.address("forward").rpartition(":")
        request = f"GET http://{place.api_authority}/orders HTTP/1.1\r\nHost: x\r\n\r\n".encode()

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S))

        first = connect()
        refused = 0
        for _ in range(LIMIT):
            client = connect()
            client.sendall(request)
            answer = client.recv(4_096)
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 503")), answer
            if answer.startswith(b"HTTP/1.1 503"):
                refused += 1
                while block := client.recv(4_096):
                    answer += block
                client.close()
                assert f"out of file descriptors: it may have {LIMIT}".encode() in answer
        assert refused

        first.sendall(request)
        assert first.recv(12) == b"HTTP/1.1 200"
        assert proxy.ask_admin("/livez")
        proxy.wait_for_exchange(outcome="connection_limit_reached", code="out_of_file_descriptors")
        assert sum("out of file descriptors" in line and '"logger"' in line for line in proxy.lines) == 1


def test_a_limit_below_the_configured_one_is_said_at_the_start(place: Place, tmp_path: Path, evidence: Path) -> None:
    """G12."""
    with limited(place, tmp_path, evidence) as proxy:
        line = proxy.wait_for_line("limits.connections is 10000")
        assert f"may have {LIMIT} file descriptors" in line
