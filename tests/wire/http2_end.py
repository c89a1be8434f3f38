"""One end of an HTTP/2 connection in tests: says what it is told to, and reads whole messages. It is `h2`, not the product."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import h2.config
import h2.connection
import h2.events
import trustme

from tests.wire.rig import HOST, Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.config.settings import Http2
    from tests.wire.rig import Rig

Field = tuple[bytes, bytes]
_FRAME_BYTES: Final = 16_384


@dataclass(frozen=True, slots=True)
class Message:
    """What a message says, in whatever version.

    Attributes:
        start: method and target, or a status.
        fields, trailers: names in lower case, without pseudo-fields.
        content: without its framing.
        interim: status and fields of each interim response before it.
    """

    start: tuple[bytes, ...]
    fields: tuple[Field, ...] = ()
    content: bytes = b""
    trailers: tuple[Field, ...] = ()
    interim: tuple[tuple[bytes, tuple[Field, ...]], ...] = ()


class End:
    """One end of a connection, on a peer of the rig."""

    def __init__(self, peer: Peer, *, is_client: bool) -> None:
        self.peer = peer
        self._is_client = is_client
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=is_client,
                header_encoding=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        self.events: list[h2.events.Event] = []
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.peer.send(self.h2.data_to_send())

    async def more(self) -> None:
        """Reads what comes next."""
        await self.peer.until(lambda peer: peer.received or peer.lost)
        assert self.peer.received, "the connection has ended"
        for event in self.h2.receive_data(self.peer.take()):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()

    async def until(self, kind: type[h2.events.Event], stream_id: int | None = None) -> h2.events.Event:
        """Waits for an event, on a stream or on any."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and stream_id in (None, getattr(event, "stream_id", None)):
                    return event
            await self.more()

    def say(self, stream_id: int, message: Message, *, scheme: bytes = b"https") -> bytes:
        """The frames of a message."""
        for status, fields in message.interim:
            self.h2.send_headers(stream_id, [(b":status", status), *fields])
        if self._is_client:
            method, target = message.start
            pseudo = [(b":method", method), (b":scheme", scheme), (b":authority", HOST.encode()), (b":path", target)]
        else:
            pseudo = [(b":status", message.start[0])]
        ends = not message.content and not message.trailers
        self.h2.send_headers(stream_id, [*pseudo, *message.fields], end_stream=ends)
        content = message.content
        while content:
            piece, content = content[:_FRAME_BYTES], content[_FRAME_BYTES:]
            self.h2.send_data(stream_id, piece, end_stream=not content and not message.trailers)
        if message.trailers:
            self.h2.send_headers(stream_id, list(message.trailers), end_stream=True)
        return self.h2.data_to_send()

    async def read(self, stream_id: int) -> Message:
        """Reads a message to its end."""
        await self.until(h2.events.StreamEnded, stream_id)
        mine = [event for event in self.events if getattr(event, "stream_id", None) == stream_id]
        interim: list[tuple[bytes, tuple[Field, ...]]] = []
        start: tuple[bytes, ...] = ()
        fields: tuple[Field, ...] = ()
        trailers: tuple[Field, ...] = ()
        content = b""
        for event in mine:
            if isinstance(event, h2.events.DataReceived):
                content += event.data
            elif isinstance(event, h2.events.TrailersReceived):
                trailers = _plain(event)
            elif isinstance(event, h2.events.InformationalResponseReceived):
                (_, status), *rest = _plain(event)
                interim.append((status, tuple(rest)))
            elif isinstance(event, h2.events.RequestReceived | h2.events.ResponseReceived):
                every = _plain(event)
                pseudo = {name: value for name, value in every if name.startswith(b":")}
                fields = every[len(pseudo) :]
                if isinstance(event, h2.events.RequestReceived):
                    assert pseudo.pop(b":scheme") == b"https"
                    assert pseudo.pop(b":authority") == HOST.encode()
                    start = (pseudo.pop(b":method"), pseudo.pop(b":path"))
                else:
                    start = (pseudo.pop(b":status"),)
                assert not pseudo
        return Message(start, fields, content, trailers, tuple(interim))


def _plain(event: h2.events.Event) -> tuple[Field, ...]:
    return tuple((bytes(name), bytes(value)) for name, value in getattr(event, "headers"))  # noqa: B009  # of several kinds


class Http2Server:
    """An upstream that speaks HTTP/2, and HTTP/1.1 where that is chosen.

    Attributes:
        ends: the connections of HTTP/2 so far.
        others: those on which it was not chosen.
    """

    def __init__(self) -> None:
        self.ends: list[End] = []
        self.others: list[Peer] = []
        self.opened = asyncio.Event()

    async def end(self, number: int = 0) -> End:
        """A connection, as soon as there is one."""
        while len(self.ends) <= number:
            self.opened.clear()
            await self.opened.wait()
        return self.ends[number]

    def on_opened(self, peer: Peer, transport: asyncio.BaseTransport) -> None:
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            self.ends.append(End(peer, is_client=False))
        else:
            self.others.append(peer)
        self.opened.set()


class ServerPeer(Peer):
    """A connection at an `Http2Server`."""

    def __init__(self, server: Http2Server) -> None:
        super().__init__()
        self.server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.server.on_opened(self, transport)


@contextlib.asynccontextmanager
async def http2_server(rig: Rig, http2: Http2, *protocols: str) -> AsyncIterator[Http2Server]:
    """For a while, `HOST` is at an upstream that agrees to one of these protocols, and the route has `http2`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    rig.trust.upstream_authority.issue_cert(HOST, key_type=trustme.KeyType.ECDSA).configure_cert(context)
    context.set_alpn_protocols(list(protocols or ("h2",)))
    server = Http2Server()
    listening = await asyncio.get_running_loop().create_server(lambda: ServerPeer(server), "127.0.0.1", 0, ssl=context)
    try:
        with rig.leading_to(listening.sockets[0].getsockname()[1], http2=http2):
            yield server
    finally:
        listening.close()
        for peer in (*(end.peer for end in server.ends), *server.others):
            if not peer.lost:
                peer.transport.abort()
