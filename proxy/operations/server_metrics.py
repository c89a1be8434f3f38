"""The metrics of a whole proxy: those of its relays and tokens, and what only the server knows. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from proxy.operations.metrics import PREFIX, MetricsCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from proxy.identity.sources import IdentityStatistics
    from proxy.operations.metrics import CertificateExpiry
    from proxy.operations.snapshot import WorkerSnapshot


class TokenFile(Protocol):
    """What is looked at of a token file."""

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    @property
    def is_present(self) -> bool:
        """Whether there is a token now."""
        ...

    @property
    def writes(self) -> int:
        """How often a token was put there."""
        ...

    @property
    def failures(self) -> int:
        """How often that could not be done."""
        ...


class ServerFigures(NamedTuple):
    """What only the server knows.

    Attributes:
        ready: whether requests can be served, as ``/readyz`` says it.
        reloads: how many reloads there were, by outcome: ``ok`` or ``refused``.
        last_reload_ok: whether the newest of them was taken up; True before the first one.
        worker_restarts: relay processes that ended without being asked to, and were replaced.
        handouts: answers of identity listeners, by endpoint, route and status.
        token_files: what is kept up to date in files.
    """

    ready: bool
    reloads: Mapping[str, int]
    last_reload_ok: bool
    worker_restarts: int
    handouts: Mapping[tuple[str, str, int], int] = {}
    token_files: Sequence[TokenFile] = ()


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
        present = GaugeMetricFamily(
            f"{PREFIX}token_file_present", "Whether a token file has a token (1) or not (0).", labels=["path"]
        )
        writes = CounterMetricFamily(f"{PREFIX}token_file_writes", "Tokens put into a token file.", labels=["path"])
        failures = CounterMetricFamily(
            f"{PREFIX}token_file_failures", "Attempts to bring a token file up to date that failed.", labels=["path"]
        )
        for file in figures.token_files:
            path = str(file.path)
            present.add_metric([path], int(file.is_present))
            writes.add_metric([path], file.writes)
            failures.add_metric([path], file.failures)
        yield from (present, writes, failures)
