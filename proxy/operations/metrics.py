"""Snapshots as Prometheus metrics. Does no I/O; `format_metrics` reads this process' own figures from the system.

Names follow Prometheus' conventions: base units, ``_total`` on counters. Labels take their values from the configuration, or
from short fixed lists, or from codes whose number is bounded where they are counted: never from what clients send.
"""

from __future__ import annotations

import platform
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from proxy import __version__
from proxy.operations.snapshot import WorkerSnapshot, sum_snapshots
from proxy.relay.counters import LATENCY_BOUNDS_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from proxy.identity.sharing.shared_token import SharingStatistics
    from proxy.identity.sources import IdentityStatistics
    from proxy.operations.snapshot import HistogramSnapshot

PREFIX: Final = "apim_auth_proxy_"
_NO_ROUTE: Final = "-"
_NO_HTTP: Final = "-"
_BOUNDS: Final = (*map(str, LATENCY_BOUNDS_S), "+Inf")

_COUNTERS: Final[tuple[tuple[str, str, Callable[[WorkerSnapshot], int]], ...]] = (
    ("received_bytes", "Content of requests relayed.", lambda s: s.received_bytes),
    ("sent_bytes", "Content of responses relayed.", lambda s: s.sent_bytes),
    ("client_connections_accepted", "Connections accepted from clients.", lambda s: s.client_connections),
    ("upstream_connections_opened", "Connections opened to upstreams.", lambda s: s.upstream_connections),
    ("upstream_connections_reused", "Exchanges that found a kept-alive upstream connection.", lambda s: s.reused),
    ("exchange_retries", "Exchanges sent again because a kept-alive connection was dead.", lambda s: s.retries),
    ("exchange_replays", "Exchanges sent again with another access token.", lambda s: s.replays),
    ("tunnels_opened", "CONNECT requests passed on blind.", lambda s: s.tunnels),
    ("upgrades", "Connections that switched protocols (101).", lambda s: s.upgrades),
    ("tls_intercepts", "CONNECT requests whose TLS ended here.", lambda s: s.intercepts),
    ("access_log_exchanges", "Exchanges the access log has seen.", lambda s: s.access_log.observed),
    ("access_log_dropped", "Exchanges that found the access log's queue full.", lambda s: s.access_log.dropped),
    ("access_log_lost", "Access log lines that could not be written.", lambda s: s.access_log.lost),
    ("trace_spans_exported", "Spans the collector has taken.", lambda s: s.traces.exported),
    ("trace_spans_lost", "Spans the collector has not taken.", lambda s: s.traces.lost),
    ("trace_exchanges_dropped", "Exchanges that found the tracing's queue full.", lambda s: s.traces.dropped),
    ("event_log_dropped", "Log events that found the event log's queue full.", lambda s: s.events_dropped),
)
_GAUGES: Final[tuple[tuple[str, str, Callable[[WorkerSnapshot], int]], ...]] = (
    ("client_connections_open", "Client connections open now.", lambda s: s.open_client_connections),
    (
        "upstream_connections_open",
        "Upstream connections open now, idle ones included.",
        lambda s: s.open_upstream_connections,
    ),
    (
        "upstream_connections_idle",
        "Upstream connections that wait for an exchange now.",
        lambda s: s.idle_upstream_connections,
    ),
    ("tunnels_open", "Tunnels and upgraded connections open now.", lambda s: s.open_tunnels),
)
_HISTOGRAMS: Final[tuple[tuple[str, str, Callable[[WorkerSnapshot], HistogramSnapshot]], ...]] = (
    ("exchange_duration_seconds", "From a request's head to the end of its response.", lambda s: s.duration),
    (
        "upstream_response_seconds",
        "From a request's head being sent to the response's head.",
        lambda s: s.upstream_wait,
    ),
    ("token_wait_seconds", "What requests without a token at hand waited for one.", lambda s: s.token_wait),
    ("event_loop_lag_seconds", "How late the event loop was, measured twice a second.", lambda s: s.loop_lag),
)


