"""An exchange between two sides that are a few lines each, in any order of events.

No response reaches another request, nothing expired is sent, a request's content arrives whole and once, every exchange ends
exactly once with one record, and every pair balances: enter and leave, take and release, hold and release. What follows a 101 is
between the two that it is for.
"""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, sampled_from

import proxy.relay.sides
from proxy.config.settings import LimitSettings, TimeoutSettings
from proxy.errors import (
    IdentityPlatformUnavailable,
    MalformedRequest,
    ProxyError,
    UpstreamProtocolError,
    UpstreamUnreachable,
)
from proxy.policy.authority import Authority
from proxy.relay.accepted_connection import AcceptedConnections
from proxy.relay.admission import Admission
from proxy.relay.counters import HTTP_1_1
from proxy.relay.destinations import Destination
from proxy.relay.gate import begin_exchange
from proxy.relay.head import parse_request_head, parse_response_head
from proxy.relay.sender import Sender
from proxy.relay.sides import (
    CHUNKED,
    CUT,
    INCOMPLETE,
    NO_CONTENT,
    SILENT,
    SIZED,
    UNANSWERED,
    UNPROCESSED,
    UNSENT,
    UNTIL_CLOSE,
    ClientSide,
    Pipe,
    ResponseReceiver,
    UpstreamSide,
)
from proxy.relay.state import Relay

if TYPE_CHECKING:
    from proxy.relay.exchange import Exchange
    from proxy.relay.known_client import KnownClient
    from proxy.relay.message import RequestHead, ResponseHead
    from proxy.relay.pool import UpstreamPool
    from proxy.relay.record import ExchangeRecord
    from proxy.relay.tokens import Source

if not str(proxy.relay.sides.__file__).endswith(".py"):
    pytest.skip("compiled traits cannot be implemented by interpreted classes", allow_module_level=True)

_BODY_BYTES: Final = 3_000
_REPLAY_BYTES: Final = 50
_RARELY: Final = sampled_from([False, False, False, True])
_MOSTLY: Final = sampled_from([True, True, True, False])
_INVALID: Final = b'WWW-Authenticate: Bearer error="invalid_token"\r\n'


class Token:
    """An access token that ends when the test says so."""

    proof = ""

    def __init__(self, number: int) -> None:
        self.number = number
        self.obtained_at_mono = time.monotonic()
        self.usable_until_mono = inf
        self.field_line = b"Authorization: Bearer %d\r\n" % number


class Tokens:
    """A token source whose answers come when the test says so.

    Attributes:
        waiting: who waits for a token.
        replaces: whether another token is to be had for one that was refused.
    """

    def __init__(self) -> None:
        self.made: dict[int, Token] = {}
        self.current: Token | None = None
        self.waiting: list[asyncio.Future[Token]] = []
        self.replaces = True

    def peek(self, now_mono: float) -> Token | None:
        return self.current if self.current is not None and now_mono < self.current.usable_until_mono else None

    async def acquire(self) -> Token:
        turn: asyncio.Future[Token] = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        return await turn

    def report_refusal(self, token: Token, *_: object, **__: object) -> bool:
        if token is self.current and self.replaces:
            self.current = None
        return self.replaces

    def make(self) -> Token:
        token = self.current = self.made[len(self.made)] = Token(len(self.made))
        return token

    def end(self) -> None:
        if self.current is not None:
            self.current.usable_until_mono = -inf


