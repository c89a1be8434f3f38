"""The counters of one process as a value: it can be sent to another process, read back, and added to others. Does no I/O.

A snapshot is JSON on the wire, not a pickle: the process that collects holds the private keys, and those that send do not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Final, Protocol, TypeAlias, TypeVar

from pydantic import Field, NonNegativeInt, TypeAdapter

from proxy.operations.access_log import AccessLogStatistics, TraceStatistics
from proxy.relay.counters import LATENCY_BOUNDS_S, Histogram

if TYPE_CHECKING:
    from collections.abc import Collection, Sized

    from proxy.relay.counters import Counters

_BUCKETS: Final = len(LATENCY_BOUNDS_S) + 1
_Buckets: TypeAlias = Annotated[tuple[NonNegativeInt, ...], Field(min_length=_BUCKETS, max_length=_BUCKETS)]
_Counts: TypeAlias = Mapping[str, NonNegativeInt]
_Key = TypeVar("_Key")


@dataclasses.dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """See `proxy.relay.counters.Histogram`: buckets are not cumulated.

    Attributes:
        buckets: counts, by `LATENCY_BOUNDS_S`.
        total_s: the sum of all values.
    """

    buckets: _Buckets = (0,) * _BUCKETS
    total_s: float = 0.0

    def __add__(self, other: HistogramSnapshot) -> HistogramSnapshot:
        pairs = zip(self.buckets, other.buckets, strict=True)
        return HistogramSnapshot(tuple(mine + its for mine, its in pairs), self.total_s + other.total_s)

    def __sub__(self, earlier: HistogramSnapshot) -> HistogramSnapshot:
        """Return what has come since an earlier snapshot of the same histogram."""
        pairs = zip(self.buckets, earlier.buckets, strict=True)
        return HistogramSnapshot(tuple(max(now - then, 0) for now, then in pairs), self.total_s - earlier.total_s)

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.buckets)


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """What one relay process has counted, and what is open there now.

    Attributes:
        exchanges: by route name, then by status; names and 0 as in `proxy.relay.counters.Counters`.
        open_client_connections, open_upstream_connections, open_tunnels: now; upgraded connections count as tunnels.
        idle_upstream_connections: those of the open ones that wait for an exchange.
        access_log: of this process' access log.
        traces: of this process' spans.
        loop_lag: how late its event loop was.
        events_dropped: events that found the event log's queue full.
        name_lookups: by how they ended, as `proxy.dialing.resolver.Resolver.outcomes`.

    The others are named as in `proxy.relay.counters.Counters`.
    """

    exchanges: Mapping[str, Mapping[int, NonNegativeInt]] = dataclasses.field(default_factory=dict)
    errors: _Counts = dataclasses.field(default_factory=dict)
    aborts: _Counts = dataclasses.field(default_factory=dict)
    http2_faults: _Counts = dataclasses.field(default_factory=dict)
    received_bytes: NonNegativeInt = 0
    sent_bytes: NonNegativeInt = 0
    client_connections: NonNegativeInt = 0
    upstream_connections: NonNegativeInt = 0
    reused: NonNegativeInt = 0
    retries: NonNegativeInt = 0
    replays: NonNegativeInt = 0
    tunnels: NonNegativeInt = 0
    upgrades: NonNegativeInt = 0
    intercepts: NonNegativeInt = 0
    open_client_connections: NonNegativeInt = 0
    open_upstream_connections: NonNegativeInt = 0
    idle_upstream_connections: NonNegativeInt = 0
    open_tunnels: NonNegativeInt = 0
    duration: HistogramSnapshot = HistogramSnapshot()
    upstream_wait: HistogramSnapshot = HistogramSnapshot()
    token_wait: HistogramSnapshot = HistogramSnapshot()
    loop_lag: HistogramSnapshot = HistogramSnapshot()
    access_log: AccessLogStatistics = dataclasses.field(default_factory=AccessLogStatistics)
    traces: TraceStatistics = dataclasses.field(default_factory=TraceStatistics)
    events_dropped: NonNegativeInt = 0
    name_lookups: _Counts = dataclasses.field(default_factory=dict)

    def retired(self) -> WorkerSnapshot:
        """Return what goes on being counted of a process that has ended: totals never fall while others still run."""
        return dataclasses.replace(
            self,
            open_client_connections=0,
            open_upstream_connections=0,
            idle_upstream_connections=0,
            open_tunnels=0,
        )


@cache
def _adapter() -> TypeAdapter[WorkerSnapshot]:
    """Built when first wanted: a proxy of one process never does, and it costs a fiftieth of a second."""
    return TypeAdapter(WorkerSnapshot)


class UpstreamConnection(Protocol):
    """What is looked at of an upstream connection."""

    @property
    def is_idle(self) -> bool:
        """Whether it waits for an exchange."""
        ...


class Observed(Protocol):
    """What is looked at of a relay: its counters, and how much is open."""

    @property
    def counters(self) -> Counters:
        """What it has counted."""
        ...

    @property
    def clients(self) -> Sized:
        """Client connections."""
        ...

    @property
    def arrivals(self) -> Sized:
        """Tunnels that have not yet led to a request."""
        ...

    @property
    def upstreams(self) -> Collection[UpstreamConnection]:
        """Upstream connections."""
        ...

    @property
    def splices(self) -> Sized:
        """Tunnels and upgraded connections."""
        ...


def take_snapshot(
    relay: Observed,
    *,
    access_log: AccessLogStatistics | None = None,
    traces: TraceStatistics | None = None,
    loop_lag: Histogram | None = None,
    events_dropped: int = 0,
    name_lookups: Mapping[str, int] | None = None,
) -> WorkerSnapshot:
    """Return the relay's counters as they are now; for the event loop, which is their only writer."""
    counters = relay.counters
    exchanges: dict[str, dict[int, int]] = {}
    for (route, status), count in counters.exchanges.items():
        exchanges.setdefault(route, {})[status] = count
    return WorkerSnapshot(
        exchanges=exchanges,
        errors=dict(counters.errors),
        aborts=dict(counters.aborts),
        http2_faults=dict(counters.http2_faults),
        received_bytes=counters.received_bytes,
        sent_bytes=counters.sent_bytes,
        client_connections=counters.client_connections,
        upstream_connections=counters.upstream_connections,
        reused=counters.reused,
        retries=counters.retries,
        replays=counters.replays,
        tunnels=counters.tunnels,
        upgrades=counters.upgrades,
        intercepts=counters.intercepts,
        open_client_connections=len(relay.clients) + len(relay.arrivals),
        open_upstream_connections=len(relay.upstreams),
        idle_upstream_connections=sum(one.is_idle for one in relay.upstreams),
        open_tunnels=len(relay.splices),
        duration=_freeze(counters.duration),
        upstream_wait=_freeze(counters.upstream_wait),
        token_wait=_freeze(counters.token_wait),
        loop_lag=_freeze(loop_lag) if loop_lag is not None else HistogramSnapshot(),
        access_log=access_log or AccessLogStatistics(),
        traces=traces or TraceStatistics(),
        events_dropped=events_dropped,
        name_lookups=dict(name_lookups or {}),
    )


