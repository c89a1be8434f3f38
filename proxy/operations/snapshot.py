"""The counters of one process as a value: it can be sent to another process, read back, and added to others. Does no I/O.

A snapshot is JSON on the wire, not a pickle: the process that collects holds the private keys, and those that send do not.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, TypeAlias

import msgspec

from proxy.operations.access_log import AccessLogStatistics, TraceStatistics
from proxy.relay.counters import LATENCY_BOUNDS_S, Counters, Histogram

if TYPE_CHECKING:
    from collections.abc import Collection, Sized
_BUCKETS: Final = len(LATENCY_BOUNDS_S) + 1
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_Buckets: TypeAlias = Annotated[tuple[_Count, ...], msgspec.Meta(min_length=_BUCKETS, max_length=_BUCKETS)]
_Counts: TypeAlias = Mapping[str, _Count]


@dataclasses.dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """See `proxy.relay.counters.Histogram`: buckets are not cumulated.

    Attributes:
        buckets: counts, by `LATENCY_BOUNDS_S`.
        total_s: the sum of all values.
    """

    buckets: _Buckets = (0,) * _BUCKETS
    total_s: float = 0.0

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
        http_versions: exchanges by the client's version of HTTP, then by the upstream's, both as in `ExchangeRecord`.
        open_client_connections, open_upstream_connections, open_tunnels: now; upgraded connections count as tunnels.
        idle_upstream_connections: those of the open ones that wait for an exchange.
        access_log: of this process' access log.
        traces: of this process' spans.
        loop_lag: how late its event loop was.
        events_dropped: events that found the event log's queue full.
        name_lookups: by how they ended, as `proxy.dialing.resolver.Resolver.outcomes`.

    The others are named as in `proxy.relay.counters.Counters`.
    """

    exchanges: Mapping[str, Mapping[int, _Count]] = dataclasses.field(default_factory=dict)
    http_versions: Mapping[str, _Counts] = dataclasses.field(default_factory=dict)
    errors: _Counts = dataclasses.field(default_factory=dict)
    aborts: _Counts = dataclasses.field(default_factory=dict)
    http2_faults: _Counts = dataclasses.field(default_factory=dict)
    received_bytes: _Count = 0
    sent_bytes: _Count = 0
    client_connections: _Count = 0
    upstream_connections: _Count = 0
    reused: _Count = 0
    retries: _Count = 0
    replays: _Count = 0
    tunnels: _Count = 0
    upgrades: _Count = 0
    intercepts: _Count = 0
    open_client_connections: _Count = 0
    open_upstream_connections: _Count = 0
    idle_upstream_connections: _Count = 0
    open_tunnels: _Count = 0
    duration: HistogramSnapshot = HistogramSnapshot()
    upstream_wait: HistogramSnapshot = HistogramSnapshot()
    token_wait: HistogramSnapshot = HistogramSnapshot()
    loop_lag: HistogramSnapshot = HistogramSnapshot()
    access_log: AccessLogStatistics = dataclasses.field(default_factory=AccessLogStatistics)
    traces: TraceStatistics = dataclasses.field(default_factory=TraceStatistics)
    events_dropped: _Count = 0
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


_NAMED_ALIKE: Final = [
    field.name
    for field in dataclasses.fields(WorkerSnapshot)
    if field.name != "exchanges" and hasattr(Counters(), field.name)
]


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
    http_versions: dict[str, dict[str, int]] = {}
    for (client, upstream), count in counters.by_version().items():
        http_versions.setdefault(client, {})[upstream] = count
    return WorkerSnapshot(
        exchanges=exchanges,
        http_versions=http_versions,
        **{name: _freeze(getattr(counters, name)) for name in _NAMED_ALIKE},
        open_client_connections=len(relay.clients) + len(relay.arrivals),
        open_upstream_connections=len(relay.upstreams),
        idle_upstream_connections=sum(one.is_idle for one in relay.upstreams),
        open_tunnels=len(relay.splices),
        loop_lag=_freeze(loop_lag or Histogram()),
        access_log=access_log or AccessLogStatistics(),
        traces=traces or TraceStatistics(),
        events_dropped=events_dropped,
        name_lookups=dict(name_lookups or {}),
    )


def format_snapshot(snapshot: WorkerSnapshot) -> bytes:
    """Return the snapshot as JSON."""
    return msgspec.json.encode(snapshot)


def parse_snapshot(content: bytes) -> WorkerSnapshot:
    """Return the snapshot that `format_snapshot` was given.

    Raises:
        ValueError: it is not one.
    """
    try:
        return msgspec.json.decode(content, type=WorkerSnapshot)
    except msgspec.DecodeError:
        raise ValueError("this is no snapshot of a relay process") from None


def sum_snapshots(snapshots: Iterable[WorkerSnapshot]) -> WorkerSnapshot:
    """Return all processes as one."""
    return functools.reduce(_add, snapshots, WorkerSnapshot())


def _freeze(counted: Any) -> Any:  # noqa: ANN401  # of the type of any field
    """Return a count, counts by key, or a histogram, as it is now."""
    if isinstance(counted, Histogram):
        return HistogramSnapshot(tuple(counted.buckets), counted.total)
    return dict(counted) if isinstance(counted, Mapping) else counted


def _add(one: Any, other: Any) -> Any:  # noqa: ANN401  # of the type of any field, and the same for both
    """Return the sum of two counts, of two mappings key by key, or of what has fields of such."""
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        names = (field.name for field in dataclasses.fields(one))
        return type(one)(*(_add(getattr(one, name), getattr(other, name)) for name in names))
    if isinstance(one, tuple):
        return tuple(map(operator.add, one, other))
    if isinstance(one, Mapping):
        return {
            key: _add(one[key], other[key]) if key in one and key in other else one.get(key, other.get(key))
            for key in one.keys() | other.keys()
        }
    return one + other
