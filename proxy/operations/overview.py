"""What the page shows, as JSON: routes, tokens, certificates, charts, errors and what to do about them. Does no I/O.

Invariant: nothing in here is, or is made from, a token, an assertion, a key or a field value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy import __version__
from proxy.operations.metrics import count_exchanges
from proxy.operations.own_errors import Json, describe_errors, explain_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.identity.sharing.shared_token import SharingStatistics
    from proxy.identity.source import SourceStatistics
    from proxy.identity.sources import IdentityStatistics
    from proxy.operations.history import Sample
    from proxy.operations.metrics import CertificateExpiry
    from proxy.operations.own_errors import ErrorCount
    from proxy.operations.snapshot import WorkerSnapshot

_DAY_S: Final = 86_400


class RouteSummary(NamedTuple):
    """A route of the configuration.

    Attributes:
        name: as in `ExchangeRecord.route`.
        hosts: its host patterns.
        credential: the credential's name.
        target: the scope or resource.
    """

    name: str
    hosts: tuple[str, ...]
    credential: str
    target: str


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything the page shows, as values.

    Attributes:
        at: now, Unix seconds.
        started_at: since when there are samples, Unix seconds.
        ready: whether requests can be served.
        missing: what is missing where not.
        workers: number of relay processes.
        total: all of them as one.
        identity, certificates, routes, samples: as their types say.
        errors: the kinds of errors that the proxy answered with.
    """

    at: float
    started_at: float
    ready: bool
    missing: Sequence[str]
    workers: int
    total: WorkerSnapshot
    identity: IdentityStatistics
    certificates: Sequence[CertificateExpiry]
    routes: Sequence[RouteSummary]
    samples: Sequence[Sample]
    errors: Sequence[ErrorCount]


def describe_overview(overview: Overview) -> dict[str, Json]:
    """Return the overview as the page's script reads it."""
    total = overview.total
    return {
        "version": __version__,
        "at": overview.at,
        "started_at": overview.started_at,
        "ready": overview.ready,
        "missing": list(overview.missing),
        "workers": overview.workers,
        "open": {
            "clients": total.open_client_connections,
            "upstreams": total.open_upstream_connections,
            "tunnels": total.open_tunnels,
        },
        "totals": {
            "exchanges": sum(count_exchanges(total).values()),
            "errors": sum(total.errors.values()),
            "replays": total.replays,
            "retries": total.retries,
            "log_lines_dropped": total.access_log.dropped + total.access_log.lost,
        },
        "routes": _describe_routes(overview.routes, total),
        "tokens": [_describe_token(source) for source in overview.identity.sources],
        "sharing": _describe_sharing(overview.identity.sharing),
        "certificates": [_describe_certificate(one, overview.at) for one in overview.certificates],
        "samples": [_describe_sample(sample) for sample in overview.samples],
        "errors": describe_errors(overview.errors),
    }


def _describe_routes(routes: Iterable[RouteSummary], total: WorkerSnapshot) -> list[Json]:
    counts: dict[str, dict[str, Json]] = {}
    for (name, status_class), count in sorted(count_exchanges(total).items()):
        counts.setdefault(name, {})[status_class] = count
    described: list[Json] = [
        {
            "name": route.name,
            "hosts": list(route.hosts),
            "credential": route.credential,
            "target": route.target,
            "counts": counts.pop(route.name, {}),
        }
        for route in routes
    ]
    # What no route names, and routes that a reload took away.
    described.extend(
        {"name": name, "hosts": [], "credential": None, "target": None, "counts": count}
        for name, count in counts.items()
    )
    return described


def _describe_token(source: SourceStatistics) -> dict[str, Json]:
    return {
        "credential": source.credential,
        "target": source.target,
        "usable": source.usable,
        "age_s": source.age_s,
        "refresh_in_s": source.refresh_in_s,
        "expires_in_s": source.expires_in_s,
        "failures": source.failures,
        "rejections": source.rejections,
        "code": source.failure_code,
        **explain_code(source.failure_code),
    }


def _describe_sharing(sharing: SharingStatistics | None) -> dict[str, Json] | None:
    if sharing is None:
        return None
    return {"shared": sharing.is_shared, "alone_since_at": sharing.alone_since_at, "reason": sharing.reason}


def _describe_certificate(certificate: CertificateExpiry, at: float) -> dict[str, Json]:
    return {
        "kind": certificate.kind,
        "name": certificate.name,
        "proof": certificate.proof,
        "not_after_at": certificate.not_after_at,
        "days_left": (certificate.not_after_at - at) / _DAY_S,
    }


def _describe_sample(sample: Sample) -> dict[str, Json]:
    return {
        "at": round(sample.at, 1),
        "seconds": round(sample.seconds, 3),
        "classes": dict(sample.classes),
        "p50_ms": _milliseconds(sample.p50_s),
        "p95_ms": _milliseconds(sample.p95_s),
        "p99_ms": _milliseconds(sample.p99_s),
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
