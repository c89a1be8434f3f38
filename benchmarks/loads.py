"""One round of a load against one proxy, and the check that the proxy does the job. Does I/O.

Invariant: a round with a failed request is no round but an error, so no figure hides one.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from benchmarks.answers import fetch
from benchmarks.figures import Round
from benchmarks.processes import LOAD_CORE, PROXY_CORE, BenchmarkError
from benchmarks.rivals import start_rival
from benchmarks.stage import API_HOST, HUGE_BYTES, JSON_BODY, LARGE_BYTES, MEDIUM_BYTES, RECEIVED_BODY, TOKEN
from benchmarks.wrk import Load, WrkRequest, parse_load, run_wrk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.rivals import Rival
    from benchmarks.stage import Stage

_CONNECTIONS: Final = 32
_INTERCEPTED_CONNECTIONS: Final = 16
_POST_BYTES: Final = 16 * 1024
_IDLE_PLAIN: Final = 4_000
_IDLE_INTERCEPTED: Final = 1_000
_CROWD: Final = 10_000
# Requests a second over all active clients together: as many with 100 as with 1,000, and fewer than any of the proxies can serve.
_CROWD_RATE: Final = 500.0
# A 99th percentile needs this many samples behind it to be one.
_CROWD_S: Final = 5.0
_SETTLE_S: Final = 0.3


# Small requests.


def plain_get(stage: Stage, rival: Rival, seconds: float) -> Round:
    """Small GETs to an unrouted host over plain TCP."""
    host = f"127.0.0.1:{stage.plain_port}"
    return _wrk_round(stage, rival, WrkRequest(f"http://{host}/json", host), seconds)


def tls_get(stage: Stage, rival: Rival, seconds: float) -> Round:
    """Small GETs by http URL that go out as https with the bearer field."""
    return _wrk_round(stage, rival, WrkRequest(f"http://{API_HOST}/json", API_HOST), seconds)


def exchange(stage: Stage, rival: Rival, seconds: float) -> Round:
    """16 KiB up, 64 KiB down."""
    return _wrk_round(stage, rival, WrkRequest(f"http://{API_HOST}/exchange", API_HOST, _POST_BYTES), seconds)


def capacity(stage: Stage, rival: Rival, seconds: float) -> Round:
    """Small GETs; the figure is how many a second the proxy's cores would serve if the load and the upstream cost nothing.

    Two workers on two cores leave none for the load. What was measured, and what the load took of it, is in the note.
    """
    request = WrkRequest(f"http://{API_HOST}/json", API_HOST)
    before = stage.upstream.cpu_time()
    load, used_s = _measure(
        rival,
        lambda: run_wrk(request, rival.port, connections=2 * _CONNECTIONS, seconds=seconds, directory=stage.directory),
    )
    load_s = load.client_cpu_s + (stage.upstream.cpu_time() - before).total_s
    note = (
        f"{load.count / load.duration_s:,.0f}/s measured; load and upstream used {load_s / load.duration_s:.2f} cores"
    )
    return replace(_per_request(load, used_s), figure=rival.cores * load.count / used_s, note=note)


def latency(stage: Stage, rival: Rival, seconds: float) -> Round:
    """Small GETs on one connection, one at a time; the figure is the median latency.

    Here the proxy shares the load's core. On two cores every step would wake a sleeping one, which takes a virtual machine
    longer than the proxies need for their work, so that all of them would look alike.
    """
    if rival.program is None:  # wrk has its TLS, and the upstream takes origin-form
        return _latency_round(stage, rival, WrkRequest("/json", API_HOST), stage.tls_port, seconds, secure=True)
    rival.program.move(LOAD_CORE)
    try:
        return _latency_round(stage, rival, WrkRequest(f"http://{API_HOST}/json", API_HOST), rival.port, seconds)
    finally:
        rival.program.move(PROXY_CORE)


def _latency_round(
    stage: Stage, rival: Rival, request: WrkRequest, port: int, seconds: float, *, secure: bool = False
) -> Round:
    load = run_wrk(request, port, connections=1, seconds=seconds, directory=stage.directory, secure=secure)
    _require_success(rival, load)
    return Round(load.p50_us, load.count / load.duration_s, load.p50_us, load.p99_us)


def intercepted_get(stage: Stage, rival: Rival, seconds: float) -> Round:  # noqa: ARG001  # every load has one signature
    """Small GETs on kept-alive connections with TLS on both sides."""
    load = {"--connections": _INTERCEPTED_CONNECTIONS, "--seconds": seconds, "--ends": JSON_BODY[-16:]}
    return _per_request(*_measure(rival, lambda: run_client("repeat", {**_inside_tls(rival, "/json"), **load})))


def new_connections(stage: Stage, rival: Rival, seconds: float) -> Round:  # noqa: ARG001  # every load has one signature
    """A connection, a CONNECT where the proxy takes it, a TLS handshake and a small GET, each time anew."""
    load = {"--connections": 8, "--seconds": seconds, "--ends": JSON_BODY[-16:]}
    return _per_request(*_measure(rival, lambda: run_client("reconnect", {**_inside_tls(rival, "/json"), **load})))


def websocket(stage: Stage, rival: Rival, seconds: float) -> Round:  # noqa: ARG001  # every load has one signature
    """Frames of 100 bytes there and back over kept-open WebSockets."""
    load = {"--connections": _CONNECTIONS, "--seconds": seconds}
    return _per_request(*_measure(rival, lambda: run_client("websocket", {**_by_http_url(rival, "/socket"), **load})))


# Bulk.


def download(stage: Stage, rival: Rival, seconds: float) -> Round:  # noqa: ARG001  # every load has one signature
    """Responses of 100 MB; the figure is CPU milliseconds for each."""
    load = {"--bytes": LARGE_BYTES, "--seconds": seconds}
    return _per_transfer(*_measure(rival, lambda: run_client("download", {**_by_http_url(rival, "/large"), **load})))


def upload(stage: Stage, rival: Rival, seconds: float) -> Round:  # noqa: ARG001  # every load has one signature
    """Request of 100 MB; the figure is CPU milliseconds for each."""
    load = {"--bytes": LARGE_BYTES, "--seconds": seconds, "--ends": RECEIVED_BODY}
    return _per_transfer(*_measure(rival, lambda: run_client("upload", {**_by_http_url(rival, "/upload"), **load})))


def tunnel(stage: Stage, rival: Rival, seconds: float) -> Round:
    """1 GB through a blind tunnel; the figure is CPU milliseconds for each."""
    way: dict[str, object] = {"--target": "/huge", "--host": "127.0.0.1", "--port": rival.tcp_port or rival.port}
    if rival.tcp_port is None:
        way["--connect"] = f"127.0.0.1:{stage.plain_port}"
    load = {"--bytes": HUGE_BYTES, "--seconds": min(seconds, 1.0)}
    return _per_transfer(*_measure(rival, lambda: run_client("download", {**way, **load})))


# Memory, start.


def idle_plain(stage: Stage, rival: Rival, seconds: float) -> Round:  # noqa: ARG001  # every load has one signature
    """Clients that made one request and keep their connection; the figure is KiB of resident memory for each."""
    return _idle_memory(stage, rival, _IDLE_PLAIN, _by_http_url(rival, "/json"))


def idle_intercepted(stage: Stage, rival: Rival, seconds: float) -> Round:  # noqa: ARG001  # every load has one signature
    """The same inside TLS."""
    return _idle_memory(stage, rival, _IDLE_INTERCEPTED, _inside_tls(rival, "/json"))


def crowd(stage: Stage, rival: Rival, seconds: float) -> Round:  # noqa: ARG001  # every load has one signature
    """1,000 active clients beside 10,000 idle ones; the figure is their p99 as a ratio to that of 100 active clients alone.

    Both groups make as many requests a second, all told, so that the difference is the crowd and not the load.
    """
    way = _by_http_url(rival, "/json")
    load = {"--seconds": max(seconds, _CROWD_S), "--rate": _CROWD_RATE, "--ends": JSON_BODY[-16:]}
    few = run_client("repeat", {**way, **load, "--connections": 100})
    _require_success(rival, few)
    with _holding(_CROWD, way):
        many, used_s = _measure(rival, lambda: run_client("repeat", {**way, **load, "--connections": 1_000}))
        resident = rival.program.resident_bytes() if rival.program is not None else 0
    return replace(_per_request(many, used_s), figure=many.p99_us / few.p99_us, note=f"RSS {resident / 1e6:.0f} MB")


def start_memory(stage: Stage, rival: Rival, seconds: float) -> Round:  # noqa: ARG001  # every load has one signature
    """A fresh start; the figure is MB of resident memory."""
    fresh = start_rival(rival.name, stage)
    if fresh.program is None:
        raise BenchmarkError(f"{rival.name} is no program.")
    with fresh.program as program:
        time.sleep(_SETTLE_S)
        return Round(program.resident_bytes() / 1e6)


def start_time(stage: Stage, rival: Rival, seconds: float) -> Round:  # noqa: ARG001  # every load has one signature
    """A fresh start; the figure is milliseconds from exec to ready."""
    fresh = start_rival(rival.name, stage)
    if fresh.program is None or fresh.ready_s is None:
        raise BenchmarkError(f"{rival.name} does not say when it is ready.")
    with fresh.program:
        # On a busy machine the wait for a core is longer than the start, so what the start itself took stands beside it.
        return Round(fresh.ready_s * 1e3, note=f"CPU {fresh.program.cpu_time().total_s * 1e3:.0f} ms")


# Checks.


def check_plain(stage: Stage, rival: Rival) -> None:
    """Raise unless the answer comes through whole."""
    host = f"127.0.0.1:{stage.plain_port}"
    _expect(rival, fetch(rival, f"http://{host}/json", host), JSON_BODY.encode())


def check_get(stage: Stage, rival: Rival) -> None:  # noqa: ARG001  # every check has one signature
    """Raise unless the answer comes through whole and the bearer field reached the upstream."""
    if rival.program is not None:
        _expect(rival, fetch(rival, f"http://{API_HOST}/json", API_HOST), JSON_BODY.encode())
        _expect(rival, fetch(rival, f"http://{API_HOST}/authorization", API_HOST), f"Bearer {TOKEN}".encode())


def check_exchange(stage: Stage, rival: Rival) -> None:
    """The same with content both ways."""
    check_get(stage, rival)
    medium = (stage.directory / "files" / "medium").read_bytes()
    if len(medium) != MEDIUM_BYTES:
        raise BenchmarkError("The upstream's file is not as long as it should be.")
    _expect(rival, fetch(rival, f"http://{API_HOST}/exchange", API_HOST, content=b"x" * _POST_BYTES), medium)


def check_intercepted(stage: Stage, rival: Rival) -> None:  # noqa: ARG001  # every check has one signature
    """The same inside TLS, with the proxy's certificate verified."""
    _expect(rival, fetch(rival, "/json", API_HOST, secure=True), JSON_BODY.encode())
    _expect(rival, fetch(rival, "/authorization", API_HOST, secure=True), f"Bearer {TOKEN}".encode())


