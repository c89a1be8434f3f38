"""What makes fields of HTTP/2 malformed, and what the relay reads from them. Pure: does no I/O.

Stricter than RFC 9113 where a field would mean something else once it stands in a head of HTTP/1.1: a blank in `:path` is a
request line with four parts there, a control in a value may be the end of a line to somebody.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from proxy.relay.http2.faults import MalformedMessage
from proxy.relay.http2.streams import UNKNOWN

if TYPE_CHECKING:
    from proxy.relay.http2.static_table import Field

# RFC 9113 §8.2.1: a token (RFC 9110 §5.6.2) without capitals.
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
# RFC 9113 §8.2.1 and RFC 9110 §5.5: no controls, and no blank at either end.
_VALUE: Final = re.compile(rb"(?:[\x21-\x7e\x80-\xff]+(?:[\t ]+[\x21-\x7e\x80-\xff]+)*)?")
# As `message.REQUEST_LINE` takes them.
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_PATH: Final = re.compile(rb"/[^\x00-\x20\x7f#]*")
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*")
# Without user information (RFC 9113 §8.3.1), and without what would begin another part of a URI (RFC 3986 §3.2).
_AUTHORITY: Final = re.compile(rb"[^\x00-\x20\x7f@/?#\\]+")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_STATUS: Final = re.compile(rb"[1-9][0-9][0-9]")

# What a field's name asks for. Names met before are looked up, not matched again; bounded, because clients choose them.
_PLAIN: Final = 0
_FORBIDDEN: Final = 1
_TE: Final = 2
_HOST: Final = 3
_CONTENT_LENGTH: Final = 4
_KINDS: Final[dict[bytes, int]] = {
    # RFC 9113 §8.2.2: of one connection.
    b"connection": _FORBIDDEN,
    b"keep-alive": _FORBIDDEN,
    b"proxy-connection": _FORBIDDEN,
    b"transfer-encoding": _FORBIDDEN,
    b"upgrade": _FORBIDDEN,
    b"te": _TE,
    b"host": _HOST,
    b"content-length": _CONTENT_LENGTH,
}
_KINDS_LIMIT: Final = 2_048


class RequestFields:
    """The fields of a request, checked.

    Attributes:
        method: as sent.
        scheme: as sent; empty for CONNECT.
        authority: `:authority`, or Host where there is none.
        path: with the query; empty for CONNECT.
        fields: the others, in order, without Host.
        length: Content-Length in bytes, or `UNKNOWN`.
        accepts_trailers: whether TE says so.
        never_indexed: names whose values may not enter a table of the next hop (RFC 7541 §6.2.3).
    """

    __slots__ = ("accepts_trailers", "authority", "fields", "length", "method", "never_indexed", "path", "scheme")

    def __init__(self) -> None:
        self.method = b""
        self.scheme = b""
        self.authority = b""
        self.path = b""
        self.fields: list[Field] = []
        self.length = UNKNOWN
        self.accepts_trailers = False
        self.never_indexed: list[bytes] = []


class ResponseFields:
    """The fields of a response, checked.

    Attributes:
        status: 100 to 999, but never 101 (RFC 9113 §8.6).
        fields: the others, in order.
        length: Content-Length in bytes, or `UNKNOWN`.
        never_indexed: as for a request.
    """

    __slots__ = ("fields", "length", "never_indexed", "status")

    def __init__(self) -> None:
        self.status = 0
        self.fields: list[Field] = []
        self.length = UNKNOWN
        self.never_indexed: list[bytes] = []


def read_request(fields: list[Field]) -> RequestFields:
    """Check the fields of a request.

    Raises:
        MalformedMessage: RFC 9113 §8.2, §8.3.1.
    """
    request = RequestFields()
    pseudo: dict[bytes, bytes] = {}
    regular = _split(fields, pseudo)
    request.method = pseudo.pop(b":method", b"")
    request.scheme = pseudo.pop(b":scheme", b"")
    request.path = pseudo.pop(b":path", b"")
    request.authority = pseudo.pop(b":authority", b"")
    if pseudo:
        raise MalformedMessage(
            f"A request has no pseudo-field {next(iter(pseudo)).decode('latin-1')!r} (RFC 9113 §8.3.1)."
        )
    _read_regular(request, regular)
    _check_request(request)
    return request


def _read_regular(request: RequestFields, regular: list[Field]) -> None:
    host: bytes | None = None
    for name, value in regular:
        kind = check_field(name, value)
        if kind == _PLAIN:
            continue
        if kind == _HOST:
            if host is not None:
                raise MalformedMessage("A request has more than one Host field (RFC 9110 §7.2).")
            host = value
        elif kind == _CONTENT_LENGTH:
            request.length = _read_length(value, request.length)
        else:
            if value.lower() != b"trailers":
                raise MalformedMessage("TE may only be 'trailers' (RFC 9113 §8.2.2).")
            request.accepts_trailers = True
    if host is not None:
        if not request.authority:
            request.authority = host
        elif request.authority.lower() != host.lower():
            raise MalformedMessage("Host and :authority name different authorities (RFC 9113 §8.3.1).")
        regular = [field for field in regular if field[0] != b"host"]
    request.fields = regular


def _check_request(request: RequestFields) -> None:
    """Hold the pseudo-fields to the grammar of their parts in a request line: RFC 9113 §8.3.1, §8.5."""
    if _METHOD.fullmatch(request.method) is None:
        raise MalformedMessage("A request needs a :method, which is a token (RFC 9113 §8.3.1).")
    if _AUTHORITY.fullmatch(request.authority) is None:
        raise MalformedMessage("A request needs an :authority or Host, without user information (RFC 9113 §8.3.1).")
    if request.method == b"CONNECT":
        if request.scheme or request.path:
            raise MalformedMessage("CONNECT has no :scheme and no :path (RFC 9113 §8.5).")
        return
    if _SCHEME.fullmatch(request.scheme) is None:
        raise MalformedMessage("A request needs a :scheme (RFC 9113 §8.3.1).")
    if _PATH.fullmatch(request.path) is None and not (request.path == b"*" and request.method == b"OPTIONS"):
        raise MalformedMessage("A request needs a :path, which begins with '/' and has no blanks (RFC 9113 §8.3.1).")


def read_response(fields: list[Field]) -> ResponseFields:
    """Check the fields of a response.

    Raises:
        MalformedMessage: RFC 9113 §8.2, §8.3.2.
    """
    response = ResponseFields()
    pseudo: dict[bytes, bytes] = {}
    regular = _split(fields, pseudo)
    status = pseudo.pop(b":status", b"")
    if pseudo or _STATUS.fullmatch(status) is None:
        raise MalformedMessage("A response has one pseudo-field, :status, with three digits (RFC 9113 §8.3.2).")
    response.status = int(status)
    if response.status == 101:
        raise MalformedMessage("HTTP/2 has no 101 (RFC 9113 §8.6).")
    for name, value in regular:
        kind = check_field(name, value)
        if kind == _CONTENT_LENGTH:
            response.length = _read_length(value, response.length)
        elif kind == _TE:
            raise MalformedMessage("A response has no TE (RFC 9113 §8.2.2).")
    response.fields = regular
    return response


def check_trailers(fields: list[Field]) -> None:
    """Check the fields behind the content; which of them mean nothing there is not asked.

    Raises:
        MalformedMessage: RFC 9113 §8.1, §8.2.
    """
    for name, value in fields:
        if name[:1] == b":":
            raise MalformedMessage("Trailers have no pseudo-fields (RFC 9113 §8.1).")
        check_field(name, value)


def check_field(name: bytes, value: bytes) -> int:
    """Check one field that is not a pseudo-field. Return what kind it is.

    Raises:
        MalformedMessage: RFC 9113 §8.2.1, §8.2.2.
    """
    kind = _KINDS.get(name, -1)
    if kind < 0:
        if _NAME.fullmatch(name) is None:
            raise MalformedMessage("A field's name is no lower-case token (RFC 9113 §8.2.1).")
        kind = _PLAIN
        if len(_KINDS) < _KINDS_LIMIT and len(name) <= 64:
            _KINDS[name] = _PLAIN
    elif kind == _FORBIDDEN:
        raise MalformedMessage(f"{name.decode('ascii')} is of one connection of HTTP/1.1 (RFC 9113 §8.2.2).")
    if _VALUE.fullmatch(value) is None:
        raise MalformedMessage("A field's value has a control, or a blank at an end (RFC 9113 §8.2.1).")
    return kind


def _split(fields: list[Field], pseudo: dict[bytes, bytes]) -> list[Field]:
    """Put the pseudo-fields, which come first and once each, into `pseudo`. Return the others: RFC 9113 §8.3."""
    first = len(fields)
    for index, (name, value) in enumerate(fields):
        is_pseudo = name[:1] == b":"
        if first < index:
            if is_pseudo:
                raise MalformedMessage("A pseudo-field stands behind other fields (RFC 9113 §8.3).")
        elif not is_pseudo:
            first = index
        elif name in pseudo:
            raise MalformedMessage("A pseudo-field occurs twice (RFC 9113 §8.3).")
        else:
            pseudo[name] = value
    return fields[first:]


def _read_length(value: bytes, before: int) -> int:
    if before != UNKNOWN or _LENGTH.fullmatch(value) is None:
        raise MalformedMessage("Content-Length is not one number (RFC 9110 §8.6).")
    return int(value)
