"""The clients of the soak: each session is one connection with some exchanges on it, in any way and of any conduct. Does I/O."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Final

from tests.soak.connection import Connection, Listeners, NotOpened, Way, end_connection, open_connection
from tests.soak.echo import server_ends, talk
from tests.soak.journal import Journal, Ticket, Weather
from tests.soak.judgement import Verdict, judge, judge_partial
from tests.soak.plan import DIES, GOES, Conduct, Ending, Plan, choose_plan, choose_simple_plan
from tests.soak.requests import format_content, format_head, send_request
from tests.soak.response import Nonsense, Response, read_response

if TYPE_CHECKING:
    from collections.abc import Iterator

# Far more than any exchange takes, and less than what would cut one that hangs: timeouts of the proxy under test.
PATIENCE_S: Final = 60.0
_READ_PAUSE_S: Final = 0.01
_WAYS: Final = {Way.FORWARD: 30, Way.CONNECT: 30, Way.REVERSE: 25, Way.PLAIN: 8, Way.TUNNEL: 7}
_WEBSOCKET_SHARE: Final = 0.05
_PIPELINE_SHARE: Final = 0.12
_MOST_EXCHANGES: Final = 25


@dataclass
class Crowd:
    """All the clients.

    Args:
        listeners: where the proxy is.
        journal, weather: what is taken down, and what excuses what.
        seed: of everything that is left to chance.
        ways: those that clients take; empty for all.

    Attributes:
        stopping: whether no further session is to begin.
    """

    listeners: Listeners
    journal: Journal
    weather: Weather
    seed: int
    ways: tuple[Way, ...] = ()
    stopping: bool = False
    _rounds: int = 0

    async def run(self, clients: int) -> None:
        """Runs that many clients at a time until told to stop; each finishes its session."""
        self.stopping = False
        self._rounds += 1
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(Client(self, f"{self.seed}-{self._rounds}-{number}").run())


class Client:
    """One client: one session after another. What it does depends on its name alone."""

    def __init__(self, crowd: Crowd, name: str) -> None:
        self.crowd = crowd
        self.listeners, self.journal, self.weather = crowd.listeners, crowd.journal, crowd.weather
        self._chance = random.Random(name)
        self._names = (f"{name}-{number}" for number in count(1))

    async def run(self) -> None:
        """Runs until the crowd stops."""
        ways = self.crowd.ways or tuple(_WAYS)
        while not self.crowd.stopping:
            way = self._chance.choices(ways, [_WAYS[way] for way in ways])[0]
            try:
                async with asyncio.timeout(PATIENCE_S * 4):
                    await self._session(self._chance, way)
            except TimeoutError:
                self.journal.violate(f"a session, {way}, did not end")

    async def _session(self, chance: random.Random, way: Way) -> None:
        try:
            connection = await open_connection(self.listeners, way, chance.choice(self.listeners.hosts))
        except (NotOpened, OSError, EOFError) as error:
            self.journal.violate(f"{way}: no connection: {error!r}")
            return
        try:
            if way is Way.TUNNEL or chance.random() < _WEBSOCKET_SHARE:
                await self._stream(chance, connection)
                return
            for _ in range(chance.randrange(1, _MOST_EXCHANGES)):
                if chance.random() < _PIPELINE_SHARE:
                    goes_on = await self._pipeline(chance, connection)
                else:
                    goes_on = await self._exchange(choose_plan(chance, next(self._names)), connection)
                if not goes_on or self.crowd.stopping:
                    return
                if chance.random() < 0.1:
                    await asyncio.sleep(chance.random())
        finally:
            connection.end(chance.choice(list(Ending)))

    @contextlib.contextmanager
    def _ticket(self, plan: Plan, connection: Connection) -> Iterator[Ticket]:
        ticket = self.journal.tickets[plan.identifier] = Ticket(plan, connection.way)
        try:
            yield ticket
        finally:
            self.journal.settle(ticket)

    def _take_down(self, ticket: Ticket, verdict: Verdict, kind: str) -> None:
        self.journal.count(ticket.way, kind, verdict.outcome)
        if verdict.fault:
            self.journal.violate(f"{ticket.way}: {verdict.fault}; {ticket.plan}")

    # One exchange.

    async def _exchange(self, plan: Plan, connection: Connection) -> bool:
        """Makes one exchange; returns whether the connection goes on."""
        with self._ticket(plan, connection) as ticket:
            response = Response()
            sending = asyncio.create_task(send_request(plan, connection))
            try:
                async with asyncio.timeout(PATIENCE_S):
                    if plan.conduct in GOES:
                        await _go(plan, connection, response, sending)
                        self._take_down(ticket, judge_partial(plan, response), plan.conduct)
                        return False
                    await _receive(plan, connection, response)
                    ticket.response = response
                    verdict = judge(ticket, response, self.weather)
                    self._take_down(ticket, verdict, f"{plan.behaviour}")
                    if response.complete and not response.closes and not verdict.fault:
                        await sending  # an early answer: the rest of the request follows
            except TimeoutError:
                self._take_down(ticket, Verdict("hung", f"no end after {PATIENCE_S} s; {response}"), plan.behaviour)
            except (OSError, EOFError):
                if not response.closes:
                    self._take_down(ticket, Verdict("broken", "the rest of a request was not taken"), plan.behaviour)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            half_closed = plan.conduct is Conduct.HALF_CLOSES and connection.may_half_close
            return response.complete and not response.closes and not half_closed

    async def _pipeline(self, chance: random.Random, connection: Connection) -> bool:
        """Sends several requests at once; their answers must come in order. Returns whether the connection goes on."""
        plans = [choose_simple_plan(chance, next(self._names)) for _ in range(chance.randrange(2, 6))]
        with contextlib.ExitStack() as stack:
            tickets = [stack.enter_context(self._ticket(plan, connection)) for plan in plans]
            connection.writer.write(b"".join(format_head(plan, connection) + format_content(plan) for plan in plans))
            for ticket in tickets:
                response = Response()
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await _receive(ticket.plan, connection, response)
                        ticket.response = response
                except TimeoutError:
                    self._take_down(ticket, Verdict("hung", f"no end after {PATIENCE_S} s; {response}"), "pipelined")
                    return False
                self._take_down(ticket, judge(ticket, response, self.weather), "pipelined")
                if not response.complete or response.closes:
                    return False
        return True

    # A stream.

    async def _stream(self, chance: random.Random, connection: Connection) -> None:
        """Opens a WebSocket, or uses the blind tunnel that there is, and ends it in any way."""
        kind = "tunnel" if connection.way is Way.TUNNEL else "websocket"
        self.journal.tunnels += connection.way is Way.TUNNEL
        plan = replace(choose_plan(chance, next(self._names)), method="GET")
        with self._ticket(plan, connection) as ticket:
            outcome, fault = "closed by the client", ""
            try:
                async with asyncio.timeout(PATIENCE_S):
                    if connection.way is Way.TUNNEL:
                        fault = await _begin_tunnel(connection, plan)
                    else:
                        response = ticket.response = await _upgrade(connection, plan)
                        if response.status != 101:
                            verdict = judge(ticket, response, self.weather)
                            unanswered = plan.behaviour in DIES or response.own_error
                            fault = verdict.fault if unanswered else f"the upgrade was answered {response.status}"
                            self._take_down(ticket, Verdict(verdict.outcome, fault), kind)
                            return
                    fault = fault or await talk(connection, plan)
            except TimeoutError:
                outcome, fault = "hung", f"no end after {PATIENCE_S} s"
            except (OSError, EOFError) as error:
                outcome = "ended by the server"
                if not server_ends(plan):
                    fault = f"the stream broke: {error!r}"
            self._take_down(ticket, Verdict(outcome, fault), kind)
            end_connection(connection.writer, plan.ending)


async def _receive(plan: Plan, connection: Connection, response: Response) -> None:
    async def pause() -> None:
        await asyncio.sleep(_READ_PAUSE_S)

    slow = plan.conduct is Conduct.SLOW_READER
    with contextlib.suppress(OSError, EOFError):  # what came is judged, and so is what did not
        try:
            await read_response(connection.reader, plan.method, response, pause if slow else None)
        except Nonsense as error:
            response.interims.append(str(error).encode())  # no identifier, so a violation
            response.status = response.status or 1


async def _go(plan: Plan, connection: Connection, response: Response, sending: asyncio.Task[None]) -> None:
    """Goes away at the moment that the plan says."""
    with contextlib.suppress(OSError, EOFError):
        await sending
        if plan.conduct is Conduct.GOES_WAITING:
            await asyncio.sleep(plan.response_bytes % 20 / 1000)
        elif plan.conduct is Conduct.GOES_READING:
            reading = asyncio.create_task(read_response(connection.reader, plan.method, response))
            await asyncio.wait({reading}, timeout=plan.response_bytes % 30 / 1000)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    connection.end(plan.ending)


async def _begin_tunnel(connection: Connection, plan: Plan) -> str:
    connection.writer.write(f"{plan.identifier}\n".encode())
    line = await connection.reader.readuntil(b"\n")
    return "" if line.decode().strip() == plan.identifier else f"CROSSED: the tunnel's server says {line!r}"


async def _upgrade(connection: Connection, plan: Plan) -> Response:
    lines = [
        f"GET {connection.prefix}/soak/{plan.identifier}?for={plan.identifier} HTTP/1.1",
        f"Host: {connection.host}",
        f"Soak-Id: {plan.identifier}",
        "Authorization: Basic bm9ib2R5Om5vYm9keQ==",
        "Connection: Upgrade",
        "Upgrade: websocket",
    ]
    connection.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
    response = Response()
    await read_response(connection.reader, "GET", response)
    return response
