"""A connection of HTTP/2 to an upstream, each of whose streams is the upstream side of one attempt at an exchange. Does I/O.

Imported when an upstream is first to be spoken to over HTTP/2.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

from proxy.errors import UpstreamProtocolError
from proxy.relay.counters import HTTP_2
from proxy.relay.http2.connection import Connection
from proxy.relay.http2.encoder import format_secret
from proxy.relay.http2.faults import CANCEL, HTTP_1_1_REQUIRED, NO_ERROR
from proxy.relay.http2.framed import FramedConnection
from proxy.relay.http2.receiver import Terms
from proxy.relay.http2.translation import (
    make_request_fields,
    make_response_head,
    make_response_trailer_lines,
    make_trailer_fields,
)
from proxy.relay.secure import SecureTransport
from proxy.relay.sides import (
    BROKEN,
    CHUNKED,
    CUT,
    NO_CONTENT,
    RESET,
    SILENT,
    SIZED,
    UNANSWERED,
    UNPROCESSED,
    Pipe,
    ResponseReceiver,
    UpstreamSide,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.http2.fields import RequestFields, ResponseFields
    from proxy.relay.http2.static_table import Field
    from proxy.relay.http2.streams import Stream
    from proxy.relay.message import RequestHead
    from proxy.relay.shared import Shared

# 64 KiB at 30 ms is 2 MB/s: a download begins with four times that, and gets more where it uses it up.
_STREAM_WINDOW: Final = 262_144
_HIGHEST_STREAM_WINDOW: Final = 1 << 20
# A server that sends interim responses without end is broken; real ones send one or two.
_INTERIM_RESPONSES: Final = 32
# How long an upstream may take to read what was written before its connection is closed.
_FLUSH_S: Final = 30.0
# What is written while content waits, because the upstream reads nothing, are answers to its own frames. Above so many times
# the buffer it gets no more of them.
_UNREAD_ANSWERS: Final = 4
_BROKEN: Final = "The upstream's response is malformed, or out of all proportion (RFC 9113 §8.1.1)."


@lru_cache(maxsize=64)
def _encode_lines(lines: bytes) -> bytes:
    """Return complete field lines as fields that enter no table: the token, and what the route sets."""
    return b"".join([format_secret(name, value) for name, value in make_trailer_fields(lines)])


class UpstreamStream(UpstreamSide):
    """One attempt at an exchange.

    Attributes:
        receiver: gets the response; None before and behind it.
        deadline, reused, version, answered: see `UpstreamSide`.
    """

    __slots__ = (
        "_awaited",
        "_holds",
        "_interims",
        "_is_open",
        "_owed",
        "_owner",
        "_pending_seen",
        "_stalled",
        "_stream",
        "answered",
        "deadline",
        "receiver",
        "reused",
        "version",
    )

    _stream: Stream

    def __init__(self, owner: Http2UpstreamConnection, *, reused: bool) -> None:
        self._owner = owner
        self.receiver: ResponseReceiver | None = None
        self.deadline = inf
        self.reused = reused
        self.version = HTTP_2
        self.answered = False
        self._is_open = False
        self._holds = False
        self._owed = 0
        self._stalled = False
        self._pending_seen = 0
        self._interims = 0
        self._awaited = 0

    # What the exchange asks for.

    @property
    def address(self) -> str:
        """See `UpstreamSide`."""
        return str(self._owner.transport.get_extra_info("peername")[0])

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
        """See `UpstreamSide`."""
        owner = self._owner
        owner.reserved -= 1
        if owner.transport.is_closing() or not owner.core.can_open():  # it has gone since this side was taken
            self.receiver = receiver
            asyncio.get_running_loop().call_soon(self._give_up)
            owner.on_room()
            return
        self.receiver = receiver
        stream = self._stream = owner.core.open(head.method == b"HEAD")
        self._is_open = True
        stream.user = self
        fields = make_request_fields(head, target, host, b"https" if owner.is_secure else b"http", drop)
        ends = trailers is not None and not content and not trailers
        owner.core.send_head(stream, fields, ends, _encode_lines(added))
        if trailers is None:
            if content:
                self.send_content(content)
        elif not ends:
            self._send_end(content, trailers)
        if trailers is not None:
            self._await_response()
        owner.on_begun()

    def _give_up(self) -> None:
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.on_upstream_lost(UNPROCESSED)

    def send_content(self, content: bytes) -> None:
        """See `UpstreamSide`."""
        if not self._is_open:
            return
        if not self._owner.core.send_content(self._stream, content, False) and self.receiver is not None:
            self._stalled = True
            self._pending_seen = self._stream.pending_bytes
            self.deadline = self._now + self._owner.shared.timeouts.body_idle_s
            self.receiver.hold_request()
        self._owner.flush_soon()

    def end(self, content: bytes, trailers: bytes) -> None:
        """See `UpstreamSide`."""
        if self._is_open:
            self._send_end(content, trailers)
            self._await_response()
            self._owner.flush_soon()

    def _send_end(self, content: bytes, trailers: bytes) -> None:
        core = self._owner.core
        if trailers:
            if content:
                core.send_content(self._stream, content, False)
            core.send_trailers(self._stream, make_trailer_fields(trailers))
        else:
            core.send_content(self._stream, content, True)

    def _await_response(self) -> None:
        timeouts = self._owner.shared.timeouts
        self.deadline = self._now + (timeouts.body_idle_s if self.answered else timeouts.response_s)
        self._awaited = self._owner.core.frame_count
        self._pending_seen = self._stream.pending_bytes

    @property
    def _now(self) -> float:
        return self._owner.shared.now

    def takes_rest(self, receiver: ResponseReceiver) -> bool:
        """See `UpstreamSide`; an upstream that wants no more resets the stream (RFC 9113 §8.1)."""
        if not self._is_open or self._stream.is_closed:
            return False
        self.receiver = receiver
        self.deadline = self._now + self._owner.shared.timeouts.body_idle_s
        return True

    def finish(self, *, is_whole: bool) -> None:
        """See `UpstreamSide`."""
        self._let_go(NO_ERROR if is_whole else CANCEL)

    def return_unused(self) -> None:
        """See `UpstreamSide`."""
        self._owner.reserved -= 1
        self._owner.on_room()

    def cancel(self) -> None:
        """See `UpstreamSide`."""
        self._let_go(CANCEL)

    def _let_go(self, code: int) -> None:
        self.receiver = None
        self.deadline = inf
        if self._is_open:
            self._is_open = False
            stream = self._stream
            if not (stream.remote_ended and stream.end_sent):
                self._owner.core.reset(stream, code)
            stream.user = None
            self._owner.flush_soon()
            self._owner.on_room()

    def hold_response(self) -> None:
        """See `UpstreamSide`: the upstream gets no more of a window."""
        self._holds = True
        self.deadline = inf

    def release_response(self) -> None:
        """See `UpstreamSide`."""
        if self._holds:
            self._holds = False
            self.deadline = self._now + self._owner.shared.timeouts.body_idle_s
            owed, self._owed = self._owed, 0
            if owed and self._is_open:
                self._owner.core.credit(self._stream, owed)
                self._owner.flush_soon()

    def hand_over(self) -> Pipe:
        """See `UpstreamSide`; HTTP/2 has no 101, so nobody asks."""
        raise NotImplementedError

    # What the connection tells.

    def on_interim(self, response: ResponseFields) -> None:
        """Pass an interim response on."""
        self._interims += 1
        if self.receiver is None:
            return
        self.answered = True
        if self._interims > _INTERIM_RESPONSES:
            self._spoil("The upstream sent interim responses without end.")
            return
        self.deadline = self._now + self._owner.shared.timeouts.response_s
        self.receiver.on_interim(make_response_head(response, to_head=False))

    def on_response(self, response: ResponseFields, ends: bool) -> None:
        """Pass the head on, and the end where nothing follows."""
        receiver = self.receiver
        if receiver is None:
            return
        self.answered = True
        self._await_response()
        to_head = receiver.request.method == b"HEAD"
        head = make_response_head(response, to_head=to_head)
        has_content = not to_head and head.status not in (204, 304)
        framing = (CHUNKED if head.chunked else SIZED) if has_content else NO_CONTENT
        receiver.on_response_head(head, framing)
        if self.receiver is not receiver:
            return
        if ends:
            self._complete(receiver, b"", b"")
        else:
            receiver.on_response_content(b"")

    def on_content(self, content: bytes, ends: bool) -> None:
        """Pass content on."""
        receiver = self.receiver
        if receiver is None:
            return
        if ends:
            self._complete(receiver, content, b"")
            return
        self.deadline = inf if self._holds else self._now + self._owner.shared.timeouts.body_idle_s
        receiver.on_response_content(content)
        if self._holds:
            self._owed += len(content)
        elif self._is_open:
            self._owner.core.credit(self._stream, len(content))

    def on_trailers(self, fields: list[Field]) -> None:
        """Pass the end on."""
        receiver = self.receiver
        if receiver is not None:
            self._complete(receiver, b"", make_response_trailer_lines(fields))

    def _complete(self, receiver: ResponseReceiver, content: bytes, trailers: bytes) -> None:
        self.receiver = None
        receiver.on_response_end(content, trailers)

    def on_reset(self, code: int, reason: str) -> None:
        """Tell the exchange what the end of the stream means for it."""
        receiver, self.receiver = self.receiver, None
        self._is_open = False
        self.deadline = inf
        if receiver is None:
            return
        if reason:
            receiver.on_upstream_failed(UpstreamProtocolError(_BROKEN))
        elif not self.answered and (self._stream.is_unprocessed or code == HTTP_1_1_REQUIRED):
            receiver.on_upstream_lost(UNPROCESSED)
        elif self.answered:
            receiver.on_upstream_lost(CUT)
        else:
            receiver.on_upstream_lost(RESET, f"It reset the stream with code {code} (RFC 9113 §7).")

    def on_lost(self, fault: str) -> None:
        """Tell the exchange that the connection has gone.

        Args:
            fault: the rule that the upstream has broken, in a sentence; or nothing.
        """
        receiver, self.receiver = self.receiver, None
        self._is_open = False
        self.deadline = inf
        if receiver is None:
            return
        if not self.answered:
            receiver.on_upstream_lost(BROKEN if fault else UNANSWERED, fault)
        elif fault:
            receiver.on_upstream_failed(UpstreamProtocolError(f"The upstream broke a rule of HTTP/2. {fault}"))
        else:
            receiver.on_upstream_lost(CUT)

    def on_writable(self) -> None:
        """Let more of the request come."""
        self._stalled = False
        receiver = self.receiver
        if receiver is not None:
            if receiver.request_complete:
                self._await_response()
            receiver.release_request()

    def check(self, now: float) -> None:
        """Give up on a silent upstream; one that still receives its request may be silent."""
        receiver = self.receiver
        if receiver is None:
            return
        if self._pending_seen:
            self._note_progress(receiver, now)
        if self.deadline >= now:
            return
        if not receiver.request_complete and not self._stalled and receiver.request_deadline > now:
            self.deadline = receiver.request_deadline
            return
        self._owner.on_silence(self._awaited)
        self.cancel()
        receiver.on_upstream_lost(SILENT)

    def _note_progress(self, receiver: ResponseReceiver, now: float) -> None:
        """Begin the wait anew where the upstream has taken of what waits for its windows since the last look."""
        pending = self._stream.pending_bytes
        if pending < self._pending_seen and not self._holds:
            if receiver.request_complete:
                self._await_response()
            else:
                self.deadline = now + self._owner.shared.timeouts.body_idle_s
        self._pending_seen = pending

    def _spoil(self, detail: str) -> None:
        receiver = self.receiver
        self.cancel()
        if receiver is not None:
            receiver.on_upstream_failed(UpstreamProtocolError(detail))


class Owner(Protocol):
    """Whose a connection is: the pool that has opened it."""

    @property
    def relay(self) -> Shared:
        """What all connections share."""
        ...

    def on_room(self) -> None:
        """Take note that a connection can take one more exchange."""

    @property
    def on_http1_required(self) -> Callable[[], None]:
        """Called where the upstream says that it wants HTTP/1.1 instead."""
        ...

    def note_idle(self, connection: Http2UpstreamConnection) -> None:
        """Take note that nothing is under way on a connection."""

    def note_busy(self, connection: Http2UpstreamConnection) -> None:
        """Take note that something is."""

    def forget_connection(self, connection: Http2UpstreamConnection) -> None:
        """Take note that a connection is closed."""

    def retire(self, connection: Http2UpstreamConnection) -> None:
        """Hand a connection out no more."""


class Http2UpstreamConnection(FramedConnection):
    """One connection to an upstream.

    Attributes:
        pool: where it belongs.
        shared: what all connections share.
        deadline: monotonic seconds; when it passes, `on_deadline` is called.
        reserved: how many sides have been handed out that have not begun.
        is_agreed: whether the upstream speaks HTTP/2 on it; until that is known, nothing is written (RFC 9113 §3.2).
        served: whether a request was sent on it.
        opened: whether it is counted as open.
        on_connected: called once when the connection is ready to be written to.
    """

    __slots__ = (
        "_unread_limit",
        "deadline",
        "is_agreed",
        "on_connected",
        "opened",
        "pool",
        "reserved",
        "served",
        "shared",
    )

    def __init__(self, pool: Owner) -> None:
        FramedConnection.__init__(self)
        self.pool = pool
        self.shared = pool.relay
        limits = pool.relay.limits
        terms = Terms(
            stream_window=_STREAM_WINDOW,
            highest_stream_window=_HIGHEST_STREAM_WINDOW,
            list_bytes=limits.head_bytes,
            field_count=limits.field_count,
        )
        self.core = Connection(self, terms, True)
        self.deadline = inf
        self.reserved = 0
        self.served = False
        self.opened = False
        self.is_agreed = False
        self.on_connected: Callable[[], object] | None = None
        self._unread_limit = limits.buffer_bytes * _UNREAD_ANSWERS

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way on it."""
        return not self.core.streams and not self.reserved

    @property
    def is_secure(self) -> bool:
        """Whether TLS is below."""
        return isinstance(self.transport, SecureTransport)

    def take(self) -> UpstreamStream | None:
        """Return a side for one attempt, if there is room for one more stream."""
        core = self.core
        if self.transport.is_closing() or not core.can_open():
            return None
        if len(core.streams) + self.reserved >= core.peer_streams:
            return None
        if self.is_idle:
            self.pool.note_busy(self)
        self.reserved += 1
        self.deadline = inf
        return UpstreamStream(self, reused=self.served)

    def on_begun(self) -> None:
        """Take note that a stream was opened."""
        self.served = True
        self.deadline = self.shared.now
        self.flush_soon()

    def on_room(self) -> None:
        """Take note that there may be room for one more stream, or nothing is under way any more."""
        if self.is_idle:
            self.deadline = self.shared.now + self.shared.timeouts.upstream_idle_s
            if self.core.is_leaving:
                self.close()
                return
            if self.opened:
                self.pool.note_idle(self)
        self.pool.on_room()

    def on_silence(self, frame_count: int) -> None:
        """Take no further requests here where not one whole frame, or block of fields, has come while a stream waited in vain.

        Whoever only thinks long still answers others, or moves windows. Where nothing comes at all, the way there may have gone
        dark, and each request that followed would wait as long.

        Args:
            frame_count: how many frames had come when the wait began.
        """
        if self.core.frame_count == frame_count or self.core.is_within_head:
            self.pool.retire(self)
            self.pool.note_busy(self)
            self.core.go_away()

    def evict(self) -> None:
        """Leave the pool, and close; for one that is idle."""
        self.pool.retire(self)
        self.close()

    # The transport's events.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface, where that is what the upstream expects."""
        self.transport = transport  # type: ignore[assignment]  # stream transports only
        buffered = self.shared.limits.buffer_bytes
        self.transport.set_write_buffer_limits(buffered, buffered // 4)
        self.is_agreed = not isinstance(transport, SecureTransport) or transport.tls.selected_alpn_protocol() == "h2"
        if self.is_agreed:
            self.flush()
        if self.on_connected is not None:
            self.on_connected()
            self.on_connected = None

    def data_received(self, data: bytes) -> None:
        """Take frames."""
        if not self.is_agreed:
            self.transport.abort()  # whoever speaks first here speaks no version of HTTP
        elif not self.receive(data):
            fault = self.core.fault
            self._let_go("" if fault is None else fault.detail)
            self._close()
        elif self.core.is_held and self.transport.get_write_buffer_size() > self._unread_limit:
            self.stop_reading()

    def eof_received(self) -> bool:
        """Take note of a proper end."""
        self.catch_up()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Tell every exchange."""
        self.catch_up()
        if self.opened:
            self.opened = False
            self.pool.forget_connection(self)
        self._let_go("")

    def _let_go(self, fault: str) -> None:
        for stream in list(self.core.streams.values()):
            user, stream.user = stream.user, None
            if isinstance(user, UpstreamStream):
                user.on_lost(fault)

    def pause_writing(self) -> None:
        """Back-pressure: the upstream reads more slowly than requests come."""
        self.core.is_held = True

    def resume_writing(self) -> None:
        """End back-pressure."""
        self.core.is_held = False
        self.go_on_reading()
        self.flush()

    def on_deadline(self) -> None:
        """Look after the streams at each tick; close a connection that has nothing to do."""
        now = self.shared.now
        if self.transport.is_closing():
            self.transport.abort()  # it never took what was written before
            return
        if self.is_idle:
            self.close()
            return
        for stream in list(self.core.streams.values()):
            if isinstance(stream.user, UpstreamStream):
                stream.user.check(now)
        self.flush()
        if not self.is_idle:
            self.deadline = now

    def close(self) -> None:
        """Say farewell, and close."""
        if not self.transport.is_closing():
            self.core.go_away()
            self.flush()
            self._close()

    def _close(self) -> None:
        self.deadline = self.shared.now + _FLUSH_S
        self.transport.close()

    # The core's events.

    def on_request(self, stream: Stream, request: RequestFields, ends: bool) -> None:
        """Not told to clients."""

    def on_oversize(self, stream: Stream, ends: bool) -> None:
        """Not told to clients."""

    def on_interim(self, stream: Stream, response: ResponseFields) -> None:
        """Pass an interim response on."""
        if isinstance(stream.user, UpstreamStream):
            stream.user.on_interim(response)

    def on_response(self, stream: Stream, response: ResponseFields, ends: bool) -> None:
        """Pass a head on."""
        if isinstance(stream.user, UpstreamStream):
            stream.user.on_response(response, ends)

    def on_content(self, stream: Stream, content: bytes, ends: bool) -> None:
        """Pass content on."""
        if isinstance(stream.user, UpstreamStream):
            stream.user.on_content(content, ends)

    def on_trailers(self, stream: Stream, fields: list[Field]) -> None:
        """Pass the end on."""
        if isinstance(stream.user, UpstreamStream):
            stream.user.on_trailers(fields)

    def on_reset(self, stream: Stream, code: int, reason: str) -> None:
        """Tell an exchange."""
        user, stream.user = stream.user, None
        if code == HTTP_1_1_REQUIRED and not reason:
            self.pool.on_http1_required()
        if isinstance(user, UpstreamStream):
            user.on_reset(code, reason)
        self.on_room()

    def on_fault(self, reason: str) -> None:
        """Count it."""
        self.pool.relay.counters.count_http2_fault(reason)

    def on_closed(self, stream: Stream) -> None:  # noqa: ARG002  # the protocol's
        """Take note that there is room."""
        self.on_room()

    def on_writable(self, stream: Stream) -> None:
        """Let more of a request come."""
        if isinstance(stream.user, UpstreamStream):
            stream.user.on_writable()

    def on_settings(self) -> None:
        """Take note that there may be room."""
        self.on_room()

    def on_goaway(self, code: int) -> None:
        """Take no further requests here."""
        self.pool.retire(self)
        self.pool.note_busy(self)
        if code == HTTP_1_1_REQUIRED:
            self.pool.on_http1_required()
        if self.is_idle:
            self.close()
