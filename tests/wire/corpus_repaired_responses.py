"""Responses that are not in the plain form, but can be read in one way only: what is sent, and what the client gets. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_OK: Final = b"HTTP/1.1 200 OK\r\n"
_NONE: Final = b"HTTP/1.1 204 No Content\r\n"
_UNCHANGED: Final = b"HTTP/1.1 304 Not Modified\r\n"
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"


@dataclass(frozen=True, slots=True)
class Repaired:
    """A response.

    Attributes:
        sent: by the upstream.
        received: by the client.
        method: of the request.
        until_close: whether the upstream ends the connection to end the response.
    """

    sent: bytes
    received: bytes
    method: bytes = b"GET"
    until_close: bool = False


REPAIRED: Final[dict[str, Repaired]] = {
    "space before a colon": Repaired(
        _OK + b"X-Note \t: a : b\r\nContent-Length : 2\r\n\r\nok", _OK + b"X-Note: a : b\r\nContent-Length: 2\r\n\r\nok"
    ),
    "space before the colon of Transfer-Encoding": Repaired(
        _OK + b"Transfer-Encoding : chunked\r\n\r\n1\r\nk\r\n0\r\n\r\n", _OK + _CHUNKED + b"\r\n1\r\nk\r\n0\r\n\r\n"
    ),
    "two lengths that agree": Repaired(
        _OK + b"Content-Length: 2\r\nX: 1\r\ncontent-length:2\r\n\r\nok", _OK + b"Content-Length: 2\r\nX: 1\r\n\r\nok"
    ),
    "a list of lengths that agree": Repaired(
        _OK + b"Content-Length: 2, 2\r\n\r\nok", _OK + b"Content-Length: 2\r\n\r\nok"
    ),
    "identity": Repaired(
        _OK + b"Transfer-Encoding: Identity\r\nX: 1\r\n\r\nok",
        _OK + b"X: 1\r\nConnection: close\r\n\r\nok",
        until_close=True,
    ),
    "204 with a length": Repaired(_NONE + b"Content-Length: 2\r\nX: 1\r\n\r\n", _NONE + b"X: 1\r\n\r\n"),
    "204 with content": Repaired(_NONE + b"Content-Length: 2\r\n\r\nok", _NONE + b"\r\n"),
    "204 with chunked": Repaired(_NONE + _CHUNKED + b"\r\n", _NONE + b"\r\n"),
    "204 with chunked content": Repaired(_NONE + _CHUNKED + b"\r\n0\r\n\r\n", _NONE + b"\r\n"),
    "204 with both framings": Repaired(_NONE + b"Content-Length: 0\r\n" + _CHUNKED + b"\r\n", _NONE + b"\r\n"),
    "304 with both framings": Repaired(
        _UNCHANGED + b"Content-Length: 9\r\n" + _CHUNKED + b"\r\n", _UNCHANGED + _CHUNKED + b"\r\n"
    ),
    "304 with gzip as transfer coding": Repaired(
        _UNCHANGED + b"Transfer-Encoding: gzip, chunked\r\nContent-Length: 9\r\n\r\n",
        _UNCHANGED + b"Content-Length: 9\r\n\r\n",
    ),
    "HEAD with both framings": Repaired(
        _OK + _CHUNKED + b"Content-Length: 9\r\n\r\n", _OK + _CHUNKED + b"\r\n", method=b"HEAD"
    ),
    "HEAD with two lengths that differ": Repaired(
        _OK + b"Content-Length: 9\r\nContent-Length: 8\r\nX: 1\r\n\r\n", _OK + b"X: 1\r\n\r\n", method=b"HEAD"
    ),
    "HEAD with a length that is no number": Repaired(
        _OK + b"Content-Length: -1\r\n\r\n", _OK + b"\r\n", method=b"HEAD"
    ),
    "HEAD with chunked in HTTP/1.0": Repaired(
        b"HTTP/1.0 200 OK\r\n" + _CHUNKED + b"\r\n", _OK + b"\r\n", method=b"HEAD"
    ),
    "interim with a length": Repaired(
        b"HTTP/1.1 103 E\r\nContent-Length: 2\r\nLink: <x>\r\n\r\n" + _OK + b"Content-Length: 2\r\n\r\nok",
        b"HTTP/1.1 103 E\r\nLink: <x>\r\n\r\n" + _OK + b"Content-Length: 2\r\n\r\nok",
    ),
}

# Passed on with the plain framing that every chunk gets; the connection is kept, for they end where they say.
PADDED_CHUNKS: Final[dict[str, bytes]] = {
    "one blank": b"2 \r\nok\r\n0 \r\n\r\n",
    "a fixed width": b"2       \r\nok\r\n0       \r\n\r\n",
    "zeros and blanks": b"0002  \r\nok\r\n00  \r\nX-T: 1\r\n\r\n",
    "a tab and an extension": b"2\t;x=y\r\nok\r\n0\r\n\r\n",
}
