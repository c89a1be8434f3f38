"""Whose fault a failed exchange is, as the page tells it apart: which link of the chain from client to API. Does no I/O.

What the proxy answered in its own name is known for certain. Of a response that it passed on only the status is known: gateway
and API write into the same connection. So 401, 403 and 429 count as the gateway's, because checking tokens and quotas is what it
is for, and every other error status as the API's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from proxy.errors import ClientError, IdentityError, ProxyError, UpstreamError
from proxy.explanations.entry import Fault
from proxy.explanations.lookup import advise

if TYPE_CHECKING:
    from proxy.relay.record import ExchangeRecord


class Cause(StrEnum):
    """A link of the chain."""

    CLIENT = "client"
    PROXY = "proxy"
    IDENTITY = "identity"
    """The identity platform, or our standing with it."""
    GATEWAY = "gateway"
    """API Management, or the way to it."""
    API = "api"


_ABORTS: Final = {
    "aborted_client": Cause.CLIENT,
    "aborted_upstream": Cause.GATEWAY,
    "aborted_timeout": Cause.GATEWAY,
}
_BY_FAULT: Final = {
    Fault.CLIENT: Cause.CLIENT,
    Fault.CONFIGURATION: Cause.PROXY,
    Fault.MACHINE: Cause.PROXY,
    Fault.IDENTITY: Cause.IDENTITY,
    Fault.UPSTREAM: Cause.GATEWAY,
    Fault.UPSTREAM_PROXY: Cause.GATEWAY,
    Fault.PROXY: Cause.PROXY,
    Fault.NOBODY: Cause.CLIENT,
}
_GATEWAY_STATUSES: Final = frozenset((401, 403, 429))


def all_kinds(kind: type[ProxyError]) -> list[type[ProxyError]]:
    """Return a class and all below it, the more general ones first."""
    found = [kind]
    for one in found:
        found.extend(one.__subclasses__())
    return found


_BY_ANSWER: Final = {
    (kind.status, kind.proxy_status): cause
    for base, cause in ((ClientError, Cause.CLIENT), (IdentityError, Cause.IDENTITY), (UpstreamError, Cause.GATEWAY))
    for kind in all_kinds(base)
}


def blame(record: ExchangeRecord) -> Cause | None:
    """Return whose fault an exchange's failure is; None where it did not fail."""
    if record.outcome == "ok":
        return blame_status(record.status)
    known = _ABORTS.get(record.outcome) or _BY_ANSWER.get((record.status, record.outcome))
    if known is not None:
        return known
    entry = advise(record.status, record.outcome, record.code)
    return Cause.PROXY if entry is None else _BY_FAULT[entry.fault]


def is_passed_on(status: int, cause: Cause) -> bool:
    """Whether a failure with this status and cause came in a response that was passed on, rather than being the proxy's own."""
    return blame_status(status) is cause


def blame_status(status: int) -> Cause | None:
    """Return whose fault a response is that was passed on; None where it is no error."""
    if status < 400:
        return None
    return Cause.GATEWAY if status in _GATEWAY_STATUSES else Cause.API
