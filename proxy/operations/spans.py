"""An exchange as OpenTelemetry spans: names, times and attributes, as plain values. Does no I/O, and imports no OpenTelemetry.

Names are those of OpenTelemetry's semantic conventions for HTTP spans. Invariant: no field value and no query is in a span, for
a record holds none; what clients choose is escaped as in the access log.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

from proxy.operations.log_lines import escape, escape_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.relay.record import ExchangeRecord

Attribute: TypeAlias = "str | int | float | bool"

# Others are one value, `_OTHER`: a name that clients choose must not make ever new series.
_METHODS: Final = frozenset(
    (b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"QUERY", b"TRACE")
)
_CUT: Final = "aborted_"
_NANOSECONDS: Final = 1_000_000_000


class Kind(Enum):
    """OpenTelemetry's kinds of span."""

    SERVER = "server"
    CLIENT = "client"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Span:
    """One span.

    Attributes:
        name: of low cardinality.
        kind: as OpenTelemetry has it.
        start_ns, end_ns: Unix time in nanoseconds.
        attributes: as the semantic conventions name them, or ours under ``apim_auth_proxy.``.
        failed: whether its status is an error.
    """

    name: str
    kind: Kind
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Attribute]
    failed: bool = False


def describe_exchange(record: ExchangeRecord) -> tuple[Span, ...]:
    """Return the spans of an exchange: the SERVER span first, which is the parent of the others.

    Children are the waits for an access token and for the addresses of a name, where there were any, and the CLIENT span, where
    the request was sent: of several times, the last.
    """
    start_s = record.ended_at - record.duration_s
    spans = [_server_span(record, start_s)]
    trace = record.trace
    if trace is not None and trace.token_wait is not None:
        after_s, wait_s = trace.token_wait
        begin_s = start_s + after_s
        attributes: dict[str, Attribute] = {"apim_auth_proxy.credential": record.credential or trace.credential}
        failed = trace.sent_after_s is None and _is_own_answer(record)
        if failed:
            attributes["error.type"] = record.code or record.outcome
        spans.append(Span("access token", Kind.INTERNAL, _ns(begin_s), _ns(begin_s + wait_s), attributes, failed))
    if trace is not None and trace.name_wait is not None:
        after_s, wait_s = trace.name_wait
        begin_s = start_s + after_s
        looked_up: dict[str, Attribute] = {}
        failed = record.outcome.startswith("dns_") or record.code.endswith("name_not_resolved")
        if failed:
            looked_up["error.type"] = record.code or record.outcome
        spans.append(Span("name look-up", Kind.INTERNAL, _ns(begin_s), _ns(begin_s + wait_s), looked_up, failed))
    if trace is not None and trace.sent_after_s is not None:
        spans.append(_client_span(record, _ns(start_s + trace.sent_after_s), trace.sends))
    return tuple(spans)


def _server_span(record: ExchangeRecord, start_s: float) -> Span:
    method, attributes = _request_attributes(record)
    if record.client != "unix":
        attributes["client.address"] = record.client
    if record.target:
        attributes["url.path"] = escape(record.target)
    if record.mode != "tunnel" and record.route:
        attributes["url.scheme"] = _scheme(record)
    if record.http_version:
        attributes["network.protocol.version"] = record.http_version
    attributes["http.request.body.size"] = record.received_bytes
    attributes["http.response.body.size"] = record.sent_bytes
    attributes["apim_auth_proxy.mode"] = record.mode
    attributes["apim_auth_proxy.outcome"] = record.outcome
    for name, value in (
        ("route", record.route),
        ("credential", record.credential),
        ("client", record.client_name),
        ("code", record.code),
    ):
        if value:
            attributes[f"apim_auth_proxy.{name}"] = escape_text(value)
    error = record.outcome if record.outcome != "ok" else str(record.status) if record.status >= 500 else ""
    if record.status:
        attributes["http.response.status_code"] = record.status
    if error:
        attributes["error.type"] = error
    # A 4xx is the client's affair: for a SERVER span it is no error, also where the proxy itself says it.
    failed = record.status >= 500 or record.status == 0 or record.outcome.startswith(_CUT)
    return Span(method, Kind.SERVER, _ns(start_s), _ns(record.ended_at), attributes, failed)


def _client_span(record: ExchangeRecord, start_ns: int, sends: int) -> Span:
    method, attributes = _request_attributes(record)
    attributes["url.full"] = f"{_scheme(record)}://{escape_text(record.authority)}{escape(record.target)}"
    if record.upstream_http_version:
        attributes["network.protocol.version"] = record.upstream_http_version
    if sends > 1:
        attributes["http.request.resend_count"] = sends - 1
    # Where the answer is the proxy's own, the status is not the upstream's.
    error = record.outcome if record.outcome != "ok" else str(record.status) if record.status >= 400 else ""
    if record.status and not _is_own_answer(record):
        attributes["http.response.status_code"] = record.status
    if error:
        attributes["error.type"] = error
    return Span(method, Kind.CLIENT, start_ns, max(_ns(record.ended_at), start_ns), attributes, bool(error))


def _request_attributes(record: ExchangeRecord) -> tuple[str, dict[str, Attribute]]:
    attributes: dict[str, Attribute] = {}
    if record.method in _METHODS:
        method = attributes["http.request.method"] = record.method.decode("ascii")
    else:
        method = "HTTP"
        attributes["http.request.method"] = "_OTHER"
        if record.method:
            attributes["http.request.method_original"] = escape(record.method)
    host, _, port = record.authority.rpartition(":")
    if host:
        attributes["server.address"] = escape_text(host.strip("[]"))
        if port.isdecimal():
            attributes["server.port"] = int(port)
    return method, attributes


def _scheme(record: ExchangeRecord) -> str:
    """Return the scheme: a route's upstream is always TLS; what no route names goes out as it came in."""
    return "http" if record.route == "-" else "https"


def _is_own_answer(record: ExchangeRecord) -> bool:
    return record.outcome != "ok" and not record.outcome.startswith(_CUT)


def _ns(seconds: float) -> int:
    return round(seconds * _NANOSECONDS)
