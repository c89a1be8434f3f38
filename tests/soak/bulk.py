"""Sends gigabytes each way through the proxy, with a reader that stops in between: ``python -m tests.soak.bulk --gigabytes 5``.

Fails where the proxy's memory grows, where the sender goes on while the reader has stopped, or where a byte is wrong. Does I/O: its
two ends are threads with blocking sockets, which are fast enough for the proxy to be what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.soak.connection import Way
from tests.soak.journal import Journal
from tests.soak.stage import HOST, create_certificates, set_up
from tests.soak.watch import MEGABYTE, PeakWatch, measure

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from tests.soak.connection import Listeners
    from tests.soak.stage import Stage

BLOCK: Final = os.urandom(1 << 20)
STOPS_S: Final = 4.0
# For the buffers of two kernels' sockets and the proxy's own to fill up.
SETTLES_S: Final = 1.5
MEMORY_ALLOWANCE_BYTES: Final = 20 * MEGABYTE
# The kernel lets a loopback socket's buffers grow to 6 MB (tcp_rmem, tcp_wmem), and there are two pairs of them.
AHEAD_ALLOWANCE_BYTES: Final = 32 * MEGABYTE
_WAYS: Final = (Way.FORWARD, Way.CONNECT, Way.REVERSE)
_PIECE_BYTES: Final = 1 << 18
_PATIENCE_S: Final = 60.0


@dataclass
class Transfer:
    """One body on its way from one end to the other.

    Attributes:
        total: how many bytes it has.
        stop_at: where the reader stops for a while.
        sent, received: so far, in bytes.
        ahead: what was on its way when the reader had stopped and everything had come to rest.
        crept: what was sent after that, while the reader still stood.
        wrong: whether a byte was not what was sent.
    """

    total: int
    sent: int = 0
    received: int = 0
    ahead: int = 0
    crept: int = 0
    wrong: bool = False

    def send(self, connected: socket.socket) -> None:
        """Sends the body."""
        view = memoryview(BLOCK + BLOCK)
        while self.sent < self.total:
            start = self.sent % len(BLOCK)
            self.sent += connected.send(view[start : start + min(_PIECE_BYTES, self.total - self.sent)])

    def receive(self, connected: socket.socket, early: bytes) -> None:
        """Reads the body, and stops halfway."""
        expected = memoryview(BLOCK + BLOCK)
        buffer = bytearray(_PIECE_BYTES)
        view = memoryview(buffer)
        self.received = len(early)
        self.wrong = early != BLOCK[: len(early)]
        stops = True
        while self.received < self.total:
            count = connected.recv_into(buffer, min(_PIECE_BYTES, self.total - self.received))
            if not count:
                break
            start = self.received % len(BLOCK)
            self.wrong = self.wrong or view[:count] != expected[start : start + count]
            self.received += count
            if stops and self.received > self.total // 2:
                stops = False
                self._stop()

    def _stop(self) -> None:
        time.sleep(SETTLES_S)
        settled = self.sent
        self.ahead = settled - self.received
        time.sleep(STOPS_S - SETTLES_S)
        self.crept = self.sent - settled

    def faults(self) -> Iterator[str]:
        """What must not be."""
        if self.wrong:
            yield "a byte is wrong"
        if self.received != self.total:
            yield f"{self.received} of {self.total} bytes came"
        if self.crept:
            yield f"the sender sent {self.crept} bytes while the reader stood still"
        if self.ahead > AHEAD_ALLOWANCE_BYTES:
            yield f"{self.ahead} bytes were on their way to a reader that stood still"


class Server:
    """The upstream: takes a body, or sends one, as the request's method says.

    Attributes:
        transfer: the one it takes part in next.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.transfer = Transfer(0)
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connected, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connected,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as connected:
            head, early = read_head(connected)
            if head.startswith(b"GET"):
                connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.transfer.total)
                self.transfer.send(connected)
            else:
                self.transfer.receive(connected, early)
                connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            connected.recv(1)  # until the proxy lets go


def read_head(connected: socket.socket) -> tuple[bytes, bytes]:
    """Returns a message's head, and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connected.recv(65_536)
        if not piece:
            raise ConnectionResetError
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def connect(listeners: Listeners, way: Way) -> tuple[socket.socket, str]:
    """Returns a client's connection, and what its request targets begin with. Blocks."""
    port = listeners.reverse if way is Way.REVERSE else listeners.forward
    connected = socket.create_connection(("127.0.0.1", port), _PATIENCE_S)
    if way is not Way.CONNECT:
        return connected, f"http://{HOST}" if way is Way.FORWARD else ""
    connected.sendall(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode())
    read_head(connected)
    return listeners.context.wrap_socket(connected, server_hostname=HOST), ""


def transfer_once(listeners: Listeners, server: Server, way: Way, direction: str, total: int) -> Transfer:
    """Sends one body. Blocks until it has arrived."""
    transfer = server.transfer = Transfer(total)
    connected, prefix = connect(listeners, way)
    with connected:
        if direction == "down":
            connected.sendall(f"GET {prefix}/bulk HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            transfer.receive(connected, read_head(connected)[1])
        else:
            head = f"POST {prefix}/bulk HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {total}\r\n\r\n"
            connected.sendall(head.encode())
            transfer.send(connected)
            read_head(connected)
    return transfer


async def measure_transfers(stage: Stage, server: Server, total: int) -> list[str]:
    """Sends a body each way, in each way there is; writes the figures, returns what was wrong."""
    faults = []
    process_id = stage.proxy.process.pid
    for way in _WAYS:
        for direction in ("down", "up"):
            # The first bytes bring what each connection needs at least; growth with the body's length is what counts.
            await asyncio.to_thread(transfer_once, stage.listeners, server, way, direction, 64 * len(BLOCK))
            before = measure(process_id).memory_bytes
            watch = PeakWatch(process_id, 0.2)
            looking = asyncio.create_task(watch.run())
            began = time.monotonic()
            transfer = await asyncio.to_thread(transfer_once, stage.listeners, server, way, direction, total)
            took_s = time.monotonic() - began
            looking.cancel()
            grown = watch.peak_bytes - before
            name = f"{way} {direction}"
            sys.stdout.write(
                f"{name:20} {total / 1e9:.1f} GB in {took_s:.0f} s; memory {before / MEGABYTE:.1f} MB, at most "
                f"{grown / MEGABYTE:+.1f} MB; {transfer.ahead / MEGABYTE:.1f} MB on their way to the reader that stood, "
                f"then {transfer.crept} bytes\n"
            )
            sys.stdout.flush()
            faults += [f"{name}: {fault}" for fault in transfer.faults()]
            if grown > MEMORY_ALLOWANCE_BYTES:
                faults.append(f"{name}: memory grew by {grown / MEGABYTE:.1f} MB")
    return faults


async def run(total: int) -> list[str]:
    """Runs all transfers through one proxy; returns what was wrong."""
    with tempfile.TemporaryDirectory() as directory:
        certificates = create_certificates(Path(directory))
        server = Server(certificates.context)
        try:
            async with set_up(Path(directory), Journal(), certificates=certificates, dial_port=server.port) as stage:
                return await measure_transfers(stage, server, total)
        finally:
            server.close()


def main() -> int:
    """Runs what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tests.soak.bulk", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=5)
    arguments = parser.parse_args()
    faults = asyncio.run(run(int(arguments.gigabytes * 1e9)))
    for fault in faults:
        sys.stdout.write(f"VIOLATION {fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
