"""Parse the bytes of a request or response head, and write a head for the next hop. Pure: does no I/O.

llhttp (through httptools) checks the field lines and refuses everything that RFC 9112 lets a recipient refuse. This module and
`message` add what llhttp leaves to its user: one framing, one Host, limits. A head is written from the sender's own field lines,
byte for byte, without the hop-by-hop ones.

llhttp never sees the message's own start line. It knows a fixed list of methods, rejects targets with bytes above 0x7f, and
concludes from a start line whether a body or an upgrade follows. So the start line is matched against the grammar of RFC 9112 §3
and §4, llhttp is given a fixed one, and each parser lives for one head.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import httptools

from proxy.errors import FieldsTooLarge, MalformedRequest, TargetTooLong, UpstreamProtocolError
from proxy.relay.diagnosis import diagnose_head, refuse_request
from proxy.relay.field_lines import read_fields
from proxy.relay.message import (
    BARE_LINE_END,
    HOP_BY_HOP,
    REQUEST_LINE,
    REQUEST_SPECIAL,
    RESPONSE_SPECIAL,
    STATUS_LINE,
    Head,
    RequestHead,
    ResponseHead,
)
from proxy.relay.plain_form import write_plainly

# Interpreted, llhttp is quicker.
_IS_COMPILED: Final = not hasattr(read_fields, "__code__")
_ONE: Final = 0x31
_REQUEST_START: Final = b"POST / HTTP/1.1\r\n"
_RESPONSE_START: Final = b"HTTP/1.1 200 \r\n"
_START_OF_REQUEST: Final = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}(?: [^\x00-\x20\x7f]*(?: [HTP/1.0]{0,8}\r?)?)?"
)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def parse_request_head(raw: bytes, *, target_bytes: int, field_count: int) -> RequestHead:
    """Validate a request head.

    Args:
        raw: everything up to and including the empty line.
        target_bytes: the longest request target accepted.
        field_count: the most field lines accepted.

    Raises:
        MalformedRequest: not HTTP/1.x, or not safe to pass on.
        TargetTooLong: the target is over `target_bytes`.
        FieldsTooLarge: there are more than `field_count` field lines.

    Source: RFC 9112 §2 to §6.
    """
    match = REQUEST_LINE.match(raw)
    if match is None:
        raise refuse_request(raw)
    method, target, minor = match.groups()
    if len(target) > target_bytes:
        raise TargetTooLong(
            f"The request target has {len(target)} bytes; the limit is {target_bytes} (limits.target_bytes)."
        )
    rest = raw[match.end() :]
    head = RequestHead(method, target, 1 if minor == b"1" else 0, rest[:-2])
    if not (_IS_COMPILED and read_fields(head)):
        try:
            httptools.HttpRequestParser(head).feed_data(_REQUEST_START + rest)
        except httptools.HttpParserUpgrade:
            pass  # llhttp stops where an upgrade would begin: at the end of the head, which is all it was given
        except httptools.HttpParserError:
            raise refuse_request(raw) from None
    names = head.names
    if len(names) > field_count:
        raise FieldsTooLarge(f"The request has {len(names)} fields; the limit is {field_count} (limits.field_count).")
    head.take_special(REQUEST_SPECIAL.intersection(names))
    return head


@lru_cache(maxsize=64)
def _read_status_line(line: bytes) -> tuple[int, int, bytes] | None:
    """Return status code, minor version and the line in the proxy's own version; None where it is no status line."""
    match = STATUS_LINE.fullmatch(line)
    if match is None:
        return None
    minor = 1 if line[7] == _ONE else 0
    return int(match[1]), minor, line if minor else b"HTTP/1.1" + line[8:]


def parse_response_head(raw: bytes, *, field_count: int, to_head: bool = False) -> ResponseHead:
    """Validate a response head.

    A head that is not in the plain form but has only one reading is rewritten in it; its connection is not kept.

    Args:
        raw: everything up to and including the empty line.
        field_count: the most field lines accepted.
        to_head: whether it answers a HEAD request.

    Raises:
        UpstreamProtocolError: not HTTP/1.x, or it could make the client misjudge where the response ends.

    Source: RFC 9112 §4 to §6.
    """
    end = raw.find(b"\r\n") + 2
    start = _read_status_line(raw[:end])
    if start is None:
        raise UpstreamProtocolError(diagnose_head(raw, request=False))
    rest = raw[end:]
    try:
        head = _read_response_head(start, rest)
    except (httptools.HttpParserError, MalformedRequest) as error:
        fields = rest[:-2]
        plain = write_plainly(fields, start[0], start[1], to_head=to_head)
        if plain == fields:
            raise UpstreamProtocolError(_describe(error, raw)) from None
        try:
            head = _read_response_head(start, plain + b"\r\n")
        except (httptools.HttpParserError, MalformedRequest):
            raise UpstreamProtocolError(_describe(error, raw)) from None
        head.keeps_alive = False
    if len(head.names) > field_count:
        raise UpstreamProtocolError(
            f"The response has {len(head.names)} fields; the limit is {field_count} (limits.field_count)."
        )
    return head


