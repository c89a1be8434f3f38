"""A request of the soak: how a client writes it, and how the upstream reads it and checks that it is one and whole. Does I/O.

Its identifier stands in the target, in a field, in the trailers, and makes up the content; where they disagree, two requests
have been mixed.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.soak.plan import Conduct, Framing, Plan, content_of

if TYPE_CHECKING:
    from tests.soak.connection import Connection

_TARGET: Final = re.compile(r"/soak/([^?]+)\?for=([^ ]+)")
_CHUNK_BYTES: Final = 30_000
_DRIPS: Final = 5
_DRIP_S: Final = 0.03


class Mixed(Exception):  # noqa: N818  # what reached the upstream is not what any client sent
    """The parts of a request are not of one request; the argument says which."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it reached the upstream.

    Attributes:
        authorization: every Authorization value.
        expects_continue: whether it waits to be asked for its content.
    """

    method: str
    identifier: str
    fields: dict[bytes, bytes]
    authorization: tuple[bytes, ...]
    framing: Framing

    @property
    def expects_continue(self) -> bool:
        return b"expect" in self.fields


def format_head(plan: Plan, connection: Connection) -> bytes:
    """Returns the request's head as a client sends it on a connection."""
    name = plan.identifier
    lines = [
        f"{plan.method} {connection.prefix}/soak/{name}?for={name} HTTP/1.1",
        f"Host: {connection.host}",
        f"Soak-Id: {name}",
        "Authorization: Basic bm9ib2R5Om5vYm9keQ==",
    ]
    if plan.request_framing is Framing.LENGTH:
        lines.append(f"Content-Length: {plan.request_bytes}")
    elif plan.request_framing is Framing.CHUNKED:
        lines.append("Transfer-Encoding: chunked")
    if plan.expects_continue:
        lines.append("Expect: 100-continue")
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def format_content(plan: Plan) -> bytes:
    """Returns the request's content as a client sends it."""
    content = content_of(plan.identifier, plan.request_bytes)
    if plan.request_framing is not Framing.CHUNKED:
        return content
    pieces = [content[start : start + _CHUNK_BYTES] for start in range(0, len(content), _CHUNK_BYTES)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return chunks + f"0\r\nSoak-Id: {plan.identifier}\r\n\r\n".encode()


async def send_request(plan: Plan, connection: Connection) -> None:
    """Writes a request as its plan says, as fast as it is taken; of a client that goes while sending, two thirds."""
    writer = connection.writer
    wire = format_head(plan, connection) + format_content(plan)
    if plan.conduct is Conduct.SLOW_WRITER:
        step = len(wire) // _DRIPS + 1
        for start in range(0, len(wire), step):
            writer.write(wire[start : start + step])
            await writer.drain()
            await asyncio.sleep(_DRIP_S)
        return
    writer.write(wire[: len(wire) * 2 // 3] if plan.conduct is Conduct.GOES_SENDING else wire)
    await writer.drain()
    if plan.conduct is Conduct.HALF_CLOSES and connection.may_half_close:
        writer.write_eof()


async def read_head(reader: asyncio.StreamReader) -> Request | None:
    """Returns the next request, None where the connection ends properly before one.

    Raises:
        Mixed: its parts disagree.
        OSError, EOFError: it breaks off.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    line, *field_lines = head[:-4].split(b"\r\n")
    method, target, version = line.decode("latin-1").split(" ")
    named = _TARGET.fullmatch(target)
    pairs = [(name.lower(), value.strip()) for name, _, value in (each.partition(b":") for each in field_lines)]
    fields = dict(pairs)
    if named is None or version != "HTTP/1.1" or not named[1] == named[2] == fields.get(b"soak-id", b"").decode():
        raise Mixed(f"a request's target and fields disagree: {line!r}, {fields.get(b'soak-id')!r}")
    framing = Framing.NONE
    if b"transfer-encoding" in fields:
        framing = Framing.CHUNKED
    elif b"content-length" in fields:
        framing = Framing.LENGTH
    authorization = tuple(value for name, value in pairs if name == b"authorization")
    return Request(method, named[1], fields, authorization, framing)


async def read_content(reader: asyncio.StreamReader, request: Request, expected: int) -> None:
    """Reads a request's content to its end.

    Raises:
        Mixed: it is not what belongs to its identifier.
        OSError, EOFError: it breaks off.
    """
    content = b""
    if request.framing is Framing.LENGTH:
        content = await reader.readexactly(int(request.fields[b"content-length"]))
    elif request.framing is Framing.CHUNKED:
        content = await _read_chunks(reader, request.identifier)
    if content != content_of(request.identifier, expected):
        raise Mixed(
            f"{request.identifier}: the request's content is not its own: {content[:120]!r}, {len(content)} bytes"
        )


async def _read_chunks(reader: asyncio.StreamReader, identifier: str) -> bytes:
    pieces = []
    while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    trailers = await reader.readuntil(b"\r\n")
    while not trailers.endswith(b"\r\n\r\n") and trailers != b"\r\n":
        trailers += await reader.readuntil(b"\r\n")
    if trailers.strip().lower() != f"soak-id: {identifier}".encode().lower():
        raise Mixed(f"{identifier}: the request's trailers are not its own: {trailers!r}")
    return b"".join(pieces)
