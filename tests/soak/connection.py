"""A client's connection through the proxy, opened in one of the ways there are, and every way to end it. Does I/O."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tests.soak.plan import Ending

if TYPE_CHECKING:
    import ssl

_ACCEPTED: Final = b"HTTP/1.1 200 "
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


class Way(StrEnum):
    """How a client reaches the upstream."""

    FORWARD = "absolute-form"
    CONNECT = "intercepted"
    REVERSE = "reverse"
    PLAIN = "plain http"
    TUNNEL = "blind tunnel"


class NotOpened(Exception):  # noqa: N818  # an outcome, to be judged by who asked
    """CONNECT was refused; the argument is the answer's head."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Where the proxy is, and what is behind it.

    Attributes:
        forward, reverse: ports of its listeners on 127.0.0.1.
        hosts: names of the routed upstream.
        reverse_host: the one that the reverse listener leads to.
        plain: authority of the upstream without a route, which speaks http.
        echo: authority of the server behind blind tunnels.
        context: trusts the interception CA.
    """

    forward: int
    reverse: int
    hosts: tuple[str, ...]
    reverse_host: str
    plain: str
    echo: str
    context: ssl.SSLContext


@dataclass(slots=True)
class Connection:
    """One connection, ready for requests.

    Attributes:
        host: what Host says.
        prefix: what stands before the path in a request's target.
        below: of the tunnel, where TLS runs in one; a writer that nobody holds closes its transport.
    """

    way: Way
    host: str
    prefix: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    below: asyncio.StreamWriter | None = None

    @property
    def may_half_close(self) -> bool:
        """Whether its sending side can be ended alone: asyncio's TLS cannot."""
        return self.way is not Way.CONNECT

    def end(self, ending: Ending) -> None:
        end_connection(self.writer, ending)


def end_connection(writer: asyncio.StreamWriter, ending: Ending) -> None:
    """Ends a connection in the given way."""
    transport = writer.transport
    if ending is Ending.CLOSE:
        writer.close()
        return
    connected = None if transport.is_closing() else transport.get_extra_info("socket")
    if ending is Ending.RESET and connected is not None:
        with contextlib.suppress(OSError):  # the peer may have reset it
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    transport.abort()


async def open_connection(listeners: Listeners, way: Way, host: str) -> Connection:
    """Opens a connection.

    Args:
        listeners: where to.
        way: how.
        host: one of the routed names; for the ways that have no choice it is ignored.

    Raises:
        NotOpened: the proxy refused the tunnel.
        OSError: the connection broke.
    """
    port = listeners.reverse if way is Way.REVERSE else listeners.forward
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if way is Way.FORWARD:
        return Connection(way, host, f"http://{host}", reader, writer)
    if way is Way.REVERSE:
        return Connection(way, listeners.reverse_host, "", reader, writer)
    if way is Way.PLAIN:
        return Connection(way, listeners.plain, f"http://{listeners.plain}", reader, writer)
    authority = listeners.echo if way is Way.TUNNEL else f"{host}:443"
    writer.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(_ACCEPTED):
        writer.close()
        raise NotOpened(head)
    if way is Way.TUNNEL:
        return Connection(way, authority, "", reader, writer)
    secure_reader, secure_writer = await _secure(writer, listeners.context, host)
    return Connection(way, host, "", secure_reader, secure_writer, writer)


async def _secure(
    writer: asyncio.StreamWriter, context: ssl.SSLContext, host: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Starts TLS; `StreamWriter.start_tls` would leave Python 3.11's reader with the transport below, and so without limit."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    try:
        secured = await loop.start_tls(writer.transport, protocol, context, server_hostname=host)
    except BaseException:
        writer.transport.abort()
        raise
    assert secured is not None
    protocol.connection_made(secured)
    return reader, asyncio.StreamWriter(secured, protocol, reader, loop)
