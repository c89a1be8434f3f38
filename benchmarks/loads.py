"""One round of a load against one proxy, and the check that the proxy does the job. Does I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.answers import fetch
from benchmarks.figures import Round
from benchmarks.processes import BenchmarkError
from benchmarks.stage import API_HOST, JSON_BODY, TOKEN
from benchmarks.wrk import Load, WrkRequest, run_wrk

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.rivals import Rival
    from benchmarks.stage import Stage

_CONNECTIONS: Final = 32
_WARM_UP_S: Final = 1.0


def plain_get(stage: Stage, rival: Rival, seconds: float) -> Round:
    """Small GETs to an unrouted host over plain TCP."""
    host = f"127.0.0.1:{stage.plain_port}"
    return _wrk_round(stage, rival, WrkRequest(f"http://{host}/json", host), seconds)


def tls_get(stage: Stage, rival: Rival, seconds: float) -> Round:
    """Small GETs by http URL that go out as https with the bearer field."""
    return _wrk_round(stage, rival, WrkRequest(f"http://{API_HOST}/json", API_HOST), seconds)


def check_plain(stage: Stage, rival: Rival) -> None:
    """Raises unless the answer comes through whole."""
    host = f"127.0.0.1:{stage.plain_port}"
    _expect(rival, fetch(rival.port, f"http://{host}/json", host), JSON_BODY.encode())


def check_tls(stage: Stage, rival: Rival) -> None:  # noqa: ARG001  # every check has one signature
    """Raises unless the answer comes through whole and the bearer field reached the upstream."""
    _expect(rival, fetch(rival.port, f"http://{API_HOST}/json", API_HOST), JSON_BODY.encode())
    _expect(rival, fetch(rival.port, f"http://{API_HOST}/authorization", API_HOST), f"Bearer {TOKEN}".encode())


def measure(rival: Rival, load: Callable[[], Load]) -> tuple[Load, float]:
    """Runs a load; returns it and the CPU seconds that the proxy used meanwhile.

    Raises:
        BenchmarkError: requests failed, so the figure would not be one.
    """
    if rival.program is None:
        return load(), 0.0
    before = rival.program.cpu_time()
    done = load()
    used = rival.program.cpu_time() - before
    if done.failed or not done.count:
        raise BenchmarkError(f"{rival.name}: {done.failed} of {done.count + done.failed} requests failed.")
    return done, used.total_s


def _wrk_round(stage: Stage, rival: Rival, request: WrkRequest, seconds: float) -> Round:
    def load() -> Load:
        return run_wrk(request, rival.port, connections=_CONNECTIONS, seconds=seconds, directory=stage.directory)

    return per_request(*measure(rival, load))


def per_request(load: Load, used_s: float) -> Round:
    """Returns a round whose figure is CPU µs a request."""
    return Round(
        figure=used_s * 1e6 / load.count,
        per_s=load.count / load.duration_s,
        p50_us=load.p50_us,
        p99_us=load.p99_us,
        busy=used_s / load.duration_s,
    )


def _expect(rival: Rival, answer: tuple[int, bytes], content: bytes) -> None:
    status, received = answer
    if status != 200 or received != content:
        raise BenchmarkError(f"{rival.name} answered {status} with {len(received)} bytes: {received[:200]!r}")
