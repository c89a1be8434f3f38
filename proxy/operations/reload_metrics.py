"""The metrics of a proxy whose configuration can be reloaded. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily

from proxy.operations.metrics import PREFIX, MetricsCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from proxy.identity.sources import IdentityStatistics
    from proxy.operations.metrics import CertificateExpiry
    from proxy.operations.snapshot import WorkerSnapshot


class ReloadingCollector(MetricsCollector):
    """All metrics, and how often the configuration was reloaded.

    Args:
        workers: as for `MetricsCollector`.
        identity: as for `MetricsCollector`.
        certificates: as for `MetricsCollector`.
        reloads: returns how many reloads there were, by outcome.
    """

    def __init__(
        self,
        workers: Callable[[], Sequence[WorkerSnapshot]],
        identity: Callable[[], IdentityStatistics],
        certificates: Callable[[], Iterable[CertificateExpiry]],
        *,
        reloads: Callable[[], Mapping[str, int]],
    ) -> None:
        super().__init__(workers, identity, certificates)
        self._reloads = reloads

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics as they are now; for the event loop."""
        yield from super().collect()
        family = CounterMetricFamily(
            f"{PREFIX}reloads",
            "Attempts to go over to another configuration: taken up, or refused because it cannot be used.",
            labels=["outcome"],
        )
        for outcome, count in self._reloads().items():
            family.add_metric([outcome], count)
        yield family
