"""The upstream's side of an exchange: reads responses, strictly, and hands them to the exchange piece by piece. Does I/O.

A connection serves one exchange at a time. Bytes that arrive when no response is due, or behind the end of one, spoil it:
it is closed and never used again, so that no response can reach another request (RFC 9112 §11.2).
"""

from __future__ import annotations

import asyncio
import ssl
from math import inf, isfinite
from typing import TYPE_CHECKING, Final

from mypy_extensions import trait

from proxy.dialing.handshake import is_about_client_certificate, judge_handshake
from proxy.errors import MalformedRequest, UpstreamProtocolError, UpstreamUnreachable
from proxy.relay.chunked import ChunkedReader, format_chunk, format_last_chunk
from proxy.relay.counters import HTTP_1_1
from proxy.relay.head import check_partial_response, format_request_head, parse_response_head
from proxy.relay.secure import SecureTransport
from proxy.relay.sides import (
    CHUNKED,
    CUT,
    INCOMPLETE,
    NO_CONTENT,
    SILENT,
    SIZED,
    UNANSWERED,
    UNTIL_CLOSE,
    Pipe,
    ResponseReceiver,
    UpstreamSide,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.policy.authority import Authority
    from proxy.relay.message import RequestHead, ResponseHead
    from proxy.relay.shared import Shared

# What is being read: the content of a response is named by its framing, as in `sides`.
_HEAD: Final = 4
_UPLOAD: Final = 5

# Who holds the reading.
_CLIENT: Final = 1  # the client does not take what has been read
_PUT_OFF: Final = 2  # this turn of the event loop has done its share

# A server that sends interim responses without end is broken; real ones send one or two.
_INTERIM_RESPONSES: Final = 32

_NO_PROTOCOL: Final = "Perhaps it has HTTP/2 only: then its route must not have `http2: off`."


@trait
class Owner:
    """Whose a connection is: the pool that has opened it.

    Attributes:
        relay: what all connections share.
        dial: where the connection leads.
        may_lack_http1: whether the upstream may have HTTP/2 alone, and nobody has asked, because the route has that switched off.
    """

    __slots__ = ()
    relay: Shared
    dial: Authority
    may_lack_http1: bool

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection that is fit for another exchange."""
        raise NotImplementedError

    def forget(self, connection: UpstreamConnection) -> None:
        """Take note that a connection is closed."""
        raise NotImplementedError

    def drop(self, connection: UpstreamConnection) -> None:
        """Hand the connection out no more, which waits for an exchange."""
        raise NotImplementedError


class UpstreamConnection(asyncio.Protocol, UpstreamSide):
    """One connection to an upstream. It is the upstream side of each of its exchanges, one after the other.

    Attributes:
        transport: plain or TLS.
        receiver: gets the response that is due; None between two exchanges.
        deadline: monotonic seconds; when it passes, `on_deadline` is called.
        reused: whether it has served an exchange before this one.
        version: see `UpstreamSide`; a response of HTTP/1.0 is one to our request of HTTP/1.1.
        answered: whether a byte of the response to this exchange has arrived.
        clean_end: whether the upstream has ended sending in the proper way: FIN, or close_notify under TLS.
        opened: whether it was counted as open, so that its end must be counted too.
        on_connected: called once when the connection is ready to be written to.
    """

    __slots__ = (
        "_buffer",
        "_checked",
        "_chunks",
        "_holds",
        "_interims",
        "_is_suspect",
        "_keeps_alive",
        "_mode",
        "_remaining",
        "_sends_chunks",
        "_stalled",
        "answered",
        "clean_end",
        "deadline",
        "on_connected",
        "opened",
        "pool",
        "receiver",
        "reused",
        "transport",
        "version",
    )

    transport: asyncio.Transport

    def __init__(self, pool: Owner) -> None:
        self.pool = pool
        self.receiver: ResponseReceiver | None = None
        self.deadline = inf
        self.reused = False
        self.version = HTTP_1_1
        self.answered = False
        self.opened = False
        self.on_connected: Callable[[], object] | None = None
        self._stalled = False
        self._mode = _HEAD
        self._buffer = b""
        self._checked = 0
        self._remaining = 0
        self._chunks: ChunkedReader | None = None
        self._holds = 0
        self._sends_chunks = False
        self.clean_end = False
        self._keeps_alive = False
        self._is_suspect = False
        self._interims = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, plain or TLS, ready for writing."""
        self.transport = transport  # type: ignore[assignment]  # stream transports only
        buffered = self.pool.relay.limits.buffer_bytes
        self.transport.set_write_buffer_limits(buffered, buffered // 4)
        if self.on_connected is not None:
            self.on_connected()
            self.on_connected = None

    @property
    def is_idle(self) -> bool:
        """Whether it waits for an exchange."""
        return self.receiver is None and isfinite(self.deadline)

    def evict(self) -> None:
        """Leave the pool, and close; for one that is idle."""
        self.pool.drop(self)
        self.transport.close()

    # What the exchange asks for.

    @property
    def address(self) -> str:
        """See `UpstreamSide`."""
        return str(self.transport.get_extra_info("peername")[0])

    def begin(
        self,
        receiver: ResponseReceiver,
        head: RequestHead,
        target: bytes,
        host: bytes,
        drop: frozenset[bytes],
        added: bytes,
        content: bytes,
        trailers: bytes | None,
    ) -> None:
        """See `UpstreamSide`; what there is leaves in one write."""
        self.receiver = receiver
        self.answered = False
        self.deadline = inf
        self._mode = _HEAD
        self._interims = 0
        self._sends_chunks = head.chunked
        wire = format_request_head(head, target, host, drop, added, upgrades=head.asks_for_websocket)
        if head.has_content:
            if self._sends_chunks:
                if content:
                    wire += format_chunk(content)
                if trailers is not None:
                    wire += format_last_chunk(trailers)
            else:
                wire += content
        self.transport.write(wire)
        if trailers is not None:
            self._await_response()

    def send_content(self, content: bytes) -> None:
        """See `UpstreamSide`."""
        self.transport.write(format_chunk(content) if self._sends_chunks else content)

    def end(self, content: bytes, trailers: bytes) -> None:
        """See `UpstreamSide`."""
        if self._sends_chunks:
            last = format_last_chunk(trailers)
            content = format_chunk(content) + last if content else last
        if content:
            self.transport.write(content)
        self._await_response()

    def _await_response(self) -> None:
        """Start the wait for the response: the request has been written whole."""
        timeouts = self.pool.relay.timeouts
        self.deadline = self.pool.relay.now + (timeouts.response_s if self._mode == _HEAD else timeouts.body_idle_s)

    def takes_rest(self, receiver: ResponseReceiver) -> bool:
        """See `UpstreamSide`; nothing may be read until the request has ended."""
        if not self._keeps_alive:
            return False
        self.receiver = receiver
        self._mode = _UPLOAD
        self.deadline = self.pool.relay.now + self.pool.relay.timeouts.body_idle_s
        return True

    def finish(self, *, is_whole: bool) -> None:
        """See `UpstreamSide`; the connection serves another exchange if it is open, and nothing is left to write."""
        self.receiver = None
        if is_whole and self._keeps_alive and not self._stalled and not self.transport.is_closing():
            self.reused = True
            self.pool.release(self)
        else:
            self.transport.close()

    def return_unused(self) -> None:
        """See `UpstreamSide`."""
        self.pool.release(self)

    def cancel(self) -> None:
        """See `UpstreamSide`."""
        self.receiver = None
        self.transport.abort()

    def hand_over(self) -> Pipe:
        """See `UpstreamSide`."""
        self.receiver = None
        self.deadline = inf
        early, self._buffer = self._buffer, b""
        return Pipe(self.transport, early, self._forget)

    def hold_response(self) -> None:
        """See `UpstreamSide`."""
        if not self._holds:
            self.transport.pause_reading()
        self._holds |= _CLIENT
        self.deadline = inf

    def release_response(self) -> None:
        """See `UpstreamSide`."""
        if self._holds & _CLIENT:
            self._holds &= ~_CLIENT
            if not self._holds:
                self.transport.resume_reading()
            self.deadline = self.pool.relay.now + self.pool.relay.timeouts.body_idle_s

    def abort(self) -> None:
        """Cut the connection."""
        self.transport.abort()

    # The transport's events.

    def data_received(self, data: bytes) -> None:
        """Take response bytes."""
        receiver = self.receiver
        if receiver is None:
            self.transport.abort()
            return
        self.answered = True
        self.deadline = self.pool.relay.now + self.pool.relay.timeouts.body_idle_s
        try:
            if self._mode == _HEAD:
                self._read_head(receiver, data)
            else:
                if self._buffer:
                    data = self._buffer + data
                    self._buffer = b""
                self._read_content(receiver, data)
        except UpstreamProtocolError as error:
            self._spoil(receiver, error)
        except MalformedRequest as error:
            self._spoil(receiver, UpstreamProtocolError(error.detail, code=error.code))

    def eof_received(self) -> bool:
        """Take note of a proper end: FIN, or close_notify under TLS."""
        while self._buffer and self._mode == CHUNKED and self.receiver is not None:
            self.data_received(b"")  # nothing more will come to wait for
        self.clean_end = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the exchange: that was the end of the response, or a cut."""
        self._forget()
        receiver, self.receiver = self.receiver, None
        if receiver is None:
            return
        if isinstance(exc, ssl.SSLError) and not self.answered and isinstance(self.transport, SecureTransport):
            # A TLS 1.3 server judges our certificate behind the handshake (RFC 8446 §4.4.2.4).
            failure = judge_handshake(exc, self.transport.tls)
            if is_about_client_certificate(failure):
                receiver.on_upstream_failed(UpstreamUnreachable(failure.describe(self.pool.dial), code=failure.code))
                return
        if self._mode == UNTIL_CLOSE and self.clean_end and exc is None:
            self._keeps_alive = False
            receiver.on_response_end(b"", b"")
        elif self.answered:
            receiver.on_upstream_lost(INCOMPLETE if self.clean_end else CUT)
        else:
            is_suspect = self.pool.may_lack_http1 and not self._has_agreed_on_protocol()
            receiver.on_upstream_lost(UNANSWERED, _NO_PROTOCOL if is_suspect else "")

    def _forget(self) -> None:
        if self.opened:
            self.opened = False
            self.pool.forget(self)

    def _has_agreed_on_protocol(self) -> bool:
        """Whether the upstream has said in its TLS handshake that it speaks HTTP/1.1 (RFC 7301)."""
        transport = self.transport
        return isinstance(transport, SecureTransport) and transport.tls.selected_alpn_protocol() is not None

    def pause_writing(self) -> None:
        """Back-pressure: the upstream takes the request more slowly than the client sends it."""
        self._stalled = True
        if self.receiver is not None:
            self.deadline = self.pool.relay.now + self.pool.relay.timeouts.body_idle_s
            self.receiver.hold_request()

    def resume_writing(self) -> None:
        """End back-pressure."""
        self._stalled = False
        if self.receiver is not None:
            if self.receiver.request_complete:
                self._await_response()
            self.receiver.release_request()

    def on_deadline(self) -> None:
        """Give up on a silent upstream; one that still receives its request may be silent."""
        receiver = self.receiver
        if receiver is None:
            if self.transport.is_closing():
                self.transport.abort()  # it never took the rest of a request it had answered
            else:
                self.transport.close()
                self.deadline = self.pool.relay.now + self.pool.relay.timeouts.body_idle_s
        elif self._holds & _CLIENT:
            self.deadline = (
                inf  # what was put off has been read since; whether the client is too slow, its own deadline says
            )
        elif not receiver.request_complete and not self._stalled and receiver.request_deadline > self.pool.relay.now:
            self.deadline = receiver.request_deadline
        else:
            self.cancel()
            receiver.on_upstream_lost(SILENT)

    # Reading.

    def _spoil(self, receiver: ResponseReceiver, error: UpstreamProtocolError) -> None:
        self.cancel()
        receiver.on_upstream_failed(error)

    def _read_head(self, receiver: ResponseReceiver, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        while True:
            end = self._find_end(data)
            if end == 0:
                self._buffer = data
                return
            to_head = receiver.request.method == b"HEAD"
            head = parse_response_head(data[:end], field_count=self.pool.relay.limits.field_count, to_head=to_head)
            data = data[end:]
            if head.status >= 200:
                break
            if head.status == 101:
                self._buffer = data
                receiver.on_upgraded(head)
                return
            self._interims += 1
            if self._interims > _INTERIM_RESPONSES:
                raise UpstreamProtocolError("The upstream sent interim responses without end.")
            self._is_suspect = self._is_suspect or not head.keeps_alive
            receiver.on_interim(head)
            if not data:
                return
        self._keeps_alive = head.keeps_alive and not self._is_suspect
        self._choose_framing(head, has_content=not to_head and head.status not in (204, 304))
        receiver.on_response_head(head, self._mode)
        if self.receiver is receiver:
            self._read_content(receiver, data)

    def _find_end(self, data: bytes) -> int:
        """Return where the head ends, 0 if it does not end yet."""
        head_bytes = self.pool.relay.limits.head_bytes
        end = data.find(b"\r\n\r\n") + 4
        if end > 3:
            if end > head_bytes:
                raise UpstreamProtocolError(f"The response head is over {head_bytes} bytes (limits.head_bytes).")
            self._checked = 0
            return end
        if len(data) > head_bytes:
            raise UpstreamProtocolError(f"The response head is over {head_bytes} bytes (limits.head_bytes).")
        check_partial_response(data, self._checked)
        self._checked = len(data)
        return 0

    def _choose_framing(self, head: ResponseHead, *, has_content: bool) -> None:
        """Decide where the response ends (RFC 9112 §6.3)."""
        if not has_content:
            self._mode = NO_CONTENT
        elif head.chunked:
            self._mode = CHUNKED
            self._chunks = ChunkedReader(head.nominated, response=True)
        elif head.length is not None:
            self._mode = SIZED
            self._remaining = head.length
        else:
            self._mode = UNTIL_CLOSE

    def _read_content(self, receiver: ResponseReceiver, data: bytes) -> None:
        mode = self._mode
        if mode == SIZED:
            spare = len(data) - self._remaining
            if spare < 0:
                self._remaining = -spare
                receiver.on_response_content(data)
                return
            if spare:
                data = data[: self._remaining]
                self._keeps_alive = False
            self._remaining = 0
            self._complete(receiver, data, b"")
        elif mode == CHUNKED:
            self._read_chunks(receiver, data)
        elif mode == UNTIL_CLOSE:
            receiver.on_response_content(data)
        elif mode == _UPLOAD:
            self.cancel()
            receiver.on_upstream_lost(CUT)
        else:
            self._keeps_alive = self._keeps_alive and not data
            self._complete(receiver, b"", b"")

    def _read_chunks(self, receiver: ResponseReceiver, data: bytes) -> None:
        chunks = self._chunks
        if chunks is None:
            raise UpstreamProtocolError("The response continues behind its end.")
        try:
            pieces, rest = chunks.feed(data)
        except MalformedRequest:
            receiver.on_response_content(b"")  # the head, if it has come just now, leaves before the cut
            raise
        content = b"".join(pieces)
        if not chunks.complete:
            receiver.on_response_content(content)
            if rest:
                self._put_off(rest)
            return
        self._chunks = None
        if rest:
            self._keeps_alive = False
        self._complete(receiver, content, chunks.trailers)

    def _complete(self, receiver: ResponseReceiver, content: bytes, trailers: bytes) -> None:
        self.receiver = None
        receiver.on_response_end(content, trailers)

    def _put_off(self, rest: bytes) -> None:
        """Leave what takes long for a later turn of the event loop, so that others have theirs."""
        self._buffer = rest
        if not self._holds & _PUT_OFF:
            if not self._holds:
                self.transport.pause_reading()
            self._holds |= _PUT_OFF
            asyncio.get_running_loop().call_soon(self._resume_content)

    def _resume_content(self) -> None:
        self._holds &= ~_PUT_OFF
        if self.transport.is_closing():
            return
        if self._buffer and self.receiver is not None:
            self.data_received(b"")
        if not self._holds:
            self.transport.resume_reading()
