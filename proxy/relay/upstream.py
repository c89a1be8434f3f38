"""The upstream's side of an exchange: reads responses, strictly, and hands them to the exchange piece by piece. Does I/O.

A connection serves one exchange at a time. Bytes that arrive when no response is due, or behind the end of one, spoil it:
it is closed and never used again, so that no response can reach another request (RFC 9112 §11.2).
"""

from __future__ import annotations

import asyncio
import ssl
from math import inf
from typing import TYPE_CHECKING, Final

from proxy.dialing.handshake import is_about_client_certificate, judge_handshake
from proxy.errors import MalformedRequest, UpstreamProtocolError, UpstreamUnreachable
from proxy.relay.chunked import ChunkedReader
from proxy.relay.head import check_partial_response, parse_response_head
from proxy.relay.secure import SecureTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.exchange import Exchange
    from proxy.relay.message import ResponseHead
    from proxy.relay.pool import UpstreamPool

# What is being read.
_HEAD: Final = 0
_LENGTH: Final = 1
_CHUNKED: Final = 2
_UNTIL_CLOSE: Final = 3
_NOTHING: Final = 4
_UPLOAD: Final = 5

# A server that sends interim responses without end is broken; real ones send one or two.
_INTERIM_RESPONSES: Final = 32


class UpstreamConnection(asyncio.Protocol):
    """One connection to an upstream.

    Attributes:
        transport: plain or TLS.
        exchange: the one it serves; None while it waits for one.
        deadline: monotonic seconds; when it passes, `on_deadline` is called.
        reused: whether it has served an exchange before this one.
        answered: whether a byte of the response to this exchange has arrived.
        clean_end: whether the upstream has ended sending in the proper way: FIN, or close_notify under TLS.
        opened: whether it was counted as open, so that its end must be counted too.
        paused: whether reading is stopped, because the client does not take what has been read.
        on_connected: called once when the connection is ready to be written to.
    """

    __slots__ = (
        "_buffer",
        "_checked",
        "_chunks",
        "_interims",
        "_is_put_off",
        "_is_suspect",
        "_keeps_alive",
        "_mode",
        "_remaining",
        "_stalled",
        "answered",
        "clean_end",
        "deadline",
        "exchange",
        "on_connected",
        "opened",
        "paused",
        "pool",
        "reused",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, pool: UpstreamPool) -> None:
        self.pool = pool
        self.exchange: Exchange | None = None
        self.deadline = inf
        self.reused = False
        self.answered = False
        self.opened = False
        self.paused = False
        self.on_connected: Callable[[], object] | None = None
        self._stalled = False
        self._mode = _HEAD
        self._buffer = b""
        self._checked = 0
        self._remaining = 0
        self._chunks: ChunkedReader | None = None
        self._is_put_off = False
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

    def begin(self, exchange: Exchange) -> None:
        """Get ready for the response to `exchange`, whose request is about to be written."""
        self.exchange = exchange
        self.answered = False
        self.deadline = inf
        self._mode = _HEAD
        self._interims = 0

    def await_response(self) -> None:
        """Start the wait for the response: the request has been written whole."""
        timeouts = self.pool.relay.timeouts
        self.deadline = self.pool.relay.now + (timeouts.response_s if self._mode == _HEAD else timeouts.body_idle_s)

    def finish_upload(self, exchange: Exchange) -> None:
        """Take the rest of a request whose response is complete; nothing may be read until it has ended."""
        self.exchange = exchange
        self._mode = _UPLOAD
        self.deadline = self.pool.relay.now + self.pool.relay.timeouts.body_idle_s

    @property
    def fit(self) -> bool:
        """Whether it may serve another exchange, as far as its transport is concerned: open, and nothing left to write."""
        return not self._stalled and not self.transport.is_closing()

    def abort(self) -> None:
        """Cuts the connection."""
        self.transport.abort()

    def hold_reading(self) -> None:
        """Stop reading the response: the client does not take it as fast as it comes."""
        self.paused = True
        self.transport.pause_reading()
        self.deadline = inf

    def release_reading(self) -> None:
        """Goes on reading the response."""
        if self.paused:
            self.paused = False
            if not self._is_put_off:
                self.transport.resume_reading()
            self.deadline = self.pool.relay.now + self.pool.relay.timeouts.body_idle_s

    def data_received(self, data: bytes) -> None:
        """Take response bytes."""
        exchange = self.exchange
        if exchange is None:
            self.transport.abort()
            return
        self.answered = True
        self.deadline = self.pool.relay.now + self.pool.relay.timeouts.body_idle_s
        try:
            if self._mode == _HEAD:
                self._read_head(exchange, data)
            else:
                if self._buffer:
                    data = self._buffer + data
                    self._buffer = b""
                self._read_content(exchange, data, b"")
        except UpstreamProtocolError as error:
            self._spoil(exchange, error)
        except MalformedRequest as error:
            self._spoil(exchange, UpstreamProtocolError(error.detail, code=error.code))

    def eof_received(self) -> bool:
        """Take note of a proper end: FIN, or close_notify under TLS."""
        while self._buffer and self._mode == _CHUNKED and self.exchange is not None:
            self.data_received(b"")  # nothing more will come to wait for
        self.clean_end = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the exchange, which knows whether that was the end of the response or a cut."""
        if self.opened:
            self.opened = False
            self.pool.forget(self)
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        if isinstance(exc, ssl.SSLError) and not self.answered and isinstance(self.transport, SecureTransport):
            # A TLS 1.3 server judges our certificate behind the handshake (RFC 8446 §4.4.2.4).
            failure = judge_handshake(exc, self.transport.tls)
            if is_about_client_certificate(failure):
                refusal = UpstreamUnreachable(failure.describe(self.pool.dial), code=failure.code)
                exchange.on_upstream_refused(refusal)
                return
        if self._mode == _UNTIL_CLOSE and self.clean_end and exc is None:
            exchange.on_response_end(self, fit=False)
        else:
            exchange.on_upstream_lost(self)

    def pause_writing(self) -> None:
        """Back-pressure: the upstream takes the request more slowly than the client sends it."""
        self._stalled = True
        if self.exchange is not None:
            self.deadline = self.pool.relay.now + self.pool.relay.timeouts.body_idle_s
            self.exchange.client.hold_reading()

    def resume_writing(self) -> None:
        """End back-pressure."""
        self._stalled = False
        if self.exchange is not None:
            if self.exchange.request_complete:
                self.await_response()
            self.exchange.client.release_reading()

    def on_deadline(self) -> None:
        """Give up on a silent upstream; one that still receives its request may be silent."""
        exchange = self.exchange
        if exchange is None:
            if self.transport.is_closing():
                self.transport.abort()  # it never took the rest of a request it had answered
            else:
                self.transport.close()
                self.deadline = self.pool.relay.now + self.pool.relay.timeouts.body_idle_s
        elif self.paused:
            self.deadline = (
                inf  # what was put off has been read since; whether the client is too slow, its own deadline says
            )
        elif not exchange.request_complete and not self._stalled and exchange.client.deadline > self.pool.relay.now:
            self.deadline = exchange.client.deadline
        else:
            self.detach()
            exchange.on_upstream_silent()

    def detach(self) -> None:
        """Parts from the exchange and cuts the connection: whatever still comes belongs to nobody."""
        self.exchange = None
        self.transport.abort()

    def _spoil(self, exchange: Exchange, error: UpstreamProtocolError) -> None:
        self.detach()
        exchange.fail(error)

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        while True:
            end = self._find_end(data)
            if end == 0:
                self._buffer = data
                return
            to_head = exchange.request.method == b"HEAD"
            head = parse_response_head(data[:end], field_count=self.pool.relay.limits.field_count, to_head=to_head)
            data = data[end:]
            if head.status >= 200:
                break
            if head.status == 101:
                exchange.on_upgraded(self, head, data)
                return
            self._interims += 1
            if self._interims > _INTERIM_RESPONSES:
                raise UpstreamProtocolError("The upstream sent interim responses without end.")
            self._is_suspect = self._is_suspect or not head.keeps_alive
            exchange.on_interim(head)
            if not data:
                return
        self._keeps_alive = head.keeps_alive and not self._is_suspect
        self._choose_framing(head, has_content=not to_head and head.status not in (204, 304))
        prefix = exchange.on_response_head(head, until_close=self._mode == _UNTIL_CLOSE)
        if self.exchange is exchange:
            self._read_content(exchange, data, prefix)

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
        """Decides where the response ends (RFC 9112 §6.3)."""
        if not has_content:
            self._mode = _NOTHING
        elif head.chunked:
            self._mode = _CHUNKED
            self._chunks = ChunkedReader(head.nominated, response=True)
        elif head.length is not None:
            self._mode = _LENGTH
            self._remaining = head.length
        else:
            self._mode = _UNTIL_CLOSE

    def _read_content(self, exchange: Exchange, data: bytes, prefix: bytes) -> None:
        mode = self._mode
        complete = False
        if mode == _LENGTH:
            spare = len(data) - self._remaining
            if spare < 0:
                self._remaining = -spare
            else:
                complete = True
                if spare:
                    data = data[: self._remaining]
                    self._keeps_alive = False
                self._remaining = 0
            exchange.on_response_content(prefix, data)
        elif mode == _CHUNKED:
            complete = self._read_chunks(exchange, data, prefix)
        elif mode == _UNTIL_CLOSE:
            exchange.on_response_content(prefix, data)
        elif mode == _UPLOAD:
            self.detach()
            exchange.on_upstream_lost(self)
        else:
            complete = True
            self._keeps_alive = self._keeps_alive and not data
            exchange.on_response_content(prefix, b"")
        if complete and self.exchange is exchange:
            self.exchange = None
            exchange.on_response_end(self, fit=self._keeps_alive)

    def _read_chunks(self, exchange: Exchange, data: bytes, prefix: bytes) -> bool:
        chunks = self._chunks
        if chunks is None:
            raise UpstreamProtocolError("The response continues behind its end.")
        try:
            pieces, rest = chunks.feed(data)
        except MalformedRequest:
            if prefix:
                exchange.on_response_content(prefix, b"")
            raise
        exchange.on_response_chunks(prefix, b"".join(pieces), chunks.trailers if chunks.complete else None)
        if chunks.complete:
            self._chunks = None
            if rest:
                self._keeps_alive = False
        elif rest:
            self._put_off(rest)
        return chunks.complete

    def _put_off(self, rest: bytes) -> None:
        """Leaves what takes long for a later turn of the event loop, so that others have theirs."""
        self._buffer = rest
        if not self._is_put_off:
            self._is_put_off = True
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._resume_content)

    def _resume_content(self) -> None:
        self._is_put_off = False
        if self.transport.is_closing():
            return
        if self._buffer and self.exchange is not None:
            self.data_received(b"")
        if not (self.paused or self._is_put_off):
            self.transport.resume_reading()
