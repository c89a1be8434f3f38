"""One HTTP/1.1 exchange over a fresh connection, bounded, for what is not the relay's. Does network I/O.

Invariants: the request says that the connection is not kept; nothing is followed, stored or repeated; what is read has a limit.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import httptools

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

_BLOCK_BYTES: Final = 65_536
_HEAD_BYTES: Final = 262_144  # of all heads, with framing and trailers
_UNZIP: Final = zlib.MAX_WBITS | 32  # gzip or zlib, whichever it is


class ResponseTooLarge(Exception):  # noqa: N818  # named as its like in `proxy.errors`
    """There is more content than was to be read."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response, as far as it was to be read.

    Attributes:
        status: the status code.
        fields: (lower-case name, value) in order.
        content: as the server meant it, whatever its content coding.
    """

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    content: bytes = field(repr=False)

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a field, in order."""
        return [value for known, value in self.fields if known == name]

    def value(self, name: bytes) -> str | None:
        """Return a field's first value; None without one."""
        return next((value.decode("latin-1") for value in self.values(name)), None)


async def exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    line: str,
    fields: Mapping[str, str],
    content: bytes = b"",
    *,
    limit_bytes: int,
    cuts: bool = False,
) -> Response:
    """Send a request and return its response, whatever its status.

    Args:
        reader: of a connection that nobody else uses.
        writer: of the same one.
        line: method and request target.
        fields: all but Connection and Content-Length.
        content: of the request.
        limit_bytes: of the response's content.
        cuts: whether what is over the limit is left out, and a response that breaks off is taken as far as it came.

    Raises:
        ResponseTooLarge: the limit is passed, and does not cut.
        OSError: the connection broke off.
        ValueError: a field has a line end in it, or what came is no HTTP, or no content of its coding.
    """
    lines = [f"{line} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "Connection: close"]
    if content:
        lines.append(f"Content-Length: {len(content)}")
    if any("\r" in one or "\n" in one for one in lines):
        raise ValueError("a line end within a field")
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + content)
    await writer.drain()
    reading = _Reading()
    try:
        await reading.read(reader, limit_bytes)
    except httptools.HttpParserError:
        raise ValueError("no HTTP") from None
    if not reading.has_head or not (reading.is_complete or cuts or len(reading.content) > limit_bytes):
        raise ConnectionError
    received = bytes(reading.content) if cuts else _decode(reading, limit_bytes)
    if len(received) > limit_bytes and not cuts:
        raise ResponseTooLarge
    return Response(reading.status, tuple(reading.fields), received[:limit_bytes])


def _decode(reading: _Reading, limit_bytes: int) -> bytes:
    """Return the content without its coding, or one byte more than the limit. None was asked for; some send one all the same."""
    codings = [value.strip().lower() for name, value in reading.fields if name == b"content-encoding"]
    if codings not in ([b"gzip"], [b"deflate"]) or not reading.content:
        return bytes(reading.content)
    try:
        return zlib.decompressobj(_UNZIP).decompress(reading.content, limit_bytes + 1)
    except zlib.error:
        raise ValueError("not of its content coding") from None


class _Reading:
    """Collects one response from the callbacks of llhttp."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.content = bytearray()
        self.status = 0
        self.has_head = False
        self.is_complete = False
        self._is_interim = False
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # no trailers
            self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.is_complete:
            return  # what stands behind the response is nobody's
        # An interim response (RFC 9110 §15.2) is followed by the one that counts.
        self.status = self.parser.get_status_code()
        self._is_interim = 100 <= self.status < 200
        if self._is_interim:
            self.fields.clear()
        self.has_head = not self._is_interim

    def on_body(self, block: bytes) -> None:
        if not self.is_complete:
            self.content += block

    def on_message_complete(self) -> None:
        self.is_complete = self.is_complete or not self._is_interim

    async def read(self, reader: asyncio.StreamReader, limit_bytes: int) -> None:
        """Feed the parser until the response is complete, too long, or cut."""
        length = 0
        while not self.is_complete and len(self.content) <= limit_bytes and length < limit_bytes + _HEAD_BYTES:
            block = await reader.read(_BLOCK_BYTES)
            if not block:
                # Without a length, the connection's end is the content's (RFC 9112 §6.3).
                framed = {b"content-length", b"transfer-encoding"}
                self.is_complete = self.has_head and framed.isdisjoint(name for name, _ in self.fields)
                return
            length += len(block)
            self.parser.feed_data(block)