def _read_response_head(start: tuple[int, int, bytes], rest: bytes) -> ResponseHead:
    """Read the fields of a response, up to and including the empty line.

    Raises:
        httptools.HttpParserError, MalformedRequest: they are not in the plain form.
    """
    status, minor, status_line = start
    head = ResponseHead(status, status_line, minor, rest[:-2])
    if not (_IS_COMPILED and read_fields(head)):
        httptools.HttpResponseParser(head).feed_data(_RESPONSE_START + rest)
    special = RESPONSE_SPECIAL.intersection(head.names)
    if special:
        head.take_special(special)
    return head


def _describe(error: Exception, raw: bytes) -> str:
    return error.detail if isinstance(error, MalformedRequest) else diagnose_head(raw, request=False)


def format_request_head(
    head: RequestHead, target: bytes, host: bytes, drop: frozenset[bytes], added: bytes, *, upgrades: bool
) -> bytes:
    """Write a request head for the upstream, ending with the empty line.

    Args:
        head: what the client sent.
        target: the request target in origin-form (or ``*``).
        host: the Host field's value for this upstream.
        drop: lower-case names of fields that do not pass, the hop-by-hop ones included.
        added: complete field lines with CRLF, put behind the client's.
        upgrades: whether the client's Upgrade passes (RFC 9110 §7.8).
    """
    if head.nominated:
        drop |= head.nominated
    if drop.isdisjoint(head.names):
        fields = head.fields
        if head.host != host:
            fields = b"\r\n".join(_with_host(head, host, drop)) + b"\r\n"
    else:
        kept = _with_host(head, host, drop) if head.host != host else _without(head, drop)
        fields = b"\r\n".join(kept) + b"\r\n" if kept else b""
    if upgrades and head.upgrade is not None:
        fields += b"Connection: Upgrade\r\nUpgrade: " + head.upgrade + b"\r\n"
    elif head.accepts_trailers:
        fields += b"Connection: TE\r\nTE: trailers\r\n"
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (head.method, target, fields, added)


def _without(head: Head, drop: frozenset[bytes]) -> list[bytes]:
    """Return the field lines whose names are not to be dropped."""
    lines = head.lines
    return [lines[index] for index, name in enumerate(head.names) if name not in drop]


def _with_host(head: RequestHead, host: bytes, drop: frozenset[bytes]) -> list[bytes]:
    """Return the kept field lines with the Host field of this upstream, where the client's stood or else first."""
    line = b"Host: " + host
    lines = head.lines
    kept = [line if name == b"host" else lines[index] for index, name in enumerate(head.names) if name not in drop]
    return kept if head.host is not None else [line, *kept]


def format_response_head(head: ResponseHead, connection: bytes, *, chunked: bool) -> bytes:
    """Write a response head for the client, ending with the empty line.

    Args:
        head: what the upstream sent.
        connection: a complete Connection field line with CRLF, or nothing.
        chunked: whether a chunked response stays so; False for an HTTP/1.0 client, which does not know the coding.
    """
    fields = head.fields
    if head.hop_by_hop or not chunked:
        drop = HOP_BY_HOP | head.nominated if head.nominated else HOP_BY_HOP
        if not chunked:
            drop |= {b"transfer-encoding", b"trailer"}
        kept = _without(head, drop)
        fields = b"\r\n".join(kept) + b"\r\n" if kept else b""
    return b"%b%b%b\r\n" % (head.status_line, fields, connection)


def check_partial_request(raw: bytes, checked: int = 0) -> None:
    """Refuse bytes that can no longer become a request head, so that a client of another protocol is told at once.

    Args:
        raw: the part of the head that has come.
        checked: how many of these bytes have been checked before. Only the rest are examined, so that the cost of a head
            does not depend on how many pieces it comes in.

    Raises:
        MalformedRequest: more bytes would not help.
    """
    end = raw.find(b"\r\n")
    if end < 0:
        hopeless = _START_OF_REQUEST.fullmatch(raw) is None
    elif end + 2 > checked:
        hopeless = REQUEST_LINE.fullmatch(raw[: end + 2]) is None
    else:
        hopeless = False
    if hopeless or _has_bad_bytes(raw, checked):
        raise refuse_request(raw)


def check_partial_response(raw: bytes, checked: int = 0) -> None:
    """Refuse bytes that can no longer become a response head, so that nobody waits for its end.

    Args:
        raw: the part of the head that has come.
        checked: as for `check_partial_request`.

    Raises:
        UpstreamProtocolError: more bytes would not help.
    """
    end = raw.find(b"\r\n")
    if end < 0:
        hopeless = not raw.startswith(b"HTTP/1."[: len(raw)])
    elif end + 2 > checked:
        hopeless = STATUS_LINE.fullmatch(raw[: end + 2]) is None
    else:
        hopeless = False
    if hopeless or _has_bad_bytes(raw, checked):
        raise UpstreamProtocolError(diagnose_head(raw, request=False))


def _has_bad_bytes(raw: bytes, checked: int) -> bool:
    # Whether the last byte checked was right may depend on the next one: a CR on its LF.
    new = raw[max(checked - 2, 0) :] if checked else raw
    # The first byte of a piece may be the LF of a CR that is not in it.
    return bool(_CONTROL.search(new) or BARE_LINE_END.search(new, 1 if checked > 2 and new[:1] == b"\n" else 0))
