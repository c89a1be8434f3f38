"""The other end of an HTTP/2 connection in tests: frames by hand, and receivers that note what they are told.

Blocks are made by the `hpack` package, so that they share nothing with the product's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import hpack

from proxy.relay.http2 import frames
from proxy.relay.http2.connection import Connection
from proxy.relay.http2.receiver import Terms

if TYPE_CHECKING:
    from proxy.relay.http2.fields import RequestFields, ResponseFields
    from proxy.relay.http2.static_table import Field
    from proxy.relay.http2.streams import Stream

REQUEST: Final[list[tuple[bytes, bytes]]] = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/"),
    (b":authority", b"api.example.test"),
]
POST: Final = [(b":method", b"POST"), *REQUEST[1:]]
RESPONSE: Final[list[tuple[bytes, bytes]]] = [(b":status", b"200")]


@dataclass(frozen=True)
class Frame:
    """One frame that was read."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        return int.from_bytes(self.payload[-4:], "big")


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    size = len(payload)
    return struct.pack(">HBBBL", size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(frames.SETTINGS, 0, 0, b"".join(struct.pack(">HL", *pair) for pair in pairs))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(frames.WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def reset(stream_id: int, code: int = 8) -> bytes:
    return frame(frames.RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def block(fields: list[tuple[bytes, bytes]]) -> bytes:
    """A block that depends on no table."""
    encoder = hpack.Encoder()
    return encoder.encode([hpack.NeverIndexedHeaderTuple(name, value) for name, value in fields], huffman=False)


def headers(stream_id: int, fields: list[tuple[bytes, bytes]], *, ends: bool = True) -> bytes:
    return frame(frames.HEADERS, frames.END_HEADERS | (frames.END_STREAM if ends else 0), stream_id, block(fields))


def data(stream_id: int, content: bytes, *, ends: bool = False) -> bytes:
    return frame(frames.DATA, frames.END_STREAM if ends else 0, stream_id, content)


def read_frames(wire: bytes) -> list[Frame]:
    wire = wire.removeprefix(frames.PREFACE)
    found = []
    while wire:
        size = int.from_bytes(wire[:3], "big")
        assert len(wire) >= 9 + size, "frames are written whole"
        found.append(Frame(wire[3], wire[4], int.from_bytes(wire[5:9], "big"), wire[9 : 9 + size]))
        wire = wire[9 + size :]
    return found


class Recorder:
    """Notes what it is told, and does nothing."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.faults: list[str] = []
        self.streams: dict[int, Stream] = {}
        self.requests: dict[int, RequestFields] = {}
        self.responses: dict[int, ResponseFields] = {}
        self.connection: Connection

    def on_request(self, stream: Stream, request: RequestFields, ends: bool) -> None:
        self.streams[stream.id] = stream
        self.requests[stream.id] = request
        self.events.append(("request", stream.id, request.method, request.path, tuple(request.fields), ends))

    def on_oversize(self, stream: Stream, ends: bool) -> None:
        self.streams[stream.id] = stream
        self.events.append(("oversize", stream.id, ends))

    def on_interim(self, stream: Stream, response: ResponseFields) -> None:
        self.events.append(("interim", stream.id, response.status, tuple(response.fields)))

    def on_response(self, stream: Stream, response: ResponseFields, ends: bool) -> None:
        self.responses[stream.id] = response
        self.events.append(("response", stream.id, response.status, tuple(response.fields), ends))

    def on_content(self, stream: Stream, content: bytes, ends: bool) -> None:
        self.events.append(("content", stream.id, content, ends))

    def on_trailers(self, stream: Stream, fields: list[Field]) -> None:
        self.events.append(("trailers", stream.id, tuple(fields)))

    def on_reset(self, stream: Stream, code: int, reason: str) -> None:
        self.events.append(("reset", stream.id, code, reason))

    def on_fault(self, reason: str) -> None:
        self.faults.append(reason)

    def on_closed(self, stream: Stream) -> None:
        self.events.append(("closed", stream.id))

    def on_writable(self, stream: Stream) -> None:
        self.events.append(("writable", stream.id))

    def on_settings(self) -> None:
        self.events.append(("settings",))

    def on_goaway(self, code: int) -> None:
        self.events.append(("goaway", code))


class Answering(Recorder):
    """A server that answers each request, once it is complete, with 200 and a little content."""

    content = b"hello"

    def answer(self, stream: Stream) -> None:
        self.connection.send_head(stream, RESPONSE, False)
        self.connection.send_content(stream, self.content, True)
        self.connection.release(stream)

    def on_request(self, stream: Stream, request: RequestFields, ends: bool) -> None:
        super().on_request(stream, request, ends)
        if ends:
            self.answer(stream)

    def on_oversize(self, stream: Stream, ends: bool) -> None:
        super().on_oversize(stream, ends)
        self.connection.send_head(stream, [(b":status", b"431")], True)
        self.connection.release(stream)

    def on_content(self, stream: Stream, content: bytes, ends: bool) -> None:
        super().on_content(stream, content, ends)
        self.connection.credit(stream, len(content))
        if ends:
            self.answer(stream)

    def on_trailers(self, stream: Stream, fields: list[Field]) -> None:
        super().on_trailers(stream, fields)
        self.answer(stream)

    def on_reset(self, stream: Stream, code: int, reason: str) -> None:
        super().on_reset(stream, code, reason)
        self.connection.release(stream)


def connect(recorder: Recorder, *, is_client: bool, terms: Terms | None = None) -> Connection:
    """A connection that tells `recorder`, to an end that has sent its settings; what it wrote to begin with is gone."""
    connection = Connection(recorder, terms or Terms(), is_client)
    recorder.connection = connection
    connection.receive((b"" if is_client else frames.PREFACE) + settings(), 0.0)
    take_all(connection)
    recorder.events.clear()
    return connection


def take_all(connection: Connection) -> bytes:
    """All that is to be written, to a transport that takes everything."""
    wire = b""
    while piece := connection.take():
        wire += piece
    return wire
