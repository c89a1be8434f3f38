"""Make the record of an exchange that was refused, of a blind tunnel, and of an exchange that has ended. Pure: does no I/O.

The arguments are named as in `ExchangeRecord`, but for versions of HTTP, which are numbered as in `counters`. Naming them costs
nothing where caller and builder are compiled; the record's own constructor would match names at run time, on every request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.relay.counters import NO_HTTP, VERSION_NAMES
from proxy.relay.record import ExchangeRecord, TraceNote

if TYPE_CHECKING:
    from proxy.relay.message import RequestHead


def refused(
    *,
    ended_at: float,
    client: str,
    mode: str,
    method: bytes,
    authority: str,
    target: bytes,
    status: int,
    outcome: str,
    code: str,
    route: str = "",
    client_name: str = "",
    trace: TraceNote | None = None,
    version: int = NO_HTTP,
) -> ExchangeRecord:
    """Return the record of a request or a handshake that ended before any exchange began."""
    return ended(
        ended_at=ended_at,
        client=client,
        mode=mode,
        method=method,
        authority=authority,
        target=target,
        status=status,
        route=route,
        outcome=outcome,
        code=code,
        client_name=client_name,
        trace=trace,
        version=version,
    )


def tunnelled(
    *,
    ended_at: float,
    client: str,
    authority: str,
    status: int,
    received_bytes: int,
    sent_bytes: int,
    duration_s: float,
    outcome: str,
    code: str,
    client_name: str,
    name_s: float | None,
    version: int,
) -> ExchangeRecord:
    """Return the record of a blind tunnel, or of the attempt to open one."""
    return ended(
        ended_at=ended_at,
        client=client,
        mode="tunnel",
        method=b"CONNECT",
        authority=authority,
        target=b"",
        status=status,
        received_bytes=received_bytes,
        sent_bytes=sent_bytes,
        duration_s=duration_s,
        outcome=outcome,
        code=code,
        client_name=client_name,
        name_s=name_s,
        version=version,
    )


def ended(
    *,
    ended_at: float,
    client: str,
    mode: str,
    method: bytes,
    authority: str,
    target: bytes,
    status: int,
    outcome: str,
    code: str,
    client_name: str,
    received_bytes: int = 0,
    sent_bytes: int = 0,
    duration_s: float = 0.0,
    upstream_s: float | None = None,
    route: str = "",
    token_age_s: float | None = None,
    reused: bool = False,
    credential: str = "",
    proof: str = "",
    trace: TraceNote | None = None,
    name_s: float | None = None,
    version: int = NO_HTTP,
    upstream_version: int = NO_HTTP,
) -> ExchangeRecord:
    """Return the record of an exchange, the one place that relies on the order of its fields."""
    return ExchangeRecord(
        ended_at,
        client,
        mode,
        method,
        authority,
        target,
        status,
        received_bytes,
        sent_bytes,
        duration_s,
        upstream_s,
        route,
        token_age_s,
        reused,
        outcome,
        code,
        client_name,
        credential,
        proof,
        trace,
        name_s,
        VERSION_NAMES[version],
        VERSION_NAMES[upstream_version],
    )


def note_trace(
    request: RequestHead,
    token_wait: tuple[float, float] | None = None,
    sent_after_s: float | None = None,
    sends: int = 0,
    credential: str = "",
    name_wait: tuple[float, float] | None = None,
) -> TraceNote:
    """Return the note on an exchange; the arguments after `request` are those of `TraceNote`."""
    parents = request.values(b"traceparent")
    traceparent = parents[0] if len(parents) == 1 else b""
    tracestate = b",".join(request.values(b"tracestate"))
    return TraceNote(traceparent, tracestate, token_wait, sent_after_s, sends, credential, name_wait)
