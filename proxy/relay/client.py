"""The client's side: reads requests, strictly, and writes responses. Does I/O.

One exchange at a time: what a client pipelines behind a request waits, up to a limit, until the response has gone
(RFC 9112 §9.3.2). Whatever cannot be understood is answered once and ends the connection; nothing of it goes upstream.
"""

from __future__ import annotations

import asyncio
import re
import time
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

from proxy.errors import (
    ClientRefused,
    ContentTooLarge,
    FieldsTooLarge,
    MalformedRequest,
    ProxyError,
    RequestTimeout,
    TargetTooLong,
)
from proxy.policy import probe
from proxy.policy.access import PasswordClaim
from proxy.relay.abort import abort_visibly
from proxy.relay.admission import PendingCheck
from proxy.relay.answers import format_answer
from proxy.relay.asked import describe_head, describe_raw
from proxy.relay.chunked import ChunkedReader
from proxy.relay.connect import TunnelRequest, begin_tunnel
from proxy.relay.entry import FixedEntry
from proxy.relay.exchange import Exchange
from proxy.relay.head import check_partial_request, parse_request_head
from proxy.relay.presence import is_gone, watch_presence
from proxy.relay.recording import note_trace, refused
from proxy.relay.seats import descriptor_of
from proxy.relay.standing import DISMISSED

if TYPE_CHECKING:
    from proxy.relay.admission import Admission, KnownClient
    from proxy.relay.entry import Entry
    from proxy.relay.message import RequestHead
    from proxy.relay.seats import Seat
    from proxy.relay.state import Relay

# What is being read.
_HEAD: Final = 0
_CONTENT: Final = 1
_PIPELINED: Final = 2
_LINGERING: Final = 3

_EMPTY_LINES: Final = re.compile(rb"\A(?:\r\n)+")

# How long bytes that nobody wants are read and dropped after an early answer, so that the answer is not lost to a reset
# (RFC 9112 §9.6). nginx allows 5 s between reads and 30 s in all.
_LINGER_S: Final = 5.0
_FLUSH_S: Final = 30.0