class Wire(asyncio.Transport):
    """What is left of a side behind a 101.

    Attributes:
        protocol: what reads from it.
        written: what was sent by it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.written = b""
        self.has_ended = self.is_closed = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: Any) -> None:
        assert not self.has_ended
        self.written += data

    def write_eof(self) -> None:
        self.has_ended = True

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed


class Client(ClientSide):
    """A client that notes what it gets, and how its exchange ended.

    Attributes:
        can_switch: whether its version of HTTP has 101.
        wire: what is left of it behind a 101.
        other_wire: the upstream's.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.deadline = inf
        self.ends_with_response = False
        self.exchange: Exchange | None = None
        self.fed = b""
        self.head: ResponseHead | None = None
        self.is_head_out = True
        self.got = b""
        self.is_complete = False
        self.holds = 0
        self.is_blocked = False
        self.can_switch = True
        self.wire: Wire | None = None
        self.other_wire: Wire | None = None
        self.ends: list[str] = []

    def send_interim(self, head: ResponseHead) -> None:
        assert not self.ends
        assert self.head is None
        assert head.status < 200

    def send_head(self, head: ResponseHead, framing: int, *, takes_rest: bool) -> None:
        assert not self.ends
        assert self.head is None
        self.head = head
        self.is_head_out = False
        self.ends_with_response = not takes_rest or framing == UNTIL_CLOSE

    def send_content(self, content: bytes) -> None:
        assert not self.ends
        assert self.head is not None
        assert not self.is_complete
        self.is_head_out = True
        self.got += content

    def end(self, content: bytes, trailers: bytes) -> None:
        self.send_content(content)
        assert trailers in (b"", b"T: %d\r\n" % self.number)
        self.is_complete = True

    def answer(self, error: ProxyError, *, request_complete: bool) -> None:
        assert self.head is None
        assert self.exchange is not None
        assert request_complete is self.exchange.request_complete
        assert type(error) is not ProxyError, "something was raised in a task: the log says what"
        assert 400 <= error.status < 600
        self.ends.append("answer")

    def cut(self) -> None:
        assert self.head is not None
        assert not self.is_complete
        self.ends.append("cut")

    def hold_request(self, holder: int) -> None:
        self.holds |= holder

    def release_request(self, holder: int) -> None:
        self.holds &= ~holder

    def finish(self, *, request_complete: bool) -> None:
        assert self.is_complete
        assert self.exchange is not None
        assert request_complete is self.exchange.request_complete
        self.ends.append("finish")

    def hand_over(self, head: ResponseHead | None) -> Pipe | None:
        assert not self.ends
        assert self.head is None
        assert head is not None
        assert head.status == 101
        assert self.exchange is not None
        assert self.exchange.request.asks_for_websocket
        assert self.exchange.request_complete
        if not self.can_switch:
            return None
        self.wire = Wire()
        return Pipe(self.wire, on_end=lambda: self.ends.append("upgraded"))

    def leads_to(self, host: str) -> bool:  # noqa: ARG002  # the seam's signature
        raise AssertionError


class Upstream(UpstreamSide):
    """An upstream connection that serves one attempt at a time, as far as the test says.

    Attributes:
        owner: whose request it has.
        sent: what it has sent of the response's content.
        taken: what it has got of the request's content.
    """

    def __init__(self, pool: Pool, number: int) -> None:
        self.pool = pool
        self.number = number
        self.deadline = inf
        self.reused = False
        self.version = HTTP_1_1
        self.answered = False
        self.receiver: ResponseReceiver | None = None
        self.owner = -1
        self.keeps_alive = True
        self.head: ResponseHead | None = None
        self.sent = b""
        self.taken = b""
        self.is_request_complete = False
        self.is_held = False
        self.is_out = False

    @property
    def address(self) -> str:
        return "192.0.2.1"

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
        assert self.is_out
        assert self.receiver is None
        assert (host, drop) == (b"upstream.example", frozenset())
        token = self.pool.tokens.made[int(added.removeprefix(b"Authorization: Bearer ").strip())]
        assert time.monotonic() < token.usable_until_mono, "an expired token was sent"
        self.receiver, self.owner = receiver, int(target[1:])
        self.answered, self.head, self.sent, self.is_held, self.keeps_alive = False, None, b"", False, True
        self.taken, self.is_request_complete = b"", False
        assert head.target.endswith(target)
        self.send_content(content)
        assert self.taken == self.pool.clients[self.owner].fed, "the request was sent with a part missing"
        if trailers is not None:
            self.end(b"", trailers)

    def send_content(self, content: bytes) -> None:
        assert self.receiver is not None
        assert not self.is_request_complete
        self.taken += content
        assert self.pool.clients[self.owner].fed.startswith(self.taken)

    def end(self, content: bytes, trailers: bytes) -> None:
        self.send_content(content)
        assert self.taken == self.pool.clients[self.owner].fed, "the request arrived with a part missing"
        assert trailers in (b"", b"Q: %d\r\n" % self.owner)
        self.is_request_complete = True

    def hold_response(self) -> None:
        self.is_held = True

    def release_response(self) -> None:
        self.is_held = False

    def takes_rest(self, receiver: ResponseReceiver) -> bool:
        if self.keeps_alive:
            self.receiver = receiver
        return self.keeps_alive

    def finish(self, *, is_whole: bool) -> None:
        self._leave()
        if is_whole and self.keeps_alive:
            assert self.is_request_complete
            self.reused = True
            self.pool.idle.append(self)

    def return_unused(self) -> None:
        self._leave()
        self.pool.idle.append(self)

    def cancel(self) -> None:
        self._leave()

    def hand_over(self) -> Pipe:
        self._leave()
        wire = self.pool.clients[self.owner].other_wire = Wire()
        return Pipe(wire)

    def _leave(self) -> None:
        assert self.is_out, "a connection was given back twice"
        self.is_out = False
        self.receiver = None

    def lose(self) -> ResponseReceiver:
        """What a side does before it tells of its end."""
        receiver = self.receiver
        assert receiver is not None
        self._leave()
        return receiver


