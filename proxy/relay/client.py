"""The client's side: reads requests, strictly, and writes responses. Does I/O.

One exchange at a time: what a client pipelines behind a request waits, up to a limit, until the response has gone
(RFC 9112 §9.3.2). Whatever cannot be understood is answered once and ends the connection; nothing of it goes upstream.
"""

from __future__ import annotations

import asyncio
import re
from math import inf
from typing import TYPE_CHECKING, Final

from proxy.errors import (
    FieldsTooLarge,
    MalformedRequest,
    ProxyError,
    RequestTimeout,
    TargetTooLong,
)
from proxy.policy.access import PasswordClaim
from proxy.relay.accepted_connection import descriptor_of
from proxy.relay.admission import PendingCheck
from proxy.relay.answers import CONNECT_ESTABLISHED, CONNECTION_CLOSE, format_answer
from proxy.relay.asked import describe_head, describe_raw
from proxy.relay.chunked import ChunkedReader, format_chunk, format_last_chunk
from proxy.relay.destination_rule import FixedRule
from proxy.relay.exchange import Exchange
from proxy.relay.gate import RoutedTunnel, begin_connect, begin_exchange, identify, record_refusal, take_verdict
from proxy.relay.head import check_partial_request, format_response_head, parse_request_head
from proxy.relay.presence import is_gone, watch_presence
from proxy.relay.reset import reset_connection
from proxy.relay.sender import Sender
from proxy.relay.sides import CHUNKED, UNTIL_CLOSE, ClientSide, Pipe, UnderWay
from proxy.relay.versions import begins_http2, make_http2_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.accepted_connection import AcceptedConnection
    from proxy.relay.destination_rule import DestinationRule
    from proxy.relay.known_client import KnownClient
    from proxy.relay.message import RequestHead, ResponseHead
    from proxy.relay.state import Relay

# What is being read: a head, content, what has to wait until an exchange, CONNECT or a check of a password is over, or nothing.
_HEAD: Final = 0
_CONTENT: Final = 1
_BUSY: Final = 2
_LINGERING: Final = 3

# Who holds the reading, beside those of `sides`.
_BUFFERED: Final = 4  # a pipelined request that is as long as a head may be
_PUT_OFF: Final = 8  # this turn of the event loop has done its share
_KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"

_EMPTY_LINES: Final = re.compile(rb"\A(?:\r\n)+")

# How long bytes that nobody wants are read and dropped after an early answer, so that the answer is not lost to a reset
# (RFC 9112 §9.6). nginx allows 5 s between reads and 30 s in all.
_LINGER_S: Final = 5.0
_FLUSH_S: Final = 30.0


