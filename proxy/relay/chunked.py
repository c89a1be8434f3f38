"""The chunked transfer coding (RFC 9112 §7.1): decoding through llhttp, encoding by hand. Pure: does no I/O.

Chunk boundaries carry no meaning and may differ on the other side; chunk extensions end here; trailer fields pass, as
trailers: none is ever merged into a head.
"""

from __future__ import annotations

import re
from typing import Final

import httptools

from proxy.errors import MalformedRequest
from proxy.relay.message import HOP_BY_HOP

_PRIMER: Final = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_END: Final = b"\r\n\r\n"
_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,16}")
_BROKEN: Final = "The message's chunked coding is broken (RFC 9112 §7.1)."
# Chunks read in one turn of the event loop: about two milliseconds, uncompiled. One read brings 256 KB at the most, which of
# chunks of one byte are 43,000.
CHUNKS_AT_ONCE: Final = 1_024
# Sizes, line ends and small extensions of one chunk; what goes beyond counts against _OVERHEAD_BYTES.
_CHUNK_FRAMING_BYTES: Final = 32
# For all extensions and trailers of a message together. Go's net/http allows 16 KiB of extensions since CVE-2023-39326.
_OVERHEAD_BYTES: Final = 16_384
# RFC 9110 §6.5.1 forbids senders more than this; whoever reads one of these behind the content, and believes it, sees another
# message than the relay does.
REFUSED_IN_RESPONSES: Final = frozenset((b"content-length", b"host", b"transfer-encoding"))
# Stricter than the RFC, which lets a recipient ignore them: behind a request there may be somebody who merges trailers into
# the head, and the head is what the access token and the relay's other decisions stand in.
REFUSED_IN_REQUESTS: Final = (
    HOP_BY_HOP
    | REFUSED_IN_RESPONSES
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
        refused: of a request: lower-case names that the head gets from somebody else than the client, the route above all.
        response: whether the message is a response. In a request, a trailer that frames, routes, authenticates or speaks of
            one connection is refused. In a response, only what frames or routes is; what speaks of one connection ends here.

    Attributes:
        complete: whether the last chunk and the trailer section have been read.
    """

    __slots__ = (
        "_allowance",
        "_dropped",
        "_ends",
        "_fault",
        "_in_trailers",
        "_left",
        "_line",
        "_parser",
        "_pieces",
        "_reading",
        "_refused",
        "_tail",
        "_trailer_lines",
        "complete",
    )

    def __init__(
        self, nominated: frozenset[bytes] = _NOTHING, refused: frozenset[bytes] = _NOTHING, *, response: bool = False
    ) -> None:
        self.complete = False
        self._refused = REFUSED_IN_RESPONSES if response else REFUSED_IN_REQUESTS | refused
        self._fault: MalformedRequest | None = None
        self._dropped = HOP_BY_HOP | nominated if response else nominated
        self._pieces: list[bytes] = []
        self._allowance = _OVERHEAD_BYTES
        self._trailer_lines: list[bytes] = []
        # Where in the message we are: `_left` of a chunk with its CRLF, within a size line, or behind the last chunk.
        self._left = 0
        self._line = b""
        self._in_trailers = False
        self._tail = b""
        self._ends = False
        self._reading = False
        self._parser = httptools.HttpRequestParser(self)
        if response:
            # Servers of old pad a size to a fixed width. What ends in blanks before CRLF or ";" can be read in one way only.
            self._parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        self._parser.feed_data(_PRIMER)
        self._reading = True

    @property
    def trailers(self) -> bytes:
        """The trailer field lines with CRLF, each as ``name: value``."""
        return b"".join(self._trailer_lines)

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Decode what has arrived, or as much of it as one turn of the event loop has time for.

        llhttp does not tell where a message ended, so what it is fed ends there at the latest. The cost of a byte does not
        depend on what it is, only on how many chunks there are, and those are bounded.

        Returns:
            The content's bytes in order, and what has not been read: until `complete`, that is to be fed in another turn;
            from then on, it follows the message.

        Raises:
            MalformedRequest: the coding is broken, or extensions and trailers are over the limit.
        """
        stop = self._walk(data)
        self._feed(memoryview(data)[:stop])
        if self.complete != self._ends:  # we and llhttp have read two messages: neither may go on
            raise MalformedRequest(_BROKEN, code="chunked_malformed")
        pieces, self._pieces = self._pieces, []
        return pieces, data[stop:]

    def _walk(self, data: bytes) -> int:
        """Goes from chunk to chunk without a look at their content; llhttp judges what is passed over.

        Returns:
            How far to read: to the message's end, behind so many chunks, or all.
        """
        size = len(data)
        position = self._left
        for _ in range(CHUNKS_AT_ONCE):
            if position >= size:
                self._left = position - size
                return size
            if self._in_trailers:
                break
            end = data.find(b"\n", position)
            if end < 0:
                self._left = 0
                self._line += data[position:]
                return size
            if self._line:
                digits = _SIZE.match(self._line + data[position:end])
                self._line = b""
            else:
                digits = _SIZE.match(data, position)
            position = end + 1
            if digits is None:
                self._ends = True  # llhttp objects to such a line; should it not, the two disagree
                return position
            length = int(digits[0], 16)
            if length:
                position += length + 2
            else:
                self._in_trailers = True
                self._tail = b"\r\n"  # without trailers, the empty line follows at once
        if self._in_trailers:
            self._left = 0
            return position + self._find_end(data[position:])
        self._left = max(position - size, 0)
        return min(position, size)

    def _find_end(self, data: bytes) -> int:
        searched = self._tail + data
        found = searched.find(_END)
        if found < 0:
            self._tail = searched[-3:]
            return len(data)
        self._ends = True
        return found + len(_END) - len(self._tail)

    def _feed(self, part: memoryview) -> None:
        self._allowance -= len(part)
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserError:
            raise self._fault or MalformedRequest(_BROKEN, code="chunked_malformed") from None
        if self._allowance < 0:
            raise MalformedRequest("The message's chunk extensions or trailers are over 16 KiB.", code="chunk_overhead")

    def on_body(self, piece: bytes) -> None:
        """Take content from llhttp."""
        self._pieces.append(piece)
        self._allowance += len(piece)

    def on_chunk_header(self) -> None:
        """Grants each chunk the bytes that frame it."""
        self._allowance += _CHUNK_FRAMING_BYTES

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a trailer field from llhttp, which hands it over like any other."""
        if self._reading:
            lowered = name.lower()
            if lowered in self._refused:
                is_known = lowered in REFUSED_IN_REQUESTS
                why = (
                    "it frames, routes or authenticates a message"
                    if is_known
                    else "the route sets the field of this name"
                )
                self._fault = MalformedRequest(
                    f"{name.decode('ascii')} may not be a trailer: {why} (RFC 9110 §6.5.1).", code="trailer_refused"
                )
                raise self._fault
            if lowered not in self._dropped:
                self._trailer_lines.append(b"%b: %b\r\n" % (name, value))

    def on_message_complete(self) -> None:
        """Take note of the end."""
        self.complete = True


def format_chunk(content: bytes) -> bytes:
    """Return one chunk holding `content`, which may not be empty: an empty chunk would end the message."""
    return b"%x\r\n%b\r\n" % (len(content), content)


def format_last_chunk(trailers: bytes) -> bytes:
    """Return the last chunk with the trailer section (field lines with CRLF, or nothing)."""
    return b"0\r\n%b\r\n" % trailers
