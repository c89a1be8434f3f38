"""The frames of a connection that carry no message, and how streams end (RFC 9113 §5, §6.3 to §6.9). Pure: does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.relay.http2 import frames
from proxy.relay.http2.faults import (
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    ConnectionFault,
    StreamFault,
)
from proxy.relay.http2.floods import ResetBucket
from proxy.relay.http2.sending import Sender

if TYPE_CHECKING:
    from proxy.relay.http2.receiver import Receiver
    from proxy.relay.http2.streams import Stream

# nghttp2's limit for CVE-2020-11080.
_SETTINGS_ENTRIES: Final = 32
# Of a request that goes on although it has its response: what is taken before the stream is reset. An immediate reset makes
# clients lose the response.
_DISCARDED_BYTES: Final = 1 << 20
# How streams ended, and of how many that is remembered, to tell what is late from what is wrong.
ENDED: Final = 0
RESET_BY_PEER: Final = 1
RESET_BY_US: Final = 2
_REMEMBERED: Final = 512
_PRIORITY_BYTES: Final = 5
_SETTING_BYTES: Final = 6


class Control(Sender):
    """The part of a connection that keeps its settings, windows and ends of streams.

    Attributes:
        streams: those that are open or half-closed, by number.
        peer_streams: how many streams the other side allows us at a time.
        peer_list_bytes: of fields that the other side takes; None where it has not said.
        is_leaving: whether the other side or we have said that no further stream is taken.
    """

    __slots__ = (
        "_bucket",
        "_closed",
        "_has_settings",
        "_is_client",
        "_last_id",
        "_now_mono",
        "_peer_window",
        "_receiver",
        "is_leaving",
        "peer_list_bytes",
        "peer_streams",
        "streams",
    )

    def __init__(self, receiver: Receiver, is_client: bool) -> None:
        Sender.__init__(self)
        self._receiver = receiver
        self._is_client = is_client
        self._bucket = ResetBucket()
        self._now_mono = 0.0
        self._has_settings = False
        self.streams: dict[int, Stream] = {}
        self._closed: dict[int, int] = {}
        # The highest number of a stream that was opened.
        self._last_id = 0
        self._peer_window = frames.INITIAL_WINDOW
        # Until we are told: RFC 9113 §6.5.2 recommends to allow no fewer.
        self.peer_streams = 100
        self.peer_list_bytes: int | None = None
        self.is_leaving = False

    def _read_window_update(self, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.9."""
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "framing", "WINDOW_UPDATE has 4 bytes (RFC 9113 §6.9).")
        increment = int.from_bytes(payload, "big") & frames.WINDOW_LIMIT
        if not stream_id:
            self.send_window += increment
            if not increment:
                raise ConnectionFault(PROTOCOL_ERROR, "framing", "WINDOW_UPDATE adds nothing (RFC 9113 §6.9).")
            if self.send_window > frames.WINDOW_LIMIT:
                raise ConnectionFault(
                    FLOW_CONTROL_ERROR, "flow_control", "The connection's window overflows (RFC 9113 §6.9.1)."
                )
            self._flush()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
            return
        if not increment:
            raise StreamFault(PROTOCOL_ERROR, "framing", "WINDOW_UPDATE adds nothing (RFC 9113 §6.9).")
        stream.send_window += increment
        if stream.send_window > frames.WINDOW_LIMIT:
            raise StreamFault(FLOW_CONTROL_ERROR, "flow_control", "The stream's window overflows (RFC 9113 §6.9.1).")
        if stream.pending:
            self._queue(stream)
            self._flush()

    def _read_reset(self, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.4."""
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "framing", "RST_STREAM has 4 bytes (RFC 9113 §6.4).")
        self._check_not_idle(stream_id)
        if not self._is_client:
            self._count_reset()
        stream = self.streams.get(stream_id)
        if stream is not None:
            code = int.from_bytes(payload, "big")
            stream.is_unprocessed = code == REFUSED_STREAM  # RFC 9113 §8.7
            self._close(stream, RESET_BY_PEER)
            self._receiver.on_reset(stream, code, "")

    def _count_reset(self) -> None:
        if not self._bucket.take(self._now_mono):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "flood_resets", "Too many streams are reset (RFC 9113 §10.5).")

    def _read_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.5."""
        size = len(payload)
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "framing", "SETTINGS belongs to a stream (RFC 9113 §6.5).")
        if flags & frames.ACK:
            if size:
                raise ConnectionFault(FRAME_SIZE_ERROR, "framing", "An acknowledgement has settings (RFC 9113 §6.5).")
            return
        if size % _SETTING_BYTES:
            raise ConnectionFault(FRAME_SIZE_ERROR, "framing", "SETTINGS ends within an entry (RFC 9113 §6.5).")
        if size > _SETTINGS_ENTRIES * _SETTING_BYTES:
            raise ConnectionFault(
                ENHANCE_YOUR_CALM, "flood_settings", "SETTINGS has more entries than there are settings."
            )
        self._has_settings = True
        window = self._peer_window
        for at in range(0, size, _SETTING_BYTES):
            name = payload[at] << 8 | payload[at + 1]
            value = int.from_bytes(payload[at + 2 : at + 6], "big")
            if name == frames.INITIAL_WINDOW_SIZE:
                if value > frames.WINDOW_LIMIT:
                    raise ConnectionFault(
                        FLOW_CONTROL_ERROR, "settings", "INITIAL_WINDOW_SIZE is out of bounds (RFC 9113 §6.5.2)."
                    )
                window = value
            else:
                self._take_setting(name, value)
        if window != self._peer_window:  # the last one counts, and each would cost a walk over all streams
            self._change_windows(window)
        self._write(frames.format_frame(frames.SETTINGS, frames.ACK, 0, b""))
        self._flush()
        self._receiver.on_settings()

    def _take_setting(self, name: int, value: int) -> None:
        """RFC 9113 §6.5.2, but INITIAL_WINDOW_SIZE; unknown ones are ignored."""
        if name == frames.MAX_CONCURRENT_STREAMS:
            self.peer_streams = value
        elif name == frames.HEADER_TABLE_SIZE:
            self._encoder.set_limit(value)
        elif name == frames.MAX_HEADER_LIST_SIZE:
            self.peer_list_bytes = value
        elif name == frames.MAX_FRAME_SIZE:
            # Larger ones are not sent; see `frames.FRAME_BYTES`.
            if not frames.FRAME_BYTES <= value <= frames.FRAME_BYTES_LIMIT:
                raise ConnectionFault(PROTOCOL_ERROR, "settings", "MAX_FRAME_SIZE is out of bounds (RFC 9113 §6.5.2).")
        elif name == frames.ENABLE_PUSH and value > (0 if self._is_client else 1):
            raise ConnectionFault(PROTOCOL_ERROR, "settings", "ENABLE_PUSH is out of bounds (RFC 9113 §6.5.2).")

    def _change_windows(self, value: int) -> None:
        """RFC 9113 §6.9.2: open streams get the difference, and may end up below zero."""
        difference = value - self._peer_window
        self._peer_window = value
        for stream in self.streams.values():
            stream.send_window += difference
            if stream.send_window > frames.WINDOW_LIMIT:
                raise ConnectionFault(
                    FLOW_CONTROL_ERROR, "flow_control", "A stream's window overflows (RFC 9113 §6.9.2)."
                )
            if stream.pending:
                self._queue(stream)

    def _read_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.7."""
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "framing", "PING belongs to a stream (RFC 9113 §6.7).")
        if len(payload) != 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "framing", "PING has 8 bytes (RFC 9113 §6.7).")
        if not flags & frames.ACK:
            self._write(frames.format_frame(frames.PING, frames.ACK, 0, payload))

    def _read_goaway(self, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §6.8."""
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "framing", "GOAWAY belongs to a stream (RFC 9113 §6.8).")
        if len(payload) < 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "framing", "GOAWAY has 8 bytes at least (RFC 9113 §6.8).")
        self.is_leaving = True
        if self._is_client:
            last_id = int.from_bytes(payload[:4], "big") & frames.HIGHEST_STREAM
            for stream in [one for one in self.streams.values() if one.id > last_id]:
                stream.is_unprocessed = True
                self._close(stream, RESET_BY_PEER)
                self._receiver.on_reset(stream, REFUSED_STREAM, "")
        self._receiver.on_goaway(int.from_bytes(payload[4:8], "big"))

    def _read_priority(self, stream_id: int, payload: bytes) -> None:
        """RFC 9113 §5.3.2, §6.3: checked, and not used."""
        if not stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "framing", "PRIORITY belongs to no stream (RFC 9113 §6.3).")
        is_short = len(payload) != _PRIORITY_BYTES
        if is_short or int.from_bytes(payload[:4], "big") & frames.HIGHEST_STREAM == stream_id:
            code = FRAME_SIZE_ERROR if is_short else PROTOCOL_ERROR
            detail = "PRIORITY has 5 bytes, and names another stream (RFC 9113 §6.3, RFC 7540 §5.3.1)."
            if stream_id in self.streams:
                raise StreamFault(code, "framing", detail)
            raise ConnectionFault(code, "framing", detail)

    # Ends

    def _check_not_idle(self, stream_id: int) -> None:
        """Object to frames that stand on no stream, or on one that nobody has opened: RFC 9113 §5.1."""
        is_ours = stream_id & 1 == 1
        if not is_ours or stream_id > self._last_id:
            raise ConnectionFault(PROTOCOL_ERROR, "framing", "A frame is on a stream that is idle (RFC 9113 §5.1).")

    def _fail(self, stream_id: int, fault: StreamFault) -> None:
        self._count_reset()
        self._write(frames.format_reset(stream_id, fault.code))
        self._receiver.on_fault(fault.reason)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._remember(stream_id, RESET_BY_US)
        else:
            self._close(stream, RESET_BY_US)
            self._receiver.on_reset(stream, fault.code, fault.reason)

    def _close(self, stream: Stream, how: int) -> None:
        stream.is_closed = True
        stream.pending = []
        stream.pending_bytes = 0
        stream.trailers = None
        self.streams.pop(stream.id, None)
        self._remember(stream.id, how)
        if how == ENDED:
            self._receiver.on_closed(stream)

    def _remember(self, stream_id: int, how: int) -> None:
        closed = self._closed
        closed[stream_id] = how
        if len(closed) > _REMEMBERED:
            del closed[next(iter(closed))]

    def _ended(self, stream: Stream) -> None:
        stream.end_sent = True
        if stream.remote_ended:
            self._close(stream, ENDED)
        elif not self._is_client:
            stream.discards = _DISCARDED_BYTES

    def _writable(self, stream: Stream) -> None:
        self._receiver.on_writable(stream)
