"""What is wrong now, the worst first: a sentence, the next step, and the code that `explain` knows. Does no I/O.

Only what lasts, or came in the last five minutes, is a problem; what has passed stays in the page's list of errors.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.operations.causes import Cause
from proxy.operations.own_errors import describe_errors, explain_code
from proxy.operations.route_window import WINDOW_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from proxy.identity.source import SourceStatistics
    from proxy.identity.sources import Failing
    from proxy.operations.metrics import CertificateExpiry
    from proxy.operations.overview import Overview, RouteSummary
    from proxy.operations.own_errors import Json
    from proxy.operations.route_window import RouteActivity

_DAY_S: Final = 86_400
_SOON_DAYS: Final = 30
_AT_ONCE_DAYS: Final = 7
_NAMED: Final = 3
_MOST: Final = 20
# Of a route's requests, before its failures are a problem of the route rather than of a request.
_FEWEST_FAILURES: Final = 5
_SHARE: Final = 0.05

BAD: Final = "bad"
WARN: Final = "warn"
NOTE: Final = "note"
_ORDER: Final = (BAD, WARN, NOTE)

_ORDINARY: Final = frozenset(("A", "An", "At", "It", "No", "Nobody", "The", "This"))

_TRY_ONLINE: Final = "`apim-auth-proxy check --online` tries each step and names the one that fails."


@dataclass(frozen=True, slots=True)
class Problem:
    """Something to do something about.

    Attributes:
        key: the same for as long as it is the same problem, whatever figures its sentence has; no two have the same.
        severity: ``bad``: requests fail; ``warn``: they will, or some do; ``note``: worth knowing.
        what: one sentence.
        step: what to do next, commands in backquotes.
        detail: more about it, in sentences; mostly empty.
        explain: what `apim-auth-proxy explain` is to be asked: a code or a status; empty without one.
        by: whose fault it is, where that is known.
        since_at, until_at: Unix seconds; since when it is so, and when it gets worse.
    """

    key: str
    severity: str
    what: str
    step: str
    detail: str = ""
    explain: str = ""
    by: Cause | None = None
    since_at: float | None = None
    until_at: float | None = None


def describe_problems(overview: Overview) -> list[Json]:
    """Return the problems as the page's script reads them, the worst first."""
    found = sorted(list_problems(overview), key=lambda one: _ORDER.index(one.severity))
    return [
        {
            "key": one.key,
            "severity": one.severity,
            "what": one.what,
            "step": one.step,
            "detail": one.detail,
            "code": one.explain,
            "by": one.by,
            "since_at": one.since_at,
            "until_at": one.until_at,
        }
        for one in found[:_MOST]
    ]


def list_problems(overview: Overview) -> Iterator[Problem]:
    """Yield what is wrong, in no particular order."""
    failing = overview.identity.failing
    yield from _without_tokens(failing, overview.routes, overview.at)
    yield from _other_reasons(overview)
    yield from _stale_tokens(overview)
    for certificate in overview.certificates:
        yield from _ending(certificate, overview.at)
    yield from _own_errors(overview)
    yield from _failing_routes(overview.activity)
    yield from _small_things(overview)


def _without_tokens(failing: Iterable[Failing], routes: Sequence[RouteSummary], at: float) -> Iterator[Problem]:
    """Yield one problem for each reason: an outage of the platform is one, however many tokens are missing for it."""
    groups: dict[tuple[str, str], list[Failing]] = {}
    for one in failing:
        groups.setdefault((one.code, why_missing(one)), []).append(one)
    for (_, why), members in groups.items():
        first = members[0]
        wanted = {(one.credential, str(one.target)) for one in members}
        hosts = [host for route in routes if (route.credential, route.target) in wanted for host in route.hosts]
        names = list(dict.fromkeys(one.credential for one in members))
        missing = f"{name_some(names, 'credentials')} {'has' if len(names) == 1 else 'have'} no access token"
        what = f"Requests to {name_some(hosts, 'hosts')} fail, because {missing}" if hosts else f"Credential {missing}"
        explained = explain_code(first.code)
        yield Problem(
            f"token {first.code} {why}",
            BAD,
            f"{what}: {why}" if why else f"{what}.",
            str(explained["fix"] or _TRY_ONLINE),
            detail=first.reason if _lower(first.reason) != why else "",
            explain=first.code,
            by=Cause.IDENTITY,
            since_at=at - max(one.for_s for one in members),
        )