class ClientConnection(asyncio.Protocol, ClientSide):
    """One connection of a client, or what runs inside one of its intercepted tunnels.

    It is the client side of each of its exchanges, one after the other.

    Args:
        relay: the process-wide state.
        rule: how requests on this connection name their destination.
        accepted: the connection that the client opened; None: it is this one, which is counted here.
        intercept: takes over the connection where a CONNECT for a routed host has been answered.

    Attributes:
        relay: the process-wide state.
        rule: how requests on this connection name their destination.
        transport: plain or TLS.
        peer: the client's address, as text.
        exchange: what is under way; None between two requests.
        deadline: monotonic seconds; when it passes, `on_deadline` is called.
        half_closed: whether the client has ended sending.
        known: which configured client sent the request being served; None where nothing depends on it.
        accepted: the connection that the client opened; None until it is open.
    """

    __slots__ = (
        "_blocked_bytes",
        "_buffer",
        "_checked",
        "_chunks",
        "_chunks_response",
        "_holds",
        "_intercept",
        "_minor",
        "_remaining",
        "_response_head",
        "_sender",
        "_state",
        "_write_blocked",
        "accepted",
        "deadline",
        "ends_with_response",
        "exchange",
        "half_closed",
        "known",
        "peer",
        "relay",
        "rule",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(
        self,
        relay: Relay,
        rule: DestinationRule,
        accepted: AcceptedConnection | None = None,
        *,
        intercept: Callable[[Relay, Pipe, Sender, RoutedTunnel], None],
    ) -> None:
        self.relay = relay
        self._intercept = intercept
        self.rule = rule
        self.peer = ""
        self.exchange: UnderWay | None = None
        self.known: KnownClient | None = None
        self.accepted = accepted
        self.deadline = inf
        self.half_closed = False
        self.ends_with_response = False
        self._state = _HEAD
        self._buffer = b""
        self._checked = 0
        self._remaining = 0
        self._chunks: ChunkedReader | None = None
        self._holds = 0
        self._write_blocked = False
        self._blocked_bytes = 0
        self._sender: Sender | None = None
        # The response being sent: its head until it leaves, and how its content is framed.
        self._minor = 1
        self._response_head = b""
        self._chunks_response = False

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
        if self.accepted is None:
            self._count_connection()

    def data_received(self, data: bytes) -> None:
        """Take request bytes."""
        if self._buffer and self._state != _BUSY:
            data = self._buffer + data
            self._buffer = b""
        try:
            while data:
                if self._state == _HEAD:
                    data = self._read_head(data)
                elif self._state == _CONTENT:
                    data = self._read_content(data)
                elif self._state == _BUSY:
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
        if self.accepted is not None:
            self.accepted.leave()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.on_client_lost()

    def pause_writing(self) -> None:
        """Back-pressure: the client reads more slowly than the upstream sends."""
        self._write_blocked = True
        self._blocked_bytes = self.transport.get_write_buffer_size()
        self.deadline = self.relay.now + self.relay.timeouts.body_idle_s
        if self.exchange is not None:
            self.exchange.hold_response()

    def resume_writing(self) -> None:
        """End back-pressure."""
        self._write_blocked = False
        exchange = self.exchange
        if exchange is None:
            if self._state == _BUSY:
                self._await_request()
            return
        if self.half_closed:
            self.deadline = self.relay.now
        elif self._state == _CONTENT:
            self.deadline = self.relay.now + self.relay.timeouts.body_idle_s
        else:
            self.deadline = inf
        exchange.release_response()

    def on_deadline(self) -> None:
        """Give up on a client that sends nothing, or takes nothing."""
        exchange = self.exchange
        if self._state == _LINGERING:
            waiting = self.transport.get_write_buffer_size()
            if waiting < self._blocked_bytes:
                self._blocked_bytes = waiting
                self.deadline = self.relay.now + _FLUSH_S
            elif waiting:
                reset_connection(
                    self.transport
                )  # a response that ends with its connection would look complete after FIN
            else:
                self.transport.abort()
        elif self._write_blocked:
            self._check_progress()
        elif exchange is not None and self.half_closed:
            self._check_presence(exchange)
        elif exchange is not None:
            other = exchange.response_deadline
            if other > self.relay.now:
                self.deadline = other  # the other direction moves, so this one may be waiting for it
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
        """Cut a client that has taken nothing for a while; a slow one may go on."""
        waiting = self.transport.get_write_buffer_size()
        if waiting < self._blocked_bytes:
            self._blocked_bytes = waiting
            self.deadline = self.relay.now + self.relay.timeouts.body_idle_s
            return
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.on_client_lost()
        reset_connection(self.transport)

    def _check_presence(self, exchange: UnderWay) -> None:
        """Let go of an exchange whose client has not only ended sending, but gone."""
        self.deadline = self.relay.now  # looked at again at the next tick
        if is_gone(self.transport):
            self.exchange = None
            exchange.on_client_lost()
            self.transport.abort()

    # What the exchange asks for.

    def send_interim(self, head: ResponseHead) -> None:
        """See `ClientSide`; HTTP/1.0 has no 1xx responses (RFC 9110 §15.2)."""
        if self._minor:
            self.transport.write(format_response_head(head, b"", chunked=True))

    def send_head(self, head: ResponseHead, framing: int, *, takes_rest: bool) -> None:
        """See `ClientSide`."""
        minor = self._minor
        if (
            not takes_rest
            or framing == UNTIL_CLOSE
            or (head.chunked and not minor)
            or self.relay.ending
            or self._ends_after_exchange
        ):
            self.ends_with_response = True
        line = CONNECTION_CLOSE if self.ends_with_response else b"" if minor else _KEEP_ALIVE
        if head.status == 426:
            # Upgrade ends at this hop, but here it is what the client has to know (RFC 9110 §15.5.22).
            wanted = b", ".join(head.values(b"upgrade"))
            if wanted:
                line += b"Connection: Upgrade\r\nUpgrade: " + wanted + b"\r\n"
        self._response_head = format_response_head(head, line, chunked=minor == 1)
        self._chunks_response = framing == CHUNKED and minor == 1

    def send_content(self, content: bytes) -> None:
        """See `ClientSide`."""
        if self._chunks_response and content:
            content = format_chunk(content)
        head = self._response_head
        if head:
            self._response_head = b""
            content = head + content
        if content:
            self.transport.write(content)

    def end(self, content: bytes, trailers: bytes) -> None:
        """See `ClientSide`; trailers go to HTTP/1.1 clients, behind chunked content."""
        if self._chunks_response:
            self._chunks_response = False
            last = format_last_chunk(trailers)
            content = format_chunk(content) + last if content else last
        head = self._response_head
        if head:
            self._response_head = b""
            content = head + content
        if content:
            self.transport.write(content)

    def answer(self, error: ProxyError, *, request_complete: bool) -> None:
        """See `ClientSide`."""
        exchange = self.exchange
        head = exchange.request if exchange is not None else None
        if (
            head is None
            or not head.keeps_alive
            or (head.method == b"CONNECT" and bool(self._buffer))  # which was meant for the tunnel, and is no request
            or not request_complete
            or self.relay.ending
            or self._ends_after_exchange
        ):
            self.ends_with_response = True
        self.transport.write(
            format_answer(error, with_content=head is None or head.method != b"HEAD", close=self.ends_with_response)
        )
        self.finish(request_complete=request_complete)

    def finish(self, *, request_complete: bool) -> None:
        """See `ClientSide`."""
        self.exchange = None
        if self.ends_with_response or not request_complete or self._ends_after_exchange:
            # Closing with unread bytes would reset the connection, and could take the response with it (RFC 9112 §9.6).
            self._close(linger=not request_complete or self._holds != 0 or bool(self._buffer))
        elif self._write_blocked:
            self._state = _BUSY  # the next response could not be written yet, so its request waits
        else:
            self._await_request()

    def cut(self) -> None:
        """See `ClientSide`."""
        self.exchange = None
        reset_connection(self.transport)

    def hold_request(self, holder: int) -> None:
        """See `ClientSide`."""
        if not self._holds & ~_PUT_OFF:
            self.deadline = inf
        self._hold(holder)

    def release_request(self, holder: int) -> None:
        """See `ClientSide`."""
        if not self._holds & holder:
            return
        self._release(holder)
        if self._state == _CONTENT and not self._holds & ~_PUT_OFF:
            self.deadline = self.relay.now + self.relay.timeouts.body_idle_s

    def _hold(self, holder: int) -> None:
        if not self._holds:
            self.transport.pause_reading()
        self._holds |= holder

    def _release(self, holders: int) -> None:
        before = self._holds
        self._holds = before & ~holders
        if before and not self._holds:
            self.transport.resume_reading()

    def hand_over(self, head: ResponseHead | None) -> Pipe | None:
        """See `ClientSide`."""
        early, self._buffer = self._buffer, b""
        if head is None:
            established = CONNECT_ESTABLISHED
        else:
            upgrade = next((line for name, line in zip(head.names, head.lines, strict=True) if name == b"upgrade"), b"")
            line = b"Connection: Upgrade\r\n" + (upgrade + b"\r\n" if upgrade else b"")
            established = format_response_head(head, line, chunked=True)
        self.transport.write(established)
        self.exchange = None
        self.relay.clients.discard(self)
        on_end = None if self.accepted is None else self.accepted.leave
        return Pipe(self.transport, early, on_end, has_ended=self.half_closed)

    def leads_to(self, host: str) -> bool:
        """See `ClientSide`."""
        rule = self.rule
        return not isinstance(rule, FixedRule) or rule.authority.host == host

    # What a reload, a drain and a tunnel ask for.

    @property
    def _ends_after_exchange(self) -> bool:
        """Whether this connection takes no further request."""
        return (
            self.relay.draining
            or (self.accepted is not None and self.accepted.is_dismissed)
            or (self.half_closed and not self._buffer)
        )

    def redirect(self, change: Callable[[DestinationRule], DestinationRule]) -> None:
        """Replace the rule by the one that a new configuration has for it."""
        self.rule = change(self.rule)
        self._sender = None

    def dismiss(self) -> None:
        """End the connection, whose listener would not accept it any more: at once, or after the exchange under way."""
        if self.accepted is not None:
            self.accepted.is_dismissed = True
        self.close_if_idle()

    def close_if_idle(self) -> None:
        """Close the connection if no exchange is under way."""
        if self.exchange is None:
            self.transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        self.transport.abort()

    def write(self, data: bytes) -> None:
        """Send response bytes."""
        self.transport.write(data)

    def _await_request(self) -> None:
        self._state = _HEAD
        self.deadline = self.relay.now + self.relay.timeouts.client_idle_s
        if self._holds:
            self._release(~_PUT_OFF)
        if self._buffer:
            asyncio.get_running_loop().call_soon(self._read_on)
        elif self.half_closed:
            self._close(linger=False)

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
            self._hold(_BUFFERED)
            self.deadline = inf

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
        if self.relay.admission is not None:
            self._recognise(None)
            who = identify(self.relay, self.accepted, head)
            if isinstance(who, PasswordClaim):
                self._check(who, head, data[end:])
                return b""
            self._recognise(who)
        return self._serve(head, data[end:])

    def _serve(self, head: RequestHead, rest: bytes) -> bytes:
        """Begin what a request asks for; return what follows it."""
        try:
            if head.method != b"CONNECT":
                return self._begin(head, rest)
            self._state = _BUSY
            self.deadline = inf
            self._connect(head, rest)
        except ProxyError as error:
            self._refuse(error, head)
        return b""

    def _connect(self, head: RequestHead, rest: bytes) -> None:
        relay, sender = self.relay, self._sender_of_request()
        begun = begin_connect(relay, self, sender, self.rule, head)
        self._buffer = rest
        if isinstance(begun, RoutedTunnel):
            pipe = self.hand_over(None)
            if pipe is not None:
                self._intercept(relay, pipe, sender, begun)
        else:
            self.exchange = begun
            begun.start()

    # Who sends it.

    def _count_connection(self) -> None:
        self.accepted = self.relay.accepted_connections.add(self.peer)
        self.accepted.rule = self.rule
        descriptor = descriptor_of(self.transport)
        try:
            self.relay.accepted_connections.check(self.peer, descriptor)
        except ProxyError as error:
            self._refuse(error)
            if self.relay.accepted_connections.is_flooded(descriptor):
                self.transport.abort()

    def _check(self, claim: PasswordClaim, head: RequestHead, rest: bytes) -> None:
        """Have a password checked; `on_checked` follows."""
        admission, accepted = self.relay.admission, self.accepted
        if admission is None or accepted is None:
            return  # nobody asked for a password then
        self._state = _BUSY
        self.deadline = inf
        self._buffer = rest
        self.exchange = PendingCheck(admission, accepted, claim, head, self)

    def on_checked(self, head: RequestHead, verdict: KnownClient | ProxyError) -> None:
        """Go on with a request whose sender has been found out, or refuse it."""
        self.exchange = None
        self._recognise(verdict if not isinstance(verdict, ProxyError) else None)
        data, self._buffer = self._buffer, b""
        try:
            who = take_verdict(self.relay, self.accepted, head, verdict)
            if isinstance(who, PasswordClaim):
                self._check(who, head, data)
                return
            self._recognise(who)
            self._state = _HEAD
            self._release(_BUFFERED)
            rest = self._serve(head, data)
        except ProxyError as error:
            self._refuse(error, head)
            return
        if rest:
            self.data_received(rest)

    def _recognise(self, known: KnownClient | None) -> None:
        if known is not self.known:
            self.known = known
            self._sender = None

    def _sender_of_request(self) -> Sender:
        sender = self._sender
        if sender is None:
            sender = self._sender = Sender(self.peer, self.rule.mode, self.known, self.accepted)
        return sender

    # Content.

    def _await_head(self, data: bytes) -> None:
        limits = self.relay.limits
        line = data.find(b"\r\n")
        if (len(data) if line < 0 else line) > limits.target_bytes + 256:
            raise TargetTooLong(f"The request line is over {limits.target_bytes} bytes (limits.target_bytes).")
        if len(data) > limits.head_bytes:
            raise FieldsTooLarge(f"The request head is over {limits.head_bytes} bytes (limits.head_bytes).")
        if data != b"\r":  # the first half of an empty line, and of no request
            check_partial_request(data, self._checked)
            if not self._checked:
                self.deadline = self.relay.now + self.relay.timeouts.head_s
            self._checked = len(data)
        self._buffer = data

    def _begin(self, head: RequestHead, rest: bytes) -> bytes:
        exchange = begin_exchange(self.relay, self, self._sender_of_request(), self.rule, head)
        self.exchange = exchange
        self.ends_with_response = not head.keeps_alive
        self._minor = head.minor
        if head.has_content:
            self._state = _CONTENT
            self.deadline = self.relay.now + self.relay.timeouts.body_idle_s
            if head.chunked:
                self._chunks = ChunkedReader(head.nominated, exchange.refused_trailers)
            else:
                self._remaining = head.length or 0
            if rest:
                rest = self._read_content(rest)
        else:
            self._state = _BUSY
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
        if not self._holds & ~_PUT_OFF and not self._write_blocked:
            self.deadline = self.relay.now + self.relay.timeouts.body_idle_s
        if self._chunks is not None:
            return self._read_chunks(exchange, self._chunks, data)
        remaining = self._remaining
        content = data if len(data) <= remaining else data[:remaining]
        self._remaining = remaining - len(content)
        if self._remaining:
            exchange.on_request_content(content)
        else:
            self._complete(exchange, content, b"")
        return data[remaining:]

    def _read_chunks(self, exchange: Exchange, chunks: ChunkedReader, data: bytes) -> bytes:
        try:
            pieces, rest = chunks.feed(data)
        except MalformedRequest as error:
            exchange.fail(error)
            return b""
        content = b"".join(pieces)
        if chunks.complete:
            self._complete(exchange, content, chunks.trailers)
            return rest
        if content:
            exchange.on_request_content(content)
        if rest:
            self._put_off(rest)
        return b""

    def _put_off(self, rest: bytes) -> None:
        """Leave what takes long for a later turn of the event loop, so that others have theirs."""
        self._buffer = rest
        if not self._holds & _PUT_OFF:
            self._hold(_PUT_OFF)
            asyncio.get_running_loop().call_soon(self._resume_content)

    def _resume_content(self) -> None:
        self._holds &= ~_PUT_OFF
        if self.transport.is_closing():
            return
        if self._state == _CONTENT and self._buffer:
            self.data_received(b"")
        if not self._holds:
            self.transport.resume_reading()

    def _complete(self, exchange: Exchange, content: bytes, trailers: bytes) -> None:
        self._chunks = None
        self._remaining = 0
        self._state = _BUSY
        if not self._write_blocked:
            self.deadline = inf
        exchange.on_request_end(content, trailers)

    # Ending.

    def _refuse(self, error: ProxyError, head: RequestHead | None = None, raw: bytes = b"") -> None:
        """Answer a request that cannot be passed on, and ends the connection.

        Args:
            error: why.
            head: the request, where it could be read.
            raw: what came of it, where it could not.
        """
        exchange = self.exchange
        if exchange is not None:
            exchange.fail(error)
            return
        if self.rule.takes_http2 and self._state == _HEAD and begins_http2(raw):
            self._give_way(raw)
            return
        asked = describe_raw(raw) if head is None else describe_head(head)
        record_refusal(self.relay, self._sender_of_request(), self.rule, error, asked, head)
        self.write(format_answer(error, with_content=asked[0] != b"HEAD", close=True))
        self._close(linger=True)

    def _give_way(self, data: bytes) -> None:
        """Let HTTP/2 have the connection, which has begun with its preface."""
        self.relay.clients.discard(self)
        self.relay.counters.client_connections -= 1
        connection = make_http2_client(self.relay, self.rule, self.accepted, self.peer)
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        connection.data_received(data)

    def _close(self, *, linger: bool) -> None:
        self._buffer = b""
        self._chunks = None
        self._state = _LINGERING
        self._blocked_bytes = self.transport.get_write_buffer_size()
        if linger and not self.half_closed:
            self.deadline = self.relay.now + _LINGER_S
            self._release(~_PUT_OFF)
            self.transport.write_eof()
        else:
            self.deadline = self.relay.now + _FLUSH_S
            self.transport.close()
