"""How long each route's exchanges take, why they fail, and who uses which identity. Does no I/O.

Fed by whoever keeps the newest records, off the hot path. Of more than some hundred exchanges a second only every eighth is
looked at, and counts eight times; failures are all counted, whatever their cause. How many exchanges a route had is counted by
`proxy.relay.counters`, and not again here.

Invariant: bounded; of more clients than that, those are forgotten that have not come for longest.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from proxy.operations.causes import Cause, blame
from proxy.relay.counters import LATENCY_BOUNDS_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.relay.record import ExchangeRecord

# Exchanges of one second that are all looked at: together they take half a millisecond.
_LOOKED_AT: Final = 500
_STEP: Final = 8
_MOST_CLIENTS: Final = 200
# A configuration has far fewer; reloads could bring ever more.
_MOST_ROUTES: Final = 2_000
_MOST_FAILURES: Final = 5_000
NO_ROUTE: Final = "-"

FailureKey: TypeAlias = tuple[str, int, Cause]
"""Route (`NO_ROUTE` without one), status, whose fault."""

Buckets: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ClientUse:
    """What one client did since the start.

    Attributes:
        name: as configured; its address where it is nobody that is configured.
        is_configured: whether it is.
        address: where it came from last.
        count: its exchanges.
        failed: those that failed, no matter whose fault it was.
        at: when the newest ended, Unix seconds.
        identities: exchanges by the credential whose token was sent.
        routes: exchanges by route.
    """

    name: str
    is_configured: bool
    address: str
    count: int
    failed: int
    at: float
    identities: Mapping[str, int]
    routes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Usage:
    """A tally as it stands.

    Attributes:
        durations: by route, from a request's head to the end: counts in the buckets of `LATENCY_BOUNDS_S`.
        upstream: the same from the request's head being sent to the response's head.
        failures: responses with an error status, whoever wrote them, and exchanges that were cut.
        clients: whoever came last is last.
    """

    durations: Mapping[str, Buckets] = field(default_factory=dict)
    upstream: Mapping[str, Buckets] = field(default_factory=dict)
    failures: Mapping[FailureKey, int] = field(default_factory=dict)
    clients: Sequence[ClientUse] = ()


class _Use:
    """`ClientUse` while it is counted."""

    __slots__ = ("address", "at", "count", "failed", "identities", "routes")

    def __init__(self) -> None:
        self.address = ""
        self.count = 0
        self.failed = 0
        self.at = 0.0
        self.identities: dict[str, int] = {}
        self.routes: dict[str, int] = {}


class UsageTally:
    """Counts since the start; one thread writes, under its owner's lock."""

    def __init__(self) -> None:
        self._durations: dict[str, list[int]] = {}
        self._upstream: dict[str, list[int]] = {}
        self._failures: dict[FailureKey, int] = {}
        self._clients: dict[tuple[str, bool], _Use] = {}
        self._second = 0
        self._looked_at = 0

    def add(self, records: Sequence[ExchangeRecord], stands_for: int = 0) -> None:
        """Count some exchanges.

        Args:
            records: in the order in which they ended.
            stands_for: how many there were, of which these are the newest; 0: no more than these.
        """
        if not records:
            return
        weight = max(1, round(stands_for / len(records)))
        for record in records:
            if record.status >= 400 or record.outcome != "ok":
                self._add_failure(record, weight)
        second = int(records[-1].ended_at)
        if second != self._second:
            self._second, self._looked_at = second, 0
        if self._looked_at >= _LOOKED_AT:
            records, weight = records[::_STEP], weight * _STEP
        self._looked_at += len(records)
        for record in records:
            if record.route and record.outcome == "ok":
                _observe(self._durations, record.route, record.duration_s, weight)
                if record.upstream_s is not None:
                    _observe(self._upstream, record.route, record.upstream_s, weight)
            self._add_client(record, weight)
        while len(self._clients) > _MOST_CLIENTS:
            del self._clients[next(iter(self._clients))]

    def snapshot(self) -> Usage:
        """Return everything as it is now."""
        return Usage(
            durations={route: tuple(buckets) for route, buckets in self._durations.items()},
            upstream={route: tuple(buckets) for route, buckets in self._upstream.items()},
            failures=dict(self._failures),
            clients=tuple(
                ClientUse(
                    name,
                    is_configured,
                    use.address,
                    use.count,
                    use.failed,
                    use.at,
                    dict(use.identities),
                    dict(use.routes),
                )
                for (name, is_configured), use in self._clients.items()
            ),
        )

    def _add_failure(self, record: ExchangeRecord, weight: int) -> None:
        key = record.route or NO_ROUTE, record.status, blame(record) or Cause.PROXY
        if key in self._failures or len(self._failures) < _MOST_FAILURES:
            self._failures[key] = self._failures.get(key, 0) + weight

    def _add_client(self, record: ExchangeRecord, weight: int) -> None:
        key = (record.client_name, True) if record.client_name else (record.client, False)
        use = self._clients.pop(key, None) or _Use()
        self._clients[key] = use
        use.address, use.at = record.client, record.ended_at
        use.count += weight
        if record.status >= 400 or record.outcome != "ok":
            use.failed += weight
        if record.credential:
            use.identities[record.credential] = use.identities.get(record.credential, 0) + weight
        if record.route:
            use.routes[record.route] = use.routes.get(record.route, 0) + weight


def _observe(histograms: dict[str, list[int]], route: str, seconds: float, weight: int) -> None:
    buckets = histograms.get(route)
    if buckets is None:
        if len(histograms) >= _MOST_ROUTES:
            return
        buckets = histograms[route] = [0] * (len(LATENCY_BOUNDS_S) + 1)
    buckets[bisect_left(LATENCY_BOUNDS_S, seconds)] += weight
