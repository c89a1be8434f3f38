"""One connection of HTTP/2, as server or as client: reads frames, keeps streams and windows (RFC 9113). Pure: does no I/O.

Whoever owns the transport feeds `receive` and writes what `take` returns. What arrives is told to a `Receiver`, call by call. A
malformed message ends its stream and no other; only what makes everything behind it unreadable, and floods, end the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.relay.http2 import frames
from proxy.relay.http2.control import ENDED, RESET_BY_PEER, RESET_BY_US, Control
from proxy.relay.http2.decoder import Decoder
from proxy.relay.http2.faults import (
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    ConnectionFault,
    MalformedMessage,
    StreamFault,
)
from proxy.relay.http2.fields import check_trailers, read_request, read_response
from proxy.relay.http2.floods import is_mostly_overhead
from proxy.relay.http2.streams import UNKNOWN, Stream

if TYPE_CHECKING:
    from proxy.relay.http2.receiver import Receiver, Terms
    from proxy.relay.http2.static_table import Field

# RFC 9113 §10.5.1: a block may go on forever. nghttp2 takes 8 CONTINUATION frames since the "CONTINUATION flood" of 2024.
_CONTINUATIONS: Final = 8
_INTERIM: Final = 200
_WITHOUT_CONTENT: Final = frozenset((204, 304))
_PRIORITY_BYTES: Final = 5
_ALL: Final = 1 << 60
# As how many frames one counts that brings a block of fields, and mostly a new exchange.
_BLOCK_FRAMES: Final = 4


class Connection(Control):
    """One connection.

    Args:
        receiver: who is told.
        terms: what we grant.
        is_client: our role.

    Attributes:
        frame_count: how many whole frames have been read.
        is_behind: whether more have come, to be read by `receive` in a later turn of the event loop.
        fault: why the connection is over; GOAWAY is in the output, and nothing is read any more.
        places: how many of the client's streams somebody still works for, closed ones included: a client that resets its
            streams at once must not have more work done than others (CVE-2023-44487, CVE-2025-8671).
    """

    __slots__ = (
        "_block",
        "_block_depends",
        "_block_flags",
        "_block_id",
        "_decoder",
        "_ignored_from",
        "_last_count",
        "_missing",
        "_next_id",
        "_pieces",
        "_receive_window",
        "_received_bytes",
        "_terms",
        "_wants_preface",
        "fault",
        "frame_count",
        "is_behind",
        "places",
    )

    def __init__(self, receiver: Receiver, terms: Terms, is_client: bool) -> None:
        Control.__init__(self, receiver, is_client)
        self._terms = terms
        self._decoder = Decoder(terms.list_bytes, terms.field_count)
        self.fault: ConnectionFault | None = None
        self.frame_count = 0
        self.is_behind = False
        self._last_count = 0
        # Bytes that are less than a frame, and how many more make one.
        self._pieces: list[bytes] = []
        self._missing = 0
        self._wants_preface = not is_client
        # A block of which not all has come.
        self._block: list[bytes] = []
        self._block_id = 0
        self._block_flags = 0
        self._block_depends = 0
        self._next_id = 1
        self._ignored_from = frames.HIGHEST_STREAM + 1
        self.places = 0
        self._receive_window = terms.connection_window
        self._received_bytes = 0
        self._begin()

    def _begin(self) -> None:
        terms = self._terms
        settings = [(frames.INITIAL_WINDOW_SIZE, terms.stream_window), (frames.MAX_HEADER_LIST_SIZE, terms.list_bytes)]
        if self._is_client:
            self._write(frames.PREFACE)
            settings.append((frames.ENABLE_PUSH, 0))
        else:
            settings.append((frames.MAX_CONCURRENT_STREAMS, terms.streams))
        self._write(frames.format_settings(settings))
        if terms.connection_window > frames.INITIAL_WINDOW:
            self._write(frames.format_window_update(0, terms.connection_window - frames.INITIAL_WINDOW))

    # What the owner does

    @property
    def is_within_head(self) -> bool:
        """Whether a block of fields has begun and not ended, so that nothing else can come (RFC 9113 §4.3)."""
        return self._block_id != 0 or (bool(self._pieces) and not self.streams)

    def can_open(self) -> bool:
        """Say whether one more stream of ours can be opened now."""
        return (
            self.fault is None
            and not self.is_leaving
            and len(self.streams) < self.peer_streams
            and self._next_id <= frames.HIGHEST_STREAM
        )

    def open(self, to_head: bool) -> Stream:
        """Open a stream of ours, where `can_open`; its request is to be sent before another one is opened (RFC 9113 §5.1.1)."""
        stream = Stream(self._next_id, self._peer_window, self._terms.stream_window)
        stream.to_head = to_head
        stream.holds_place = False
        self._last_id = self._next_id
        self._next_id += 2
        self.streams[stream.id] = stream
        return stream

    def credit(self, stream: Stream, size: int) -> None:
        """Let the other side send so many bytes more on a stream, since these have been passed on."""
        stream.uncredited += size
        if stream.is_closed or stream.remote_ended:
            return
        window = stream.window
        if stream.uncredited << 1 < window:
            return
        if stream.receive_window << 2 < window and window < self._terms.highest_stream_window:
            # Its sender has nearly run dry meanwhile: what is under way is more than the window.
            stream.window = min(window << 1, self._terms.highest_stream_window)
            stream.uncredited += stream.window - window
        stream.receive_window += stream.uncredited
        self._write(frames.format_window_update(stream.id, stream.uncredited))
        stream.uncredited = 0

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream at once (RFC 9113 §6.4); nothing more is told of it."""
        if not stream.is_closed:
            self._write(frames.format_reset(stream.id, code))
            self._close(stream, RESET_BY_US)

    def release(self, stream: Stream) -> None:
        """Take note that nobody works for a client's stream any more, so that the client can have another one."""
        if stream.holds_place:
            stream.holds_place = False
            self.places -= 1

    def announce_end(self) -> None:
        """Ask the client for no further streams; those that are on their way are still served (RFC 9113 §6.8)."""
        if self.fault is None:
            self.is_leaving = True
            self._write(frames.format_goaway(frames.HIGHEST_STREAM, NO_ERROR))

    def go_away(self) -> None:
        """Take no further streams: those with higher numbers than the last one can be repeated elsewhere (RFC 9113 §6.8)."""
        if self.fault is None and self._ignored_from > frames.HIGHEST_STREAM:
            self.is_leaving = True
            self._ignored_from = self._last_id + 1
            self._write(frames.format_goaway(0 if self._is_client else self._last_id, NO_ERROR))

    # Frames

    def receive(self, data: bytes, now_mono: float, most_frames: int = _ALL) -> None:
        """Read what has arrived. `fault` says afterwards whether the connection is over.

        Args:
            data: as it came from the transport; may be empty.
            now_mono: monotonic seconds.
            most_frames: what is behind so many of them waits for another call; `is_behind` says so. HEADERS counts fourfold.
        """
        self.is_behind = False
        if self.fault is not None:
            return
        self._now_mono = now_mono
        self._received_bytes += len(data)
        if self._pieces:
            self._pieces.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._pieces)
            self._pieces = []
        try:
            self._read(data, most_frames)
            if is_mostly_overhead(self._received_bytes, self.content_bytes):
                raise ConnectionFault(
                    ENHANCE_YOUR_CALM, "flood_overhead", "Nearly all frames carry nothing (RFC 9113 §10.5)."
                )
        except ConnectionFault as fault:
            self.fault = fault
            self._receiver.on_fault(fault.reason)
            self._write(frames.format_goaway(0 if self._is_client else self._last_id, fault.code))

    def _read(self, data: bytes, most_frames: int) -> None:
        at = 0
        end = len(data)
        self._last_count = self.frame_count + most_frames
        if self._wants_preface:
            size = len(frames.PREFACE)
            if not frames.PREFACE.startswith(data[:size]):
                raise ConnectionFault(PROTOCOL_ERROR, "preface", "A client begins with the preface (RFC 9113 §3.4).")
            if end < size:
                self._keep(data, size - end)
                return
            self._wants_preface = False
            at = size
        while end - at >= frames.FRAME_HEAD_BYTES:
            if self.frame_count >= self._last_count:
                self.is_behind = True
                self._keep(data[at:], 0)
                return
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if length > frames.FRAME_BYTES:
                raise ConnectionFault(FRAME_SIZE_ERROR, "framing", "A frame is larger than we allow (RFC 9113 §4.2).")
            start = at + frames.FRAME_HEAD_BYTES
            stop = start + length
            if stop > end:
                self._keep(data[at:], stop - end)
                return
            # RFC 9113 §4.1: the first bit is reserved.
            self.frame_count += 1
            stream_id = (data[at + 5] & 0x7F) << 24 | data[at + 6] << 16 | data[at + 7] << 8 | data[at + 8]
            try:
                self._read_frame(data[at + 3], data[at + 4], stream_id, data, start, stop)
            except StreamFault as fault:
                self._fail(stream_id, fault)
            at = stop
        if at < end:
            self._keep(data[at:], frames.FRAME_HEAD_BYTES - (end - at))

    def _keep(self, data: bytes, missing: int) -> None:
        self._pieces.append(data)
        self._missing = missing

    def _read_frame(self, kind: int, flags: int, stream_id: int, data: bytes, at: int, stop: int) -> None:
        if self._block_id and (kind != frames.CONTINUATION or stream_id != self._block_id):
            raise ConnectionFault(PROTOCOL_ERROR, "framing", "A block of fields is interrupted (RFC 9113 §4.3).")
        if not self._has_settings and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(PROTOCOL_ERROR, "preface", "The first frame is not SETTINGS (RFC 9113 §3.4).")
        if kind == frames.DATA:
            self._read_data(flags, stream_id, data, at, stop)
        elif kind == frames.HEADERS:
            self._read_headers(flags, stream_id, data, at, stop)
        elif kind == frames.WINDOW_UPDATE:
            self._read_window_update(stream_id, data[at:stop])
        elif kind == frames.CONTINUATION:
            self._read_continuation(flags, stream_id, data[at:stop])
        else:
            self._read_rare(kind, flags, stream_id, data[at:stop])

    def _read_rare(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.RST_STREAM:
            self._read_reset(stream_id, payload)
        elif kind == frames.SETTINGS:
            self._read_settings(flags, stream_id, payload)
        elif kind == frames.PING:
            self._read_ping(flags, stream_id, payload)
        elif kind == frames.GOAWAY:
            self._read_goaway(stream_id, payload)
        elif kind == frames.PRIORITY:
            self._read_priority(stream_id, payload)
        elif kind == frames.PUSH_PROMISE:
            # RFC 9113 §8.4: clients cannot push, and we forbid servers to.
            raise ConnectionFault(PROTOCOL_ERROR, "framing", "Nobody may push to us (RFC 9113 §8.4).")
        # RFC 9113 §5.5: other kinds are ignored.

    def _read_data(self, flags: int, stream_id: int, data: bytes, at: int, stop: int) -> None:
        """RFC 9113 §6.1, §6.9."""
        size = stop - at
        if not stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "framing", "DATA belongs to no stream (RFC 9113 §6.1).")
        self._receive_window -= size
        if self._receive_window < 0:
            raise ConnectionFault(
                FLOW_CONTROL_ERROR, "flow_control", "More DATA than the connection's window (RFC 9113 §6.9.1)."
            )
        # Given back at once: each stream has its own window, and one that is read slowly must not stall the others.
        if self._receive_window << 1 < self._terms.connection_window:
            self._write(frames.format_window_update(0, self._terms.connection_window - self._receive_window))
            self._receive_window = self._terms.connection_window
        if flags & frames.PADDED:
            padding = data[at] if size else 0
            at += 1
            stop -= padding
            if stop < at:
                raise ConnectionFault(PROTOCOL_ERROR, "framing", "A frame has more padding than bytes (RFC 9113 §6.1).")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
            if self._closed.get(stream_id, ENDED) != RESET_BY_US and stream_id < self._ignored_from:
                raise StreamFault(STREAM_CLOSED, "closed", "DATA on a stream that is closed (RFC 9113 §5.1).")
            return
        if stream.remote_ended:
            raise StreamFault(STREAM_CLOSED, "closed", "DATA behind the end of a stream (RFC 9113 §5.1).")
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFault(
                FLOW_CONTROL_ERROR, "flow_control", "More DATA than the stream's window (RFC 9113 §6.9.1)."
            )
        padding = size - (stop - at)
        if padding:
            self.credit(stream, padding)
        self._take_content(stream, data[at:stop], flags & frames.END_STREAM != 0)

    def _take_content(self, stream: Stream, content: bytes, ends: bool) -> None:
        size = len(content)
        if not stream.has_head:
            raise MalformedMessage("Content comes before the response (RFC 9113 §8.1).")
        if size:
            self.content_bytes += size
            if not stream.has_content:
                raise MalformedMessage("A response that has no content has some (RFC 9110 §6.4.1).")
            if stream.content_left != UNKNOWN:
                stream.content_left -= size
                if stream.content_left < 0:
                    raise MalformedMessage("A message has more content than Content-Length says (RFC 9113 §8.1.1).")
        if ends:
            self._end_remotely(stream)
        if stream.discards == UNKNOWN:
            if size or ends:
                self._receiver.on_content(stream, content, ends)
        elif not ends:
            self._discard(stream, size)
        if ends:
            self._close_if_ended(stream)

    def _discard(self, stream: Stream, size: int) -> None:
        stream.discards -= size
        if stream.discards > 0:
            self.credit(stream, size)
        else:
            self.reset(stream, NO_ERROR)  # RFC 9113 §8.1: the response was complete

    def _end_remotely(self, stream: Stream) -> None:
        """Take note that the other side has ended a stream.

        Raises:
            MalformedMessage: before its content was complete (RFC 9113 §8.1.1).
        """
        if stream.content_left > 0 and stream.has_content:
            raise MalformedMessage("A message has less content than Content-Length says (RFC 9113 §8.1.1).")
        stream.remote_ended = True

    def _close_if_ended(self, stream: Stream) -> None:
        if stream.end_sent and stream.remote_ended and not stream.is_closed:
            self._close(stream, ENDED)

    def _read_headers(self, flags: int, stream_id: int, data: bytes, at: int, stop: int) -> None:
        """RFC 9113 §6.2."""
        self._last_count -= _BLOCK_FRAMES - 1
        if not stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "framing", "HEADERS belongs to no stream (RFC 9113 §6.2).")
        if flags & frames.PADDED:
            if stop == at:
                raise ConnectionFault(FRAME_SIZE_ERROR, "framing", "HEADERS is too short (RFC 9113 §6.2).")
            stop -= data[at]
            at += 1
        self._block_depends = 0
        if flags & frames.HAS_PRIORITY:
            # RFC 9113 §5.3.2: not used, but read.
            if stop - at >= _PRIORITY_BYTES:
                self._block_depends = int.from_bytes(data[at : at + 4], "big") & frames.HIGHEST_STREAM
            at += _PRIORITY_BYTES
        if stop < at:
            raise ConnectionFault(PROTOCOL_ERROR, "framing", "A frame has more padding than bytes (RFC 9113 §6.2).")
        if flags & frames.END_HEADERS:
            self._read_block(stream_id, flags, data[at:stop])
        else:
            self._block = [data[at:stop]]
            self._block_id = stream_id
            self._block_flags = flags

    def _read_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.10."""
        if not self._block_id:
            raise ConnectionFault(PROTOCOL_ERROR, "framing", "CONTINUATION continues nothing (RFC 9113 §6.10).")
        self._block.append(payload)
        if len(self._block) > _CONTINUATIONS + 1 or (not payload and not flags & frames.END_HEADERS):
            raise ConnectionFault(
                ENHANCE_YOUR_CALM, "flood_continuation", "Too many CONTINUATION frames (RFC 9113 §10.5.1)."
            )
        if flags & frames.END_HEADERS:
            block = b"".join(self._block)
            self._block = []
            self._block_id = 0
            self._read_block(stream_id, self._block_flags, block)

    def _read_block(self, stream_id: int, flags: int, block: bytes) -> None:
        # Always, whatever becomes of the stream: the next block depends on it (RFC 9113 §4.3).
        fields = self._decoder.decode(block)
        self.content_bytes += min(self._decoder.list_bytes, self._terms.list_bytes)
        ends = flags & frames.END_STREAM != 0
        stream = self.streams.get(stream_id)
        if stream is None:
            if self._is_client:
                self._check_late_block(stream_id)
            else:
                self._take_request(stream_id, fields, ends)
        elif stream.remote_ended:
            raise StreamFault(STREAM_CLOSED, "closed", "HEADERS behind the end of a stream (RFC 9113 §5.1).")
        elif self._block_depends == stream_id:
            raise StreamFault(PROTOCOL_ERROR, "framing", "A stream depends on itself (RFC 7540 §5.3.1).")
        elif not stream.has_head:
            self._take_response(stream, fields, ends)
        else:
            self._take_trailers(stream, fields, ends)

    def _check_late_block(self, stream_id: int) -> None:
        """Let pass what is late; object to fields on a stream that has ended, or never began: RFC 9113 §5.1."""
        self._check_not_idle(stream_id)
        end = self._closed.get(stream_id, RESET_BY_US if self._is_client else -1)
        if end == RESET_BY_US:
            return
        if end == RESET_BY_PEER:
            raise StreamFault(STREAM_CLOSED, "closed", "HEADERS on a stream that was reset (RFC 9113 §5.1).")
        if end == ENDED:
            raise ConnectionFault(STREAM_CLOSED, "closed", "HEADERS on a stream that has ended (RFC 9113 §5.1).")
        raise ConnectionFault(
            PROTOCOL_ERROR, "framing", "A new stream has a lower number than others (RFC 9113 §5.1.1)."
        )

    def _take_request(self, stream_id: int, fields: list[Field], ends: bool) -> None:
        if stream_id & 1 == 0:
            raise ConnectionFault(PROTOCOL_ERROR, "framing", "A client's stream has an odd number (RFC 9113 §5.1.1).")
        if stream_id <= self._last_id:
            self._check_late_block(stream_id)
            return
        self._last_id = stream_id
        if stream_id >= self._ignored_from:
            return  # RFC 9113 §6.8: the client knows that it is not served
        if self._block_depends == stream_id:
            raise StreamFault(PROTOCOL_ERROR, "framing", "A stream depends on itself (RFC 7540 §5.3.1).")
        if max(self.places, len(self.streams)) >= self._terms.streams:
            raise StreamFault(REFUSED_STREAM, "streams", "More streams than we allow at a time (RFC 9113 §5.1.2).")
        stream = Stream(stream_id, self._peer_window, self._terms.stream_window)
        stream.has_head = True
        if self._decoder.is_over:
            self._admit(stream, ends)
            self._receiver.on_oversize(stream, ends)
            return
        request = read_request(fields)
        if self._decoder.never_indexed:
            request.never_indexed = self._decoder.never_indexed
        stream.content_left = request.length
        if ends and request.length > 0:
            raise MalformedMessage("A message has less content than Content-Length says (RFC 9113 §8.1.1).")
        self._admit(stream, ends)
        self._receiver.on_request(stream, request, ends)

    def _admit(self, stream: Stream, ends: bool) -> None:
        stream.remote_ended = ends
        self.streams[stream.id] = stream
        self.places += 1

    def _take_response(self, stream: Stream, fields: list[Field], ends: bool) -> None:
        if self._decoder.is_over:
            raise StreamFault(ENHANCE_YOUR_CALM, "fields", "A response has more or larger fields than allowed.")
        response = read_response(fields)
        if self._decoder.never_indexed:
            response.never_indexed = self._decoder.never_indexed
        if response.status < _INTERIM:
            if ends:
                raise MalformedMessage("An interim response ends a stream (RFC 9113 §8.1).")
            self._receiver.on_interim(stream, response)
            return
        stream.has_head = True
        stream.has_content = not stream.to_head and response.status not in _WITHOUT_CONTENT
        stream.content_left = response.length
        if ends:
            self._end_remotely(stream)
        self._receiver.on_response(stream, response, ends)
        self._close_if_ended(stream)

    def _take_trailers(self, stream: Stream, fields: list[Field], ends: bool) -> None:
        if not ends:
            raise MalformedMessage("Fields behind the content do not end the stream (RFC 9113 §8.1).")
        if self._decoder.is_over:
            raise StreamFault(ENHANCE_YOUR_CALM, "fields", "There are more or larger trailers than allowed.")
        check_trailers(fields)
        self._end_remotely(stream)
        if stream.discards == UNKNOWN:
            self._receiver.on_trailers(stream, fields)
        self._close_if_ended(stream)
