"""The upstream of the soak: reads requests strictly, checks them, and answers as each one's plan says. Does I/O.

It writes what it pleases onto the socket, because a server that answers properly could not break off in the middle of a head.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.soak.connection import end_connection
from tests.soak.echo import echo
from tests.soak.plan import DIES, IDEMPOTENT, Behaviour, Ending, Framing, Plan, content_of
from tests.soak.requests import Mixed, Request, read_content, read_head

if TYPE_CHECKING:
    import ssl

    from tests.soak.journal import Journal, Ticket

_CHALLENGE: Final = 'WWW-Authenticate: Bearer error="invalid_token"'
_OTHER_CHALLENGE: Final = 'WWW-Authenticate: Basic realm="the API\'s own"'
_REASONS: Final = {200: "OK", 204: "No Content", 304: "Not Modified", 401: "Unauthorized"}
_CHUNK_BYTES: Final = 17_000
_EVENT_BYTES: Final = 700
_PAUSE_S: Final = 0.01
_SLOW_S: Final = 0.3
# Of the proxy's clock and ours, and of the way.
_EXPIRY_GRACE_S: Final = 1.0


@dataclass
class Upstream:
    """One server.

    Args:
        journal: knows the plans, and takes down what is wrong.
        context: TLS with its clients; None: none, and then no access token may come either.
    """

    journal: Journal
    context: ssl.SSLContext | None
    port: int = 0
    _server: asyncio.Server | None = None
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.context, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._connections):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while (request := await read_head(reader)) is not None:
                ending = await self._answer(request, reader, writer)
                if ending is not None:
                    end_connection(writer, ending)
                    return
        except Mixed as error:
            self.journal.violate(str(error))
            writer.transport.abort()
        except (OSError, EOFError):  # the proxy let go, as it has to when its client does
            writer.transport.abort()
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Ending | None:
        """Serves one exchange; returns how the connection ends behind it, None where it does not."""
        ticket = self.journal.tickets.get(request.identifier)
        if ticket is None:  # its client has gone already
            return Ending.VANISH
        self._check(request, ticket)
        plan = ticket.plan
        if b"upgrade" in request.fields:
            writer.write(_format_head(plan, 101, ["Connection: Upgrade", "Upgrade: websocket"]))
            await echo(reader, writer, plan)
            return Ending.CLOSE
        if plan.behaviour is Behaviour.DIES_UNANSWERED and plan.response_bytes % 2:
            return plan.ending
        if plan.behaviour is not Behaviour.EARLY:
            if request.expects_continue:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await read_content(reader, request, plan.request_bytes)
            return await _respond(ticket, request, writer)
        await _respond(ticket, request, writer)
        await read_content(reader, request, plan.request_bytes)
        return None

    def _check(self, request: Request, ticket: Ticket) -> None:
        plan = ticket.plan
        if request.method != plan.method:
            raise Mixed(f"{plan.identifier}: sent as {plan.method}, came as {request.method}")
        wrong = _describe_authorization(request.authorization, wanted=self.context is not None)
        if wrong:
            raise Mixed(f"{plan.identifier}: {wrong}")
        ticket.seen += 1
        allowed = 2 if plan.method in IDEMPOTENT else 1
        if ticket.refused_token:
            allowed += 1
            if request.authorization[0] == ticket.refused_token:
                raise Mixed(f"{plan.identifier}: came again with the access token that was refused")
        if ticket.seen > allowed:
            raise Mixed(f"{plan.identifier}: {plan.method} was sent {ticket.seen} times")


def _describe_authorization(values: tuple[bytes, ...], *, wanted: bool) -> str:
    """Says what is wrong with a request's Authorization; empty where nothing is."""
    if not wanted:
        return (
            ""
            if values == (b"Basic bm9ib2R5Om5vYm9keQ==",)
            else f"{len(values)} Authorization fields where no route is"
        )
    if len(values) != 1 or not values[0].startswith(b"Bearer "):
        return f"{len(values)} Authorization fields, or none with an access token"
    claims = values[0].split(b".")[1]
    late_s = time.time() - json.loads(base64.urlsafe_b64decode(claims + b"=="))["exp"]
    return f"came with an access token that expired {late_s:.1f} s ago" if late_s > _EXPIRY_GRACE_S else ""


