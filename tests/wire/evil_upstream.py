"""An upstream that says frames of its own choice over TLS, whatever HTTP/2 allows. Blocks are read and made by `hpack`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Final

import hpack
import trustme

from proxy.config.settings import Http2
from proxy.relay.http2 import frames
from tests.http2_peer import Frame, data, headers, settings
from tests.wire.rig import HOST, KERNEL_BYTES, PATIENCE_S, Peer, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.wire.rig import Rig

FOUND: Final = [(b":status", b"200")]


class EvilConnection(Peer):
    """One connection at the upstream.

    Attributes:
        seen: every frame so far.
        paths: the request that each stream carries.
        content: of each stream's request.
        complete: streams whose request has ended.
    """

    def __init__(self, evil: EvilUpstream) -> None:
        super().__init__()
        self.evil = evil
        self.seen: list[Frame] = []
        self.paths: dict[int, bytes] = {}
        self.fields: dict[int, list[tuple[bytes, bytes]]] = {}
        self.content: dict[int, int] = {}
        self.complete: set[int] = set()
        self._decoder = hpack.Decoder()
        self._block = b""
        self._has_preface = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.evil.connections.append(self)
        if self.evil.greeting is not None:
            self.send(self.evil.greeting)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._has_preface:
            if len(self.received) < len(frames.PREFACE):
                return
            assert self.take(len(frames.PREFACE)) == frames.PREFACE
            self._has_preface = True
        while len(self.received) >= frames.FRAME_HEAD_BYTES:
            size = frames.FRAME_HEAD_BYTES + int.from_bytes(self.received[:3], "big")
            if len(self.received) < size:
                break
            raw = self.take(size)
            self._read(Frame(raw[3], raw[4], int.from_bytes(raw[5:9], "big"), raw[9:]))

    def _read(self, frame: Frame) -> None:
        self.seen.append(frame)
        stream_id = frame.stream_id
        if frame.kind in (frames.HEADERS, frames.CONTINUATION):
            self._block += frame.payload
            if frame.flags & frames.END_HEADERS:
                fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(self._block, raw=True)]
                self._block = b""
                self.fields[stream_id] = fields
                self.paths.setdefault(stream_id, dict(fields).get(b":path", b""))
        elif frame.kind == frames.DATA:
            self.content[stream_id] = self.content.get(stream_id, 0) + len(frame.payload)
        if frame.kind in (frames.HEADERS, frames.DATA) and frame.flags & frames.END_STREAM:
            self.complete.add(stream_id)
        if self.evil.on_frame is not None:
            self.evil.on_frame(self, frame)

    def answer(self, stream_id: int, content: bytes = b"ok") -> None:
        """Answers a request as it should be answered."""
        head = [*FOUND, (b"content-length", b"%d" % len(content))]
        self.send(headers(stream_id, head, ends=False) + data(stream_id, content, ends=True))

    async def stream(self, path: bytes) -> int:
        """The stream on which a request for `path` is complete."""

        def found() -> int:
            return next((one for one, its in self.paths.items() if its == path and one in self.complete), 0)

        await self.until(lambda _: found())
        return found()

    def find(self, kind: int, stream_id: int | None = None) -> list[Frame]:
        """The frames of a kind so far, of one stream or of all."""
        return [each for each in self.seen if each.kind == kind and stream_id in (None, each.stream_id)]


class EvilUpstream:
    """A server that does what a test says.

    Attributes:
        connections: those so far, in order.
        greeting: what each connection begins with; None: nothing.
        on_frame: is told each frame, and answers.
    """

    def __init__(self) -> None:
        self.connections: list[EvilConnection] = []
        self.greeting: bytes | None = settings()
        self.on_frame: Callable[[EvilConnection, Frame], None] | None = None

    async def connection(self, number: int = 0) -> EvilConnection:
        """A connection, as soon as there is one."""
        await eventually(lambda: len(self.connections) > number, PATIENCE_S)
        return self.connections[number]


@contextlib.asynccontextmanager
async def evil_upstream(rig: Rig, http2: Http2 = Http2.PREFERRED) -> AsyncIterator[EvilUpstream]:
    """For a while, `HOST` is at such an upstream."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    rig.trust.upstream_authority.issue_cert(HOST, key_type=trustme.KeyType.ECDSA).configure_cert(context)
    context.set_alpn_protocols(["h2"])
    evil = EvilUpstream()
    listening = await asyncio.get_running_loop().create_server(
        lambda: EvilConnection(evil), "127.0.0.1", 0, ssl=context
    )
    for kind in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        listening.sockets[0].setsockopt(socket.SOL_SOCKET, kind, KERNEL_BYTES)
    try:
        with rig.leading_to(listening.sockets[0].getsockname()[1], http2=http2):
            yield evil
    finally:
        listening.close()
        for connection in evil.connections:
            if not connection.lost:
                connection.transport.abort()