class Pool:
    """Hands out upstreams; new ones come when the test says so."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.clients: list[Client] = []
        self.idle: list[Upstream] = []
        self.made: list[Upstream] = []
        self.waiting: list[asyncio.Future[Upstream]] = []

    def take(self) -> Upstream | None:
        if not self.idle:
            return None
        upstream = self.idle.pop()
        upstream.is_out = True
        return upstream

    async def acquire(self, _attempt: object, *, new: bool, http1: bool = False) -> Upstream:  # noqa: ARG002  # it all is
        kept = None if new else self.take()
        if kept is not None:
            return kept
        turn: asyncio.Future[Upstream] = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        upstream = await turn
        upstream.is_out = True
        return upstream

    def make(self) -> Upstream:
        self.made.append(Upstream(self, len(self.made)))
        return self.made[-1]

    def busy(self) -> list[Upstream]:
        return [one for one in self.made if one.receiver is not None]


class Entry:
    """Every request is for the one destination."""

    mode = "reverse"
    takes_http2 = False

    def __init__(self, destination: Destination) -> None:
        self.destination = destination

    def locate(self, _relay: Relay, head: RequestHead) -> tuple[Destination, bytes]:
        return self.destination, head.target


class Found:
    """Where requests may go: to that destination, whatever was reloaded."""

    permit = None

    def __init__(self, destination: Destination) -> None:
        self._destination = destination

    def find(self, _authority: Authority, _port: int | None) -> Destination:
        return self._destination


class Exchanges(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.records: list[ExchangeRecord] = []
        self.tokens = Tokens()
        self.pool = Pool(self.tokens)
        self.relay = Relay(
            LimitSettings(body_bytes=_BODY_BYTES, replay_bytes=_REPLAY_BYTES, buffer_bytes=1_024),
            TimeoutSettings(),
            lambda _host: None,
            self.records.append,
        )
        self.admission = self.relay.admission = Admission([], 99, cast("Any", None))
        authority = Authority("upstream.example", 443)
        self.entry = Entry(
            Destination(
                authority=authority,
                name=str(authority),
                host_field=b"upstream.example",
                default_port=443,
                route="route",
                tokens=cast("Source", self.tokens),
                added=b"",
                drop=frozenset(),
                pool=cast("UpstreamPool", self.pool),
            )
        )
        self.relay.destinations = cast("Any", Found(self.entry.destination))
        self.accepted_connections = AcceptedConnections(self.relay.limits)

    @initialize(has_token=sampled_from([True, True, False]), idle=integers(0, 3), replaces=_MOSTLY)
    def start(self, has_token: bool, idle: int, replaces: bool) -> None:
        self.tokens.replaces = replaces
        if has_token:
            self.tokens.make()
        for _ in range(idle):
            upstream = self.pool.make()
            upstream.reused = True
            self.pool.idle.append(upstream)

    # The client.

    @precondition(lambda self: len(self._talking()) < 3)
    @rule(
        method=sampled_from([b"GET", b"POST", b"PUT"]),
        has_content=booleans(),
        expects=booleans(),
        upgrades=_RARELY,
        can_switch=_MOSTLY,
    )
    def begin(
        self, method: bytes, has_content: bool, expects: bool, upgrades: bool = False, can_switch: bool = True
    ) -> None:
        client = Client(len(self.pool.clients))
        client.can_switch = can_switch
        self.pool.clients.append(client)
        head = parse_request_head(
            b"%b /%d HTTP/1.1\r\nHost: upstream.example\r\n%b%b%b\r\n"
            % (
                method,
                client.number,
                b"Transfer-Encoding: chunked\r\n" if has_content else b"",
                b"Expect: 100-continue\r\n" if expects and has_content else b"",
                b"Connection: Upgrade\r\nUpgrade: websocket\r\n" if upgrades else b"",
            ),
            target_bytes=99,
            field_count=9,
        )

        def act() -> None:
            accepted = self.accepted_connections.add("127.0.0.1")
            known = cast("KnownClient", self.admission.identify(accepted, None))
            sender = Sender("127.0.0.1", "reverse", known, accepted)
            client.exchange = begin_exchange(self.relay, client, sender, self.entry, head)
            client.exchange.request_complete = not has_content
            client.exchange.start()

        self._turn(act)

    @precondition(lambda self: not self._talking())
    @rule()
    def begin_simply(self) -> None:
        """Another way to begin, so that something is under way most of the time."""
        self.begin(b"GET", has_content=False, expects=False)

    @precondition(lambda self: self._uploads())
    @rule(which=integers(0, 9), size=sampled_from([1, 40, 700, 1_500]), ends=booleans(), has_trailers=booleans())
    def upload(self, which: int, size: int, ends: bool, has_trailers: bool) -> None:
        client = _pick(self._uploads(), which)
        assert client.exchange is not None
        if client.holds:
            size = 0  # nothing is read while anybody holds
        content = b"%d" % (client.number % 10) * size
        client.fed += content
        if ends:
            self._turn(
                lambda: _of(client).on_request_end(content, b"Q: %d\r\n" % client.number if has_trailers else b"")
            )
        elif content:
            self._turn(lambda: _of(client).on_request_content(content))

    @precondition(lambda self: self._talking())
    @rule(which=integers(0, 9), really=_RARELY)
    def client_goes(self, which: int, really: bool) -> None:
        if not really:
            return
        client = _pick(self._talking(), which)
        client.ends.append("gone")
        self._turn(lambda: _of(client).on_client_lost())

    @precondition(lambda self: self._uploads())
    @rule(which=integers(0, 9), really=_RARELY)
    def client_errs(self, which: int, really: bool) -> None:
        if not really:
            return
        client = _pick(self._uploads(), which)
        self._turn(lambda: _of(client).fail(MalformedRequest("The request's content is broken.")))

    @precondition(lambda self: self.pool.busy())
    @rule(which=integers(0, 9))
    def client_blocks_or_takes(self, which: int) -> None:
        client = _pick(self._talking(), which)
        client.is_blocked = not client.is_blocked
        self._turn(_of(client).hold_response if client.is_blocked else _of(client).release_response)

    # Tokens and connections.

    @precondition(lambda self: self.tokens.waiting)
    @rule(succeeds=_MOSTLY, ends_at_once=_RARELY)
    def token_comes(self, succeeds: bool, ends_at_once: bool) -> None:
        waiting, self.tokens.waiting = self.tokens.waiting, []

        def act() -> None:
            token = self.tokens.make() if succeeds else None
            for turn in waiting:
                if not turn.done():
                    if token is None:
                        turn.set_exception(IdentityPlatformUnavailable("It is down."))
                    else:
                        turn.set_result(token)
            if ends_at_once:
                self.tokens.end()

        self._turn(act)

    @precondition(lambda self: self.tokens.current is not None and self._live())
    @rule(really=_RARELY)
    def token_ends(self, really: bool) -> None:
        if really:
            self.tokens.end()

    @precondition(lambda self: self.pool.waiting)
    @rule(which=integers(0, 9), succeeds=_MOSTLY, token_ends=_RARELY)
    def connection_comes(self, which: int, succeeds: bool, token_ends: bool) -> None:
        turn = self.pool.waiting.pop(which % len(self.pool.waiting))

        def act() -> None:
            if token_ends:
                self.tokens.end()
            if turn.done():
                return
            if succeeds:
                turn.set_result(self.pool.make())
            else:
                turn.set_exception(UpstreamUnreachable("Nothing listens there."))

        self._turn(act)

    # The upstream.

    @precondition(lambda self: self._unanswered())
    @rule(which=integers(0, 9), status=sampled_from([100, 103]))
    def interim(self, which: int, status: int) -> None:
        upstream = _pick(self._unanswered(), which)
        upstream.answered = True
        head = parse_response_head(b"HTTP/1.1 %d X\r\n\r\n" % status, field_count=9)
        self._turn(lambda: _receiver(upstream).on_interim(head))

    @precondition(lambda self: self._unanswered())
    @rule(
        which=integers(0, 9),
        status=sampled_from([200, 401, 401, 503]),
        framing=sampled_from([NO_CONTENT, SIZED, CHUNKED, UNTIL_CLOSE]),
        keeps_alive=booleans(),
        size=sampled_from([0, 10, 20_000]),
        ends=booleans(),
    )
    def respond(self, which: int, status: int, framing: int, keeps_alive: bool, size: int, ends: bool) -> None:
        upstream = _pick(self._unanswered(), which)
        fields = _INVALID if status == 401 else b""
        fields += b"" if keeps_alive else b"Connection: close\r\n"
        fields += b"Transfer-Encoding: chunked\r\n" if framing == CHUNKED else b""
        head = parse_response_head(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, fields), field_count=9)
        if framing == NO_CONTENT:
            size, ends = 0, True

        def act() -> None:
            upstream.answered, upstream.head = True, head
            upstream.keeps_alive = keeps_alive and framing != UNTIL_CLOSE
            receiver = _receiver(upstream)
            receiver.on_response_head(head, framing)
            if upstream.receiver is receiver:
                self._send(upstream, size, ends=ends)

        self._turn(act)

    @precondition(lambda self: self._unanswered())
    @rule(which=integers(0, 9), status=sampled_from([200, 401]))
    def respond_whole(self, which: int, status: int) -> None:
        self.respond(which, status, SIZED, keeps_alive=True, size=10, ends=True)

    @precondition(lambda self: self._unanswered())
    @rule(which=integers(0, 9))
    def switch(self, which: int) -> None:
        """Asked to or not."""
        upstream = _pick(self._unanswered(), which)
        upstream.answered = True
        head = parse_response_head(
            b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", field_count=9
        )
        self._turn(lambda: _receiver(upstream).on_upgraded(head))

    @precondition(lambda self: self._upgraded())
    @rule(which=integers(0, 9), goes_up=booleans(), size=integers(1, 9))
    def send_behind_101(self, which: int, goes_up: bool, size: int) -> None:
        client = _pick(self._upgraded(), which)
        reader = client.wire if goes_up else client.other_wire
        if not reader.protocol.ended:
            self._turn(lambda: reader.protocol.data_received(b"%d" % (client.number % 10) * size))

    @precondition(lambda self: self._upgraded())
    @rule(which=integers(0, 9), first=sampled_from(["client", "upstream"]), how=sampled_from(["half", "closed", "cut"]))
    def end_behind_101(self, which: int, first: str, how: str) -> None:
        client = _pick(self._upgraded(), which)
        protocol = (client.wire if first == "client" else client.other_wire).protocol
        if how != "half":
            self._turn(lambda: protocol.connection_lost(None if how == "closed" else ConnectionResetError()))
        elif not protocol.ended:
            self._turn(protocol.eof_received)

    @precondition(lambda self: self._answering())
    @rule(which=integers(0, 9), size=sampled_from([0, 10, 20_000]), ends=booleans())
    def go_on(self, which: int, size: int, ends: bool) -> None:
        upstream = _pick(self._answering(), which)
        if upstream.is_held:
            return
        self._turn(lambda: self._send(upstream, size, ends=ends))

    @precondition(lambda self: self.pool.busy())
    @rule(which=integers(0, 9), loss=sampled_from([UNPROCESSED, INCOMPLETE, CUT, SILENT]))
    def upstream_goes(self, which: int, loss: int) -> None:
        upstream = _pick(self.pool.busy(), which)
        if not upstream.answered and loss != SILENT:
            loss = UNPROCESSED if loss == UNPROCESSED else UNANSWERED
        elif upstream.answered and loss == UNPROCESSED:
            loss = CUT
        self._turn(lambda: upstream.lose().on_upstream_lost(loss))

    @precondition(lambda self: self.pool.busy())
    @rule(which=integers(0, 9), really=_RARELY)
    def upstream_errs(self, which: int, really: bool) -> None:
        if not really:
            return
        upstream = _pick(self.pool.busy(), which)
        self._turn(lambda: upstream.lose().on_upstream_failed(UpstreamProtocolError("This is no HTTP.")))

    @precondition(lambda self: self.pool.busy())
    @rule(which=integers(0, 9), stalls=booleans())
    def upstream_stalls_or_takes(self, which: int, stalls: bool) -> None:
        receiver = _receiver(_pick(self.pool.busy(), which))
        self._turn(receiver.hold_request if stalls else receiver.release_request)

    # What holds.

    @invariant()
    def each_exchange_ends_once_with_one_record(self) -> None:
        for client in self.pool.clients:
            records = [one for one in self.records if one.target == b"/%d" % client.number]
            assert len(client.ends) <= 1
            assert len(records) == len(client.ends)
            if client.ends == ["answer"]:
                assert records[0].status >= 400
                assert records[0].outcome != "ok"
            elif client.ends == ["finish"]:
                assert records[0].outcome == "ok"
            elif client.ends == ["cut"]:
                assert records[0].outcome.startswith("aborted_")
            elif client.ends == ["upgraded"]:
                assert (records[0].outcome, records[0].status) == ("ok", 101)
                assert client.wire is not None
                assert client.other_wire is not None
                passed = len(client.other_wire.written), len(client.wire.written)
                assert (records[0].received_bytes, records[0].sent_bytes) == passed
                assert client.wire.is_closed
                assert client.other_wire.is_closed

    @invariant()
    def no_response_crosses(self) -> None:
        for client in self.pool.clients:
            for wire in (client.wire, client.other_wire):
                assert wire is None or set(wire.written) <= set(b"%d" % (client.number % 10))
            assert set(client.got) <= set(b"%d" % (client.number % 10))
            assert client.is_head_out
            if client.is_complete:
                assert len(client.got) in {len(one) for one in self._sent_to(client)}

    @invariant()
    def pairs_balance(self) -> None:
        live = self._live()
        assert self.admission.exchanges == len(live)
        owners = [one.owner for one in self.pool.busy()]
        assert len(owners) == len(set(owners))
        assert set(owners) <= {client.number for client in live}
        assert {one.number for one in self.pool.made if one.is_out} == {one.number for one in self.pool.busy()}
        for upstream in self.pool.busy():
            client = self.pool.clients[upstream.owner]
            assert upstream.is_held is client.is_blocked
            assert not client.holds & UNSENT

    def teardown(self) -> None:
        def end() -> None:
            for client in self._talking():
                client.ends.append("gone")
                _of(client).on_client_lost()
            for client in self._upgraded():
                assert client.wire is not None
                client.wire.protocol.connection_lost(None)

        with self.runner:
            self._turn(end)
            assert self.admission.exchanges == 0
            assert not any(one.is_out for one in self.pool.made)
            assert len(self.records) == len(self.pool.clients)

    # Within.

    def _live(self) -> list[Client]:
        return [client for client in self.pool.clients if not client.ends]

    def _talking(self) -> list[Client]:
        return [client for client in self._live() if client.wire is None]

    def _upgraded(self) -> list[Client]:
        return [client for client in self._live() if client.wire is not None]

    def _uploads(self) -> list[Client]:
        return [client for client in self._talking() if not _of(client).request_complete]

    def _unanswered(self) -> list[Upstream]:
        return [one for one in self.pool.busy() if one.head is None and not one.is_held]

    def _answering(self) -> list[Upstream]:
        """Those in the middle of a response; not those that only take the rest of a request."""
        return [
            one for one in self.pool.busy() if one.head is not None and not self.pool.clients[one.owner].is_complete
        ]

    def _send(self, upstream: Upstream, size: int, *, ends: bool) -> None:
        content = b"%d" % (upstream.owner % 10) * size
        upstream.sent += content
        receiver = _receiver(upstream)
        if not ends:
            receiver.on_response_content(content)
            return
        self._whole.setdefault(upstream.owner, []).append(upstream.sent)
        upstream.receiver = None
        receiver.on_response_end(content, b"T: %d\r\n" % upstream.owner)

    @property
    def _whole(self) -> dict[int, list[bytes]]:
        whole: dict[int, list[bytes]] = self.__dict__.setdefault("_whole_responses", {})
        return whole

    def _sent_to(self, client: Client) -> list[bytes]:
        """The content of each response that an upstream has completed for a request."""
        return self._whole.get(client.number, [])

    def _turn(self, act: Any) -> None:
        async def run() -> None:
            act()
            for _ in range(8):
                await asyncio.sleep(0)
            for waiting in (self.tokens.waiting, self.pool.waiting):
                waiting[:] = [turn for turn in cast("list[asyncio.Future[Any]]", waiting) if not turn.done()]

        self.runner.run(run())


def _pick(some: list[Any], which: int) -> Any:
    return some[which % len(some)]


def _of(client: Client) -> Exchange:
    assert client.exchange is not None
    return client.exchange


def _receiver(upstream: Upstream) -> ResponseReceiver:
    assert upstream.receiver is not None
    return upstream.receiver


Exchanges.TestCase.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
TestExchanges = Exchanges.TestCase


def test_a_request_of_which_a_part_is_no_longer_kept_is_not_sent_again() -> None:
    machine = Exchanges()
    machine.start(has_token=True, idle=1, replaces=True)
    machine.begin(b"PUT", has_content=True, expects=False)
    machine.upload(0, 700, ends=False, has_trailers=False)
    machine.upstream_goes(0, UNPROCESSED)
    assert machine.pool.clients[0].ends == ["answer"]
    machine.teardown()


def test_a_token_that_ends_while_a_connection_is_opened_is_not_sent() -> None:
    machine = Exchanges()
    machine.start(has_token=True, idle=0, replaces=True)
    machine.begin(b"GET", has_content=False, expects=False)
    machine.connection_comes(0, succeeds=True, token_ends=True)
    assert not machine.pool.busy()
    machine.token_comes(succeeds=True, ends_at_once=False)
    assert machine.pool.busy()
    machine.teardown()


def test_a_replay_whose_kept_alive_connection_is_lost_is_sent_once_more() -> None:
    """It is a request like any other: what it was sent for before has been answered."""
    machine = Exchanges()
    machine.start(has_token=True, idle=1, replaces=True)
    machine.begin(b"GET", has_content=False, expects=False)
    machine.respond_whole(0, 401)
    machine.token_comes(succeeds=True, ends_at_once=False)
    assert machine.pool.busy(), "the replay is under way on the connection that the 401 came on"
    machine.upstream_goes(0, UNANSWERED)
    machine.connection_comes(0, succeeds=True, token_ends=False)
    assert machine.pool.busy()
    machine.upstream_goes(0, UNANSWERED)
    assert machine.pool.clients[0].ends == ["answer"]
    machine.teardown()


def test_what_follows_101_is_between_the_two_that_it_is_for() -> None:
    machine = Exchanges()
    machine.start(has_token=True, idle=0, replaces=True)
    machine.begin(b"GET", has_content=False, expects=False, upgrades=True)
    machine.connection_comes(0, succeeds=True, token_ends=False)
    machine.switch(0)
    machine.send_behind_101(0, goes_up=True, size=3)
    machine.end_behind_101(0, first="client", how="half")
    machine.send_behind_101(0, goes_up=False, size=5)
    assert not machine.records
    machine.end_behind_101(0, first="upstream", how="half")
    machine.each_exchange_ends_once_with_one_record()
    assert machine.pool.clients[0].ends == ["upgraded"]
    machine.teardown()
