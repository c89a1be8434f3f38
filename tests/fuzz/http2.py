"""A connection of HTTP/2 with anybody at its other end: whatever comes is understood, refused by stream, or ends the connection."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import hpack

from proxy.relay.head import format_request_head, format_response_head, parse_request_head, parse_response_head
from proxy.relay.http2 import frames
from proxy.relay.http2.connection import Connection
from proxy.relay.http2.decoder import Decoder
from proxy.relay.http2.encoder import Encoder
from proxy.relay.http2.faults import ConnectionFault, MalformedMessage
from proxy.relay.http2.receiver import Terms
from proxy.relay.http2.translation import (
    make_request_fields,
    make_request_head,
    make_response_fields,
    make_response_head,
    make_response_trailer_lines,
    make_trailer_lines,
)
from proxy.relay.message import HOP_BY_HOP

if TYPE_CHECKING:
    from proxy.relay.http2.fields import RequestFields, ResponseFields
    from proxy.relay.http2.static_table import Field
    from proxy.relay.http2.streams import Stream

_TRAILERS: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9a-z]+: [^\x00-\x08\x0a-\x1f\x7f]*\r\n)*")
_SETTINGS: Final = bytes((0, 0, 0, frames.SETTINGS, 0, 0, 0, 0, 0))


class _Judge:
    """Holds what is told to what may be told, and answers requests."""

    def __init__(self) -> None:
        self.connection: Connection
        self.open: dict[int, bool] = {}
        self.told: list[tuple[Any, ...]] = []

    def on_request(self, stream: Stream, request: RequestFields, ends: bool) -> None:
        assert stream.id not in self.open
        self.open[stream.id] = ends
        self.told.append(("request", stream.id, request.method, request.path, request.authority, tuple(request.fields)))
        if request.method != b"CONNECT":
            self._check_request(request, ends)
        if ends:
            self._answer(stream)

    def _check_request(self, request: RequestFields, ends: bool) -> None:
        try:
            head = make_request_head(request, ends)
        except MalformedMessage:
            return
        drop = HOP_BY_HOP | {b"authorization"}
        wire = format_request_head(head, head.target, b"api.example.test", drop, b"", upgrades=False)
        again = parse_request_head(wire, target_bytes=1 << 20, field_count=1_000)
        assert (again.method, again.target, again.length, again.chunked) == (
            head.method,
            head.target,
            head.length,
            head.chunked,
        )
        assert again.names.count(b"host") == 1
        assert make_request_fields(head, head.target, head.host or b"", b"https", frozenset())[0][1] == request.method

    def on_oversize(self, stream: Stream, ends: bool) -> None:
        self.open[stream.id] = ends
        self.connection.send_head(stream, [(b":status", b"431")], True)
        self.connection.release(stream)

    def on_interim(self, stream: Stream, response: ResponseFields) -> None:
        assert 100 <= response.status < 200
        assert stream.id in self.open

    def on_response(self, stream: Stream, response: ResponseFields, ends: bool) -> None:
        assert self.open[stream.id] is False
        self.told.append(("response", stream.id, response.status, tuple(response.fields)))
        try:
            head = make_response_head(response, stream.to_head)
        except MalformedMessage:
            return
        wire = format_response_head(head, b"", chunked=True)
        again = parse_response_head(wire, field_count=1_000, to_head=stream.to_head)
        assert (again.status, again.length, again.chunked) == (head.status, head.length, head.chunked)
        assert make_response_fields(head)[0] == (b":status", b"%d" % response.status)
        self.open[stream.id] = ends

    def on_content(self, stream: Stream, content: bytes, ends: bool) -> None:
        assert self.open[stream.id] is False, "content behind the end"
        self.open[stream.id] = ends
        if self.told and self.told[-1][:2] == ("content", stream.id):
            content = self.told.pop()[2] + content
        self.told.append(("content", stream.id, content))
        self.connection.credit(stream, len(content))
        if ends:
            self._answer(stream)

    def on_trailers(self, stream: Stream, fields: list[Field]) -> None:
        assert self.open[stream.id] is False, "trailers behind the end"
        self.open[stream.id] = True
        for make in (make_trailer_lines, make_response_trailer_lines):
            try:
                lines = make(fields)
            except MalformedMessage:
                continue
            assert _TRAILERS.fullmatch(lines), lines
        self._answer(stream)

    def on_reset(self, stream: Stream, code: int, reason: str) -> None:
        assert stream.id in self.open
        self.told.append(("reset", stream.id, code, reason))
        self.open[stream.id] = True
        self.connection.release(stream)

    def on_fault(self, reason: str) -> None:
        assert reason

    def on_closed(self, stream: Stream) -> None:
        assert stream.id in self.open

    def on_writable(self, stream: Stream) -> None:
        assert stream.id in self.open

    def on_settings(self) -> None:
        """Need not be known."""

    def on_goaway(self, code: int) -> None:
        assert code >= 0

    def _answer(self, stream: Stream) -> None:
        if stream.user != "ours":
            self.connection.send_head(stream, [(b":status", b"200")], False)
            self.connection.send_content(stream, b"hello", True)
            self.connection.release(stream)


def _talk(data: bytes, step: int, is_client: bool) -> tuple[list[tuple[Any, ...]], list[bytes]]:
    judge = _Judge()
    connection = judge.connection = Connection(judge, Terms(streams=10), is_client)
    if is_client:
        for number in range(3):
            stream = connection.open(number == 2)
            stream.user = "ours"
            judge.open[stream.id] = False
            connection.send_head(stream, [(b":method", b"GET")], True)
    written = [connection.take()]
    connection.receive((b"" if is_client else frames.PREFACE) + _SETTINGS, 0.0)
    for at in range(0, len(data), step):
        connection.receive(data[at : at + step], 0.0)
        written.append(connection.take())
    assert 0 <= connection.places <= 10
    assert len(connection.streams) <= 10
    wire = b"".join(written).removeprefix(frames.PREFACE)
    found = []
    while wire:  # whole frames, none too long
        size = int.from_bytes(wire[:3], "big")
        assert size <= frames.FRAME_BYTES
        assert len(wire) >= 9 + size
        found.append(wire[: 9 + size])
        wire = wire[9 + size :]
    ends = [one[3] == frames.GOAWAY for one in found]
    assert sum(ends) == (connection.fault is not None)
    assert True not in ends[:-1], "something was said behind GOAWAY"
    return judge.told, found


def _hold(data: bytes, is_client: bool) -> None:
    step = data[0] % 31 + 1 if data else 1
    rest = data[1:]
    assert _talk(rest, step, is_client) == _talk(rest, max(len(rest), 1), is_client), "it depends on how bytes are cut"


def http2_connection(data: bytes) -> None:
    """Whatever a client sends is told, refused or ends the connection, the same however it is cut."""
    _hold(data, is_client=False)


def http2_upstream(data: bytes) -> None:
    """Whatever an upstream sends is told, refused or ends the connection, the same however it is cut."""
    _hold(data, is_client=True)


def http2_fields(data: bytes) -> None:
    """Blocks of fields mean the same to the decoder and to the package hpack, and what is read can be written and read again.

    A byte before each block says how long it is.
    """
    ours, theirs = Decoder(1 << 20, 1_000), hpack.Decoder(max_header_list_size=1 << 20)
    encoder, again = Encoder(), Decoder(1 << 20, 1_000)
    at, agrees = 0, True
    while at < len(data):
        size = data[at]
        block = data[at + 1 : at + 1 + size]
        at += 1 + size
        try:
            found = ours.decode(block)
        except ConnectionFault:
            return
        if agrees:
            try:
                assert theirs.decode(block, raw=True) == found
            except hpack.InvalidTableSizeError:
                agrees = False  # the package wants it sooner
        assert again.decode(encoder.encode(found)) == found
