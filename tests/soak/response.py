"""Reads a response as a strict client does, and keeps what came of one that breaks off. Does I/O through its reader."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from tests.soak.plan import Framing

if TYPE_CHECKING:
    import asyncio

Pace: TypeAlias = Callable[[], Awaitable[None]]

IDENTIFIER: Final = b"soak-id"
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([1-9][0-9][0-9]) [ -~]*")
_PROXY_STATUS: Final = re.compile(rb"apim-auth-proxy; error=([a-z_]+)")
_PIECE_BYTES: Final = 65_536


class Nonsense(Exception):  # noqa: N818  # what came is no response
    """The bytes are no response; the argument says which."""


@dataclass(slots=True)
class Response:
    """What has come of a response so far.

    Attributes:
        status: 0 before there is one.
        interims: the identifiers in interim responses.
        complete: whether its end has come, as its framing says.
    """

    status: int = 0
    fields: dict[bytes, bytes] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    interims: list[bytes] = field(default_factory=list)
    framing: Framing = Framing.NONE
    complete: bool = False

    @property
    def own_error(self) -> str:
        """The RFC 9209 error of an answer in the proxy's own name; empty for the upstream's."""
        found = _PROXY_STATUS.match(self.fields.get(b"proxy-status", b""))
        return found[1].decode() if found else ""

    @property
    def closes(self) -> bool:
        """Whether no further response comes on this connection."""
        return self.framing is Framing.UNTIL_CLOSE or self.fields.get(b"connection", b"").lower() == b"close"


async def read_response(reader: asyncio.StreamReader, method: str, into: Response, pace: Pace | None = None) -> None:
    """Reads one response.

    Args:
        reader: stands before its first byte.
        method: of the request.
        into: takes what comes, as it comes.
        pace: awaited between two reads of content.

    Raises:
        Nonsense: it is none.
        OSError, EOFError: it breaks off.
    """
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *field_lines = head[:-4].split(b"\r\n")
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise Nonsense(f"the status line is {line[:80]!r}")
        status, fields = int(found[1]), _parse_fields(field_lines)
        if status >= 200 or status == 101:
            break
        if IDENTIFIER in fields:
            into.interims.append(fields[IDENTIFIER])
    into.status, into.fields = status, fields
    into.framing = _find_framing(method, status, fields)
    if into.framing is Framing.LENGTH:
        await _read_length(reader, int(fields[b"content-length"]), into.content, pace)
    elif into.framing is Framing.CHUNKED:
        await _read_chunks(reader, into, pace)
    elif into.framing is Framing.UNTIL_CLOSE:
        while piece := await reader.read(_PIECE_BYTES):
            into.content += piece
            if pace is not None:
                await pace()
    into.complete = True


def _find_framing(method: str, status: int, fields: dict[bytes, bytes]) -> Framing:
    if method == "HEAD" or status in (101, 204, 304):
        return Framing.NONE
    if fields.get(b"transfer-encoding") == b"chunked":
        return Framing.CHUNKED
    return Framing.LENGTH if b"content-length" in fields else Framing.UNTIL_CLOSE


async def _read_length(reader: asyncio.StreamReader, length: int, content: bytearray, pace: Pace | None) -> None:
    left = length
    while left:
        piece = await reader.read(min(left, _PIECE_BYTES))
        if not piece:
            raise EOFError
        content += piece
        left -= len(piece)
        if pace is not None:
            await pace()


async def _read_chunks(reader: asyncio.StreamReader, into: Response, pace: Pace | None) -> None:
    while True:
        line = await reader.readuntil(b"\r\n")
        try:
            size = int(line[:-2], 16)
        except ValueError:
            raise Nonsense(f"the chunk's size is {line[:80]!r}") from None
        if size == 0:
            break
        await _read_length(reader, size, into.content, pace)
        if await reader.readexactly(2) != b"\r\n":
            raise Nonsense("a chunk does not end where it should")
    lines = []
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        lines.append(line[:-2])
    into.trailers = _parse_fields(lines)


def _parse_fields(lines: list[bytes]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or name.lower() in fields:
            raise Nonsense(f"a field line is {line[:80]!r}")
        fields[name.lower()] = value.strip()
    return fields
