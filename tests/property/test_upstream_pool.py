"""The pool of connections to one upstream, in any order of events: its limit holds, nobody is passed over, nobody is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, cast

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import integers

from proxy.config.settings import LimitSettings, TimeoutSettings
from proxy.errors import UpstreamUnreachable
from proxy.policy.authority import Authority
from proxy.relay.pool import UpstreamPool
from proxy.relay.state import Relay
from proxy.relay.upstream import UpstreamConnection

if TYPE_CHECKING:
    from proxy.dialing.dialer import Dialer


class _Dialer:
    """Gives out one end of a socket pair when the test says so.

    Attributes:
        dials: those under way, by the name of the task that dials.
        far_ends: what the upstream has of the connections that were opened.
        granted: who has got a connection or a place to open one, in that order.
    """

    def __init__(self) -> None:
        self.granted: list[str] = []
        self.dials: dict[str, asyncio.Future[socket.socket]] = {}
        self.far_ends: list[socket.socket] = []

    async def connect(self, *_where: object, **_how: object) -> socket.socket:
        task = asyncio.current_task()
        assert task is not None
        name = task.get_name()
        self.grant(name)
        self.dials[name] = asyncio.get_running_loop().create_future()
        try:
            return await self.dials[name]
        finally:
            del self.dials[name]

    def grant(self, name: str) -> None:
        if name not in self.granted:
            self.granted.append(name)

    def answer(self, name: str, *, succeeds: bool) -> None:
        if not succeeds:
            self.dials[name].set_exception(UpstreamUnreachable("nothing listens"))
            return
        near, far = socket.socketpair()
        near.setblocking(False)
        self.far_ends.append(far)
        self.dials[name].set_result(near)


class Pool(RuleBasedStateMachine):
    """A10: the right value is `limit`, whatever falls free in whichever turn."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.dialer = _Dialer()
        self.asked: list[str] = []
        self.tasks: dict[str, asyncio.Task[UpstreamConnection]] = {}
        self.held: list[UpstreamConnection] = []
        self.number = 0

    @initialize(limit=integers(1, 3))
    def begin(self, limit: int) -> None:
        self.limit = limit
        relay = Relay(
            LimitSettings(upstream_connections=limit), TimeoutSettings(connect_s=3_600), lambda _host: None, None
        )
        relay.dialer = cast("Dialer", self.dialer)
        self.pool = UpstreamPool(relay, Authority("upstream.example", 80), None, None)

    @rule(count=integers(1, 3))
    def acquire(self, count: int) -> None:
        self._turn(asks=count)

    @precondition(lambda self: self.held)
    @rule(which=integers(0, 9), asks=integers(0, 4))
    def release(self, which: int, asks: int) -> None:
        """Perhaps with new requests in the same turn."""
        connection = self.held.pop(which % len(self.held))
        self._turn(lambda: self.pool.release(connection), asks=asks)

    @precondition(lambda self: self.held)
    @rule(which=integers(0, 9), asks=integers(0, 4), released=integers(0, 1))
    def lose(self, which: int, asks: int, released: int) -> None:
        """A connection goes, perhaps in the turn in which it was given back or in which others ask."""
        connection = self.held.pop(which % len(self.held))

        def act() -> None:
            if released:
                self.pool.release(connection)
            connection.transport.abort()

        self._turn(act, asks=asks)

    @precondition(lambda self: self.dialer.dials)
    @rule(which=integers(0, 9), succeeds=integers(0, 3), asks=integers(0, 4))
    def answer(self, which: int, succeeds: int, asks: int) -> None:
        name = sorted(self.dialer.dials)[which % len(self.dialer.dials)]
        self._turn(lambda: self.dialer.answer(name, succeeds=succeeds > 0), asks=asks)

    @precondition(lambda self: self.tasks)
    @rule(which=integers(0, 9), asks=integers(0, 4))
    def give_up(self, which: int, asks: int) -> None:
        name = sorted(self.tasks)[which % len(self.tasks)]
        self._turn(self.tasks[name].cancel, asks=asks)

    @precondition(lambda self: self.held and self.tasks)
    @rule(which=integers(0, 9))
    def release_as_one_gives_up(self, which: int) -> None:
        connection = self.held.pop(which % len(self.held))
        name = sorted(self.tasks)[which % len(self.tasks)]

        def act() -> None:
            self.pool.release(connection)
            self.tasks[name].cancel()

        self._turn(act)

    @invariant()
    def the_limit_holds(self) -> None:
        if self.number:
            relay = self.pool.relay
            assert self.pool.size == len(relay.upstreams) + len(self.dialer.dials) <= self.limit
            assert set(self.pool.idle) == set(relay.idle)

    @invariant()
    def first_come_is_first_served(self) -> None:
        granted = self.dialer.granted
        assert granted == [name for name in self.asked if name in granted]

    @invariant()
    def nobody_waits_beside_a_free_place(self) -> None:
        if self.number and set(self.tasks) - set(self.dialer.dials):
            assert self.pool.size == self.limit
            assert not self.pool.idle

    def teardown(self) -> None:
        async def end() -> None:
            for task in self.tasks.values():
                task.cancel()
            for connection in self.held:
                connection.transport.abort()
            self.pool.close_idle()
            await _settle()

        with self.runner:
            self.runner.run(end())
            if self.number:
                assert self.pool.size == 0
                assert not self.pool.relay.upstreams
        for far in self.dialer.far_ends:
            far.close()

    def _turn(self, act: object = None, *, asks: int = 0) -> None:
        """Lets something happen, and requests come in, in one turn of the event loop; then waits until all is quiet."""

        async def run() -> None:
            loop = asyncio.get_running_loop()

            async def ask(name: str) -> UpstreamConnection:
                connection = await self.pool.acquire()
                assert isinstance(connection, UpstreamConnection)
                self.dialer.grant(name)
                return connection

            if callable(act):
                act()
            # In each of the turns in which what has happened makes its way: one falls free, one is told, one opens.
            for _ in range(asks):
                self.number += 1
                name = f"{self.number:04d}"
                self.asked.append(name)
                self.tasks[name] = loop.create_task(ask(name), name=name)
                await asyncio.sleep(0)
            await _settle()
            for name, task in list(self.tasks.items()):
                if task.done():
                    del self.tasks[name]
                    with contextlib.suppress(asyncio.CancelledError, UpstreamUnreachable):
                        self.held.append(task.result())

        self.runner.run(run())


async def _settle() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


Pool.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
TestPool = Pool.TestCase
