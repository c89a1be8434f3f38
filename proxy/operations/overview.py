"""What the page shows, as JSON: routes, tokens, certificates, charts, errors and what to do about them. Does no I/O.

Invariant: nothing in here is, or is made from, a token, an assertion, a key or a field value.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from proxy import __version__
from proxy.errors import ProxyError
from proxy.identity.aadsts import explain, parse_code
from proxy.operations.log_lines import escape, escape_text
from proxy.operations.metrics import count_exchanges

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.identity.source import SourceStatistics
    from proxy.identity.sources import IdentityStatistics
    from proxy.operations.history import Sample
    from proxy.operations.metrics import CertificateExpiry
    from proxy.operations.snapshot import WorkerSnapshot
    from proxy.relay.record import ExchangeRecord

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

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
        errors: the newest exchanges answered with an error of our own, the oldest first.
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
    errors: Sequence[ExchangeRecord]


def describe_overview(overview: Overview) -> dict[str, Json]:
    """Returns the overview as the page's script reads it."""
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
        "certificates": [_describe_certificate(one, overview.at) for one in overview.certificates],
        "samples": [_describe_sample(sample) for sample in overview.samples],
        "errors": _describe_errors(overview.errors),
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
        **_explain_code(source.failure_code),
    }


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


def _describe_errors(records: Sequence[ExchangeRecord]) -> list[Json]:
    """Returns one entry for each kind of error, the newest kind first, with its newest exchange and how many there were."""
    counts = Counter(map(_kind_of, records))
    newest = {_kind_of(record): record for record in records}
    by_time = sorted(newest.items(), key=lambda item: item[1].ended_at, reverse=True)
    return [_describe_error(record, counts[kind]) for kind, record in by_time]


def _kind_of(record: ExchangeRecord) -> tuple[int, str, str]:
    return record.status, record.outcome, record.code


def _describe_error(record: ExchangeRecord, count: int) -> dict[str, Json]:
    return {
        "at": record.ended_at,
        "count": count,
        "status": record.status,
        "error": record.outcome,
        "code": record.code,
        "client": record.client,
        "method": escape(record.method),
        "what": escape_text(record.authority) + escape(record.target),
        "title": _TITLES.get((record.status, record.outcome), "The proxy answered in its own name"),
        **_explain_code(record.code),
    }


def _explain_code(code: str) -> dict[str, Json]:
    number = parse_code(code)
    explanation = None if number is None else explain(number)
    if explanation is None:
        return {"cause": None, "fix": None}
    return {"cause": explanation.cause, "fix": explanation.fix}


def _collect_titles() -> dict[tuple[int, str], str]:
    """Returns the title of each status and error type; where classes share both, the more general one's."""
    titles: dict[tuple[int, str], str] = {}
    waiting: deque[type[ProxyError]] = deque((ProxyError,))
    while waiting:
        kind = waiting.popleft()
        titles.setdefault((kind.status, kind.proxy_status), kind.title)
        waiting.extend(kind.__subclasses__())
    return titles


_TITLES: Final = _collect_titles()
