"""The table: what is measured, on whom, and the target. Does no I/O itself; `loads.py` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks import loads
from benchmarks.figures import Round, Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.rivals import Rival
    from benchmarks.stage import Stage


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table.

    Attributes:
        name: as in `--cells`.
        title: for people.
        unit: of the figure.
        rivals: who takes part.
        targets: what our figure is held to.
        run: one round: the stage, the proxy, about how many seconds it may take.
        check: raises if the proxy does not do the job; runs once before the rounds.
        baseline: who takes part only to be subtracted from the others.
        subject: whose figure the targets are for.
        warms_up: whether a short round comes before those that count.
    """

    name: str
    title: str
    unit: str
    rivals: tuple[str, ...]
    targets: tuple[Target, ...]
    run: Callable[[Stage, Rival, float], Round]
    check: Callable[[Stage, Rival], None]
    baseline: str | None = None
    subject: str = "ours"
    warms_up: bool = True


_CPU: Final = "CPU µs/request"

CELLS: Final = (
    Cell(
        name="plain-get",
        title="http URL, small GET, plain upstream, no token",
        unit=_CPU,
        rivals=("nginx", "haproxy", "squid", "proxy.py", "mitmproxy", "ours"),
        targets=(Target(2.2, "nginx"), Target(0.45, "squid"), Target(1 / 4, "proxy.py"), Target(1 / 40, "mitmproxy")),
        run=loads.plain_get,
        check=loads.check_plain,
    ),
    Cell(
        name="tls-get",
        title="http URL, small GET, TLS upstream",
        unit=_CPU,
        rivals=("nginx", "nginx-unlogged", "haproxy", "mitmproxy", "bare", "ours", "ours-interpreted"),
        targets=(Target(2.2, "nginx"),),
        run=loads.tls_get,
        check=loads.check_get,
    ),
    Cell(
        name="intercepted-get",
        title="CONNECT, TLS on both sides, small GET, kept alive",
        unit=_CPU,
        rivals=("nginx", "haproxy", "mitmproxy", "ours"),
        targets=(Target(1.6, "nginx"), Target(1 / 30, "mitmproxy")),
        run=loads.intercepted_get,
        check=loads.check_intercepted,
    ),
    Cell(
        name="exchange",
        title="16 KiB POST, 64 KiB response, TLS upstream",
        unit=_CPU,
        rivals=("nginx", "haproxy", "ours"),
        targets=(Target(1.8, "nginx"),),
        run=loads.exchange,
        check=loads.check_exchange,
    ),
    Cell(
        name="download",
        title="100 MB response, TLS upstream",
        unit="CPU ms",
        rivals=("nginx", "haproxy", "ours"),
        targets=(Target(1.4, "nginx"),),
        run=loads.download,
        check=loads.check_exchange,
    ),
    Cell(
        name="upload",
        title="100 MB request, TLS upstream",
        unit="CPU ms",
        rivals=("nginx", "haproxy", "ours"),
        targets=(Target(1.4, "nginx"),),
        run=loads.upload,
        check=loads.check_exchange,
    ),
    Cell(
        name="tunnel",
        title="1 GB through a blind tunnel",
        unit="CPU ms",
        rivals=("haproxy", "ours"),
        targets=(Target(1.0, "haproxy"),),
        run=loads.tunnel,
        check=loads.check_nothing,
    ),
    Cell(
        name="websocket",
        title="WebSocket echo, 100-byte frames, TLS upstream",
        unit="CPU µs/echo",
        rivals=("nginx", "ours"),
        targets=(Target(2.0, "nginx"),),
        run=loads.websocket,
        check=loads.check_get,
    ),
    Cell(
        name="new-connections",
        title="new CONNECT and TLS handshake for each small GET",
        unit=_CPU,
        rivals=("nginx", "haproxy", "ours"),
        targets=(Target(1.8, "nginx"),),
        run=loads.new_connections,
        check=loads.check_intercepted,
    ),
    Cell(
        name="latency",
        title="latency added to a small GET at one connection, median",
        unit="µs",
        rivals=("direct", "nginx", "haproxy", "ours"),
        targets=(Target(2.0, "nginx"),),
        run=loads.latency,
        check=loads.check_get,
        baseline="direct",
    ),
    Cell(
        name="idle-plain",
        title="memory of an idle kept-alive client",
        unit="KiB",
        rivals=("nginx", "ours"),
        targets=(Target(8.0),),
        run=loads.idle_plain,
        check=loads.check_get,
        warms_up=False,
    ),
    Cell(
        name="idle-intercepted",
        title="memory of an idle intercepted client",
        unit="KiB",
        rivals=("nginx", "ours"),
        targets=(Target(40.0),),
        run=loads.idle_intercepted,
        check=loads.check_intercepted,
        warms_up=False,
    ),
    Cell(
        name="crowd",
        title="p99 of 1,000 active clients beside 10,000 idle ones, to that of 100",
        unit="times",
        rivals=("nginx", "ours"),
        targets=(Target(3.0),),
        run=loads.crowd,
        check=loads.check_get,
        warms_up=False,
    ),
    Cell(
        name="start-memory",
        title="resident memory after the start",
        unit="MB",
        rivals=("ours",),
        targets=(Target(60.0),),
        run=loads.start_memory,
        check=loads.check_nothing,
        warms_up=False,
    ),
    Cell(
        name="start-time",
        title="from exec to ready",
        unit="ms",
        rivals=("ours",),
        targets=(Target(500.0),),
        run=loads.start_time,
        check=loads.check_nothing,
        warms_up=False,
    ),
    Cell(
        name="workers",
        title="throughput of two workers on two cores, less the load's share",
        unit="requests/s",
        rivals=("nginx", "nginx-two-workers", "ours", "two-workers"),
        targets=(Target(1.7, "ours", at_least=True),),
        run=loads.capacity,
        check=loads.check_get,
        subject="two-workers",
    ),
)