def why_missing(failing: Failing) -> str:
    """Return why there is no token, as the second half of a sentence: in our words for an AADSTS code, else as it was said."""
    cause = explain_code(failing.code)["cause"] if failing.code.startswith("AADSTS") else None
    return _lower(_first_sentence(str(cause or failing.reason)))


def _other_reasons(overview: Overview) -> Iterator[Problem]:
    """Yield what the readiness names beside tokens."""
    told = [one.reason for one in overview.identity.failing]
    severity = WARN if overview.ready else BAD
    for reason in overview.missing:
        if any(one and one in reason for one in told):
            continue
        if reason == "draining":
            step = "Nothing: requests in flight have `timeouts.drain_s` to end, and then the process does."
            yield Problem(reason, WARN, "The proxy is stopping and takes no new work.", step)
        else:
            yield Problem(reason, severity, reason, f"Look at the proxy's log. {_TRY_ONLINE}")


def _stale_tokens(overview: Overview) -> Iterator[Problem]:
    """Yield the tokens that cannot be renewed but are still good, those that fail alike together."""
    failing = {(one.credential, str(one.target)) for one in overview.identity.failing}
    groups: dict[str, list[SourceStatistics]] = {}
    for source in overview.identity.sources:
        if source.usable and source.failures and (source.credential, source.target) not in failing:
            groups.setdefault(source.failure_code, []).append(source)
    for members in groups.values():
        first = members[0]
        explained = explain_code(first.failure_code)
        names = list(dict.fromkeys(one.credential for one in members))
        what = f"The access token{'s' if len(members) > 1 else ''} of {name_some(names, 'credentials')}"
        ends = [one.expires_in_s for one in members if one.expires_in_s is not None]
        yield Problem(
            f"renewal {first.failure_code}",
            WARN,
            f"{what} cannot be renewed; requests go on with what is at hand.",
            str(explained["fix"] or _TRY_ONLINE),
            detail=first.failure_detail or str(explained["cause"] or ""),
            explain=first.failure_code,
            by=Cause.IDENTITY,
            until_at=overview.at + min(ends) if ends else None,
        )


def _ending(certificate: CertificateExpiry, at: float) -> Iterator[Problem]:
    days = (certificate.not_after_at - at) / _DAY_S
    if days >= _SOON_DAYS:
        return
    names = {
        "interception_ca": "The interception CA",
        "client_certificate": f"The client certificate of route {certificate.name}",
        "listener": f"The certificate of listener {certificate.name}",
    }
    steps = {
        "interception_ca": "Let clients trust the next CA: `apim-auth-proxy ca show` says which, and when it takes over.",
        "client_certificate": "Replace the file that the route's `client_certificate` names; the proxy takes it up by itself.",
        "listener": "Replace the file that the listener's `tls.certificate` names; the proxy takes it up by itself.",
    }
    what = names.get(certificate.kind, f"The certificate of credential {certificate.name}")
    when = "has ended." if days < 0 else f"ends in {int(days)} days." if days >= 2 else "ends within two days."
    own = "Make another with `apim-auth-proxy cert new`, upload it to the application, and name it beside the old one."
    yield Problem(
        f"certificate {certificate.kind} {certificate.name} {certificate.proof}",
        BAD if days < _AT_ONCE_DAYS else WARN,
        f"{what} {when}",
        steps.get(certificate.kind, own),
        until_at=certificate.not_after_at,
    )


def _own_errors(overview: Overview) -> Iterator[Problem]:
    """Yield the kinds of errors that the proxy answered with lately, other than for want of a token that is told above."""
    lately = [one for one in overview.errors if overview.at - one.newest.ended_at < WINDOW_S]
    told = {one.code for one in overview.identity.failing}
    for entry in describe_errors(lately):
        assert isinstance(entry, dict)  # noqa: S101  # for the type checker: the list holds nothing else
        by = entry["by"]
        if by == Cause.IDENTITY and (told or not entry["fix"]):
            continue
        count = entry["count"]
        times = "once" if count == 1 else f"{count:,} times since the start"
        host = str(entry["what"]).partition("/")[0].removesuffix(":443")
        about = f" for {host}" if host else ""
        status = f" ({entry['status']})" if entry["status"] else ""
        yield Problem(
            f"error {entry['status']} {entry['error']} {entry['code']}",
            NOTE if by == Cause.CLIENT else WARN,
            f"{entry['title']}{status}{about}, {times}.",
            str(entry["fix"] or _TRY_ONLINE),
            detail=str(entry["cause"] or ""),
            explain=str(entry["code"] or entry["error"]),
            by=Cause(str(by)),
            since_at=float(str(entry["at"])),
        )


