"""The last minutes in samples, for charts: what was counted between two looks at the counters. Does no I/O; time is an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.operations.metrics import count_exchanges
from proxy.relay.counters import LATENCY_BOUNDS_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.operations.snapshot import HistogramSnapshot, WorkerSnapshot

SAMPLE_S: Final = 2.0
# Five minutes.
_SAMPLES: Final = 150


@dataclass(frozen=True, slots=True)
class Sample:
    """What happened in one interval.

    Attributes:
        at: its end, Unix seconds.
        seconds: its length.
        classes: exchanges by status class, as `proxy.operations.metrics.status_class` names them.
        p50_s, p95_s, p99_s: estimates of durations; None without an exchange.
    """

    at: float
    seconds: float
    classes: Mapping[str, int]
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


class History:
    """The newest samples, the oldest of them first."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=_SAMPLES)
        self._before: WorkerSnapshot | None = None
        self._before_mono = 0.0

    @property
    def samples(self) -> tuple[Sample, ...]:
        """As of the last call of `add`."""
        return tuple(self._samples)

    def add(self, snapshot: WorkerSnapshot, at: float, now_mono: float) -> None:
        """Take another look; the first one only sets the baseline.

        Args:
            snapshot: of all processes together.
            at: Unix seconds, to be shown.
            now_mono: monotonic seconds, to be counted with.
        """
        before, self._before = self._before, snapshot
        seconds, self._before_mono = now_mono - self._before_mono, now_mono
        if before is None or seconds <= 0:
            return
        durations = snapshot.duration - before.duration
        self._samples.append(
            Sample(
                at,
                seconds,
                _classes_between(before, snapshot),
                estimate_quantile(durations, 0.50),
                estimate_quantile(durations, 0.95),
                estimate_quantile(durations, 0.99),
            )
        )


def estimate_quantile(histogram: HistogramSnapshot, quantile: float) -> float | None:
    """Return a quantile in seconds as Prometheus' ``histogram_quantile`` does: evenly spread within a bucket.

    None without values; the highest bound for whatever lies above it.
    """
    rank = quantile * histogram.count
    if rank <= 0:
        return None
    below, lower = 0, 0.0
    for count, upper in zip(histogram.buckets, LATENCY_BOUNDS_S, strict=False):
        if count and below + count >= rank:
            return lower + (upper - lower) * (rank - below) / count
        below += count
        lower = upper
    return lower


def _classes_between(earlier: WorkerSnapshot, later: WorkerSnapshot) -> dict[str, int]:
    before = count_exchanges(earlier)
    classes: dict[str, int] = {}
    for key, count in count_exchanges(later).items():
        new = count - before.get(key, 0)
        if new > 0:
            classes[key[1]] = classes.get(key[1], 0) + new
    return classes
