"""Load that wrk cannot make: CONNECT, handshakes, bulk transfers, tunnels, WebSocket, idle connections. Does I/O.

Runs as a process of its own on the load's core and prints one line of JSON. What it costs itself does not matter, as only the
proxy's CPU time is looked at; it only has to keep the proxy busy. So it does not verify certificates: the check before the rounds
has done that.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import ssl
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.wrk import FIELDS

_READ_BYTES: Final = 262_144
_PATIENCE_S: Final = 20.0
# Zero as the masking key leaves the payload as it is (RFC 6455 §5.3).
_FRAME_PAYLOAD: Final = b"w" * 100
FRAME: Final = b"\x82\xe4\x00\x00\x00\x00" + _FRAME_PAYLOAD
ECHOED: Final = b"\x82\x64" + _FRAME_PAYLOAD


class LoadError(Exception):
    """The proxy did not do as it should; the text says what."""


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach the upstream.

    Attributes:
        port: of the proxy, on loopback.
        connect: authority to CONNECT to; empty for none.
        server_name: for TLS inside; empty for none.
    """

    port: int
    connect: str = ""
    server_name: str = ""


class Wire:
    """One connection, opened with blocking calls. TLS runs over memory BIOs, so that a read costs one system call."""

    __slots__ = ("_incoming", "_outgoing", "pending", "socket", "started_at", "tls")

    def __init__(self, way: Way, context: ssl.SSLContext) -> None:
        self.socket = socket.create_connection(("127.0.0.1", way.port), _PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pending = b""
        self.started_at = 0.0
        self.tls: ssl.SSLObject | None = None
        if way.connect:
            self.socket.sendall(f"CONNECT {way.connect} HTTP/1.1\r\nHost: {way.connect}\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += self._read_socket()
            if not head.startswith(b"HTTP/1.1 200"):
                raise LoadError(f"CONNECT was answered {head[:80]!r}.")
        if way.server_name:
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=way.server_name)
            self._handshake(self.tls)

    def send(self, data: bytes) -> None:
        """Send; what the socket's buffer cannot take is an error, as messages here are small."""
        if self.tls is None:
            self.socket.sendall(data)
        else:
            self.tls.write(data)
            self.socket.sendall(self._outgoing.read())

    def receive(self) -> bytes:
        """Return what has come; empty only if a TLS record is incomplete.

        Raises:
            LoadError: the connection has ended.
        """
        data = self._read_socket()
        if self.tls is None:
            return data
        self._incoming.write(data)
        pieces = []
        try:
            while piece := self.tls.read(_READ_BYTES):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        return b"".join(pieces)

    def exchange(self, message: bytes, tail: bytes) -> bytes:
        """Send a message; return the answer, which ends with `tail`. Blocks."""
        self.send(message)
        answer = b""
        while not answer.endswith(tail):
            answer += self.receive()
        return answer

    def close(self) -> None:
        """Close."""
        self.socket.close()

    def _handshake(self, tls: ssl.SSLObject) -> None:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self.socket.sendall(self._outgoing.read())
                self._incoming.write(self._read_socket())
            else:
                self.socket.sendall(self._outgoing.read())
                return

    def _read_socket(self) -> bytes:
        data = self.socket.recv(_READ_BYTES)
        if not data:
            raise LoadError("The connection was closed.")
        return data


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent again and again, and how its answer begins and ends."""

    content: bytes
    begins: bytes
    ends: bytes


def format_request(method: str, target: str, host: str, *extra: str) -> bytes:
    """Return a request head with the fields of every load here."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in FIELDS), *extra]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def create_context() -> ssl.SSLContext:
    """Return a TLS client context that verifies nothing."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(slots=True)
class Tally:
    """What was done so far: latencies in seconds, failures, and how long the connections took to open before it began."""

    latencies: list[float]
    failed: int = 0
    opening_s: float = 0.0


def repeat(wires: list[Wire], message: Message, seconds: float, rate: float) -> Tally:
    """Send a message on every wire as soon as the last is answered, or `rate` times a second over all wires.

    At a rate, a latency counts from when the message was due, so that a slow answer is not hidden by the wait for it.
    """
    poll = select.epoll()
    by_descriptor = {wire.socket.fileno(): wire for wire in wires}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    tally = Tally([])
    waiting = deque(wires)
    began = due = time.perf_counter()
    ends = began + seconds
    step = 1 / rate if rate else 0.0
    in_flight = 0
    while True:
        now = time.perf_counter()
        while waiting and due <= now < ends:
            wire = waiting.popleft()
            wire.started_at = due if rate else time.perf_counter()
            due += step
            wire.send(message.content)
            in_flight += 1
        if now >= ends and (not in_flight or now > ends + _PATIENCE_S):
            break
        for descriptor, _ in poll.poll(
            max(0.0, min(due, ends) - now) if rate and now < ends else 0.2, len(by_descriptor)
        ):
            wire = by_descriptor[descriptor]
            try:
                answer = wire.pending + wire.receive()
            except (LoadError, OSError):
                tally.failed += 1
                in_flight -= 1
                poll.unregister(descriptor)
                continue
            if not answer.endswith(message.ends):
                wire.pending = answer
                continue
            wire.pending = b""
            in_flight -= 1
            if answer.startswith(message.begins):
                tally.latencies.append(time.perf_counter() - wire.started_at)
            else:
                tally.failed += 1
            waiting.append(wire)
    tally.failed += in_flight
    poll.close()
    return tally


def reconnect(way: Way, message: Message, seconds: float, threads: int) -> Tally:
    """Open a connection for each message, from several threads."""
    tally = Tally([])
    ends = time.perf_counter() + seconds
    context = create_context()

    def work() -> None:
        while (started_at := time.perf_counter()) < ends:
            try:
                wire = Wire(way, context)
                answer = wire.exchange(message.content, message.ends)
                wire.close()
            except (LoadError, OSError):
                tally.failed += 1
                continue
            if answer.startswith(message.begins):
                tally.latencies.append(time.perf_counter() - started_at)
            else:
                tally.failed += 1

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return tally


def download(way: Way, head: bytes, size: int, seconds: float) -> Tally:
    """Fetch `size` bytes again and again on one connection."""
    tally = Tally([])
    ends = time.perf_counter() + seconds
    wire = Wire(way, create_context())
    buffer = bytearray(4 * _READ_BYTES)
    while (started_at := time.perf_counter()) < ends or not tally.latencies:
        wire.send(head)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += wire.receive()
        if not answer.startswith(b"HTTP/1.1 200"):
            raise LoadError(f"The answer is {answer[:80]!r}.")
        missing = size - (len(answer) - answer.index(b"\r\n\r\n") - 4)
        while missing > 0:
            # MSG_TRUNC has the kernel drop the bytes of a TCP stream in place of copying them (tcp(7)).
            count = wire.socket.recv_into(buffer, min(missing, len(buffer)), socket.MSG_TRUNC)
            if not count:
                raise LoadError("The connection was closed in the middle of the response.")
            missing -= count
        tally.latencies.append(time.perf_counter() - started_at)
    wire.close()
    return tally


def upload(way: Way, head: bytes, size: int, seconds: float, ends_with: bytes) -> Tally:
    """Send `size` bytes again and again on one connection."""
    tally = Tally([])
    ends = time.perf_counter() + seconds
    wire = Wire(way, create_context())
    piece = memoryview(b"u" * 1_000_000)
    while (started_at := time.perf_counter()) < ends or not tally.latencies:
        wire.socket.sendall(head)
        for sent in range(0, size, len(piece)):
            wire.socket.sendall(piece[: size - sent])
        answer = b""
        while not answer.endswith(ends_with):
            answer += wire.receive()
        if not answer.startswith(b"HTTP/1.1 200"):
            raise LoadError(f"The answer is {answer[:80]!r}.")
        tally.latencies.append(time.perf_counter() - started_at)
    wire.close()
    return tally


def _open(way: Way, count: int, message: Message | None, context: ssl.SSLContext) -> list[Wire]:
    wires = []
    for _ in range(count):
        wire = Wire(way, context)
        if message is not None:
            answer = wire.exchange(message.content, message.ends)
            if not answer.startswith(message.begins):
                raise LoadError(f"The answer is {answer[:80]!r}.")
        wires.append(wire)
    return wires


def _upgrade(target: str, host: str) -> Message:
    head = format_request(
        "GET",
        target,
        host,
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    return Message(head, b"HTTP/1.1 101", b"\r\n\r\n")


def _run(options: argparse.Namespace, began: float) -> Tally:
    way = Way(options.port, options.connect, options.server_name)
    request = format_request("GET", options.target, options.host)
    message = Message(request, b"HTTP/1.1 200", options.ends.encode())
    match options.kind:
        case "repeat":
            return repeat(
                _open(way, options.connections, message, create_context()), message, options.seconds, options.rate
            )
        case "reconnect":
            return reconnect(way, message, options.seconds, options.connections)
        case "websocket":
            wires = _open(way, options.connections, _upgrade(options.target, options.host), create_context())
            opening_s = time.perf_counter() - began
            echo = Message(FRAME, ECHOED[:2], ECHOED[-8:])
            return replace(repeat(wires, echo, options.seconds, 0.0), opening_s=opening_s)
        case "download":
            return download(way, request, options.bytes, options.seconds)
        case "upload":
            head = format_request("POST", options.target, options.host, f"Content-Length: {options.bytes}")
            return upload(way, head, options.bytes, options.seconds, options.ends.encode())
        case _:
            wires = _open(way, options.connections, message, create_context())
            print("open", flush=True)
            sys.stdin.read()  # until the benchmark has seen enough
            for wire in wires:
                wire.close()
            return Tally([0.0] * len(wires))


def main() -> None:
    """Do what the arguments say; the line it prints is read by `loads.py`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["repeat", "reconnect", "websocket", "download", "upload", "hold"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connect", default="")
    parser.add_argument("--server-name", default="")
    parser.add_argument("--target", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--ends", default="", help="how the content of every answer ends")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--bytes", type=int, default=0)
    began = time.perf_counter()
    tally = _run(parser.parse_args(), began)
    ordered = sorted(tally.latencies) or [0.0]
    used = os.times()
    told = {
        "requests": len(tally.latencies),
        "failed": tally.failed,
        "duration_us": (time.perf_counter() - began - tally.opening_s) * 1e6,
        "p50_us": ordered[len(ordered) // 2] * 1e6,
        "p99_us": ordered[len(ordered) * 99 // 100] * 1e6,
        "client_cpu_us": (used.user + used.system) * 1e6,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
