"""What each route did in the last minutes: requests, durations, and failures by whose fault they were. Does no I/O.

Time is an argument. How many there were comes from the relay's counters; durations and failures come from
`proxy.operations.usage`, which sees them up to a second later.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from proxy.operations.causes import Cause, is_passed_on
from proxy.operations.history import estimate_quantile
from proxy.operations.snapshot import HistogramSnapshot
from proxy.operations.usage import NO_ROUTE, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.operations.snapshot import WorkerSnapshot
    from proxy.operations.usage import Buckets

WINDOW_S: Final = 300.0
_LOOK_S: Final = 10.0
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class RouteActivity:
    """One route in the window.

    Attributes:
        count: exchanges.
        failures: by whose fault; those without a status too.
        statuses: those of 400 and above that were passed on, by status.
        p50_s, p95_s, upstream_p50_s: estimates; None without an exchange.
    """

    count: int
    failures: Mapping[Cause, int]
    statuses: Mapping[int, int]
    p50_s: float | None
    p95_s: float | None
    upstream_p50_s: float | None


@dataclass(frozen=True, slots=True)
class _Look:
    at_mono: float
    exchanges: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)


class RouteWindow:
    """Looks at the counters every now and then, and compares the newest look with one that is five minutes old."""

    def __init__(self) -> None:
        self._kept: deque[_Look] = deque()
        self._newest: _Look | None = None

    def add(self, total: WorkerSnapshot, usage: Usage, now_mono: float) -> None:
        """Take another look.

        Args:
            total: of all processes together.
            usage: the same.
            now_mono: monotonic seconds.
        """
        self._newest = look = _Look(now_mono, total.exchanges, usage)
        if not self._kept or now_mono - self._kept[-1].at_mono >= _LOOK_S:
            self._kept.append(look)
        # The first one stays until the next is old enough to take its place.
        while len(self._kept) > 1 and now_mono - self._kept[1].at_mono >= WINDOW_S:
            self._kept.popleft()

    def activity(self) -> dict[str, RouteActivity]:
        """Return each route that had an exchange in the window, as of the last call of `add`."""
        if self._newest is None:
            return {}
        before, now = self._kept[0], self._newest
        failures = _between(before.usage.failures, now.usage.failures)
        found = {}
        for route in now.exchanges.keys() | {key[0] for key in failures}:
            count = sum(_between(_statuses(before, route), _statuses(now, route)).values())
            of_route = {key[1:]: number for key, number in failures.items() if key[0] == (route or NO_ROUTE)}
            if not count and not of_route:
                continue
            found[route or NO_ROUTE] = _describe(
                count,
                of_route,
                _spread(before.usage.durations.get(route), now.usage.durations.get(route)),
                _spread(before.usage.upstream.get(route), now.usage.upstream.get(route)),
            )
        return found


def _describe(
    count: int,
    failures: Mapping[tuple[int, Cause], int],
    durations: HistogramSnapshot,
    upstream: HistogramSnapshot,
) -> RouteActivity:
    causes: Counter[Cause] = Counter()
    for (_, cause), number in failures.items():
        causes[cause] += number
    return RouteActivity(
        count=count,
        failures=dict(causes),
        statuses={status: number for (status, cause), number in failures.items() if is_passed_on(status, cause)},
        p50_s=estimate_quantile(durations, 0.5),
        p95_s=estimate_quantile(durations, 0.95),
        upstream_p50_s=estimate_quantile(upstream, 0.5),
    )


def _statuses(look: _Look, route: str) -> Mapping[int, int]:
    if route not in ("", NO_ROUTE):
        return look.exchanges.get(route, {})
    # No destination, and a destination without a route: on the page they are one.
    without = look.exchanges.get("", {}), look.exchanges.get(NO_ROUTE, {})
    return {status: sum(one.get(status, 0) for one in without) for status in without[0].keys() | without[1].keys()}


def _between(before: Mapping[_Key, int], now: Mapping[_Key, int]) -> dict[_Key, int]:
    return {key: new for key, count in now.items() if (new := count - before.get(key, 0)) > 0}


def _spread(before: Buckets | None, now: Buckets | None) -> HistogramSnapshot:
    if now is None:
        return HistogramSnapshot()
    return HistogramSnapshot(now) - HistogramSnapshot(before or (0,) * len(now))
