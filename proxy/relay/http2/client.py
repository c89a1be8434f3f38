"""A client's connection of HTTP/2, each of whose streams is the client side of an exchange. Does I/O.

Imported when a client first speaks HTTP/2.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from proxy.errors import (
    ClientRefused,
    ContentTooLarge,
    FieldsTooLarge,
    Overloaded,
    ProxyError,
    ProxyUsageError,
    RequestTimeout,
    TargetTooLong,
)
from proxy.policy.access import PasswordClaim
from proxy.relay.admission import PendingCheck
from proxy.relay.asked import describe_head
from proxy.relay.destination_rule import FixedRule, ForwardRule
from proxy.relay.exchange import Exchange
from proxy.relay.gate import begin_exchange, identify, record_refusal, take_verdict
from proxy.relay.http2.connection import Connection
from proxy.relay.http2.faults import CANCEL, INTERNAL_ERROR, NO_ERROR, MalformedMessage
from proxy.relay.http2.framed import FramedConnection
from proxy.relay.http2.receiver import Terms
from proxy.relay.http2.refusals import is_grpc, make_answer, make_grpc_answer, refuse_grpc
from proxy.relay.http2.translation import (
    make_request_head,
    make_response_fields,
    make_trailer_fields,
    make_trailer_lines,
)
from proxy.relay.listener_policy import DISMISSED
from proxy.relay.message import RequestHead
from proxy.relay.sender import Sender
from proxy.relay.sides import ClientSide, Pipe, UnderWay

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from proxy.relay.accepted_connection import AcceptedConnection
    from proxy.relay.destination_rule import DestinationRule
    from proxy.relay.destinations import Destination
    from proxy.relay.http2.fields import RequestFields, ResponseFields
    from proxy.relay.http2.static_table import Field
    from proxy.relay.http2.streams import Stream
    from proxy.relay.known_client import KnownClient
    from proxy.relay.message import ResponseHead
    from proxy.relay.state import Relay

# RFC 9113 §3.4 lets a server wait for the preface as long as it likes; it is 60 bytes with SETTINGS.
_PREFACE_S: Final = 10.0
# Between the GOAWAY that asks for no more and the one that takes no more: a round trip, with room (RFC 9113 §6.8).
_LEAVE_S: Final = 1.0
_FLUSH_S: Final = 30.0


class GrpcRule:
    """How a call of gRPC names its destination: as all requests on its connection, but to be reached over HTTP/2."""

    __slots__ = ("_rule",)

    def __init__(self, rule: DestinationRule) -> None:
        self._rule = rule

    @property
    def mode(self) -> str:
        """See `DestinationRule`."""
        return self._rule.mode

    @property
    def takes_http2(self) -> bool:
        """See `DestinationRule`."""
        return True

    def locate(self, relay: Relay, head: RequestHead) -> tuple[Destination, bytes]:
        """See `DestinationRule`."""
        destination, target = self._rule.locate(relay, head)
        found = relay.destinations.over_http2(destination)
        if found is None:
            raise refuse_grpc(destination.name, is_routed=destination.tokens is not None)
        return found, target


class ClientStream(ClientSide):
    """One request of a client, and its response.

    Attributes:
        request: its head, in the form of HTTP/1.1.
        exchange: what is under way; None before and behind it.
        deadline: see `ClientSide`.
        ends_with_response: always: what comes of the request behind its response is read and dropped (RFC 9113 §8.1).
    """

    __slots__ = (
        "_content_bytes",
        "_early",
        "_early_fields",
        "_early_trailers",
        "_fields",
        "_holds",
        "_moves_until",
        "_owed",
        "_owner",
        "_pending_seen",
        "_sender",
        "_stream",
        "deadline",
        "ends_with_response",
        "exchange",
        "request",
    )

    def __init__(self, owner: Http2ClientConnection, stream: Stream, request: RequestHead) -> None:
        self._owner = owner
        self._stream = stream
        owner.relay.streams += 1
        self.request = request
        self.exchange: UnderWay | None = None
        self.deadline = inf
        self.ends_with_response = True  # the core drops what comes of the request behind it
        self._sender: Sender | None = None
        # The request's content: what came before it was known who sends it, what is not given back yet, how much it was.
        self._early: list[bytes] = []
        self._early_trailers: bytes | None = None
        self._early_fields: list[Field] = []
        self._holds = 0
        self._owed = 0
        self._content_bytes = 0
        # The response: its head until it leaves; whether what waits for a window moves.
        self._fields: list[Field] | None = None
        self._pending_seen = 0
        self._moves_until = owner.relay.now + owner.relay.timeouts.body_idle_s

    # The request.

    def begin(self, ends: bool) -> None:
        """Find out who sends the request and where it goes, and begin its exchange; or refuse it."""
        if ends:
            self._early_trailers = b""
        owner, head = self._owner, self.request
        relay = owner.relay
        try:
            limit = relay.limits.target_bytes
            if len(head.target) > limit:
                raise TargetTooLong(
                    f"The request target has {len(head.target)} bytes; the limit is {limit} (limits.target_bytes)."
                )
            if relay.streams > relay.limits.connections:  # as many as there would be with a connection for each
                raise Overloaded(
                    f"The proxy has {relay.limits.connections} requests over HTTP/2 (limits.connections).",
                    retry_after_s=1,
                )
            if head.method == b"CONNECT":
                raise ProxyUsageError("CONNECT is taken over HTTP/1.1, not over HTTP/2.")
            if owner.accepted is not None and owner.accepted.is_dismissed:
                raise ClientRefused(DISMISSED, code="listener_changed")
            self._go_on(identify(relay, owner.accepted, head))
        except ProxyError as error:
            self.refuse(error)

    def on_checked(self, head: RequestHead, verdict: KnownClient | ProxyError) -> None:
        """Go on with a request whose sender has been found out, or refuse it."""
        self.exchange = None
        try:
            self._go_on(take_verdict(self._owner.relay, self._owner.accepted, head, verdict))
        except ProxyError as error:
            self.refuse(error)
        self._owner.flush_soon()

    def _go_on(self, found: KnownClient | PasswordClaim | None) -> None:
        """Begin the exchange, or have a password checked first; then `on_checked` follows."""
        owner, head = self._owner, self.request
        relay = owner.relay
        if isinstance(found, PasswordClaim):
            if owner.accepted is not None and relay.admission is not None:
                self.exchange = PendingCheck(relay.admission, owner.accepted, found, head, self)
            return
        self._sender = owner.sender(found)
        rule: DestinationRule = GrpcRule(owner.rule) if is_grpc(head) else owner.rule
        exchange = begin_exchange(relay, self, self._sender, rule, head)
        self.exchange = exchange
        early, self._early = self._early, []
        trailers = self._early_trailers
        if self._early_fields:
            try:
                trailers = make_trailer_lines(self._early_fields, exchange.refused_trailers)
            except MalformedMessage as fault:
                owner.core.reset(self._stream, fault.code)
                self.on_lost()
                return
        for content in early:
            self._pass_on(exchange, content)
            if not self._is_serving(exchange):
                return  # its content was refused
        if trailers is None:
            self.deadline = relay.now + relay.timeouts.body_idle_s
        elif early or trailers:
            exchange.on_request_end(b"", trailers)
        else:
            exchange.request_complete = True
        if self._is_serving(exchange):  # unless its content was refused already
            exchange.start()

    def _is_serving(self, exchange: Exchange) -> bool:
        return self.exchange is exchange  # a method for the reason that `ClientConnection` has one

    def on_content(self, content: bytes, ends: bool) -> None:
        """Pass content of the request on."""
        exchange = self.exchange
        if isinstance(exchange, Exchange):
            if ends:
                self._complete(exchange, content, b"")
            else:
                self._pass_on(exchange, content)
        elif exchange is not None:  # a check of who sends it; the stream's window bounds what is kept
            self._early.append(content)
            if ends:
                self._early_trailers = b""
        else:
            self._owner.core.credit(self._stream, len(content))

    def on_trailers(self, fields: list[Field]) -> None:
        """Pass the end of the request on."""
        exchange = self.exchange
        if isinstance(exchange, Exchange):
            self._complete(exchange, b"", make_trailer_lines(fields, exchange.refused_trailers))
        else:
            self._early_trailers = b""
            self._early_fields = fields

    def _pass_on(self, exchange: Exchange, content: bytes) -> None:
        if self._is_within_limit(exchange, content):
            if not self._holds:
                self.deadline = self._owner.relay.now + self._owner.relay.timeouts.body_idle_s
            exchange.on_request_content(content)
            self._give_back(len(content))

    def _complete(self, exchange: Exchange, content: bytes, trailers: bytes) -> None:
        if self._is_within_limit(exchange, content):
            self.deadline = inf
            exchange.on_request_end(content, trailers)

    def _is_within_limit(self, exchange: Exchange, content: bytes) -> bool:
        self._content_bytes += len(content)
        limit = self._owner.relay.limits.body_bytes
        if limit is not None and self._content_bytes > limit:
            exchange.fail(ContentTooLarge(f"The content is over {limit} bytes (limits.body_bytes)."))
            return False
        return True

    def _give_back(self, size: int) -> None:
        """Let the client send as much as has been passed on, unless somebody holds the request."""
        if self._holds:
            self._owed += size
        else:
            self._owner.core.credit(self._stream, size)

    def on_lost(self) -> None:
        """Let go of everything: the client has reset the stream, or is gone."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.on_client_lost()
        self._leave()

    def _leave(self) -> None:
        """Give up the stream's place, once."""
        self.deadline = inf
        if self._stream.holds_place:
            self._owner.core.release(self._stream)
            self._owner.relay.streams -= 1

    def on_writable(self) -> None:
        """Let more of the response come."""
        if self.exchange is not None:
            self.exchange.release_response()

    def check(self, now: float) -> None:
        """Give up on a client that sends nothing of its request, or takes nothing of its response."""
        stream = self._stream
        timeouts = self._owner.relay.timeouts
        pending = stream.pending_bytes
        if pending != self._pending_seen or not (pending or stream.end_sent):
            self._pending_seen = pending
            self._moves_until = now + timeouts.body_idle_s
        elif now > self._moves_until:
            self._owner.core.reset(stream, CANCEL if pending else NO_ERROR)
            self.on_lost()
            return
        exchange = self.exchange
        if exchange is None or self.deadline >= now:
            return
        other = exchange.response_deadline
        if other > now:
            self.deadline = other  # the other direction moves, so this one may be waiting for it
        else:
            exchange.fail(RequestTimeout("The request's content stopped arriving (timeouts.body_idle_s)."))

    # What the exchange asks for.

    def send_interim(self, head: ResponseHead) -> None:
        """See `ClientSide`."""
        self._owner.core.send_head(self._stream, make_response_fields(head), False)
        self._owner.flush_soon()

    def send_head(self, head: ResponseHead, framing: int, *, takes_rest: bool) -> None:  # noqa: ARG002  # the trait's
        """See `ClientSide`; frames tell where the content ends, and the connection goes on in any case."""
        self._fields = make_response_fields(head)

    def send_content(self, content: bytes) -> None:
        """See `ClientSide`."""
        core = self._owner.core
        fields, self._fields = self._fields, None
        if fields is not None:
            core.send_head(self._stream, fields, False)
        if content and not core.send_content(self._stream, content, False) and self.exchange is not None:
            self.exchange.hold_response()
        self._owner.flush_soon()

    def end(self, content: bytes, trailers: bytes) -> None:
        """See `ClientSide`; a response without content is one frame, as gRPC wants its Trailers-Only."""
        core, stream = self._owner.core, self._stream
        fields, self._fields = self._fields, None
        if fields is not None:
            ends = not content and not trailers
            core.send_head(stream, fields, ends)
            if ends:
                self._owner.flush_soon()
                return
        if trailers:
            if content:
                core.send_content(stream, content, False)
            core.send_trailers(stream, make_trailer_fields(trailers))
        else:
            core.send_content(stream, content, True)
        self._owner.flush_soon()

    def answer(self, error: ProxyError, *, request_complete: bool) -> None:
        """See `ClientSide`."""
        core, stream = self._owner.core, self._stream
        if is_grpc(self.request):
            core.send_head(stream, make_grpc_answer(error), True)
        elif self.request.method == b"HEAD":
            core.send_head(stream, make_answer(error)[0], True)
        else:
            fields, content = make_answer(error)
            core.send_head(stream, fields, False)
            core.send_content(stream, content, True)
        self.finish(request_complete=request_complete)

    def refuse(self, error: ProxyError) -> None:
        """Answer a request that cannot be passed on."""
        owner = self._owner
        sender = owner.sender(None) if self._sender is None else self._sender
        record_refusal(owner.relay, sender, owner.rule, error, describe_head(self.request), self.request)
        self.answer(error, request_complete=self._early_trailers is not None)

    def finish(self, *, request_complete: bool) -> None:  # noqa: ARG002  # the trait's
        """See `ClientSide`; what still comes of the request is dropped by the core."""
        self.exchange = None
        self._leave()
        self._owner.flush_soon()

    def cut(self) -> None:
        """See `ClientSide`: never an end of the stream, which would look like one of the response."""
        self.exchange = None
        self._owner.core.reset(self._stream, INTERNAL_ERROR)
        self._leave()
        self._owner.flush_soon()

    def abort(self) -> None:
        """Cut the response: a fault of our own came between."""
        self.cut()

    def hold_request(self, holder: int) -> None:
        """See `ClientSide`: the client gets no more of a window."""
        if not self._holds:
            self.deadline = inf
        self._holds |= holder

    def release_request(self, holder: int) -> None:
        """See `ClientSide`."""
        if not self._holds & holder:
            return
        self._holds &= ~holder
        if not self._holds:
            owed, self._owed = self._owed, 0
            if self.exchange is not None and not self.exchange.request_complete:
                self.deadline = self._owner.relay.now + self._owner.relay.timeouts.body_idle_s
            if owed:
                self._owner.core.credit(self._stream, owed)
                self._owner.flush_soon()

    def hand_over(self, head: ResponseHead | None) -> Pipe | None:  # noqa: ARG002  # the trait's
        """See `ClientSide`: there is no 101 in HTTP/2 (RFC 9113 §8.6)."""
        return None

    def leads_to(self, host: str) -> bool:
        """See `ClientSide`."""
        rule = self._owner.rule
        return not isinstance(rule, FixedRule) or rule.authority.host == host


