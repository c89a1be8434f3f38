"""A small HTTP/1.1 server for what the proxy answers itself: the admin site and identity listeners. Does I/O.

Heads are read by the relay's own parser, so what is ambiguous is refused before anybody is asked for an answer. A connection serves
one request at a time; what is pipelined behind it waits. Content is never read: a request that has some is answered, and its
connection ends with the answer, so that no byte of content can be taken for a request.

Invariants: whoever sends no whole head in time, or takes nothing of an answer, is cut; a connection takes no more memory than a
head, an answer and the buffers of its transport.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from proxy.errors import FieldsTooLarge, MalformedRequest, ProxyError
from proxy.relay.asked import describe_head
from proxy.relay.head import check_partial_request, parse_request_head
from proxy.relay.secure import SecureTransport
from proxy.tasks import log_fault

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Coroutine, Mapping

    from proxy.config.settings import LimitSettings
    from proxy.relay.message import RequestHead

logger = logging.getLogger("proxy.http_server")

# How long what still comes behind the last answer is dropped, so that a reset does not take the answer with it (RFC 9112 §9.6).
_LINGER_S: Final = 2.0


class Request:
    """A request, without its content.

    Attributes:
        head: as it was read.
        connection: it came by.
        method: as sent.
        authority: of a target in absolute-form, which counts in place of Host (RFC 9112 §3.2.2); empty in any other form.
        path: of the target, as sent; without its query.
    """

    def __init__(self, head: RequestHead, connection: Connection) -> None:
        self.head = head
        self.connection = connection
        self.method = head.method.decode("ascii")
        _, self.authority, path = describe_head(head)
        self.path = _decode(path)

    @property
    def query(self) -> dict[str, list[str]]:
        """The values of each name in the query."""
        return parse_qs(_decode(self.head.target.partition(b"?")[2]), keep_blank_values=True)

    def values(self, name: str) -> list[str]:
        """Return the values of all fields of a name, in order."""
        return [_decode(value) for value in self.head.values(name.lower().encode("ascii"))]

    def value(self, name: str) -> str | None:
        """Return the first value of a field; None without one."""
        return next(iter(self.values(name)), None)


@dataclass(frozen=True, slots=True)
class Response:
    """A response.

    Attributes:
        status: HTTP.
        fields: all but Content-Length, Date and Connection.
        content: whole.
        stream: content that is sent as it is generated, in place of the other, and ends with the connection.
        closes: whether the connection ends with it.
    """

    status: int
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    content: bytes = field(default=b"", repr=False)
    stream: AsyncGenerator[bytes, None] | None = field(default=None, repr=False)
    closes: bool = False


class HttpServer:
    """What answers on any number of sockets, and its connections.

    Args:
        name: what it is, for the log.
        limits: on heads.
        head_s: how long a head may take, and a TLS handshake.
        idle_s: how long a connection may wait for the next request, or the client for the next byte it takes.
        context: of TLS; None: plain.

    Attributes:
        connections: the oldest first.
        is_ending: whether each connection ends with what it is doing.
    """

    def __init__(
        self, name: str, limits: LimitSettings, *, head_s: float, idle_s: float, context: ssl.SSLContext | None = None
    ) -> None:
        self.name = name
        self.limits = limits
        self.head_s = head_s
        self.idle_s = idle_s
        self.context = context
        self.connections: dict[Connection, None] = {}
        self.is_ending = False

    async def respond(self, request: Request) -> Response:
        """Return the answer to a request."""
        raise NotImplementedError

    def refuse(self, error: ProxyError) -> Response:
        """Return the answer to what cannot be read as a request."""
        raise NotImplementedError

    def on_connected(self, connection: Connection) -> None:
        """Take note of a new connection, before its TLS handshake."""

    def on_secured(self, connection: Connection, transport: SecureTransport) -> None:
        """Take note that a TLS handshake is complete."""

    def on_lost(self, connection: Connection) -> None:
        """Take note that a connection is gone."""

    def accept(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return Connection(self)

    def end(self, within_s: float) -> Coroutine[object, object, None]:
        """End idle connections at once, the others with their answers; what is returned waits for those, and cuts the late."""
        self.is_ending = True
        return self._wait({task: one for one in list(self.connections) if (task := one.end()) is not None}, within_s)

    async def _wait(self, busy: Mapping[asyncio.Task[None], Connection], within_s: float) -> None:
        if busy:
            _, late = await asyncio.wait(busy, timeout=within_s)
            for task in late:
                busy[task].abort()
            for connection in list(self.connections):
                connection.end()  # nobody lingers any more

    def cut(self) -> None:
        """Cut all connections."""
        for connection in list(self.connections):
            connection.abort()


class Connection(asyncio.Protocol):
    """One connection of a server.

    Attributes:
        transport: plain; TLS from the end of its handshake on.
    """

    transport: asyncio.Transport

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._buffer = b""
        self._checked = 0
        self._task: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self._deadline: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._has_ended = False
        self._is_lingering = False

    # The transport's events.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request; called again when a TLS handshake is complete."""
        self.transport = transport  # type: ignore[assignment]  # stream transports only
        self._expect(self._server.head_s)
        if isinstance(transport, SecureTransport):
            self._server.on_secured(self, transport)
            return
        self._server.connections[self] = None
        self._server.on_connected(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes of requests, or the first ones of a TLS handshake."""
        if self._is_lingering or self.transport.is_closing():
            return
        context = self._server.context
        if context is not None and not isinstance(self.transport, SecureTransport):
            secure = SecureTransport(context, self, self.connection_lost, server_side=True)
            self.transport.set_protocol(secure)
            secure.connection_made(self.transport)
            secure.data_received(data)
            return
        self._buffer += data
        if self._task is None:
            self._read()
        elif len(self._buffer) > self._server.limits.head_bytes:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Take note that the client sends no more: it may still read."""
        self._has_ended = True
        return self._task is not None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Let go, also of what is being answered: one that waits for long would outlive its place among the connections."""
        self._expect(None)
        if self._task is not None:
            self._task.cancel()
        self._drained.set()
        self._server.connections.pop(self, None)
        self._server.on_lost(self)

    def pause_writing(self) -> None:
        """Have whoever writes wait."""
        self._drained.clear()

    def resume_writing(self) -> None:
        """Let it write on."""
        self._drained.set()

    # What the server asks for.

    def end(self) -> asyncio.Task[None] | None:
        """Close the connection if nothing is being answered; otherwise return the task that does that."""
        if self._task is None:
            self.transport.close()
        return self._task

    def abort(self) -> None:
        """Cut the connection, and give up what is being answered."""
        if self._task is not None:
            self._task.cancel()
        self.transport.abort()

    # Within.

    def _expect(self, within_s: float | None) -> None:
        """Cut the connection if nothing else is expected of the client in so many seconds; None: nothing is expected."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if within_s is not None:
            self._unsent = self.transport.get_write_buffer_size()
            self._deadline = asyncio.get_running_loop().call_later(within_s, self._on_deadline, within_s)

    def _on_deadline(self, within_s: float) -> None:
        if self.transport.get_write_buffer_size() < self._unsent:
            self._expect(within_s)  # it is slow, and not gone
        else:
            self.abort()

    def _read(self) -> None:
        """Begin to answer the request in the buffer, once its head is there."""
        server = self._server
        data = self._buffer = self._buffer.removeprefix(b"\r\n")  # RFC 9112 §2.2
        if data in (b"", b"\r"):
            return
        limits = server.limits
        end = data.find(b"\r\n\r\n") + 4
        try:
            if (end if end >= 4 else len(data)) > limits.head_bytes:
                raise FieldsTooLarge(f"The request head is over {limits.head_bytes} bytes (limits.head_bytes).")
            if end < 4:
                check_partial_request(data, self._checked)
                if not self._checked:
                    self._expect(server.head_s)
                self._checked = len(data)
                return
            head = parse_request_head(data[:end], target_bytes=limits.target_bytes, field_count=limits.field_count)
            request = Request(head, self)
            if not request.authority and b"://" in head.target[: head.target.find(b"/") + 2]:
                raise MalformedRequest(
                    "The request target is a URL without a host (RFC 9110 §4.2.1). Send the path alone."
                )
        except ProxyError as error:
            logger.info("%s refused a request: %s", server.name, error.detail)
            response = server.refuse(error)
            self.transport.write(_format_head(response, closes=True) + response.content)
            self._linger()
            return
        self._buffer = data[end:]
        self._checked = 0
        self._expect(None)
        self._task = asyncio.create_task(self._serve(request), name=server.name)

    async def _serve(self, request: Request) -> None:
        head = request.head
        try:
            response = await self._server.respond(request)
            closes = (
                response.closes
                or response.stream is not None
                or not (head.keeps_alive and head.minor)
                or head.has_content
                or b"upgrade" in head.names  # behind which bytes of another protocol could follow
                or self._server.is_ending
            )
            await self._send(response, closes=closes, with_content=head.method != b"HEAD")
        except ConnectionError:  # the client has gone
            self.transport.abort()
        except Exception as fault:  # noqa: BLE001  # the top of a task
            log_fault("answering a request", fault)
            self.transport.abort()
        finally:
            self._task = None
        if self.transport.is_closing():
            return
        closes = closes or self._server.is_ending
        if not closes:
            self._expect(self._server.idle_s)
            self.transport.resume_reading()
            self._read()
        if closes or (self._has_ended and self._task is None):
            self._linger()

    async def _send(self, response: Response, *, closes: bool, with_content: bool) -> None:
        head = _format_head(response, closes=closes)
        await self._write(head + response.content if with_content else head)
        if with_content and response.stream is not None:
            async with aclosing(response.stream) as pieces:
                async for piece in pieces:
                    await self._write(piece)

    async def _write(self, data: bytes) -> None:
        """Send, and wait until the client takes it.

        Raises:
            ConnectionError: it has gone.
        """
        if self.transport.is_closing():
            raise ConnectionResetError
        self.transport.write(data)
        if not self._drained.is_set():
            self._expect(self._server.idle_s)
            await self._drained.wait()
            self._expect(None)

    def _linger(self) -> None:
        """End sending, and close as soon as the client does."""
        if self._is_lingering or self.transport.is_closing():
            return
        self._is_lingering = True
        self._buffer = b""
        self._expect(_LINGER_S)
        if self._has_ended:
            self.transport.close()
            return
        self.transport.resume_reading()
        with suppress(OSError):  # the client has reset the connection, which is heard of next
            self.transport.write_eof()


def _format_head(response: Response, *, closes: bool) -> bytes:
    """Return the head of a response.

    Raises:
        ValueError: a field has a line end in it.
    """
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}", f"Date: {date}"]
    lines += [f"{name}: {value}" for name, value in response.fields.items()]
    if response.stream is None:
        lines.append(f"Content-Length: {len(response.content)}")
    if closes:
        lines.append("Connection: close")
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a line end within a field")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
