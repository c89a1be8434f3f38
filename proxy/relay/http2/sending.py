"""What one connection writes: frames in their order, content as far as the windows allow. Pure: does no I/O."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from proxy.relay.http2 import frames
from proxy.relay.http2.encoder import Encoder

if TYPE_CHECKING:
    from proxy.relay.http2.static_table import Field
    from proxy.relay.http2.streams import Stream

_NOTHING: Final[frozenset[bytes]] = frozenset()
# Of content that waits for a window: above the first its sender is asked to wait, below the second to go on.
_HIGH_BYTES: Final = 65_536
_LOW_BYTES: Final = 16_384
# Content is put into no more output than this at a time, so that streams take turns although their windows are wide open.
_OUTPUT_BYTES: Final = 131_072


class Sender:
    """The half of a connection that sends.

    What has been written is collected until `take`. Content that does not fit into a window waits with its stream, and the
    streams that wait take turns by frame, so that none holds up another.

    Attributes:
        output_bytes: how much has been collected.
        is_held: whether the transport's buffer is full, so that content waits; frames that carry none do not.
        send_window: what we may send on all streams together (RFC 9113 §6.9.1).
        content_bytes: fields and content, sent and received.
    """

    __slots__ = ("_encoder", "_output", "_waiting", "content_bytes", "is_held", "output_bytes", "send_window")

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._output: list[bytes] = []
        self.output_bytes = 0
        self.is_held = False
        self.send_window = frames.INITIAL_WINDOW
        self.content_bytes = 0
        # Streams whose own window is open, but not the connection's.
        self._waiting: deque[Stream] = deque()

    def take(self) -> bytes:
        """Return what is to be written to the transport now; to be called until there is nothing, or the transport is full."""
        if self._waiting:
            self._flush()
        output = self._output
        if not output:
            return b""
        self._output = []
        self.output_bytes = 0
        return output[0] if len(output) == 1 else b"".join(output)

    def _write(self, data: bytes) -> None:
        self._output.append(data)
        self.output_bytes += len(data)

    def send_head(
        self,
        stream: Stream,
        fields: list[Field],
        ends: bool,  # called for each message; keywords cost
        extra: bytes = b"",
        never: frozenset[bytes] = _NOTHING,
    ) -> None:
        """Send a head: the pseudo-fields first, names in lower case (RFC 9113 §8.2, §8.3). An interim one does not end the stream.

        Args:
            stream: where nothing has been sent but interim heads.
            fields: what the receiver checks is not checked here.
            ends: whether no content follows.
            extra: fields that are encoded already, by `format_secret`; they go last.
            never: further names that may not enter a table.
        """
        if stream.is_closed:
            return
        block = self._encoder.encode(fields, never)
        if extra:
            block += extra
        self.content_bytes += len(block)
        self._write(frames.format_block(stream.id, block, ends=ends))
        if ends:
            stream.local_ended = True
            self._ended(stream)

    def send_content(self, stream: Stream, content: bytes, ends: bool) -> bool:  # as `send_head`
        """Send content, or keep what the windows do not take.

        Returns:
            Whether more may follow at once; otherwise the receiver's `on_writable` says when.
        """
        if stream.is_closed:
            return True
        size = len(content)
        if ends:
            stream.local_ended = True
        if not size:
            # An end needs no window (RFC 9113 §6.9.1), but its turn.
            if ends and not stream.pending:
                self._write_data(stream, b"", 0, ends)
            return True
        if not stream.pending and size <= stream.send_window and self._has_room(size):
            self._write_data(stream, content, size, ends)
            return True
        stream.pending.append(content)
        stream.pending_bytes += size
        self._queue(stream)
        self._flush()
        if stream.pending_bytes > _HIGH_BYTES:
            stream.is_blocked = True
            return False
        return True

    def _has_room(self, size: int) -> bool:
        """Whether a frame of this size can go at once, and nobody is overtaken."""
        return (
            size <= self.send_window
            and size <= frames.FRAME_BYTES
            and not self._waiting
            and not self.is_held
            and self.output_bytes < _OUTPUT_BYTES
        )

    def send_trailers(self, stream: Stream, fields: list[Field]) -> None:
        """Send trailers, behind all content (RFC 9113 §8.1); an empty list ends the stream without any."""
        if not fields:
            self.send_content(stream, b"", True)
            return
        if stream.is_closed:
            return
        stream.local_ended = True
        stream.trailers = fields
        if not stream.pending:
            self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        fields = stream.trailers
        if fields is not None:
            stream.trailers = None
            block = self._encoder.encode(fields)
            self.content_bytes += len(block)
            self._write(frames.format_block(stream.id, block, ends=True))
            self._ended(stream)

    def _write_data(self, stream: Stream, content: bytes, size: int, ends: bool) -> None:
        self.send_window -= size
        stream.send_window -= size
        self.content_bytes += size
        self._write(frames.format_head(size, frames.DATA, frames.END_STREAM if ends else 0, stream.id))
        if size:
            self._write(content)
        if ends:
            self._ended(stream)

    def _queue(self, stream: Stream) -> None:
        if not stream.is_queued and stream.pending and stream.send_window > 0:
            stream.is_queued = True
            self._waiting.append(stream)

    def _flush(self) -> None:
        """Send of what waits as much as the windows take, one frame of each stream in turn."""
        while self._waiting and self.send_window > 0 and not self.is_held and self.output_bytes < _OUTPUT_BYTES:
            stream = self._waiting.popleft()
            stream.is_queued = False
            if stream.is_closed:
                continue
            self._write_one(stream)
            self._queue(stream)
            if stream.is_blocked and stream.pending_bytes <= _LOW_BYTES:
                stream.is_blocked = False
                self._writable(stream)

    def _write_one(self, stream: Stream) -> None:
        room = min(self.send_window, stream.send_window, frames.FRAME_BYTES)
        if room <= 0:
            return
        pending = stream.pending
        content = pending[0]
        size = len(content)
        if size > room:
            pending[0] = content[room:]
            content = content[:room]
            size = room
        else:
            del pending[0]
        stream.pending_bytes -= size
        is_last = not pending
        self._write_data(stream, content, size, is_last and stream.local_ended and stream.trailers is None)
        if is_last:
            self._finish(stream)

    def _ended(self, stream: Stream) -> None:
        """Take note that we have ended a stream."""
        raise NotImplementedError

    def _writable(self, stream: Stream) -> None:
        """Let the stream's user send again."""
        raise NotImplementedError
