"""The barest relay of this shape: asyncio Protocols on uvloop, httptools, TLS by memory BIO, and nothing else. Does I/O.

No validation, no limits, no back-pressure, no error handling, no log, no counters: what the proxy's own cost is compared with in
`smoke.py`, so that a comparison needs no absolute times. Never use it for anything else.

Usage: python -m benchmarks.bare_relay PORT UPSTREAM_PORT UPSTREAM_HOST CA_FILE TOKEN
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections import deque
from typing import Final

import httptools
import uvloop

# RFC 9110 §7.6.1, and the field that is replaced.
_NOT_FORWARDED: Final = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade",
        b"authorization",
    )
)  # fmt: skip


class Upstream:
    """Reads responses whole and hands them to the client that waits."""

    __slots__ = ("_lines", "_parser", "_pieces", "_reason", "client", "tls")

    def __init__(self, tls: TLSOverTransport) -> None:
        self.tls = tls
        self.client: Client | None = None
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """Take plain bytes."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._lines: list[bytes] = []
        self._reason = b""

    def on_status(self, reason: bytes) -> None:
        """Called by the parser."""
        self._reason = reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if name.lower() not in _NOT_FORWARDED:
            self._lines.append(b"%b: %b\r\n" % (name, value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        status = self._parser.get_status_code()
        self._pieces = [b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, self._reason, b"".join(self._lines))]

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser: one write for the whole response."""
        client, self.client = self.client, None
        if client is not None:
            client.transport.write(b"".join(self._pieces))
            client.relay.idle.append(self)


class TLSOverTransport(asyncio.Protocol):
    """TLS on a plain transport through two memory BIOs."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.established: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.upstream = Upstream(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # TCP only
        self._handshake()

    def data_received(self, data: bytes) -> None:
        """Take records."""
        self._incoming.write(data)
        if not self.established.done():
            self._handshake()
            return
        with contextlib.suppress(ssl.SSLWantReadError):
            while plain := self._tls.read(65_536):
                self.upstream.data_received(plain)
                if not self._incoming.pending:
                    break

    def write(self, data: bytes) -> None:
        """Send plain bytes as records."""
        self._tls.write(data)
        self._transport.write(self._outgoing.read())

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
            self.established.set_result(None)
        except ssl.SSLWantReadError:
            pass
        if pending := self._outgoing.read():
            self._transport.write(pending)


class BareRelay:
    """What connections share."""

    def __init__(self, upstream_port: int, host: str, ca_file: str, token: str) -> None:
        self.idle: deque[Upstream] = deque()
        self.token_line = b"Authorization: Bearer %b\r\n" % token.encode("ascii")
        self._upstream_port = upstream_port
        self._host = host
        self._context = ssl.create_default_context(cafile=ca_file)

    async def connect(self) -> Upstream:
        """Return a new connection to the upstream."""
        _, tls = await asyncio.get_running_loop().create_connection(
            lambda: TLSOverTransport(self._context, self._host), "127.0.0.1", self._upstream_port
        )
        await tls.established
        return tls.upstream


class Client(asyncio.Protocol):
    """Reads requests without content and sends each to an upstream connection."""

    __slots__ = ("_connecting", "_head", "_lines", "_parser", "_target", "relay", "transport")

    def __init__(self, relay: BareRelay) -> None:
        self.relay = relay
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # TCP only

    def data_received(self, data: bytes) -> None:
        """Take request bytes."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._lines: list[bytes] = []
        self._target = b""

    def on_url(self, target: bytes) -> None:
        """Called by the parser."""
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if name.lower() not in _NOT_FORWARDED:
            self._lines.append(b"%b: %b\r\n" % (name, value))

    def on_message_complete(self) -> None:
        """Called by the parser: one write for the whole request."""
        method, lines = self._parser.get_method(), b"".join(self._lines)
        self._head = b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, self._target, lines, self.relay.token_line)
        if self.relay.idle:
            self._send(self.relay.idle.pop())
        else:
            self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        self._send(await self.relay.connect())

    def _send(self, upstream: Upstream) -> None:
        upstream.client = self
        upstream.tls.write(self._head)


async def _serve(port: int, relay: BareRelay) -> None:
    await asyncio.get_running_loop().create_server(lambda: Client(relay), "127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    own_port, upstream_port, host, ca_file, token = sys.argv[1:]
    uvloop.run(_serve(int(own_port), BareRelay(int(upstream_port), host, ca_file, token)))