class ClientConnection(asyncio.Protocol):
    """One connection of a client, or what runs inside one of its intercepted tunnels.

    Attributes:
        relay: the process-wide state.
        entry: how requests on this connection name their destination.
        transport: plain or TLS.
        peer: the client's address, as text.
        exchange: the one under way; None between two.
        deadline: monotonic seconds; when it passes, `on_deadline` is called.
        half_closed: whether the client has ended sending.
        is_dismissed: whether its listener would not take it any more, so that no further request is read.
        known: which configured client sent the request being served; None where nothing depends on it.
        seat: of the connection that the client opened; None until it is open.
    """

    __slots__ = (
        "_blocked_bytes",
        "_buffer",
        "_checked",
        "_chunks",
        "_held",
        "_is_put_off",
        "_remaining",
        "_state",
        "_write_blocked",
        "deadline",
        "entry",
        "exchange",
        "half_closed",
        "is_dismissed",
        "known",
        "peer",
        "relay",
        "seat",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, relay: Relay, entry: Entry, seat: Seat | None = None) -> None:
        self.relay = relay
        self.entry = entry
        self.peer = ""
        self.exchange: Exchange | TunnelRequest | PendingCheck | None = None
        self.known: KnownClient | None = None
        self.seat = seat
        self.deadline = inf
        self.half_closed = False
        self.is_dismissed = False
        self._state = _HEAD
        self._buffer = b""
        self._checked = 0
        self._remaining = 0
        self._chunks: ChunkedReader | None = None
        self._held = False
        self._is_put_off = False
        self._write_blocked = False
        self._blocked_bytes = 0

    # The transport's events.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for a request."""
        self.transport = transport  # type: ignore[assignment]  # stream transports only
        buffered = self.relay.limits.buffer_bytes
        self.transport.set_write_buffer_limits(buffered, buffered // 4)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else "unix"
        self.relay.clients.add(self)
        self.relay.counters.client_connections += 1
        self.deadline = self.relay.now + self.relay.timeouts.client_idle_s
        if self.seat is None:
            self._take_seat()

    def data_received(self, data: bytes) -> None:
        """Take request bytes."""
        if self._buffer and self._state != _PIPELINED:
            data = self._buffer + data
            self._buffer = b""
        try:
            while data:
                if self._state == _HEAD:
                    data = self._read_head(data)
                elif self._state == _CONTENT:
                    data = self._read_content(data)
                elif self._state == _PIPELINED:
                    self._keep(data)
                    return
                else:
                    return
        except ProxyError as error:
            self._refuse(error, raw=data)

    def eof_received(self) -> bool:
        """Take note that the client has ended sending: it may still read (RFC 9112 §9.6), unless it left a request unfinished."""
        if self.exchange is None and self._state == _HEAD and self._buffer:
            self._read_on()  # a request that came before the end, and whose turn it is now
        while self._state == _CONTENT and self._buffer:
            self.data_received(b"")  # nothing more will come to wait for
        if self._state == _LINGERING or (self.exchange is None and not self._write_blocked):
            return False
        if self.exchange is not None and not self.exchange.request_complete:
            exchange, self.exchange = self.exchange, None
            exchange.on_client_lost()
            return False
        self.half_closed = True
        if not self._write_blocked:
            self.deadline = self.relay.now
        watch_presence(self.transport)
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Let go of everything: the client is gone."""
        self.relay.clients.discard(self)
        if self.seat is not None:
            self.seat.leave()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.on_client_lost()

    def pause_writing(self) -> None:
        """Back-pressure: the client reads more slowly than the upstream sends."""
        self._write_blocked = True
        self._blocked_bytes = self.transport.get_write_buffer_size()
        self.deadline = self.relay.now + self.relay.timeouts.body_idle_s
        if self.exchange is not None and self.exchange.upstream is not None:
            self.exchange.upstream.hold_reading()

    def resume_writing(self) -> None:
        """End back-pressure."""
        self._write_blocked = False
        exchange = self.exchange
        if exchange is None:
            if self._state == _PIPELINED:
                self._await_request()
            return
        if self.half_closed:
            self.deadline = self.relay.now
        elif self._state == _CONTENT:
            self.deadline = self.relay.now + self.relay.timeouts.body_idle_s
        else:
            self.deadline = inf
        if exchange.upstream is not None:
            exchange.upstream.release_reading()

    def on_deadline(self) -> None:
        """Give up on a client that sends nothing, or takes nothing."""
        exchange = self.exchange
        if self._state == _LINGERING:
            waiting = self.transport.get_write_buffer_size()
            if waiting < self._blocked_bytes:
                self._blocked_bytes = waiting
                self.deadline = self.relay.now + _FLUSH_S
            elif waiting:
                abort_visibly(self.transport)  # a response that ends with its connection would look complete after FIN
            else:
                self.transport.abort()
        elif self._write_blocked:
            self._check_progress()
        elif exchange is not None and self.half_closed:
            self._check_presence(exchange)
        elif exchange is not None:
            upstream = exchange.upstream
            if upstream is not None and upstream.deadline > self.relay.now and upstream.answered:
                self.deadline = upstream.deadline  # the other direction moves, so this one may be waiting for it
                return
            exchange.fail(RequestTimeout("The request's content stopped arriving (timeouts.body_idle_s)."))
        elif self._state == _HEAD and self._buffer:
            self._refuse(
                RequestTimeout("The request's head did not arrive in time (timeouts.head_s)."), raw=self._buffer
            )
        elif self.transport.is_closing():
            self.transport.abort()
        else:
            self.transport.close()
            self.deadline = self.relay.now + _FLUSH_S

    def _check_progress(self) -> None:
        """Cuts a client that has taken nothing for a while; a slow one may go on."""
        waiting = self.transport.get_write_buffer_size()
        if waiting < self._blocked_bytes:
            self._blocked_bytes = waiting
            self.deadline = self.relay.now + self.relay.timeouts.body_idle_s
            return
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.on_client_lost()
        abort_visibly(self.transport)

    def _check_presence(self, exchange: Exchange | TunnelRequest | PendingCheck) -> None:
        """Lets go of an exchange whose client has not only ended sending, but gone."""
        self.deadline = self.relay.now  # looked at again at the next tick
        if is_gone(self.transport):
            self.exchange = None
            exchange.on_client_lost()
            self.transport.abort()

    # What the exchange asks for.

    @property
    def ends_after_exchange(self) -> bool:
        """Whether this connection takes no further request."""
        return self.relay.draining or self.is_dismissed or (self.half_closed and not self._buffer)

    @property
    def announces_end(self) -> bool:
        """Whether the next response is to say that the connection ends with it."""
        return self.relay.ending or self.ends_after_exchange

    def make_inner(self, entry: Entry) -> ClientConnection:
        """Return the connection for requests inside an intercepted tunnel of this one."""
        return ClientConnection(self.relay, entry, self.seat)

    def dismiss(self) -> None:
        """End the connection: at once, or after the exchange under way."""
        self.is_dismissed = True
        self.close_if_idle()

    def close_if_idle(self) -> None:
        """Close the connection if no exchange is under way."""
        if self.exchange is None:
            self.transport.close()

    def abort(self) -> None:
        """Cuts the connection."""
        self.transport.abort()

    def write(self, data: bytes) -> None:
        """Send response bytes."""
        self.transport.write(data)

    def hold_reading(self) -> None:
        """Stop reading the request: it cannot be passed on as fast as it comes."""
        if not self._held:
            self._held = True
            self.transport.pause_reading()
            self.deadline = inf

    def release_reading(self) -> None:
        """Goes on reading the request."""
        if self._held:
            self._held = False
            if not self._is_put_off:
                self.transport.resume_reading()
            if self._state == _CONTENT:
                self.deadline = self.relay.now + self.relay.timeouts.body_idle_s

    def take_buffer(self) -> bytes:
        """Return what was read behind the request, for the protocol that follows a 101 response."""
        data, self._buffer = self._buffer, b""
        self.release_reading()
        return data

    def on_exchange_end(self, *, close: bool, request_complete: bool) -> None:
        """Wait for the next request, or end: the exchange is over."""
        self.exchange = None
        if close or self.ends_after_exchange:
            # Closing with unread bytes would reset the connection, and could take the response with it (RFC 9112 §9.6).
            self._close(linger=not request_complete or self._held or bool(self._buffer))
        elif self._write_blocked:
            self._state = _PIPELINED  # the next response could not be written yet, so its request waits
        else:
            self._await_request()

    def _await_request(self) -> None:
        self._state = _HEAD
        self.deadline = self.relay.now + self.relay.timeouts.client_idle_s
        self.release_reading()
        if self._buffer:
            asyncio.get_running_loop().call_soon(self._read_on)
        elif self.half_closed:
            self._close(linger=False)

    def on_exchange_failed(self, error: ProxyError, *, request_complete: bool) -> None:
        """Answer in the proxy's own name: the exchange ended before its response began."""
        exchange, self.exchange = self.exchange, None
        head = exchange.request if exchange is not None else None
        close = head is None or not head.keeps_alive or not request_complete or self.announces_end
        self.write(format_answer(error, with_content=head is None or head.method != b"HEAD", close=close))
        self.on_exchange_end(close=close, request_complete=request_complete)

    def on_exchange_cut(self) -> None:
        """Cut the client, so that it can tell that its response was cut."""
        self.exchange = None
        abort_visibly(self.transport)

    # Reading.

    def _read_on(self) -> None:
        if self._state == _HEAD and not self.transport.is_closing():
            data, self._buffer = self._buffer, b""
            self.data_received(data)
            if not self.half_closed:
                return
            if self.exchange is not None:
                self.deadline = self.relay.now
            elif self._state == _HEAD:
                self._close(linger=False)  # the rest of this request will never come

    def _keep(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > self.relay.limits.head_bytes:
            self.hold_reading()

    def _read_head(self, data: bytes) -> bytes:
        """Read a request head and begin its exchange; return what follows."""
        if data.startswith(b"\r\n"):  # RFC 9112 §2.2: empty lines before a request are ignored
            data = _EMPTY_LINES.sub(b"", data, 1)
            self._checked = 0
        end = data.find(b"\r\n\r\n") + 4
        limits = self.relay.limits
        if end < 4:
            if data:
                self._await_head(data)
            return b""
        if end > limits.head_bytes:
            raise FieldsTooLarge(f"The request head is over {limits.head_bytes} bytes (limits.head_bytes).")
        self._checked = 0
        head = parse_request_head(data[:end], target_bytes=limits.target_bytes, field_count=limits.field_count)
        admission = self.relay.admission
        if admission is not None and not self._identify(admission, head, data[end:]):
            return b""
        return self._serve(head, data[end:])

    def _serve(self, head: RequestHead, rest: bytes) -> bytes:
        try:
            if head.method != b"CONNECT":
                return self._begin(head, rest)
            self._state = _PIPELINED
            self.deadline = inf
            begin_tunnel(self, head, rest)
        except ProxyError as error:
            self._refuse(error, head)
        return b""

    # Who sends it.

    def _take_seat(self) -> None:
        self.seat = self.relay.seats.take(self.peer)
        self.seat.entry = self.entry
        descriptor = descriptor_of(self.transport)
        try:
            self.relay.seats.check(self.peer, descriptor)
        except ProxyError as error:
            self._refuse(error)
            if self.relay.seats.is_flooded(descriptor):
                self.transport.abort()

    def _identify(self, admission: Admission, head: RequestHead, rest: bytes) -> bool:
        """Find out who sends a request; False where that takes a moment, and `on_checked` follows."""
        seat = self.seat
        if seat is None:
            return True  # no request comes before a seat is taken
        self.known = None
        found = admission.identify(seat, head.proxy_authorization)
        if isinstance(found, PasswordClaim):
            self._state = _PIPELINED
            self.deadline = inf
            self._buffer = rest
            self.exchange = PendingCheck(admission, seat, found, head, self)
            return False
        self.known = found
        return True

    def on_checked(self, head: RequestHead, verdict: KnownClient | ProxyError) -> None:
        """Goes on with a request whose sender has been found out, or refuses it."""
        self.exchange = None
        if isinstance(verdict, ProxyError):
            self._refuse(verdict, head)
            return
        self.known = verdict
        data, self._buffer = self._buffer, b""
        try:
            if self.is_dismissed:
                raise ClientRefused(DISMISSED, code="listener_changed")
            admission = self.relay.admission
            if admission is None:
                self.known = None
            elif verdict.admission is not admission and not self._identify(admission, head, data):
                return  # what was right by another configuration is checked by this one
            self._state = _HEAD
            self.release_reading()
            rest = self._serve(head, data)
        except ProxyError as error:
            self._refuse(error, head)
            return
        if rest:
            self.data_received(rest)

    # Content.

    def _await_head(self, data: bytes) -> None:
        limits = self.relay.limits
        line = data.find(b"\r\n")
        if (len(data) if line < 0 else line) > limits.target_bytes + 256:
            raise TargetTooLong(f"The request line is over {limits.target_bytes} bytes (limits.target_bytes).")
        if len(data) > limits.head_bytes:
            raise FieldsTooLarge(f"The request head is over {limits.head_bytes} bytes (limits.head_bytes).")
        if data != b"\r":
            check_partial_request(data, self._checked)
        self._checked = len(data)
        if not self._buffer and self.deadline > self.relay.now + self.relay.timeouts.head_s:
            self.deadline = self.relay.now + self.relay.timeouts.head_s
        self._buffer = data

    def _begin(self, head: RequestHead, rest: bytes) -> bytes:
        destination, target = self.entry.locate(self.relay, head)
        if head.method == b"TRACE" and destination.tokens is not None:
            raise ClientRefused("TRACE is not passed on: the response would show the access token (RFC 9110 §9.3.8).")
        body_bytes = self.relay.limits.body_bytes
        if body_bytes is not None and head.length is not None and head.length > body_bytes:
            raise ContentTooLarge(
                f"The content has {head.length} bytes; the limit is {body_bytes} (limits.body_bytes)."
            )
        if self.known is not None:
            self.known.enter(destination.route, monotonic())
        exchange = self.exchange = Exchange(self, head, destination, target)
        if head.has_content:
            self._state = _CONTENT
            self.deadline = self.relay.now + self.relay.timeouts.body_idle_s
            if head.chunked:
                self._chunks = ChunkedReader(head.nominated, destination.drop)
            else:
                self._remaining = head.length or 0
            if rest:
                rest = self._read_content(rest)
        else:
            self._state = _PIPELINED
            self.deadline = inf
            exchange.request_complete = True
        if self._is_serving(exchange):  # unless its content was refused already
            exchange.start()
        return rest

    def _is_serving(self, exchange: Exchange) -> bool:
        # A method, because compiled code holds an attribute to the type that an assignment has narrowed it to, and raises
        # TypeError where a call has set it to None since.
        return self.exchange is exchange

    def _read_content(self, data: bytes) -> bytes:
        exchange = self.exchange
        if not isinstance(exchange, Exchange):
            return b""
        if not self._held and not self._write_blocked:
            self.deadline = self.relay.now + self.relay.timeouts.body_idle_s
        if self._chunks is not None:
            return self._read_chunks(exchange, self._chunks, data)
        remaining = self._remaining
        content = data if len(data) <= remaining else data[:remaining]
        self._remaining = remaining - len(content)
        exchange.on_request_content(content, chunked=False)
        if self._remaining == 0:
            self._complete(exchange, None)
        return data[remaining:]

    def _read_chunks(self, exchange: Exchange, chunks: ChunkedReader, data: bytes) -> bytes:
        try:
            pieces, rest = chunks.feed(data)
        except MalformedRequest as error:
            exchange.fail(error)
            return b""
        if pieces:
            content = b"".join(pieces)
            self._remaining += len(content)  # counts up: a chunked message does not say how much will come
            limit = self.relay.limits.body_bytes
            if limit is not None and self._remaining > limit:
                exchange.fail(ContentTooLarge(f"The content is over {limit} bytes (limits.body_bytes)."))
                return b""
            exchange.on_request_content(content, chunked=True)
        if chunks.complete:
            self._complete(exchange, chunks.trailers)
            return rest
        if rest:
            self._put_off(rest)
        return b""

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
        if self._state == _CONTENT and self._buffer:
            self.data_received(b"")
        if not (self._held or self._is_put_off):
            self.transport.resume_reading()

    def _complete(self, exchange: Exchange, trailers: bytes | None) -> None:
        self._chunks = None
        self._remaining = 0
        self._state = _PIPELINED
        if not self._write_blocked:
            self.deadline = inf
        exchange.on_request_end(trailers)

    # Ending.

    def _refuse(self, error: ProxyError, head: RequestHead | None = None, raw: bytes = b"") -> None:
        """Answers a request that cannot be passed on, and ends the connection.

        Args:
            error: why.
            head: the request, where it could be read.
            raw: what came of it, where it could not.
        """
        exchange = self.exchange
        if exchange is not None:
            exchange.fail(error)
            return
        asked = describe_raw(raw) if head is None else describe_head(head)
        if error.code != probe.CODE:
            self.relay.counters.count_error(error.proxy_status)
            self._record_refusal(error, head, *asked)
        self.write(format_answer(error, with_content=asked[0] != b"HEAD", close=True))
        self._close(linger=True)

    def _record_refusal(
        self, error: ProxyError, head: RequestHead | None, method: bytes, authority: str, target: bytes
    ) -> None:
        relay = self.relay
        if method and not authority and isinstance(self.entry, FixedEntry):
            authority = str(self.entry.authority)
        key = ("", error.status)
        relay.counters.exchanges[key] = relay.counters.exchanges.get(key, 0) + 1
        if relay.observe is not None:
            relay.observe(
                refused(
                    ended_at=relay.wall_offset + time.monotonic(),
                    client=self.peer,
                    mode=self.entry.mode,
                    method=method,
                    authority=authority,
                    target=target,
                    status=error.status,
                    outcome=error.proxy_status,
                    code=error.code,
                    client_name="" if self.known is None else self.known.client.name,
                    trace=None if head is None or not relay.traces else note_trace(head),
                )
            )

    def _close(self, *, linger: bool) -> None:
        self._buffer = b""
        self._chunks = None
        self._state = _LINGERING
        self._blocked_bytes = self.transport.get_write_buffer_size()
        if linger and not self.half_closed:
            self.deadline = self.relay.now + _LINGER_S
            self.release_reading()
            self.transport.write_eof()
        else:
            self.deadline = self.relay.now + _FLUSH_S
            self.transport.close()
