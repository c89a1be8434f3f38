"""The metrics of a whole proxy: those of its relays and tokens, and what only the server knows. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from proxy.operations.metrics import PREFIX, MetricsCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from proxy.identity.sources import IdentityStatistics
    from proxy.operations.metrics import CertificateExpiry
    from proxy.operations.snapshot import WorkerSnapshot


class ServerFigures(NamedTuple):
    """What only the server knows.

    Attributes:
        ready: whether requests can be served, as ``/readyz`` says it.
        reloads: how many reloads there were, by outcome: ``ok`` or ``refused``.
        last_reload_ok: whether the newest of them was taken up; True before the first one.
        worker_restarts: relay processes that ended without being asked to, and were replaced.
        handouts: answers of identity listeners, by endpoint, route and status.
    """

    ready: bool
    reloads: Mapping[str, int]
    last_reload_ok: bool
    worker_restarts: int
    handouts: Mapping[tuple[str, str, int], int] = {}


class ServerCollector(MetricsCollector):
    """All metrics of a server.

    Args:
        workers: as for `MetricsCollector`.
        identity: as for `MetricsCollector`.
        certificates: as for `MetricsCollector`.
        figures: returns what only the server knows.
    """

    def __init__(
        self,
        workers: Callable[[], Sequence[WorkerSnapshot]],
        identity: Callable[[], IdentityStatistics],
        certificates: Callable[[], Iterable[CertificateExpiry]],
        *,
        figures: Callable[[], ServerFigures],
    ) -> None:
        super().__init__(workers, identity, certificates)
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now; for the event loop."""
        yield from super().collect()
        figures = self._figures()
        yield GaugeMetricFamily(f"{PREFIX}ready", "Whether requests can be served (1) or not (0).", int(figures.ready))
        reloads = CounterMetricFamily(
            f"{PREFIX}reloads",
            "Attempts to go over to another configuration: taken up, or refused because it cannot be used.",
            labels=["outcome"],
        )
        for outcome, count in figures.reloads.items():
            reloads.add_metric([outcome], count)
        yield reloads
        yield GaugeMetricFamily(
            f"{PREFIX}last_reload_successful",
            "Whether the newest configuration was taken up (1) or refused (0).",
            int(figures.last_reload_ok),
        )
        yield CounterMetricFamily(
            f"{PREFIX}worker_restarts",
            "Relay processes that ended without being asked to.",
            figures.worker_restarts,
        )
        handouts = CounterMetricFamily(
            f"{PREFIX}identity_answers",
            "Answers of identity listeners, which hand out access tokens: with status 200 each holds one.",
            labels=["endpoint", "route", "status"],
        )
        for (endpoint, route, status), count in figures.handouts.items():
            handouts.add_metric([endpoint, route, str(status)], count)
        yield handouts
