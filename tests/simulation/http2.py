"""Neighbours that speak HTTP/2, by `h2` and not by the product's code, and strictly: a breach of it is a broken promise."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    InformationalResponseReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from tests.simulation.messages import Message, content_of
from tests.simulation.peers import Caller, Upstream

if TYPE_CHECKING:
    from tests.simulation.network import Endpoint
    from tests.simulation.world import Request, World

# What the proxy lets an upstream send on a stream before the client has taken it.
_WINDOW: Final = 1 << 20
_AT_A_TIME: Final = 3
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_GOAWAY_TYPE: Final = 7
_GOAWAY: Final = b"\0\0\x08\x07\0\0\0\0\0"
_PING: Final = b"\0\0\x08\x06\0\0\0\0\0simulate"
_SETTINGS: Final = b"\0\0\0\x04\0\0\0\0\0"


@dataclass
class Under:
    """A stream.

    Attributes:
        message: what has come of what the other end sends.
        pending: what is still to be sent.
        ends: with it, the stream ends.
        is_over: nothing may be sent on it any more.
        unread: what was taken, and not acknowledged.
        trailers: to be sent with the end, or what has come.
    """

    plan: Request
    message: Message
    pending: bytes = b""
    ends: bool = True
    is_over: bool = False
    unread: int = 0
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)


class _Frames:
    """What both sides do with `h2`."""

    def __init__(self, line: Any, *, is_client: bool) -> None:
        self.line = line
        self.core = H2Connection(H2Configuration(client_side=is_client, header_encoding=None))
        self.streams: dict[int, Under] = {}
        self._partial = b""
        self._preface = 0 if is_client else len(_PREFACE)

    def receive(self, data: bytes) -> list[Any]:
        """Return what frames say; GOAWAY is told as a pair of numbers, for `h2` would take no frame behind it.

        Raises:
            ProtocolError: that is not allowed.
        """
        self._partial += data
        events: list[Any] = []
        if len(self._partial) < self._preface:
            return events
        taken, self._preface = self._preface, 0
        while len(self._partial) >= taken + 9:
            size = int.from_bytes(self._partial[taken : taken + 3], "big") + 9
            if len(self._partial) < taken + size:
                break
            if self._partial[taken + 3] == _GOAWAY_TYPE:
                frame, self._partial = (
                    self._partial[taken : taken + size],
                    self._partial[:taken] + self._partial[taken + size :],
                )
                events.append((int.from_bytes(frame[9:13], "big"), int.from_bytes(frame[13:17], "big")))
            else:
                taken += size
        whole, self._partial = self._partial[:taken], self._partial[taken:]
        events[:0] = self.core.receive_data(whole)
        return events

    def flush(self) -> None:
        data = self.core.data_to_send()
        if data and not self.line.endpoint.has_ended:
            self.line.send(data)

    def pump(self, number: int) -> None:
        """Send as much content as the windows let through."""
        under = self.streams[number]
        with contextlib.suppress(ProtocolError):
            while under.pending and not under.is_over:
                size = min(self.core.local_flow_control_window(number), self.core.max_outbound_frame_size)
                if size <= 0:
                    return
                piece, under.pending = under.pending[:size], under.pending[size:]
                self.core.send_data(number, piece)
            if under.ends and not under.is_over:
                under.is_over = True
                if under.trailers:
                    self.core.send_headers(number, under.trailers, end_stream=True)
                else:
                    self.core.end_stream(number)
        self.flush()

    def pump_all(self) -> None:
        for number, under in list(self.streams.items()):
            if under.pending:
                self.pump(number)

    def acknowledge(self, number: int, size: int) -> None:
        with contextlib.suppress(ProtocolError):
            self.core.acknowledge_received_data(size, number)

    def reset(self, number: int, code: ErrorCodes) -> None:
        self.streams[number].is_over = True
        with contextlib.suppress(ProtocolError):
            self.core.reset_stream(number, code)
        self.flush()

    def go_away(self, last: int, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        self.line.send(_GOAWAY + last.to_bytes(4, "big") + int(code).to_bytes(4, "big"))


def trailers_of(plan: Request) -> list[tuple[bytes, bytes]]:
    """Return what a call ends with."""
    return [(b"grpc-status", b"%d" % (plan.number % 17)), (b"x-trailer", b"%d" % plan.number)]


class Http2Upstream(Upstream):
    """One connection of an upstream that speaks HTTP/2 where ALPN says so."""

    def __init__(self, world: World, host: str, endpoint: Endpoint, fault: str) -> None:
        super().__init__(world, host, endpoint, fault)
        self._frames: _Frames | None = None
        self._highest = 0
        self._has_said_goodbye = False
        self._is_doubtful = False  # the proxy may take it for broken, and read nothing more

    def _take(self, data: bytes) -> None:
        if self._line.version != "h2":
            super()._take(data)
            return
        if self._frames is None:
            chance = self._world.draw(f"settings of {self._name}")
            self._frames = _Frames(self._line, is_client=False)
            core = self._frames.core
            core.initiate_connection()
            core.update_settings(
                {
                    SettingCodes.MAX_CONCURRENT_STREAMS: chance.choice((1, 3, 100, 100)),
                    SettingCodes.INITIAL_WINDOW_SIZE: 65_535
                    if self._world.story.is_calm
                    else chance.choice((65_535, 65_535, 1_000)),
                }
            )
        frames = self._frames
        try:
            for event in frames.receive(data):
                self._on_event(frames, event)
        except ProtocolError as error:
            self._world.fail(f"{self._name} gets what HTTP/2 forbids: {error!r}")
            self._endpoint.reset()
            return
        frames.flush()

    def _on_event(self, frames: _Frames, event: Any) -> None:
        if isinstance(event, RequestReceived):
            self._on_request(frames, event.stream_id, event.headers)
        elif isinstance(event, DataReceived):
            under = frames.streams.get(event.stream_id)
            if under is None:
                return
            under.message.content += event.data
            if under.message.content != content_of(b"q", under.plan.number, len(under.message.content)):
                self._world.fail(f"{self._name} gets content of another request than {under.plan.number}")
            if under.plan.upstream_fault != "deaf":
                frames.acknowledge(event.stream_id, event.flow_controlled_length)
        elif isinstance(event, StreamEnded) and event.stream_id in frames.streams:
            self._on_request_end(frames, event.stream_id)
        elif isinstance(event, StreamReset) and event.stream_id in frames.streams:
            frames.streams.pop(event.stream_id).is_over = True
        elif isinstance(event, WindowUpdated):
            frames.pump_all()

    def _on_request(self, frames: _Frames, stream: int, fields: list[tuple[bytes, bytes]]) -> None:
        world = self._world
        message = Message(b"", [(bytes(name), bytes(value)) for name, value in fields], 0)
        number = int(message.value(b"x-number") or 0)
        plan = world.requests.get(number)
        if plan is None:
            world.fail(f"{self._name} gets a request that nobody sent: {fields!r}")
            return
        world.note(self._name, "gets request %d on stream %d", number, stream)
        asked = (message.value(b":method"), message.value(b":path"), message.value(b":authority"))
        if asked != (plan.method.encode(), b"/%d/" % number, self._host.encode()) or plan.host != self._host:
            world.fail(f"{self._name} gets request {number}, which is for {plan.host}, as {asked!r}")
        if message.values(b"proxy-authorization"):
            world.fail(f"request {number} comes with Proxy-Authorization")
        self._begins_at = self._line.begins_at
        self._check_token(number, message.values(b"authorization"))
        if self._has_said_goodbye:  # they have crossed: nothing is done with it
            world.unprocessed[number] = world.unprocessed.get(number, 0) + 1
            return
        self._highest = stream
        under = frames.streams[stream] = Under(plan, message)
        if plan.upstream_fault in ("reset", "silent", "vanishes") and plan.at < 0.5:
            self._fail_stream(frames, stream, under)
        elif plan.upstream_fault == "early":
            world.loop.call_soon(self._answer, frames, stream, under)

    def _on_request_end(self, frames: _Frames, stream: int) -> None:
        under, world = frames.streams[stream], self._world
        plan = under.plan
        if len(under.message.content) != plan.size:
            world.fail(f"request {plan.number} looks whole with {len(under.message.content)} bytes of {plan.size}")
        if plan.upstream_fault in ("reset", "silent", "vanishes"):
            self._fail_stream(frames, stream, under)
        elif plan.upstream_fault != "early":
            late_s = plan.at * (9 if plan.upstream_fault == "late" else 0.3)
            world.loop.call_later(late_s, self._answer, frames, stream, under)

    def _fail_stream(self, frames: _Frames, stream: int, under: Under) -> None:
        plan = under.plan
        self._world.note(self._name, "%s at request %d", plan.upstream_fault, plan.number)
        if plan.upstream_fault == "vanishes":
            self._endpoint.vanish()
        elif plan.upstream_fault == "reset" and plan.at > 0.8:
            self._endpoint.reset()
        elif plan.upstream_fault == "reset":
            frames.reset(stream, ErrorCodes.INTERNAL_ERROR)

    def _refuse(self, frames: _Frames, stream: int, under: Under) -> None:
        """Say that nothing was done with a request, and with those behind it."""
        world = self._world
        late = [each for number, each in frames.streams.items() if number >= stream and not each.is_over]
        if under.plan.at < 0.5:
            world.note(self._name, "has not processed request %d", under.plan.number)
            world.unprocessed[under.plan.number] = world.unprocessed.get(under.plan.number, 0) + 1
            frames.reset(stream, ErrorCodes.REFUSED_STREAM)
            return
        for each in late:
            world.note(self._name, "goes away before request %d", each.plan.number)
            world.unprocessed[each.plan.number] = world.unprocessed.get(each.plan.number, 0) + 1
            each.is_over = True
        frames.go_away(stream - 2 if stream > 1 else 0)
        self._has_said_goodbye = True
        world.loop.call_later(1.0, self._close)

    def _answer(self, frames: _Frames, stream: int, under: Under) -> None:
        if self._is_gone or under.is_over or self._endpoint.is_closing():
            return
        plan, world = under.plan, self._world
        number, fault, status = plan.number, plan.upstream_fault, plan.status
        if fault == "drops" and world.unprocessed.get(number, 0) < 1:
            self._refuse(frames, stream, under)
            return
        fields = [(b":status", b"%d" % status), (b"x-number", b"%d" % number)]
        refused_now = False
        if fault == "refuse" and (len(world.arrivals[number]) == 1 or plan.at > 0.7):
            status = 401
            fields = [(b":status", b"401"), (b"x-number", b"%d" % number)]
            fields.append((b"www-authenticate", b'Bearer error="invalid_token"'))
            refused_now = not self._is_doubtful
        size = 0 if status == 204 or plan.method == "HEAD" else plan.response_size
        body = content_of(b"r", number, size)
        if plan.framing == "sized" and status != 204 and plan.method != "HEAD":
            fields.append((b"content-length", b"%d" % size))
        is_cut = fault in ("cut", "end", "corrupt", "alert") and bool(body)
        if is_cut:
            # A call may be cut in front of its trailers, with all of its messages there.
            body = body[: int(plan.at * len(body))] if not plan.grpc or plan.at < 0.5 else body
        world.note(self._name, "answers request %d: %d, %d bytes%s", number, status, size, " cut" * is_cut)
        world.sent.setdefault(number, []).append((status, size, not is_cut))
        if number in world.carried:
            world.carried[number].allowance = _WINDOW
        if fault in ("garbage", "trailing", "answers_twice", "corrupt", "alert"):
            self._is_doubtful = True
        if fault == "garbage":
            self._line.send(b"\0\0\x04\x01\x05" + stream.to_bytes(4, "big") + b"\xff\xff\xff\xff")
            return
        with contextlib.suppress(ProtocolError):
            if fault == "interim":
                frames.core.send_headers(stream, [(b":status", b"103"), (b"x-number", b"%d" % number)])
            if plan.grpc and status == 200:
                self._answer_call(frames, stream, under, fields, body, is_cut=is_cut)
            else:
                frames.core.send_headers(stream, fields)
                under.pending, under.ends = body, not is_cut
                frames.pump(stream)
        if refused_now:
            token = world.arrivals[number][-1]
            world.refused.setdefault(number, {})[token] = (self._endpoint, self._endpoint.written)
        self._follow(frames, stream, under, is_cut=is_cut)

    def _answer_call(
        self,
        frames: _Frames,
        stream: int,
        under: Under,
        fields: list[tuple[bytes, bytes]],
        body: bytes,
        *,
        is_cut: bool,
    ) -> None:
        """Answer a call: with trailers behind messages, or with nothing but them."""
        plan = under.plan
        fields.append((b"content-type", b"application/grpc"))
        if plan.grpc == "only":
            under.is_over = True
            frames.core.send_headers(stream, fields + trailers_of(plan), end_stream=True)
            frames.flush()
            return
        frames.core.send_headers(stream, fields)
        under.trailers = trailers_of(plan)
        half = len(body) // 2 if plan.grpc == "stream" and not is_cut else len(body)
        under.pending, under.ends = body[:half], half == len(body) and not is_cut
        frames.pump(stream)
        if half < len(body):
            self._world.loop.call_later(0.1 + 2 * plan.at, self._stream_on, frames, stream, under, body[half:])

    def _stream_on(self, frames: _Frames, stream: int, under: Under, rest: bytes) -> None:
        if frames.streams.get(stream) is under and not (under.is_over or self._endpoint.is_closing()):
            under.pending, under.ends = under.pending + rest, True
            frames.pump(stream)

    def _follow(self, frames: _Frames, stream: int, under: Under, *, is_cut: bool) -> None:
        """Do what follows a response."""
        fault, at = under.plan.upstream_fault, under.plan.at
        if is_cut and fault in ("corrupt", "alert") and self._line.tls is not None:
            self._line.tls.spoil(alerts=fault == "alert")
            self._line.flush()
        elif is_cut and fault == "end":
            self._close()
        elif is_cut:
            frames.reset(stream, ErrorCodes.INTERNAL_ERROR)
        elif fault == "closes":
            frames.go_away(self._highest)
            self._has_said_goodbye = True
            self._world.loop.call_later(1.0, self._close)
        elif fault == "trailing" and under.is_over:
            self._line.send(b"\0\0\x04\0\x01" + stream.to_bytes(4, "big") + b"more")
        elif fault == "answers_twice" and under.is_over:
            self._world.loop.call_later(
                at * 2, self._send_unasked, b"\0\0\x01\x01\x05" + stream.to_bytes(4, "big") + b"\x88"
            )

    def _send_unasked(self, data: bytes) -> None:
        if self._frames is None:
            super()._send_unasked(data)
        elif not self._endpoint.is_closing():
            self._line.send(data)


class Http2Caller(Caller):
    """One client that has several requests under way at a time, on one connection."""

    _frames: _Frames | None = None
    _is_leaving = False

    def begin(self) -> None:
        self._frames = None
        self._is_leaving = False
        super().begin()

    def _send_next(self) -> None:
        if self._frames is None:
            assert self._line is not None
            self._frames = _Frames(self._line, is_client=True)
            self._frames.core.initiate_connection()
            self._frames.flush()
        frames = self._frames
        most = 50 if self._visit.is_pipelined else _AT_A_TIME
        while self._waiting and not self._is_mute and not self._is_leaving and len(self._sent) < most:
            request = self._waiting.pop(0)
            self._sent.append(request)
            self._send_stream(frames, request)

    def _send_stream(self, frames: _Frames, request: Request) -> None:
        assert self._line is not None
        stream = frames.core.get_next_available_stream_id()
        number, fault, loop = request.number, request.client_fault, self._world.loop
        fields = [
            (b":method", request.method.encode()),
            (b":scheme", b"http" if self._line.tls is None else b"https"),
            (b":authority", request.host.encode()),
            (b":path", b"/%d/" % number),
            (b"x-number", b"%d" % number),
        ]
        if request.has_own_token:
            fields += [(b"authorization", b"Bearer own")]
        has_content = request.method in ("POST", "PUT")
        if has_content and not request.is_chunked:
            fields += [(b"content-length", b"%d" % request.size)]
        if request.grpc:
            fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        content = content_of(b"q", number, request.size)
        self._world.carried[number] = self._line.endpoint.peer
        note = "sends request %d on stream %d: %s, %d bytes%s"
        self._world.note(
            self._name, note, number, stream, request.method, request.size, f", and {fault}" if fault else ""
        )
        under = frames.streams[stream] = Under(request, Message(b"", [], 0))
        if fault == "stops_sending" and has_content:
            content, under.ends = content[: int(len(content) * request.at)], False
        try:
            frames.core.send_headers(stream, fields, end_stream=not has_content)
        except ProtocolError as error:
            self._world.fail(f"{self._name} cannot open stream {stream}: {error!r}")
            return
        under.is_over = not has_content
        frames.flush()
        if has_content:
            under.pending = content
            frames.pump(stream)
        if fault == "resets" and request.at < 0.7:
            loop.call_later(request.at * 0.6, self._give_up, frames, stream)
        elif fault in ("leaves", "resets", "vanishes"):
            self._is_mute = True
            loop.call_later(request.at * 0.6, self._leave, fault, self._line.endpoint)
        elif fault == "half_closes":
            self._is_mute = True
            self._line.end()
        elif fault == "reads_late":
            loop.call_later(request.at * 12, self._read_on, frames, stream)
        elif fault == "floods":
            self._line.send((_PING + _SETTINGS) * int(request.at * 400))

    def _give_up(self, frames: _Frames, stream: int) -> None:
        under = frames.streams.pop(stream, None)
        if under is None or frames is not self._frames:
            return
        self._world.note(self._name, "resets the stream of request %d", under.plan.number)
        frames.streams[stream] = under
        frames.reset(stream, ErrorCodes.CANCEL)
        del frames.streams[stream]
        self._sent.remove(under.plan)
        self._go_on()

    def _read_on(self, frames: _Frames, stream: int) -> None:
        under = frames.streams.get(stream)
        if under is not None:
            frames.acknowledge(stream, under.unread)
            under.unread = 0
            frames.flush()

    def _take(self, data: bytes) -> None:
        frames = self._frames
        if frames is None:
            super()._take(data)
            return
        try:
            for event in frames.receive(data):
                self._on_event(frames, event)
        except ProtocolError as error:
            self._world.fail(f"{self._name} gets what HTTP/2 forbids: {error!r}")
            frames.line.endpoint.reset()
            return
        frames.flush()
        self._go_on()

    def _go_on(self) -> None:
        if self._line is None or self._line.endpoint.is_closing():
            return
        if self._waiting and not self._is_leaving and not self._is_mute:
            self._send_next()
        elif not self._sent and not self._is_mute:
            self._line.close()

    def _on_event(self, frames: _Frames, event: Any) -> None:
        if isinstance(event, WindowUpdated):
            frames.pump_all()
        elif isinstance(event, tuple):
            self._on_goaway(frames, *event)
        under = frames.streams.get(getattr(event, "stream_id", None) or 0)
        if under is None:
            return
        if isinstance(event, ResponseReceived | InformationalResponseReceived):
            fields = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
            status = next(value for name, value in fields if name == b":status")
            under.message = Message(b"HTTP/2 " + status, fields, 0)
            self._check_stream(under)
        elif isinstance(event, DataReceived):
            under.message.content += event.data
            self._check_stream(under)
            under.unread += event.flow_controlled_length
            if under.plan.client_fault not in ("stops_reading", "reads_late"):
                frames.acknowledge(event.stream_id, under.unread)
                under.unread = 0
        elif isinstance(event, TrailersReceived):
            under.trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
        elif isinstance(event, StreamEnded):
            del frames.streams[event.stream_id]
            self._put_first(under)
            self._check_trailers(under)
            self._on_response(under.message)
        elif isinstance(event, StreamReset):
            del frames.streams[event.stream_id]
            self._world.note(self._name, "has the stream of request %d reset: %s", under.plan.number, event.error_code)
            if self._world.story.is_calm:
                self._world.fail(f"{self._name} has request {under.plan.number} reset, and nothing is wrong")
            self._sent.remove(under.plan)

    def _on_goaway(self, frames: _Frames, last: int, code: int) -> None:
        self._world.note(self._name, "is told to go, behind stream %d: %d", last, code)
        self._is_leaving = True
        for number in [number for number in frames.streams if number > last]:
            self._sent.remove(frames.streams.pop(number).plan)

    def _check_trailers(self, under: Under) -> None:
        message, plan = under.message, under.plan
        if message.values(b"proxy-status") or plan.number in self._world.mixed or message.status != 200:
            return
        due = trailers_of(plan) if plan.grpc in ("unary", "stream") else []
        if under.trailers != due:
            self._world.fail(f"the response to {plan.number} ends with trailers {under.trailers}, and not {due}")
        if plan.grpc == "only" and message.values(b"grpc-status") != [trailers_of(plan)[0][1]]:
            self._world.fail(f"the response to {plan.number} says {message.values(b'grpc-status')} for its status")

    def _check_stream(self, under: Under) -> None:
        self._put_first(under)
        self._check(under.message)

    def _put_first(self, under: Under) -> None:
        self._sent.remove(under.plan)
        self._sent.insert(0, under.plan)

    def _continue(self, request: Request, *, ends: bool) -> None:
        """Do nothing: `_take` goes on."""
