"""The chunked transfer coding (RFC 9112 §7.1): decoding through llhttp, encoding by hand. Pure: does no I/O.

Chunk boundaries carry no meaning and may differ on the other side; chunk extensions end here; trailer fields pass, as
trailers: none is ever merged into a head.
"""

from __future__ import annotations

from typing import Final

import httptools

from proxy.errors import MalformedRequest
from proxy.relay.head import HOP_BY_HOP

_PRIMER: Final = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_END: Final = b"\r\n\r\n"
# Sizes, line ends and small extensions of one chunk; what goes beyond counts against _OVERHEAD_BYTES.
_CHUNK_FRAMING_BYTES: Final = 32
# For all extensions and trailers of a message together. Go's net/http allows 16 KiB of extensions since CVE-2023-39326.
_OVERHEAD_BYTES: Final = 16_384
# RFC 9110 §6.5.1 forbids senders more than this; whoever reads one of these behind the content, and believes it, sees another
# message than the relay does.
_FRAMES_OR_ROUTES: Final = frozenset((b"content-length", b"host", b"transfer-encoding"))
# Stricter than the RFC, which lets a recipient ignore them: behind a request there may be somebody who merges trailers into
# the head, and the head is what the access token and the relay's other decisions stand in.
_REFUSED_IN_REQUESTS: Final = (
    HOP_BY_HOP
    | _FRAMES_OR_ROUTES
    | frozenset(
        (
            b"authorization",
            b"content-encoding",
            b"content-range",
            b"content-type",
            b"cookie",
            b"expect",
            b"set-cookie",
            b"trailer",
            b"www-authenticate",
        )
    )
)
_NOTHING: Final[frozenset[bytes]] = frozenset()


class ChunkedReader:
    """Decodes one chunked message body.

    Args:
        nominated: lower-case names that the head's Connection declares to be hop-by-hop; trailers of these names end here
            (RFC 9110 §7.6.1).
        response: whether the message is a response. In a request, a trailer that frames, routes, authenticates or speaks of
            one connection is refused. In a response, only what frames or routes is; what speaks of one connection ends here.

    Attributes:
        complete: whether the last chunk and the trailer section have been read.
        trailers: the trailer field lines with CRLF, each as ``name: value``.
    """

    __slots__ = (
        "_allowance",
        "_dropped",
        "_parser",
        "_pieces",
        "_reading",
        "_refused",
        "_tail",
        "complete",
        "trailers",
    )

    def __init__(self, nominated: frozenset[bytes] = _NOTHING, *, response: bool = False) -> None:
        self.complete = False
        self.trailers = b""
        self._refused = _FRAMES_OR_ROUTES if response else _REFUSED_IN_REQUESTS
        self._dropped = HOP_BY_HOP | nominated if response else nominated
        self._pieces: list[bytes] = []
        self._allowance = _OVERHEAD_BYTES
        self._tail = b""
        self._reading = False
        self._parser = httptools.HttpRequestParser(self)
        if response:
            # Servers of old pad a size to a fixed width. What ends in blanks before CRLF or ";" can be read in one way only.
            self._parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
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
            raise MalformedRequest(
                "The message's chunked coding is broken (RFC 9112 §7.1).", code="chunked_malformed"
            ) from None
        if self._allowance < 0:
            raise MalformedRequest("The message's chunk extensions or trailers are over 16 KiB.", code="chunk_overhead")

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
            lowered = name.lower()
            if lowered in self._refused:
                raise MalformedRequest(
                    "A trailer field frames, routes or authenticates the message (RFC 9110 §6.5.1).",
                    code="trailer_refused",
                )
            if lowered not in self._dropped:
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
