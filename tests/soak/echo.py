"""What runs over a WebSocket or a blind tunnel in the soak: bytes that come back as they went, and ends of every kind. Does I/O.

Nothing here is framed as RFC 6455 has it, because neither is what a proxy passes on behind a 101 response.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tests.soak.plan import Behaviour, content_of

if TYPE_CHECKING:
    from tests.soak.connection import Connection
    from tests.soak.journal import Journal
    from tests.soak.plan import Plan

_PIECE_BYTES: Final = 65_536


def server_ends(plan: Plan) -> bool:
    """Whether it is the server that ends the connection, once it has echoed as much as a response would have had."""
    return plan.behaviour in (
        Behaviour.DIES_IN_CONTENT,
        Behaviour.CLOSES,
        Behaviour.UNTIL_CLOSE,
        Behaviour.CLOSES_LATER,
    )


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, plan: Plan) -> None:
    """Sends back what comes until the client ends sending, or until it is enough."""
    left = plan.response_bytes
    while piece := await reader.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
        left -= len(piece)
        if left <= 0 and server_ends(plan):
            return


async def serve_echo(journal: Journal, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serves one connection of the server behind blind tunnels: a line that names the exchange, then echoes."""
    try:
        line = await reader.readuntil(b"\n")
        ticket = journal.tickets.get(line.decode().strip())
        if ticket is not None:
            writer.write(line)
            await echo(reader, writer, ticket.plan)
    except (OSError, EOFError):
        writer.transport.abort()
    finally:
        writer.close()


async def talk(connection: Connection, plan: Plan) -> str:
    """Sends what the plan's request has, and reads it back; returns what is wrong, or nothing.

    Raises:
        OSError, EOFError: the connection broke, or the server ended it.
    """
    sent = content_of(plan.identifier, plan.request_bytes)
    position = 0
    step = max(len(sent) // 7, 1)
    for start in range(0, len(sent), step):
        connection.writer.write(sent[start : start + step])
        await connection.writer.drain()
        wanted = len(sent[start : start + step])
        while wanted:
            piece = await connection.reader.read(min(wanted, _PIECE_BYTES))
            if not piece:
                raise EOFError
            if piece != sent[position : position + len(piece)]:
                return f"{plan.identifier}: what came back is not what went: {piece[:80]!r}"
            position += len(piece)
            wanted -= len(piece)
    await asyncio.sleep(0)
    return ""
