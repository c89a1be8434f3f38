"""Connections of clients of both versions that the proxy drains, or whose listener a reload closes, in any order of events.

Each request that was taken ends exactly once, with one record, and with a whole response where its upstream gave one. Behind the
drain nothing new is taken: HTTP/1.1 is told `Connection: close` (RFC 9112 §9.6), HTTP/2 gets GOAWAY, first with the highest
number and then with the last (RFC 9113 §6.8). When all have ended nothing is left, and nothing is counted any more.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, cast

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, sampled_from

import proxy.relay.sides
from proxy.config.settings import LimitSettings, TimeoutSettings
from proxy.policy.authority import Authority
from proxy.relay.admission import Admission
from proxy.relay.arrival import accept
from proxy.relay.destination_rule import FixedRule
from proxy.relay.destinations import Destination
from proxy.relay.head import parse_response_head
from proxy.relay.sides import CHUNKED, CUT, UNANSWERED
from proxy.relay.state import Relay
from tests.fuzz.connection import Ear
from tests.property.test_exchange import Client, Found, Pool, Tokens

if TYPE_CHECKING:
    from proxy.relay.pool import UpstreamPool
    from proxy.relay.record import ExchangeRecord
    from proxy.relay.tokens import Source
    from tests.property.test_exchange import Upstream

if not str(proxy.relay.sides.__file__).endswith(".py"):
    pytest.skip("compiled traits cannot be implemented by interpreted classes", allow_module_level=True)

HOST: Final = "upstream.example"
PIECE: Final = b"piece"


class Wire(Ear):
    """A client's connection: what it gets is parsed by nothing of the product's.

    Attributes:
        has_left: whether the product has been told that the client is gone.
        requests: the numbers of those that were sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.has_left = False
        self.has_ended = False
        self.requests: list[int] = []

    def write_eof(self) -> None:
        self.has_ended = True

    def read(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data


class Http1(Wire):
    """One of HTTP/1.1.

    Attributes:
        got: everything so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.got = b""

    def request(self, number: int) -> bytes:
        self.requests.append(number)
        return b"GET /%d HTTP/1.1\r\nHost: %b\r\n\r\n" % (number, HOST.encode())

    def take(self) -> None:
        self.got += self.read()

    def responses(self) -> list[tuple[bytes, bool, bool]]:
        """Of each: its content, whether it says close, and whether it is whole."""
        found = []
        rest = self.got
        while b"\r\n\r\n" in rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            if b"transfer-encoding: chunked" in lines:
                content = b""
                is_whole = False
                while b"\r\n" in rest and not is_whole:
                    size, _, rest = rest.partition(b"\r\n")
                    content += rest[: int(size, 16)]
                    rest = rest[int(size, 16) + 2 :]
                    is_whole = size == b"0"
            else:
                (length,) = (int(line[16:]) for line in lines if line.startswith(b"content-length: "))
                content, rest = rest[:length], rest[length:]
                is_whole = True
            found.append((content, b"connection: close" in lines, is_whole))
        assert not rest
        return found


class Http2(Wire):
    """One of HTTP/2.

    Attributes:
        goaways: the last streams that were named.
        streams: the request of each.
        contents: of the responses, by request.
        whole, reset: the requests whose responses have ended so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=False))
        self.h2.initiate_connection()
        self.goaways: list[int] = []
        self.streams: dict[int, int] = {}
        self.contents: dict[int, bytes] = {}
        self.whole: set[int] = set()
        self.reset: set[int] = set()

    def request(self, number: int) -> bytes:
        stream_id = self.h2.get_next_available_stream_id()
        fields = [(":method", "GET"), (":scheme", "https"), (":authority", HOST), (":path", f"/{number}")]
        self.h2.send_headers(stream_id, fields, end_stream=True)
        self.requests.append(number)
        self.streams[stream_id] = number
        return self.h2.data_to_send()

    def take(self) -> None:
        data = self.read()
        while data:  # h2 takes a GOAWAY for the end of everything, so it gets to see none
            size = 9 + int.from_bytes(data[:3], "big")
            frame, data = data[:size], data[size:]
            if frame[3] == 7:
                assert frame[13:17] == bytes(4), "the GOAWAY of a drain says NO_ERROR"
                self.goaways.append(int.from_bytes(frame[9:13], "big"))
            else:
                self._take(frame)

    def _take(self, frame: bytes) -> None:
        for event in self.h2.receive_data(frame):
            if isinstance(event, h2.events.DataReceived):
                number = self.streams[event.stream_id]
                self.contents[number] = self.contents.get(number, b"") + event.data
            elif isinstance(event, h2.events.StreamEnded):
                self.whole.add(self.streams[event.stream_id])
            elif isinstance(event, h2.events.StreamReset):
                self.reset.add(self.streams[event.stream_id])