class CertificateExpiry(NamedTuple):
    """When a certificate ends.

    Attributes:
        kind: ``credential``, ``client_certificate`` or ``interception_ca``.
        name: of the credential, or of the route that shows the certificate; empty for the CA.
        proof: which of the credential's proofs, or the client certificate's subject; empty for the CA.
        not_after_at: Unix seconds.
        not_before_at: when it begins to be valid, Unix seconds; None where that is not known.
    """

    kind: str
    name: str
    proof: str
    not_after_at: float
    not_before_at: float | None = None


class MetricsCollector(Collector):
    """All metrics of the proxy.

    Args:
        workers: returns a snapshot of each relay process, of those that have ended too (`WorkerSnapshot.retired`).
        identity: returns the token sources' statistics.
        certificates: returns what certificates there are beside those of the credentials.
    """

    def __init__(
        self,
        workers: Callable[[], Sequence[WorkerSnapshot]],
        identity: Callable[[], IdentityStatistics],
        certificates: Callable[[], Iterable[CertificateExpiry]] = tuple,
    ) -> None:
        self._workers = workers
        self._identity = identity
        self._certificates = certificates

    def describe(self) -> Iterable[Metric]:
        """Tells a registry not to collect in order to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now; for the event loop."""
        info = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily(f"{PREFIX}build", "What is running.", info)
        yield from relay_metrics(sum_snapshots(self._workers()))
        identity = self._identity()
        yield from identity_metrics(identity)
        yield _certificate_metric([*credential_certificates(identity), *self._certificates()])


def relay_metrics(snapshot: WorkerSnapshot) -> Iterator[Metric]:
    """Yield the metrics of the relay."""
    exchanges = CounterMetricFamily(
        f"{PREFIX}exchanges",
        "Exchanges by route and class of the status the client got; aborted: cut before there was one.",
        labels=("route", "status_class"),
    )
    for (route, status_class), count in sorted(count_exchanges(snapshot).items()):
        exchanges.add_metric((route, status_class), count)
    yield exchanges
    versions = CounterMetricFamily(
        f"{PREFIX}exchange_http_versions",
        "Exchanges by the version of HTTP that the client spoke, and that the upstream was spoken to in.",
        labels=("http_version", "upstream_http_version"),
    )
    for client, upstreams in sorted(snapshot.http_versions.items()):
        for upstream, count in sorted(upstreams.items()):
            versions.add_metric((client or _NO_HTTP, upstream or _NO_HTTP), count)
    yield versions
    yield _labelled("errors", "Answers of the proxy's own, by RFC 9209 error type.", "error", snapshot.errors.items())
    yield _labelled(
        "aborts", "Exchanges cut after the response's head, by who is to blame.", "side", snapshot.aborts.items()
    )
    yield _labelled(
        "http2_faults",
        "Streams and connections of HTTP/2 that were ended for what the other side did.",
        "reason",
        snapshot.http2_faults.items(),
    )
    yield _labelled("name_lookups", "Look-ups of names, by how they ended.", "outcome", snapshot.name_lookups.items())
    for name, meaning, read in _COUNTERS:
        yield CounterMetricFamily(PREFIX + name, meaning, read(snapshot))
    for name, meaning, read in _GAUGES:
        yield GaugeMetricFamily(PREFIX + name, meaning, read(snapshot))
    for name, meaning, read_histogram in _HISTOGRAMS:
        histogram = read_histogram(snapshot)
        buckets = list(zip(_BOUNDS, accumulate(histogram.buckets), strict=True))
        yield HistogramMetricFamily(PREFIX + name, meaning, buckets, histogram.total_s)


def count_exchanges(snapshot: WorkerSnapshot) -> dict[tuple[str, str], int]:
    """Return exchanges by route (``-`` without one) and status class: ``1xx`` to ``5xx``, ``other``, ``aborted``."""
    counts: dict[tuple[str, str], int] = {}
    for route, statuses in snapshot.exchanges.items():
        for status, count in statuses.items():
            key = (route or _NO_ROUTE, status_class(status))
            counts[key] = counts.get(key, 0) + count
    return counts


def status_class(status: int) -> str:
    """Return the class of a status (RFC 9110 §15); ``aborted`` for 0."""
    if status == 0:
        return "aborted"
    return f"{status // 100}xx" if 100 <= status < 600 else "other"


