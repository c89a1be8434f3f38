"""The record of one finished exchange, for the access log and other observers. Pure: does no I/O.

Relay processes send records to the control process, and msgspec reads their annotations, so this module is not compiled;
`recording`, which makes them, is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias


class TraceNote(NamedTuple):
    """What spans need to know of an exchange beyond its record.

    Attributes:
        traceparent: as sent by the client (W3C Trace Context §3.2); empty without exactly one.
        tracestate: as sent, several joined; empty without any.
        token_wait: when the last wait for an access token began and how long it took, in seconds, the first counted from
            the request's head; None where there was none.
        sent_after_s: from the request's head to its being sent to the upstream, of several times the last; None where it
            never was.
        sends: how often it was sent.
        credential: whose token was waited for.
        name_wait: when the last wait for the addresses of a name began and how long it took, as `token_wait`.
    """

    traceparent: bytes
    tracestate: bytes
    token_wait: tuple[float, float] | None = None
    sent_after_s: float | None = None
    sends: int = 0
    credential: str = ""
    name_wait: tuple[float, float] | None = None


class ExchangeRecord(NamedTuple):
    """One exchange, or one tunnel. Holds no field values, no query, no content.

    Attributes:
        ended_at: Unix seconds.
        client: the client's address, or ``unix``.
        mode: ``forward``, ``connect`` (inside an intercepted tunnel), ``reverse``, ``transparent``, ``tunnel`` (blind).
        method: as sent.
        authority: ``host:port`` of the destination; empty where none was found.
        target: the request target up to its query, as sent.
        status: sent to the client; 0 where nothing was.
        received_bytes, sent_bytes: content of the request and of the response, as far as passed.
        duration_s: from the request's head to the end.
        upstream_s: from the request's head being sent to the response's head; None without a response.
        route: its name (the first host pattern); empty without one.
        token_age_s: of the access token sent; None without one.
        reused: whether the upstream connection had served before.
        outcome: ``ok``, an RFC 9209 token for an own answer, or ``aborted_client``, ``aborted_upstream``, ``aborted_timeout``.
        code: a machine-readable reason, such as an AADSTS code; mostly empty.
        client_name: the configured client that sent it; empty where none is configured or none was recognised.
        credential: whose access token was sent; empty without one.
        proof: what that token was obtained with, such as a certificate's thumbprint; empty where that is not known.
        trace: None where nobody makes spans.
        name_s: what it waited for the addresses of a name; None where it did not.
        http_version: in which the request came, ``1.0``, ``1.1`` or ``2``; empty where none could be read.
        upstream_http_version: in which it was sent, of several times the last; empty where it was not.
    """

    ended_at: float
    client: str
    mode: str
    method: bytes
    authority: str
    target: bytes
    status: int
    received_bytes: int
    sent_bytes: int
    duration_s: float
    upstream_s: float | None
    route: str
    token_age_s: float | None
    reused: bool
    outcome: str
    code: str
    client_name: str = ""
    credential: str = ""
    proof: str = ""
    trace: TraceNote | None = None
    name_s: float | None = None
    http_version: str = ""
    upstream_http_version: str = ""


Observer: TypeAlias = Callable[[ExchangeRecord], None]