def _failing_routes(activity: Mapping[str, RouteActivity]) -> Iterator[Problem]:
    """Yield what gateways and APIs answered, where it is much of a route's traffic; many routes are told together."""
    for cause in (Cause.GATEWAY, Cause.API):
        failing = {}
        for route, one in activity.items():
            statuses = _statuses_of(cause, one.statuses)
            if sum(statuses.values()) >= max(_FEWEST_FAILURES, one.count * _SHARE):
                failing[route] = statuses
        groups = [[route] for route in failing] if len(failing) <= _NAMED else [list(failing)]
        for routes in groups:
            yield _failing_route(cause, routes, [failing[route] for route in routes], activity)


def _failing_route(
    cause: Cause, routes: Sequence[str], statuses: Iterable[Mapping[int, int]], activity: Mapping[str, RouteActivity]
) -> Problem:
    counts: Counter[int] = Counter()
    for one in statuses:
        counts.update(one)
    who = "The gateway refused" if cause == Cause.GATEWAY else "The API failed"
    all_of_them = sum(activity[route].count for route in routes)
    often = ", ".join(f"{number:,} with {status}" for status, number in sorted(counts.items()))
    worst, _ = counts.most_common(1)[0]
    return Problem(
        f"{cause} {' '.join(routes) if len(routes) == 1 else ''}",
        WARN,
        f"{who} {counts.total():,} of {all_of_them:,} requests to {name_some(routes, 'routes')} in the last five minutes: {often}.",
        _STEPS.get(worst, _STEPS[500]),
        explain=str(worst) if worst in _STEPS else "",
        by=cause,
    )


_STEPS: Final[Mapping[int, str]] = {
    401: "`apim-auth-proxy token --host HOST --claims` shows what the token says; compare it with the gateway's policy.",
    403: "Grant the application the role that the API asks for, then wait for a new token.",
    429: "Ask for less, or have the gateway's rate limit or quota raised.",
    500: "Look into the API's own log; the requests are below under Live exchanges.",
}


def _statuses_of(cause: Cause, statuses: Mapping[int, int]) -> dict[int, int]:
    """Return the statuses that are a problem: what a client did wrong, such as 404, is none."""
    if cause == Cause.GATEWAY:
        return {status: count for status, count in statuses.items() if status in (401, 403, 429)}
    return {status: count for status, count in statuses.items() if status >= 500}


def _small_things(overview: Overview) -> Iterator[Problem]:
    sharing = overview.identity.sharing
    if sharing is not None and not sharing.is_shared:
        yield Problem(
            "sharing",
            WARN,
            f"Each replica asks for tokens of its own: the token cache {sharing.reason}.",
            "No request fails for it. Look after the server in `token_cache.url`; the proxy returns to it by itself.",
            since_at=sharing.alone_since_at,
        )
    lost = overview.total.access_log.dropped + overview.total.access_log.lost
    if lost:
        yield Problem(
            "lost lines",
            NOTE,
            f"{lost} lines of the access log were lost, because they came faster than they could be written.",
            "Write the log to a faster disk, or switch it off: `access_log.enabled: false`.",
        )


def name_some(names: Sequence[str], what: str) -> str:
    """Return some of the names, and how many more there are of what."""
    if len(names) <= _NAMED:
        return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"{', '.join(names[: _NAMED - 1])} and {len(names) - _NAMED + 1} other {what}"


def _first_sentence(text: str) -> str:
    head, dot, _ = text.partition(". ")
    return head + "." if dot else text


def _lower(sentence: str) -> str:
    """Return a sentence as the second half of one; names at its beginning stay as they are."""
    first, space, rest = sentence.partition(" ")
    return f"{first.lower()}{space}{rest}" if first in _ORDINARY else sentence