async def _respond(ticket: Ticket, request: Request, writer: asyncio.StreamWriter) -> Ending | None:
    plan = ticket.plan
    behaviour = plan.behaviour
    content = content_of(plan.identifier, plan.response_bytes)
    if behaviour in DIES:
        await _die(plan, content, writer)
        return plan.ending
    fields = []
    status = plan.status
    if behaviour is Behaviour.REFUSES_TOKEN:
        if ticket.refused_token or not request.authorization[0].startswith(b"Bearer "):
            status = 200
        else:
            ticket.refused_token = request.authorization[0]
            fields.append(_CHALLENGE)
    elif behaviour is Behaviour.OWN_401:
        fields.append(_OTHER_CHALLENGE)
    elif behaviour is Behaviour.CLOSES:
        fields.append("Connection: close")
    elif behaviour is Behaviour.INTERIM:
        writer.write(f"HTTP/1.1 103 Early Hints\r\nSoak-Id: {plan.identifier}\r\n\r\n".encode())
    elif behaviour is Behaviour.SLOW:
        await asyncio.sleep(_SLOW_S)
    await _write(plan, status, fields, content, writer)
    if behaviour is Behaviour.BYTES_BEHIND or plan.response_framing is Framing.UNTIL_CLOSE:
        return Ending.CLOSE
    if behaviour is Behaviour.CLOSES_LATER:
        await asyncio.sleep(len(content) % 5 / 1000)
        return plan.ending
    return Ending.CLOSE if behaviour is Behaviour.CLOSES else None


async def _write(plan: Plan, status: int, fields: list[str], content: bytes, writer: asyncio.StreamWriter) -> None:
    if plan.behaviour is Behaviour.NO_CONTENT:
        writer.write(_format_head(plan, status, fields))
        return
    framing = plan.response_framing
    head = _format_head(plan, status, [*fields, *_framing_fields(framing, len(content))])
    if not plan.has_response_content:
        writer.write(head)
    elif framing is Framing.CHUNKED:
        await _write_chunks(plan, head, content, writer)
    elif plan.behaviour is Behaviour.BYTES_BEHIND:
        poison = b"HTTP/1.1 200 OK\r\nSoak-Id: nobody\r\nContent-Length: 6\r\n\r\npoison"
        writer.write(head + content + poison)
    elif plan.behaviour is Behaviour.SLOW:
        half = len(content) // 2
        writer.write(head + content[:half])
        await asyncio.sleep(_SLOW_S)
        writer.write(content[half:])
    else:
        writer.write(head + content)
    await writer.drain()


async def _write_chunks(plan: Plan, head: bytes, content: bytes, writer: asyncio.StreamWriter) -> None:
    live = plan.behaviour is Behaviour.EVENTS and len(content) < _CHUNK_BYTES
    step = _EVENT_BYTES if live else _CHUNK_BYTES
    writer.write(head)
    for start in range(0, len(content), step):
        piece = content[start : start + step]
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        if live:
            await asyncio.sleep(_PAUSE_S)
    poison = b"HTTP/1.1 200 OK\r\nSoak-Id: nobody\r\nContent-Length: 6\r\n\r\npoison"
    behind = poison if plan.behaviour is Behaviour.BYTES_BEHIND else b""
    writer.write(f"0\r\nSoak-Id: {plan.identifier}\r\n\r\n".encode() + behind)


async def _die(plan: Plan, content: bytes, writer: asyncio.StreamWriter) -> None:
    """Begins to answer, as far as the plan says."""
    if plan.behaviour is Behaviour.DIES_UNANSWERED:
        return
    head = _format_head(plan, 200, _framing_fields(plan.response_framing, len(content)))
    if plan.behaviour is Behaviour.DIES_IN_HEAD:
        writer.write(head[: len(head) * 2 // 3])
    elif plan.response_framing is Framing.CHUNKED:
        writer.write(head + b"%x\r\n%b" % (len(content), content[:-1]))
    elif plan.response_framing is Framing.UNTIL_CLOSE:
        writer.write(head + content)
    else:
        writer.write(head + content[:-1])
    await writer.drain()
    await asyncio.sleep(_PAUSE_S)


def _framing_fields(framing: Framing, size: int) -> list[str]:
    if framing is Framing.CHUNKED:
        return ["Transfer-Encoding: chunked"]
    return [] if framing is Framing.UNTIL_CLOSE else [f"Content-Length: {size}"]


def _format_head(plan: Plan, status: int, fields: list[str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}", f"Soak-Id: {plan.identifier}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
