"""Heads of HTTP/1.1 from fields of HTTP/2, and the other way round (RFC 9113 §8.2, §8.3). Pure: does no I/O.

A head of the relay is one of HTTP/1.1 with its field lines, whatever version its connection speaks: what decides about a request
reads it in one form only.
"""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from proxy.relay.chunked import REFUSED_IN_REQUESTS, REFUSED_IN_RESPONSES
from proxy.relay.http2.faults import MalformedMessage
from proxy.relay.http2.streams import UNKNOWN
from proxy.relay.message import HOP_BY_HOP, RequestHead, ResponseHead

if TYPE_CHECKING:
    from proxy.relay.http2.fields import RequestFields, ResponseFields
    from proxy.relay.http2.static_table import Field

# RFC 9113 §8.2.2. A head's own framing says nothing here; frames do.
_OF_A_CONNECTION: Final = HOP_BY_HOP | {b"transfer-encoding"}
_NOTHING: Final[frozenset[bytes]] = frozenset()
_TRAILERS: Final = (b"te", b"trailers")
_PHRASES: Final[dict[int, bytes]] = {status.value: status.phrase.encode() for status in HTTPStatus}


def make_request_head(request: RequestFields, ends: bool) -> RequestHead:
    """Return a request as a head of HTTP/1.1.

    Args:
        request: as it came, checked; not CONNECT.
        ends: whether it has no content.
    """
    names = [b"host"]
    lines = [b"host: " + request.authority]
    crumbs: list[bytes] = []
    head = RequestHead(request.method, request.path, 1, b"")
    for name, value in request.fields:
        if name == b"cookie":
            # RFC 9113 §8.2.3: the pieces are one field; HTTP/1.1 allows no other (RFC 6265 §5.4).
            crumbs.append(value)
            continue
        if name == b"te":
            continue
        if name == b"expect":
            head.expects_continue = value.lower() == b"100-continue"
        elif name == b"proxy-authorization":
            if head.proxy_authorization is not None:
                raise MalformedMessage("A request has more than one Proxy-Authorization field (RFC 9110 §11.7.2).")
            head.proxy_authorization = value
        names.append(name)
        lines.append(name + b": " + value)
    if crumbs:
        names.append(b"cookie")
        lines.append(b"cookie: " + b"; ".join(crumbs))
    if request.length != UNKNOWN:
        head.length = request.length
    elif not ends:
        head.chunked = True
        names.append(b"transfer-encoding")
        lines.append(b"transfer-encoding: chunked")
    head.names = names
    head.fields = b"\r\n".join(lines) + b"\r\n"
    head.host = request.authority
    head.accepts_trailers = request.accepts_trailers
    return head


def make_response_head(response: ResponseFields, to_head: bool) -> ResponseHead:
    """Return a response as a head of HTTP/1.1, with the reason phrase that HTTP/2 has not.

    Args:
        response: as it came, checked; interim or final.
        to_head: whether its request was HEAD.

    Raises:
        MalformedMessage: it has no content, but declares some.
    """
    status = response.status
    phrase = _PHRASES.get(status, b"Unknown")  # an empty phrase is legal, but not for every client
    names: list[bytes] = []
    lines: list[bytes] = []
    for name, value in response.fields:
        names.append(name)
        lines.append(name + b": " + value)
    head = ResponseHead(status, b"HTTP/1.1 %d %b\r\n" % (status, phrase), 1, b"")
    if response.length != UNKNOWN:
        if response.length and (status < 200 or status == 204):
            raise MalformedMessage("A response that has no content declares some (RFC 9110 §8.6).")
        head.length = response.length
    elif status >= 200 and status not in (204, 304) and not to_head:
        # Chunked although there may be no content: a length that the upstream has not declared would be one more field.
        head.chunked = True
        names.append(b"transfer-encoding")
        lines.append(b"transfer-encoding: chunked")
    head.names = names
    head.fields = b"\r\n".join(lines) + b"\r\n" if lines else b""
    head.hop_by_hop = not HOP_BY_HOP.isdisjoint(names)
    return head


def make_request_fields(
    head: RequestHead, target: bytes, authority: bytes, scheme: bytes, drop: frozenset[bytes]
) -> list[Field]:
    """Return the fields of a request, from a head of HTTP/1.1.

    Args:
        head: what the client sent.
        target: in origin-form, or ``*``.
        authority: of this upstream; Host is dropped for it.
        scheme: ``https``, or ``http``.
        drop: lower-case names of fields that do not pass, beyond those of a connection.
    """
    fields: list[Field] = [
        (b":method", head.method),
        (b":scheme", scheme),
        (b":authority", authority),
        (b":path", target),
    ]
    dropped = _add_to_dropped(drop)
    _append_fields(fields, head.names, head.lines, dropped | head.nominated if head.nominated else dropped)
    if head.accepts_trailers:
        fields.append(_TRAILERS)  # without it a gRPC server waits for its deadline
    return fields


@lru_cache(maxsize=64)
def _add_to_dropped(drop: frozenset[bytes]) -> frozenset[bytes]:
    """Return what does not pass in any request: there are as many sets as routes, and to unite them costs more than a frame."""
    return _OF_A_CONNECTION | drop | {b"host"}


def make_response_fields(head: ResponseHead) -> list[Field]:
    """Return the fields of a response, from a head of HTTP/1.1; interim ones as well."""
    fields: list[Field] = [(b":status", b"%d" % head.status)]
    drop = _OF_A_CONNECTION | head.nominated if head.nominated else _OF_A_CONNECTION
    _append_fields(fields, head.names, head.lines, drop)
    return fields


def _append_fields(fields: list[Field], names: list[bytes], lines: list[bytes], drop: frozenset[bytes]) -> None:
    for index, name in enumerate(names):
        if name not in drop:
            fields.append((name, lines[index][len(name) + 1 :].strip(b" \t")))


def make_trailer_fields(lines: bytes) -> list[Field]:
    """Return the trailers of a chunked message, which `ChunkedReader` has checked, as fields."""
    fields: list[Field] = []
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        fields.append((name.lower(), value.strip(b" \t")))
    return fields


def make_trailer_lines(fields: list[Field], refused: frozenset[bytes] = _NOTHING) -> bytes:
    """Return a request's trailers as field lines with CRLF.

    Args:
        fields: checked.
        refused: lower-case names that the head gets from somebody else than the client, the route above all.

    Raises:
        MalformedMessage: one of them frames, routes or authenticates a message (RFC 9110 §6.5.1).
    """
    for name, _ in fields:
        if name in REFUSED_IN_REQUESTS or name in refused:
            raise MalformedMessage("A trailer frames, routes or authenticates a message (RFC 9110 §6.5.1).")
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def make_response_trailer_lines(fields: list[Field]) -> bytes:
    """Return a response's trailers as field lines with CRLF, without those that are of one connection.

    Raises:
        MalformedMessage: one of them frames or routes a message.
    """
    lines: list[bytes] = []
    for name, value in fields:
        if name in REFUSED_IN_RESPONSES:
            raise MalformedMessage("A trailer frames or routes a message (RFC 9110 §6.5.1).")
        if name not in HOP_BY_HOP:
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)
