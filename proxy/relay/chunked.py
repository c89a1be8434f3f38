"""The chunked transfer coding (RFC 9112 §7.1): decoding through llhttp, encoding by hand. Pure: does no I/O.

Chunk boundaries carry no meaning and may differ on the other side; chunk extensions end here; trailer fields pass.
"""

from __future__ import annotations

from typing import Final

import httptools

from proxy.errors import MalformedRequest

LAST_CHUNK: Final = b"0\r\n\r\n"

_PRIMER: Final = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_END: Final = b"\r\n\r\n"
# Sizes, line ends and small extensions of one chunk; what goes beyond counts against _OVERHEAD_BYTES.
_CHUNK_FRAMING_BYTES: Final = 32
# For all extensions and trailers of a message together. Go's net/http allows 16 KiB of extensions since CVE-2023-39326.
_OVERHEAD_BYTES: Final = 16_384
# RFC 9110 §6.5.1: fields that frame, route, authenticate or control the message may not come behind it.
_FORBIDDEN_TRAILERS: Final = frozenset(
    (
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"www-authenticate",
    )
)


class ChunkedReader:
    """Decodes one chunked message body.

    Attributes:
        complete: whether the last chunk and the trailer section have been read.
        trailers: the trailer field lines with CRLF, each as ``name: value``.
    """

    __slots__ = ("_allowance", "_parser", "_pieces", "_reading", "_tail", "complete", "trailers")

    def __init__(self) -> None:
        self.complete = False
        self.trailers = b""
        self._pieces: list[bytes] = []
        self._allowance = _OVERHEAD_BYTES
        self._tail = b""
        self._reading = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_PRIMER)
        self._reading = True

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Decodes what has arrived.

        llhttp does not tell where a message ended, but a chunked message can end only behind an empty line, so it is fed
        up to each of those in turn.

        Returns:
            The content's bytes in order, and whatever follows the end of the message.

        Raises:
            MalformedRequest: the coding is broken, or extensions and trailers are over the limit.
        """
        position, size = 0, len(data)
        overlap = len(self._tail)
        searched = self._tail + data if overlap else data
        search_from = 0
        view = memoryview(data)
        while position < size:
            found = searched.find(_END, search_from)
            stop = size if found < 0 else found + 4 - overlap
            search_from = found + 1
            if stop > position:
                self._feed(view[position:stop])
                position = stop
            if self.complete or found < 0:
                break
        self._tail = searched[-3:]
        pieces, self._pieces = self._pieces, []
        return pieces, bytes(view[position:]) if self.complete else b""

    def _feed(self, part: memoryview) -> None:
        self._allowance -= len(part)
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserError:
            raise MalformedRequest("The message's chunked coding is broken (RFC 9112 §7.1).") from None
        if self._allowance < 0:
            raise MalformedRequest("The message's chunk extensions or trailers are over 16 KiB.")

    def on_body(self, piece: bytes) -> None:
        """Takes content from llhttp."""
        self._pieces.append(piece)
        self._allowance += len(piece)

    def on_chunk_header(self) -> None:
        """Grants each chunk the bytes that frame it."""
        self._allowance += _CHUNK_FRAMING_BYTES

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a trailer field from llhttp, which hands it over like any other."""
        if self._reading:
            if name.lower() in _FORBIDDEN_TRAILERS:
                raise MalformedRequest("A trailer field frames, routes or authenticates the message (RFC 9110 §6.5.1).")
            self.trailers += b"%b: %b\r\n" % (name, value)

    def on_message_complete(self) -> None:
        """Takes note of the end."""
        self.complete = True


def format_chunk(content: bytes) -> bytes:
    """Returns one chunk holding `content`, which may not be empty: an empty chunk would end the message."""
    return b"%x\r\n%b\r\n" % (len(content), content)


def format_last_chunk(trailers: bytes) -> bytes:
    """Returns the last chunk with the trailer section (field lines with CRLF, or nothing)."""
    return b"0\r\n%b\r\n" % trailers
