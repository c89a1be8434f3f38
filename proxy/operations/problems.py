"""What is wrong now, the worst first: a sentence, the next step, and the code that `explain` knows. Does no I/O.

Only what lasts, or came in the last five minutes, is a problem; what has passed stays in the page's list of errors.
"""

from __future__ import annotations

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
        severity: ``bad``: requests fail; ``warn``: they will, or some do; ``note``: worth knowing.
        what: one sentence.
        step: what to do next, commands in backquotes.
        detail: more about it, in sentences; mostly empty.
        explain: what `apim-auth-proxy explain` is to be asked: a code or a status; empty without one.
        by: whose fault it is, where that is known.
        since_at, until_at: Unix seconds; since when it is so, and when it gets worse.
    """

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
    for one in failing:
        yield _without_token(one, overview.routes, overview.at)
    yield from _other_reasons(overview)
    yield from _stale_tokens(overview)
    for certificate in overview.certificates:
        yield from _ending(certificate, overview.at)
    yield from _own_errors(overview)
    for route, activity in overview.activity.items():
        yield from _failing_route(route, activity)
    yield from _small_things(overview)


def _without_token(failing: Failing, routes: Iterable[RouteSummary], at: float) -> Problem:
    hosts = [
        host
        for route in routes
        if (route.credential, route.target) == (failing.credential, str(failing.target))
        for host in route.hosts
    ]
    explained = explain_code(failing.code)
    cause = explained["cause"]
    why = f": {_lower(str(cause))}" if cause else f": {_lower(failing.reason)}" if failing.reason else "."
    what = f"Requests to {_name_some(hosts)} fail" if hosts else f"Credential {failing.credential} has no access token"
    because = f", because {failing.credential} has no access token" if hosts else ""
    return Problem(
        BAD,
        f"{what}{because}{_first_sentence(why)}",
        str(explained["fix"] or _TRY_ONLINE),
        detail=failing.reason if cause else "",
        explain=failing.code,
        by=Cause.IDENTITY,
        since_at=at - failing.for_s,
    )


def _other_reasons(overview: Overview) -> Iterator[Problem]:
    """Yield what the readiness names beside tokens."""
    told = [one.reason for one in overview.identity.failing]
    severity = WARN if overview.ready else BAD
    for reason in overview.missing:
        if any(one and one in reason for one in told):
            continue
        if reason == "draining":
            step = "Nothing: requests in flight have `timeouts.drain_s` to end, and then the process does."
            yield Problem(WARN, "The proxy is stopping and takes no new work.", step)
        else:
            yield Problem(severity, reason, f"Look at the proxy's log. {_TRY_ONLINE}")


def _stale_tokens(overview: Overview) -> Iterator[Problem]:
    """Yield the tokens that cannot be renewed but are still good."""
    failing = {(one.credential, str(one.target)) for one in overview.identity.failing}
    for source in overview.identity.sources:
        if source.usable and source.failures and (source.credential, source.target) not in failing:
            yield _not_renewed(source, overview.at)


def _not_renewed(source: SourceStatistics, at: float) -> Problem:
    explained = explain_code(source.failure_code)
    return Problem(
        WARN,
        f"The access token of {source.credential} cannot be renewed; requests go on with the one at hand.",
        str(explained["fix"] or _TRY_ONLINE),
        detail=source.failure_detail or str(explained["cause"] or ""),
        explain=source.failure_code,
        by=Cause.IDENTITY,
        until_at=None if source.expires_in_s is None else at + source.expires_in_s,
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
        times = "once" if count == 1 else f"{count} times since the start"
        host = str(entry["what"]).partition("/")[0].removesuffix(":443")
        about = f" for {host}" if host else ""
        status = f" ({entry['status']})" if entry["status"] else ""
        yield Problem(
            NOTE if by == Cause.CLIENT else WARN,
            f"{entry['title']}{status}{about}, {times}.",
            str(entry["fix"] or _TRY_ONLINE),
            detail=str(entry["cause"] or ""),
            explain=str(entry["code"] or entry["error"]),
            by=Cause(str(by)),
            since_at=float(str(entry["at"])),
        )


def _failing_route(route: str, activity: RouteActivity) -> Iterator[Problem]:
    """Yield what gateway and API answered, where it is much of a route's traffic."""
    for cause, severity in ((Cause.GATEWAY, WARN), (Cause.API, WARN)):
        wanted = _statuses_of(cause, activity.statuses)
        count = sum(wanted.values())
        if count < _FEWEST_FAILURES or count < activity.count * _SHARE:
            continue
        who = "The gateway refused" if cause == Cause.GATEWAY else "The API failed"
        often = ", ".join(f"{number} with {status}" for status, number in sorted(wanted.items()))
        worst = max(wanted, key=lambda status: wanted[status])
        yield Problem(
            severity,
            f"{who} {count} of {activity.count} requests to {route} in the last five minutes: {often}.",
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
            WARN,
            f"Each replica asks for tokens of its own: the token cache {sharing.reason}.",
            "No request fails for it. Look after the server in `token_cache.url`; the proxy returns to it by itself.",
            since_at=sharing.alone_since_at,
        )
    lost = overview.total.access_log.dropped + overview.total.access_log.lost
    if lost:
        yield Problem(
            NOTE,
            f"{lost} lines of the access log were lost, because they came faster than they could be written.",
            "Write the log to a faster disk, or switch it off: `access_log.enabled: false`.",
        )


def _name_some(hosts: Sequence[str]) -> str:
    if len(hosts) <= _NAMED:
        return " and ".join([", ".join(hosts[:-1]), hosts[-1]] if len(hosts) > 1 else hosts)
    return f"{', '.join(hosts[: _NAMED - 1])} and {len(hosts) - _NAMED + 1} other hosts"


def _first_sentence(text: str) -> str:
    head, dot, _ = text.partition(". ")
    return head + "." if dot else text


def _lower(sentence: str) -> str:
    """Return a sentence as the second half of one; names at its beginning stay as they are."""
    first, space, rest = sentence.partition(" ")
    return f"{first.lower()}{space}{rest}" if first in _ORDINARY else sentence