class Draining(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.records: list[ExchangeRecord] = []
        self.tokens = Tokens()
        self.tokens.make()
        self.pool = Pool(self.tokens)
        self.relay = Relay(LimitSettings(), TimeoutSettings(), lambda _host: None, self.records.append)
        self.admission = self.relay.admission = Admission([], 99, cast("Any", None))
        authority = Authority(HOST, 443)
        destination = Destination(
            authority=authority,
            name=str(authority),
            host_field=HOST.encode(),
            default_port=443,
            route="route",
            tokens=cast("Source", self.tokens),
            added=b"",
            drop=frozenset(),
            pool=cast("UpstreamPool", self.pool),
        )
        found = Found(destination)
        found.close_idle = self.pool.idle.clear  # type: ignore[attr-defined]  # what a drain asks of destinations
        self.relay.destinations = cast("Any", found)
        self.rule = FixedRule(destination, authority, "reverse", own_names=frozenset())
        self.wires: list[Http1 | Http2] = []
        self.completed: dict[int, bytes] = {}
        self.begun: dict[int, bool] = {}
        self.drained = False
        self.taken_before = 0

    # Clients.

    @precondition(lambda self: not self.drained and len(self.wires) < 4)
    @rule(is_http2=booleans())
    def connect(self, is_http2: bool) -> None:
        wire = Http2() if is_http2 else Http1()
        self.wires.append(wire)

        def act() -> None:
            wire.set_protocol(accept(self.relay, self.rule))
            wire.protocol.connection_made(wire)
            if isinstance(wire, Http2):
                wire.protocol.data_received(wire.h2.data_to_send())

        self._turn(act)

    @precondition(lambda self: self._open())
    @rule(which=integers(0, 9))
    def request(self, which: int) -> None:
        """Also on connections that have been told to send no more: what they send was under way."""
        wire = _pick(self._open(), which)
        if isinstance(wire, Http1) and wire.has_ended:
            return
        number = len(self.pool.clients)
        self.pool.clients.append(Client(number))
        data = wire.request(number)
        self._turn(lambda: wire.protocol.data_received(data))
        assert not (self.relay.ending and isinstance(wire, Http2)) or wire.goaways

    @precondition(lambda self: self._open())
    @rule(which=integers(0, 9), really=sampled_from([False, False, True]))
    def leave(self, which: int, really: bool) -> None:
        if really:
            wire = _pick(self._open(), which)
            self._turn(wire.close)

    # The upstream.

    @precondition(lambda self: self.pool.waiting)
    @rule()
    def connection_comes(self) -> None:
        turn = self.pool.waiting.pop()

        def act() -> None:
            if not turn.done():
                turn.set_result(self.pool.make())

        self._turn(act)

    @precondition(lambda self: self._unanswered())
    @rule(which=integers(0, 9), ends=booleans())
    def respond(self, which: int, ends: bool) -> None:
        upstream = _pick(self._unanswered(), which)
        head = parse_response_head(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n", field_count=9)

        def act() -> None:
            receiver = upstream.receiver
            assert receiver is not None
            upstream.answered, upstream.head = True, head
            self.begun[upstream.owner] = self.relay.ending
            receiver.on_response_head(head, CHUNKED)
            self._send(upstream, ends=ends)

        self._turn(act)

    @precondition(lambda self: self._answering())
    @rule(which=integers(0, 9), ends=booleans())
    def go_on(self, which: int, ends: bool) -> None:
        upstream = _pick(self._answering(), which)
        self._turn(lambda: self._send(upstream, ends=ends))

    @precondition(lambda self: self.pool.busy())
    @rule(which=integers(0, 9), really=sampled_from([False, False, True]))
    def upstream_goes(self, which: int, really: bool) -> None:
        if really:
            upstream = _pick(self.pool.busy(), which)
            self._turn(lambda: upstream.lose().on_upstream_lost(CUT if upstream.answered else UNANSWERED))

    # The proxy.

    @precondition(lambda self: not self.relay.ending and self.wires)
    @rule(really=sampled_from([False, False, True]))
    def end_is_near(self, really: bool) -> None:
        """What begins during `timeouts.drain_delay_s` is still served, and its client told to go elsewhere."""
        self.relay.ending = really

    @precondition(lambda self: not self.drained and self.wires)
    @rule(really=sampled_from([False, True]))
    def drain(self, really: bool) -> None:
        """SIGTERM: what `Relay.drain` does at once; what it waits for are the rules that follow."""
        if not really:
            return
        self.drained = True

        def act() -> None:
            task = asyncio.get_running_loop().create_task(self.relay.drain())
            asyncio.get_running_loop().call_soon(task.cancel)

        self.taken_before = len(self.records)
        self._turn(act)

    @precondition(lambda self: self._open())
    @rule(which=integers(0, 9), really=sampled_from([False, False, True]))
    def reload_without_the_listener(self, which: int, really: bool) -> None:
        wire = _pick(self._open(), which)
        if really:
            self._turn(wire.protocol.dismiss)

    @rule()
    def time_passes(self) -> None:
        self._turn(lambda: self.relay.tick(self.relay.now + 2.0))

    # What holds.

    @invariant()
    def responses_are_those_of_their_requests(self) -> None:
        for wire in self.wires:
            if isinstance(wire, Http2):
                for number in wire.whole:
                    if number in self.completed:
                        assert wire.contents[number] == self.completed[number]
                    else:  # the proxy's own answer
                        (record,) = (one for one in self.records if one.target == b"/%d" % number)
                        assert record.status >= 400
            else:
                for number, (content, says_close, is_whole) in zip(wire.requests, wire.responses(), strict=False):
                    if is_whole and number in self.completed:
                        assert content == self.completed[number]
                    if self.begun.get(number):
                        assert says_close, "a response that began when the end was known"

    @invariant()
    def each_request_ends_once(self) -> None:
        targets = [record.target for record in self.records]
        assert len(targets) == len(set(targets))
        busy = {one.owner for one in self.pool.busy()}
        assert not {b"/%d" % number for number in busy} & set(targets)

    @invariant()
    def pairs_balance(self) -> None:
        assert self.admission.exchanges == len({one.owner for one in self.pool.busy()}) + len(self.pool.waiting)

    @invariant()
    def nothing_is_idle_behind_the_drain(self) -> None:
        """Whoever has nothing under way is gone; HTTP/2 gets the time that its GOAWAY needs to arrive."""
        if not self.drained:
            return
        for wire in self._open():
            if isinstance(wire, Http1):
                assert wire.has_ended or self._under_way(wire)
            else:
                assert wire.goaways

    def _under_way(self, wire: Wire) -> bool:
        return bool(set(wire.requests) & {one.owner for one in self.pool.busy()}) or bool(self.pool.waiting)

    def teardown(self) -> None:
        with self.runner:
            if not self.drained:
                self.drain(really=True) if self.wires else None
            taken = len(self.pool.made), len(self.records)
            # Whoever was told so, and sends another request, reaches no upstream.
            if self.wires:
                self.time_passes()
                self.time_passes()
                for wire in self._open():
                    if isinstance(wire, Http2):
                        assert wire.goaways[-1] < 1 << 30, "the second GOAWAY says where it ends"
                        busy = len(self.pool.busy()) + len(self.pool.waiting)
                        number = len(self.pool.clients)
                        self.pool.clients.append(Client(number))
                        data = wire.request(number)
                        self._turn(lambda wire=wire, data=data: wire.protocol.data_received(data))
                        assert len(self.pool.busy()) + len(self.pool.waiting) == busy
            assert len(self.records) == taken[1]
            while self.pool.waiting:
                self.connection_comes()
            while self._unanswered():
                self.respond(0, ends=True)
            while self._answering():
                self.go_on(0, ends=True)
            self.responses_are_those_of_their_requests()
            for _ in range(3):
                self.time_passes()
            if self.drained:
                assert all(wire.is_closed or wire.has_ended for wire in self.wires)
            for wire in self._open():  # HTTP/1.1 that waits for its client to close
                self._turn(wire.close)
            assert not self.relay.clients
            assert not self.relay.arrivals
            assert self.relay.accepted_connections.count == 0
            assert self.admission.exchanges == 0
            assert self.relay.streams == 0
            assert not any(one.is_out for one in self.pool.made)

    # Within.

    def _open(self) -> list[Http1 | Http2]:
        return [wire for wire in self.wires if not wire.is_closed]

    def _unanswered(self) -> list[Upstream]:
        return [one for one in self.pool.busy() if one.head is None]

    def _answering(self) -> list[Upstream]:
        return [one for one in self.pool.busy() if one.head is not None]

    def _send(self, upstream: Upstream, *, ends: bool) -> None:
        receiver = upstream.receiver
        if receiver is None:
            return
        upstream.sent += PIECE
        if not ends:
            receiver.on_response_content(PIECE)
            return
        self.completed[upstream.owner] = upstream.sent
        upstream.receiver = None
        receiver.on_response_end(PIECE, b"")

    def _turn(self, act: Any) -> None:
        async def run() -> None:
            act()
            for _ in range(8):
                await asyncio.sleep(0)
            for wire in self.wires:
                wire.take()
                if wire.is_closed and not wire.has_left:
                    wire.has_left = True
                    wire.protocol.connection_lost(None)
            for _ in range(8):
                await asyncio.sleep(0)
            self.pool.waiting[:] = [turn for turn in self.pool.waiting if not turn.done()]

        if not self.relay.now:
            self.relay.now = time.monotonic()
        self.runner.run(run())


def _pick(some: list[Any], which: int) -> Any:
    return some[which % len(some)]


Draining.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestDraining = Draining.TestCase


@pytest.mark.parametrize("is_http2", [False, True])
@pytest.mark.parametrize("has_begun", [False, True])
def test_a_response_under_way_ends_whole_and_its_connection_with_it(is_http2: bool, has_begun: bool) -> None:
    machine = Draining()
    machine.connect(is_http2)
    machine.request(0)
    machine.connection_comes()
    if has_begun:
        machine.respond(0, ends=False)
    machine.drain(really=True)
    if has_begun:
        machine.go_on(0, ends=True)
    else:
        machine.respond(0, ends=True)
    machine.nothing_is_idle_behind_the_drain()
    machine.teardown()


def test_what_comes_late_does_not_keep_a_drained_connection() -> None:
    """A client of HTTP/2 that has read a response gives its window back, and may send a request that nobody takes any more."""
    machine = Draining()
    machine.connect(is_http2=True)
    machine.request(0)
    machine.connection_comes()
    machine.drain(really=True)
    machine.time_passes()
    machine.respond(0, ends=True)
    machine.request(0)
    machine.time_passes()
    assert not machine.relay.clients
    machine.teardown()