def check_nothing(stage: Stage, rival: Rival) -> None:
    """For loads that check every byte themselves, or make no requests."""


# Within.


def _by_http_url(rival: Rival, path: str) -> dict[str, object]:
    return {"--target": f"http://{API_HOST}{path}", "--host": API_HOST, "--port": rival.port}


def _inside_tls(rival: Rival, path: str) -> dict[str, object]:
    way: dict[str, object] = {"--target": path, "--host": API_HOST, "--server-name": API_HOST}
    if rival.tls_port is not None:
        return {**way, "--port": rival.tls_port}
    return {**way, "--port": rival.port, "--connect": f"{API_HOST}:443"}


def _client_arguments(kind: str, arguments: dict[str, object]) -> list[str]:
    flat = [str(part) for argument in arguments.items() for part in argument]
    return ["taskset", "--cpu-list", str(LOAD_CORE), sys.executable, "-m", "benchmarks.client", kind, *flat]


def run_client(kind: str, arguments: dict[str, object]) -> Load:
    """Run one kind of load of `benchmarks.client`.

    Raises:
        BenchmarkError: it failed.
    """
    done = subprocess.run(
        _client_arguments(kind, arguments),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    if done.returncode:
        raise BenchmarkError(f"The load generator failed: {done.stderr[-1_000:]}")
    return parse_load(json.loads(done.stdout))


@contextlib.contextmanager
def _holding(count: int, way: dict[str, object]) -> Iterator[None]:
    arguments = _client_arguments("hold", {**way, "--connections": count, "--ends": JSON_BODY[-16:]})
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        try:
            if client.stdout is None or client.stdout.readline() != "open\n":
                raise BenchmarkError(f"{count} idle connections could not be opened.")
            yield
        finally:
            client.kill()


def _idle_memory(stage: Stage, rival: Rival, count: int, way: dict[str, object]) -> Round:
    # A fresh process each time: the next round would find the memory that this one has used, and free.
    fresh = start_rival(rival.name, stage)
    if fresh.program is None:
        raise BenchmarkError(f"{rival.name} is no program.")
    port = fresh.tls_port if "--server-name" in way and fresh.tls_port is not None else fresh.port
    way = {**way, "--port": port}
    with fresh.program as program:
        with _holding(20, way):
            pass
        before = program.resident_bytes()
        with _holding(count, way):
            time.sleep(_SETTLE_S)
            return Round((program.resident_bytes() - before) / count / 1024)


def _measure(rival: Rival, load: Callable[[], Load]) -> tuple[Load, float]:
    if rival.program is None:
        raise BenchmarkError(f"{rival.name} is no program.")
    before = rival.program.cpu_time()
    done = load()
    used = rival.program.cpu_time() - before
    _require_success(rival, done)
    return done, used.total_s


def _require_success(rival: Rival, load: Load) -> None:
    if load.failed or not load.count:
        raise BenchmarkError(f"{rival.name}: {load.failed} of {load.count + load.failed} requests failed.")


def _wrk_round(stage: Stage, rival: Rival, request: WrkRequest, seconds: float) -> Round:
    def load() -> Load:
        return run_wrk(request, rival.port, connections=_CONNECTIONS, seconds=seconds, directory=stage.directory)

    return _per_request(*_measure(rival, load))


def _per_request(load: Load, used_s: float) -> Round:
    return Round(
        figure=used_s * 1e6 / load.count,
        per_s=load.count / load.duration_s,
        p50_us=load.p50_us,
        p99_us=load.p99_us,
        busy=used_s / load.duration_s,
    )


def _per_transfer(load: Load, used_s: float) -> Round:
    return Round(figure=used_s * 1e3 / load.count, per_s=load.count / load.duration_s, busy=used_s / load.duration_s)


def _expect(rival: Rival, answer: tuple[int, bytes], content: bytes) -> None:
    status, received = answer
    if status != 200 or received != content:
        raise BenchmarkError(f"{rival.name} answered {status} with {len(received)} bytes: {received[:200]!r}")
