"""Rewrite a refused response head in the plain form that every recipient reads alike, if it has one reading. Pure: does no I/O.

Other proxies accept many of these heads (docs/behaviour.md has a table), so some upstreams send them. Whatever could be read in
two ways is left as it is, and stays refused.
"""

from __future__ import annotations

import re
from typing import Final

_BLANKS_BEFORE_COLON: Final = re.compile(rb"\A([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]+:")
_LENGTH: Final = re.compile(rb"[0-9]+")
_CONTENT_LENGTH: Final = b"content-length"
_TRANSFER_ENCODING: Final = b"transfer-encoding"


def write_plainly(fields: bytes, status: int, minor: int, *, to_head: bool) -> bytes:
    """Return the field lines of a response in the plain form, as far as they have one.

    Args:
        fields: the field lines as sent, each with its CRLF.
        status: of the response.
        minor: of its HTTP/1.x; HTTP/1.0 has no transfer codings (RFC 9112 §6.1).
        to_head: whether it answers a HEAD request.

    Source: RFC 9112 §5.1: a proxy removes white space before a colon. RFC 9110 §8.6: one value of Content-Length said several
    times is one. RFC 9112 §7: `identity` was a coding that does nothing. RFC 9112 §6.3: a response to HEAD, 1xx, 204 and 304 end
    at the empty line, whatever their fields say.
    """
    lines = [_BLANKS_BEFORE_COLON.sub(rb"\1:", line) for line in fields.split(b"\r\n")[:-1]]
    lengths, codings = _values(lines, _CONTENT_LENGTH), _values(lines, _TRANSFER_ENCODING)
    said = {item.strip(b" \t") for value in lengths for item in value.split(b",")}
    length = next(iter(said)) if len(said) == 1 else b""
    is_plain_length = _LENGTH.fullmatch(length) is not None
    drops: set[bytes] = set()
    if status < 200 or status == 204:
        # RFC 9110 §8.6 and RFC 9112 §6.1 forbid both here.
        drops = {_CONTENT_LENGTH, _TRANSFER_ENCODING}
    elif status == 304 or to_head:
        # They speak of another response, so what cannot be read goes. RFC 9112 §6.3: of both, Transfer-Encoding counts.
        is_chunked = codings == [b"chunked"] and minor == 1
        if not is_chunked:
            drops.add(_TRANSFER_ENCODING)
        if is_chunked or not is_plain_length:
            drops.add(_CONTENT_LENGTH)
    elif codings == [b"identity"] and not lengths:
        drops = {_TRANSFER_ENCODING}
    lines = [line for line in lines if _name(line) not in drops]
    if is_plain_length:
        lines = _say_length_once(lines, length)
    return b"".join([line + b"\r\n" for line in lines])


def _say_length_once(lines: list[bytes], length: bytes) -> list[bytes]:
    kept: list[bytes] = []
    has_length = False
    for line in lines:
        if _name(line) != _CONTENT_LENGTH:
            kept.append(line)
        elif not has_length:
            has_length = True
            kept.append(line.partition(b":")[0] + b": " + length)
    return kept


def _name(line: bytes) -> bytes:
    return line.partition(b":")[0].lower()


def _values(lines: list[bytes], name: bytes) -> list[bytes]:
    return [line.partition(b":")[2].strip(b" \t").lower() for line in lines if _name(line) == name]