def identity_metrics(statistics: IdentityStatistics) -> Iterator[Metric]:
    """Yield the metrics of credentials and access tokens."""
    requests = CounterMetricFamily(
        f"{PREFIX}token_requests",
        "Requests to the token endpoint by outcome and by the code of its error.",
        labels=("credential", "outcome", "code"),
    )
    skew = _gauge("clock_skew_seconds", "The identity platform's clock less ours.", "credential")
    correction = _gauge("clock_correction_seconds", "Added to our clock in client assertions.", "credential")
    for name, credential in statistics.credentials.items():
        for (outcome, code), count in credential.requests.items():
            requests.add_metric((name, outcome, code), count)
        if credential.clock_skew_s is not None:
            skew.add_metric((name,), credential.clock_skew_s)
        correction.add_metric((name,), credential.clock_correction_s)
    yield from (requests, skew, correction)
    starts = _gauge(
        "certificate_start_timestamp_seconds",
        "When the certificate of a credential begins to be valid, in Unix time.",
        "name",
        "proof",
    )
    for name, credential in statistics.credentials.items():
        for proof, not_before in credential.starts.items():
            starts.add_metric((name, proof), not_before.timestamp())
    yield starts

    labels = ("credential", "scope")
    usable = _gauge("token_usable", "Whether there is an access token to send (1) or not (0).", *labels)
    age = _gauge("token_age_seconds", "Age of the current access token.", *labels)
    expiry = _gauge("token_expires_in_seconds", "Time until the current access token expires.", *labels)
    failures = _gauge("token_failures_in_a_row", "Token requests that failed since the last success.", *labels)
    failing = _gauge(
        "credential_failing_seconds",
        "For how long there has been no access token for requests that want one, and why; only while it is so.",
        *labels,
        "code",
    )
    for one in statistics.failing:
        failing.add_metric((one.credential, str(one.target), one.code), one.for_s)
    rejections = CounterMetricFamily(
        f"{PREFIX}token_rejections", "Access tokens dropped because an upstream refused them.", labels=labels
    )
    for source in statistics.sources:
        key = (source.credential, source.target)
        usable.add_metric(key, int(source.usable))
        failures.add_metric(key, source.failures)
        rejections.add_metric(key, source.rejections)
        if source.age_s is not None:
            age.add_metric(key, source.age_s)
        if source.expires_in_s is not None:
            expiry.add_metric(key, source.expires_in_s)
    yield from (usable, age, expiry, failures, failing, rejections)
    yield from _sharing_metrics(statistics.sharing)


def _sharing_metrics(sharing: SharingStatistics | None) -> Iterator[Metric]:
    shared = _gauge("token_cache_shared", "Whether replicas share tokens at present (1), or each is on its own (0).")
    if sharing is not None:
        shared.add_metric((), int(sharing.is_shared))
    yield shared
    counts = () if sharing is None else sharing.outcomes.items()
    yield _labelled("token_cache_tokens", "How tokens were had that replicas share.", "outcome", counts)


def format_metrics(metrics: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """Return the metrics, and those of this process, in the text format that the Accept field asks for, and its media type.

    Reads files below /proc where the platform has them; so not for the event loop.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(metrics))
    registry.register(ProcessCollector(registry=None))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class _Collected(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def credential_certificates(statistics: IdentityStatistics) -> list[CertificateExpiry]:
    """Return the certificates of all credentials, as far as their ends are known."""
    return [
        CertificateExpiry(
            "credential",
            name,
            proof,
            not_after.timestamp(),
            credential.starts[proof].timestamp() if proof in credential.starts else None,
        )
        for name, credential in statistics.credentials.items()
        for proof, not_after in credential.expirations.items()
    ]


def _certificate_metric(certificates: Iterable[CertificateExpiry]) -> Metric:
    meaning = "When the certificate ends, in Unix time; less time() and divided by 86400, the days left."
    family = _gauge("certificate_expiry_timestamp_seconds", meaning, "kind", "name", "proof")
    for one in certificates:
        family.add_metric((one.kind, one.name, one.proof), one.not_after_at)
    return family


def _labelled(name: str, meaning: str, label: str, counts: Iterable[tuple[str, int]]) -> CounterMetricFamily:
    family = CounterMetricFamily(PREFIX + name, meaning, labels=(label,))
    for value, count in sorted(counts):
        family.add_metric((value,), count)
    return family


def _gauge(name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, meaning, labels=labels)