class Http2ClientConnection(FramedConnection):
    """One connection of a client, or what runs inside one of its intercepted tunnels.

    Attributes:
        relay: the process-wide state.
        rule: how requests on this connection name their destination.
        peer: the client's address, as text.
        deadline: monotonic seconds; when it passes, `on_deadline` is called.
        accepted: the connection that the client opened.
    """

    __slots__ = (
        "_head_due",
        "_is_announced",
        "_leave_at",
        "_preface_due",
        "_sender",
        "_was_busy",
        "accepted",
        "deadline",
        "peer",
        "relay",
        "rule",
    )

    def __init__(self, relay: Relay, rule: DestinationRule, accepted: AcceptedConnection | None, peer: str) -> None:
        FramedConnection.__init__(self)
        self.relay = relay
        self.rule = rule
        self.accepted = accepted
        self.peer = peer
        limits = relay.limits
        self._sender: Sender | None = None
        self.core = Connection(self, Terms(list_bytes=limits.head_bytes, field_count=limits.field_count), False)
        self.deadline = inf
        self._preface_due = relay.now + _PREFACE_S
        self._head_due = inf
        self._is_announced = False
        self._was_busy = False
        self._leave_at = inf

    # The transport's events.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the preface."""
        self.transport = transport  # type: ignore[assignment]  # stream transports only
        buffered = self.relay.limits.buffer_bytes
        self.transport.set_write_buffer_limits(buffered, buffered // 4)
        self.relay.clients.add(self)
        self.relay.counters.client_connections += 1
        self.deadline = self._preface_due
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Take frames."""
        if not self.receive(data):
            self._let_go()
            self._close()
            return
        self._set_deadline()

    def eof_received(self) -> bool:
        """Take note that the client has ended: without more of it no window opens, and no stream ends."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Let go of everything: the client is gone."""
        self.relay.clients.discard(self)
        if self.accepted is not None:
            self.accepted.leave()
        self._let_go()

    def pause_writing(self) -> None:
        """Back-pressure: nothing is read either, so that whoever reads nothing cannot have us answer without end."""
        self.core.is_held = True
        self.stop_reading()

    def resume_writing(self) -> None:
        """End back-pressure."""
        self.core.is_held = False
        self.go_on_reading()
        self.flush()

    def on_deadline(self) -> None:
        """Look after the streams at each tick; give up on a client that says nothing."""
        now = self.relay.now
        core = self.core
        if self.transport.is_closing():
            self.transport.abort()
            return
        if now > self._head_due:
            core.go_away()
            self.flush()
            self._let_go()
            self._close()
            return
        if now > self._leave_at:
            self._leave_at = inf
            core.go_away()
        for stream in list(core.streams.values()):
            if isinstance(stream.user, ClientStream):
                stream.user.check(now)
        self.flush()
        if core.streams or (self._was_busy and not self._is_announced):
            self._set_deadline()
        else:
            core.go_away()
            self.flush()
            self._close()

    def _set_deadline(self) -> None:
        """Look again at the next tick while there are streams, or there shall be none; else wait for others from that tick on."""
        now = self.relay.now
        timeouts = self.relay.timeouts
        if not self.core.is_within_head:
            self._head_due = inf
        elif self._head_due == inf:
            self._head_due = now + timeouts.head_s
        self._was_busy = bool(self.core.streams)
        waits_until = min(now + timeouts.client_idle_s, self._preface_due, self._head_due)
        self.deadline = now if self._was_busy or self._is_announced else waits_until

    def _let_go(self) -> None:
        for stream in list(self.core.streams.values()):
            if isinstance(stream.user, ClientStream):
                stream.user.on_lost()

    def _close(self) -> None:
        self.deadline = self.relay.now + _FLUSH_S
        self.transport.close()

    # What a reload and a drain ask for.

    def redirect(self, change: Callable[[DestinationRule], DestinationRule]) -> None:
        """Replace the rule by the one that a new configuration has for it, and leave where that takes no HTTP/2 any more."""
        self.rule = change(self.rule)
        self._sender = None
        if not self.rule.takes_http2:
            self.close_if_idle()

    def dismiss(self) -> None:
        """End the connection, whose listener would not accept it any more, after the exchanges under way.

        Requests that have not come yet would be refused, so the client is told at once to send them elsewhere.
        """
        if self.accepted is not None:
            self.accepted.is_dismissed = True
        self._is_announced = True
        self.core.go_away()
        self.flush()
        self.close_if_idle()

    def close_if_idle(self) -> None:
        """Ask the client for no further streams, and close the connection when there is none left (RFC 9113 §6.8)."""
        if not self._is_announced:
            self._is_announced = True
            self.core.announce_end()
            self._leave_at = self.relay.now + _LEAVE_S
            self.deadline = self.relay.now
            self.flush()
        if not self.core.streams:
            self.core.go_away()
            self.flush()
            self._close()

    # The core's events.

    def on_request(self, stream: Stream, request: RequestFields, ends: bool) -> None:
        """Begin an exchange."""
        if self.relay.ending and not self._is_announced:
            self.close_if_idle()
        head = make_request_head(request, ends)
        if isinstance(self.rule, ForwardRule) and request.scheme:
            # A proxy's client of HTTP/1.1 would say all of it in the request line (RFC 9112 §3.2.2).
            path = b"" if request.path == b"*" else request.path
            head.target = b"%b://%b%b" % (request.scheme, request.authority, path)
        client = ClientStream(self, stream, head)
        stream.user = client
        client.begin(ends)

    def on_oversize(self, stream: Stream, ends: bool) -> None:  # noqa: ARG002  # the protocol's
        """Refuse a request while its stream can still be answered."""
        limits = self.relay.limits
        client = ClientStream(self, stream, RequestHead(b"GET", b"", 1, b""))
        stream.user = client
        client.refuse(
            FieldsTooLarge(
                f"The request has more than {limits.field_count} fields (limits.field_count) or {limits.head_bytes} bytes of "
                "them (limits.head_bytes)."
            )
        )

    def on_interim(self, stream: Stream, response: ResponseFields) -> None:
        """Not told to servers."""

    def on_response(self, stream: Stream, response: ResponseFields, ends: bool) -> None:
        """Not told to servers."""

    def on_content(self, stream: Stream, content: bytes, ends: bool) -> None:
        """Pass content on."""
        if isinstance(stream.user, ClientStream):
            stream.user.on_content(content, ends)

    def on_trailers(self, stream: Stream, fields: list[Field]) -> None:
        """Pass the end of a request on."""
        if isinstance(stream.user, ClientStream):
            stream.user.on_trailers(fields)

    def on_reset(self, stream: Stream, code: int, reason: str) -> None:  # noqa: ARG002  # the protocol's
        """Let go of an exchange."""
        if isinstance(stream.user, ClientStream):
            stream.user.on_lost()
        else:
            self.core.release(stream)

    def on_fault(self, reason: str) -> None:
        """Count it."""
        self.relay.counters.count_http2_fault(reason)

    def on_closed(self, stream: Stream) -> None:
        """Need not be known: an exchange ends by itself."""

    def on_writable(self, stream: Stream) -> None:
        """Let more of a response come."""
        if isinstance(stream.user, ClientStream):
            stream.user.on_writable()

    def on_settings(self) -> None:
        """Take note that the preface is complete."""
        self._preface_due = inf

    def on_goaway(self, code: int) -> None:
        """Need not be known: the client closes the connection when its streams have ended."""

    def sender(self, known: KnownClient | None) -> Sender:
        """Return who sends a request; those of one client share it."""
        sender = self._sender
        if sender is None or sender.known is not known:
            sender = self._sender = Sender(self.peer, self.rule.mode, known, self.accepted, is_http2=True)
        return sender