def format_snapshot(snapshot: WorkerSnapshot) -> bytes:
    """Return the snapshot as JSON."""
    return _adapter().dump_json(snapshot)


def parse_snapshot(content: bytes) -> WorkerSnapshot:
    """Return the snapshot that `format_snapshot` was given.

    Raises:
        ValueError: it is not one.
    """
    return _adapter().validate_json(content)


def sum_snapshots(snapshots: Iterable[WorkerSnapshot]) -> WorkerSnapshot:
    """Return all processes as one."""
    total = WorkerSnapshot()
    for snapshot in snapshots:
        total = _add(total, snapshot)
    return total


def _freeze(histogram: Histogram) -> HistogramSnapshot:
    return HistogramSnapshot(tuple(histogram.buckets), histogram.total)


def _add(one: WorkerSnapshot, other: WorkerSnapshot) -> WorkerSnapshot:
    routes = one.exchanges.keys() | other.exchanges.keys()
    return WorkerSnapshot(
        exchanges={
            route: _add_counts(one.exchanges.get(route, {}), other.exchanges.get(route, {})) for route in routes
        },
        errors=_add_counts(one.errors, other.errors),
        aborts=_add_counts(one.aborts, other.aborts),
        http2_faults=_add_counts(one.http2_faults, other.http2_faults),
        received_bytes=one.received_bytes + other.received_bytes,
        sent_bytes=one.sent_bytes + other.sent_bytes,
        client_connections=one.client_connections + other.client_connections,
        upstream_connections=one.upstream_connections + other.upstream_connections,
        reused=one.reused + other.reused,
        retries=one.retries + other.retries,
        replays=one.replays + other.replays,
        tunnels=one.tunnels + other.tunnels,
        upgrades=one.upgrades + other.upgrades,
        intercepts=one.intercepts + other.intercepts,
        open_client_connections=one.open_client_connections + other.open_client_connections,
        open_upstream_connections=one.open_upstream_connections + other.open_upstream_connections,
        idle_upstream_connections=one.idle_upstream_connections + other.idle_upstream_connections,
        open_tunnels=one.open_tunnels + other.open_tunnels,
        duration=one.duration + other.duration,
        upstream_wait=one.upstream_wait + other.upstream_wait,
        token_wait=one.token_wait + other.token_wait,
        loop_lag=one.loop_lag + other.loop_lag,
        access_log=AccessLogStatistics(
            one.access_log.observed + other.access_log.observed,
            one.access_log.dropped + other.access_log.dropped,
            one.access_log.lost + other.access_log.lost,
        ),
        traces=TraceStatistics(
            one.traces.exported + other.traces.exported,
            one.traces.lost + other.traces.lost,
            one.traces.dropped + other.traces.dropped,
        ),
        events_dropped=one.events_dropped + other.events_dropped,
        name_lookups=_add_counts(one.name_lookups, other.name_lookups),
    )


def _add_counts(one: Mapping[_Key, int], other: Mapping[_Key, int]) -> dict[_Key, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in one.keys() | other.keys()}
