"""The errors that the proxy answered with: how often each kind, which was the newest, what to do. Does no I/O.

Invariant: bounded; of more kinds than that, those are forgotten that have not come for longest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from proxy.errors import (
    ClientRefused,
    CredentialOutOfDate,
    CredentialRejected,
    DestinationRefused,
    IdentityError,
    MalformedRequest,
    ProxyError,
    ProxyUsageError,
    UpstreamProxyRefused,
    UpstreamUnreachable,
)
from proxy.explanations.codes import OAUTH_CODES
from proxy.explanations.lookup import advise, find_entry
from proxy.identity.aadsts import explain, parse_code
from proxy.operations.causes import all_kinds, blame
from proxy.operations.log_lines import escape, escape_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.relay.record import ExchangeRecord

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

_MOST_KINDS: Final = 50

# Where classes share a status and an outcome, the code tells; the last one needs none.
_BY_CODE: Final[tuple[tuple[type[ProxyError], str], ...]] = (
    (ProxyUsageError, ProxyUsageError.default_code),
    (MalformedRequest, ""),
    (DestinationRefused, DestinationRefused.default_code),
    (ClientRefused, ""),
    (UpstreamProxyRefused, r"upstream_proxy_\d{3}"),
    (UpstreamUnreachable, ""),
    (CredentialOutOfDate, r"certificate_\w+"),
    (CredentialRejected, "|".join([r"AADSTS\d+", r"http_\d{3}", *(entry.code for entry in OAUTH_CODES)])),
    (IdentityError, ""),
)


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """A kind of error.

    Attributes:
        newest: its newest exchange.
        count: how often it came since the start.
    """

    newest: ExchangeRecord
    count: int


class ErrorTally:
    """Every kind of error since the start, the one that came last behind the others."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[int, str, str], ErrorCount] = {}

    def add(self, records: Iterable[ExchangeRecord]) -> None:
        """Count those among some exchanges that the proxy answered in its own name."""
        for record in records:
            if is_own_error(record):
                kind = record.status, record.outcome, record.code
                earlier = self._kinds.pop(kind, None)
                self._kinds[kind] = ErrorCount(record, 1 if earlier is None else earlier.count + 1)
        while len(self._kinds) > _MOST_KINDS:
            del self._kinds[next(iter(self._kinds))]

    def counts(self) -> list[ErrorCount]:
        """Return one for each kind, the one that came last at the end."""
        return list(self._kinds.values())


def is_own_error(record: ExchangeRecord) -> bool:
    """Whether the proxy answered in its own name, rather than passed on a response or had it cut."""
    return record.outcome != "ok" and not record.outcome.startswith("aborted_")


def describe_errors(counts: Sequence[ErrorCount]) -> list[Json]:
    """Return an entry for each kind, the newest first."""
    return [
        _describe(one.newest, one.count) for one in sorted(counts, key=lambda one: one.newest.ended_at, reverse=True)
    ]


def explain_code(code: str) -> dict[str, Json]:
    """Return cause and fix of an AADSTS code, or of one of ours; None for both of any other."""
    number = parse_code(code)
    found = (explain(number) if number is not None else None) or advise(0, "", code)
    return {"cause": None, "fix": None} if found is None else {"cause": found.cause, "fix": found.fix}


def describe_failure(record: ExchangeRecord) -> dict[str, Json]:
    """Return whose fault it is, what `explain` can be asked, and where the proxy itself answered, what it means.

    Nothing of what did not fail.
    """
    by = blame(record)
    if by is None:
        return {}
    asked = record.code or (record.outcome if record.outcome != "ok" else str(record.status))
    is_known = parse_code(asked) is not None or find_entry(asked) is not None
    described: dict[str, Json] = {"by": by, "explain": asked if is_known else None}
    if is_own_error(record):
        entry = _describe(record, 1)
        described |= {name: entry[name] for name in ("title", "cause", "fix")}
    return described


def _describe(record: ExchangeRecord, count: int) -> dict[str, Json]:
    number = parse_code(record.code)
    advice = (explain(number) if number is not None else None) or advise(record.status, record.outcome, record.code)
    cause = "" if advice is None else advice.cause
    # Nothing was answered where the handshake failed: the cause says it all.
    title = find_title(record) or cause or "The proxy answered in its own name"
    return {
        "at": record.ended_at,
        "count": count,
        "status": record.status,
        "error": record.outcome,
        "code": record.code,
        "by": blame(record),
        "client": record.client,
        "method": escape(record.method),
        "what": escape_text(record.authority) + escape(record.target),
        "title": title.removesuffix("."),
        "cause": None if cause in ("", title) else cause,
        "fix": None if advice is None else advice.fix,
    }


def find_title(record: ExchangeRecord) -> str:
    """Return the title of what the client was answered, as the README's table has it; empty where it was answered nothing."""
    kinds = [
        kind for kind in all_kinds(ProxyError) if (kind.status, kind.proxy_status) == (record.status, record.outcome)
    ]
    if not kinds:
        return ""
    for kind, code in _BY_CODE:
        if kind in kinds and (not code or re.fullmatch(code, record.code)):
            return kind.title
    return kinds[0].title
