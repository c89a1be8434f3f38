"""What the page shows, as JSON: routes, tokens, certificates, charts, errors and what to do about them. Does no I/O.

Invariant: nothing in here is, or is made from, a token, an assertion, a key or a field value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy import __version__
from proxy.operations.metrics import count_exchanges
from proxy.operations.own_errors import Json, describe_errors, explain_code
from proxy.operations.problems import describe_problems
from proxy.operations.token_history import TokenHistory, read_life

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proxy.config.settings import ClientSettings
    from proxy.identity.sharing.shared_token import SharingStatistics
    from proxy.identity.source import SourceStatistics
    from proxy.identity.sources import IdentityStatistics
    from proxy.operations.history import Sample
    from proxy.operations.metrics import CertificateExpiry
    from proxy.operations.own_errors import ErrorCount
    from proxy.operations.route_window import RouteActivity
    from proxy.operations.snapshot import WorkerSnapshot
    from proxy.operations.usage import ClientUse

_DAY_S: Final = 86_400
_MOST_STRANGERS: Final = 50


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


class ClientSummary(NamedTuple):
    """A client of the configuration.

    Attributes:
        name: as in `ExchangeRecord.client_name`.
        known_by: how it is recognised, in words.
        routes: the names of the routes that it may use; empty: all.
    """

    name: str
    known_by: tuple[str, ...]
    routes: tuple[str, ...]


def summarise_client(client: ClientSettings) -> ClientSummary:
    """Return a client of the configuration as the page shows it: of a password only that there is one."""
    known_by = (
        *client.networks,
        *(f"user {user}" for user in client.users),
        *(f"certificate {name}" for name in client.certificate_names),
        *(("password",) if client.password_hash is not None else ()),
    )
    return ClientSummary(client.name, known_by, client.routes)


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
        clients: those of the configuration.
        client_uses: what clients did, configured or not.
        activity: what each route did in the last minutes.
        lifelines: the last lives of each token.
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
    clients: Sequence[ClientSummary] = ()
    client_uses: Sequence[ClientUse] = ()
    activity: Mapping[str, RouteActivity] = field(default_factory=dict)
    lifelines: TokenHistory = field(default_factory=TokenHistory)


def describe_overview(overview: Overview) -> dict[str, Json]:
    """Return the overview as the page's script reads it."""
    total = overview.total
    return {
        "version": __version__,
        "at": overview.at,
        "started_at": overview.started_at,
        "ready": overview.ready,
        "missing": list(overview.missing),
        "problems": describe_problems(overview),
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
        "routes": _describe_routes(overview.routes, total, overview.activity),
        "tokens": [_describe_token(source, overview) for source in overview.identity.sources],
        "sharing": _describe_sharing(overview.identity.sharing),
        "certificates": [_describe_certificate(one, overview.at) for one in overview.certificates],
        "samples": [_describe_sample(sample) for sample in overview.samples],
        "errors": describe_errors(overview.errors),
        "clients": _describe_clients(overview.clients, overview.client_uses),
    }


def _describe_routes(
    routes: Iterable[RouteSummary], total: WorkerSnapshot, activity: Mapping[str, RouteActivity]
) -> list[Json]:
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
            "recent": _describe_activity(activity.get(route.name)),
        }
        for route in routes
    ]
    # What no route names, and routes that a reload took away.
    described.extend(
        {
            "name": name,
            "hosts": [],
            "credential": None,
            "target": None,
            "counts": count,
            "recent": _describe_activity(activity.get(name)),
        }
        for name, count in counts.items()
    )
    return described


def _describe_activity(activity: RouteActivity | None) -> dict[str, Json]:
    """Return the last five minutes of a route; its failures by whose fault they were."""
    if activity is None:
        return {"count": 0, "failures": {}, "statuses": {}, "p50_ms": None, "p95_ms": None, "upstream_p50_ms": None}
    return {
        "count": activity.count,
        "failures": {cause.value: count for cause, count in sorted(activity.failures.items())},
        "statuses": {str(status): count for status, count in sorted(activity.statuses.items())},
        "p50_ms": _milliseconds(activity.p50_s),
        "p95_ms": _milliseconds(activity.p95_s),
        "upstream_p50_ms": _milliseconds(activity.upstream_p50_s),
    }


def _describe_clients(clients: Iterable[ClientSummary], uses: Iterable[ClientUse]) -> list[Json]:
    """Return those of the configuration, in its order, then whoever else came, the newest first."""
    found = {(use.name, use.is_configured): use for use in uses}
    described: list[Json] = [
        {
            "name": client.name,
            "configured": True,
            "known_by": list(client.known_by),
            "may_use": list(client.routes),
            **_describe_use(found.pop((client.name, True), None)),
        }
        for client in clients
    ]
    described.extend(
        {"name": use.name, "configured": use.is_configured, "known_by": [], "may_use": [], **_describe_use(use)}
        for use in sorted(found.values(), key=lambda use: use.at, reverse=True)[:_MOST_STRANGERS]
    )
    return described


def _describe_use(use: ClientUse | None) -> dict[str, Json]:
    if use is None:
        return {"address": None, "count": 0, "failed": 0, "at": None, "identities": {}, "routes": {}}
    return {
        "address": use.address,
        "count": use.count,
        "failed": use.failed,
        "at": use.at,
        "identities": dict(use.identities),
        "routes": dict(use.routes),
    }


def _describe_token(source: SourceStatistics, overview: Overview) -> dict[str, Json]:
    credential = overview.identity.credentials.get(source.credential)
    line = overview.lifelines.find(source)
    life = read_life(source, overview.at)
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
        "detail": source.failure_detail,
        "without_s": source.without_s,
        "retry_in_s": source.retry_in_s,
        "usable_for_s": None if life is None else life.usable_until_at - overview.at,
        "proof": "" if credential is None else credential.proof_in_use,
        "lives": [
            {
                "obtained_at": one.obtained_at,
                "refresh_at": one.refresh_at,
                "usable_until_at": one.usable_until_at,
                "expires_at": one.expires_at,
                "replaced_at": one.replaced_at,
            }
            for one in line.tokens
        ],
        "outages": [{"since_at": one.since_at, "until_at": one.until_at} for one in line.outages],
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
        "not_before_at": certificate.not_before_at,
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
