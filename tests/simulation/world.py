"""The world around the proxy: clients, upstreams, the identity platform, and what goes wrong, all drawn from a seed.

A `Story` is what happens, as plain values, so that it can be made shorter. `World` plays one story against the real relay and the
real identity code, and notes every promise that is broken.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from random import Random
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import proxy.dialing.dialer
import proxy.relay_server
from proxy.config.validation import restore
from proxy.dialing.resolver import Resolver
from proxy.identity.credential import Credential, Target
from proxy.identity.sources import TokenSources
from proxy.identity.token_endpoint import TokenEndpoint
from proxy.identity.token_response import Answer
from proxy.relay_server import RelayServer
from tests.simulation.balances import Balances
from tests.simulation.http2 import Http2Caller, Http2Upstream
from tests.simulation.loop import VirtualLoop, virtual_time
from tests.simulation.names import SILENCE_S, Names
from tests.simulation.network import Network
from tests.simulation.peers import Blind, Caller
from tests.simulation.tls import Context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.config.settings import Settings
    from proxy.relay.record import ExchangeRecord
    from tests.simulation.network import Endpoint
    from tests.simulation.streams import End

HOSTS: Final = ("one.example", "two.example", "three.example")
ADDRESSES: Final = {host: f"10.0.0.{index}" for index, host in enumerate(HOSTS, 1)}
# Where all hosts are that no route names; each tunnel goes to one of its own.
BLIND: Final = "10.0.1.1"
FORWARD: Final = ("127.0.0.1", 8080)
REVERSE: Final = ("127.0.0.1", 8081)
TIMEOUTS: Final = {
    "connect_s": 3, "head_s": 5, "body_idle_s": 8, "response_s": 6, "client_idle_s": 9, "upstream_idle_s": 7, "token_s": 5,
    "drain_s": 12, "tunnel_idle_s": 9,
}  # fmt: skip
LIMITS: Final = {
    "upstream_connections": 6,
    "idle_upstream_connections": 8,
    "buffer_bytes": 16_384,
    "replay_bytes": 3_000,
}
# All waits of an exchange one after the other, twice: token, place, connection, request, response; then what is left is flushed.
PATIENCE_S: Final = 2 * (3 * (5 + 3 + 3) + 8 + 6) + 2 * 30

# Behind all exchanges, until nothing may be open any more: idle connections end, and what no upstream takes is given up after 30 s.
_QUIET_S: Final = 42
# Where nothing goes wrong: until the last segments have come, of which some are late by seconds.
_CALM_QUIET_S: Final = 10

UPSTREAM_FAULTS: Final = (
    "silent", "reset", "cut", "end", "refuse", "garbage", "trailing", "closes", "drops", "early", "late", "interim", "deaf",
    "answers_twice", "vanishes", "corrupt", "alert",
)  # fmt: skip
CLIENT_FAULTS: Final = ("leaves", "resets", "half_closes", "reads_late", "stops_reading", "stops_sending", "vanishes")
# In tunnels.
_FAR_FAULTS: Final = ("reset", "cut", "vanishes", "silent", "deaf", "deaf", "closes", "late")
_NEAR_FAULTS: Final = ("leaves", "resets", "vanishes", "stops_reading", "stops_reading", "reads_late", "stops_sending")
# What may come on top of a full buffer: what was read at once, with the frames around it.
_READ: Final = 65_536
_TARGET: Final = re.compile(rb"/(\d+)/\Z")
_TUNNEL: Final = re.compile(r"t(\d+)\.blind")
TLS_FAULTS: Final = ("distrusts", "leaves", "mute", "garbage")
DIAL_FAULTS: Final = ("refused", "unanswered", "alert", "untrusted", "mute", "shut")


@dataclass(frozen=True)
class Request:
    """A request, the response it is to get, and what goes wrong with either.

    Attributes:
        number: what all that belongs to it carries.
        grpc: what it is a call of, over HTTP/2: ``unary``, ``stream``, ``only`` for Trailers-Only; empty: of nothing.
        framing: of the response: ``sized``, ``chunked``, ``close``.
        says_close: it asks for the connection to end behind its response.
        pauses: it stops in the middle of its content, and goes on in time.
        is_upgrade: it asks for another protocol; then the sizes are of what follows 101, and so they are of CONNECT's tunnel.
        at: how far the message has come when something goes wrong, 0 to 1.
    """

    number: int
    method: str
    host: str
    size: int = 0
    is_chunked: bool = False
    expects: bool = False
    has_own_token: bool = False
    says_close: bool = False
    pauses: bool = False
    is_upgrade: bool = False
    status: int = 200
    response_size: int = 0
    framing: str = "sized"
    grpc: str = ""
    upstream_fault: str = ""
    client_fault: str = ""
    at: float = 0.5


@dataclass(frozen=True)
class Visit:
    """One client and its requests, one after the other over as few connections as can be.

    Attributes:
        mode: ``forward``, ``reverse``, ``tunnel`` for CONNECT to a host with a route, ``blind`` to one without.
        version: of HTTP.
        has_tls: inside the tunnel.
        tls_fault: what the client does wrong in its handshake there.
    """

    number: int
    begins_s: float
    mode: str
    is_pipelined: bool
    requests: tuple[Request, ...]
    version: str = "1.1"
    has_tls: bool = False
    tls_fault: str = ""


@dataclass(frozen=True)
class Event:
    """Something that happens to the proxy or its surroundings: ``renew``, ``reload``, ``sleep``, ``clock``, ``outage``."""

    at_s: float
    kind: str
    value: float = 0.0


@dataclass(frozen=True)
class Story:
    """What happens.

    Attributes:
        seed: what the network, and what is not decided here, is drawn from.
        dial_faults: how often a connection to an upstream fails, 0 to 1.
        name_faults: how often a name resolves late, wrongly or not at all, 0 to 1.
        platform_faults: how often a token request fails, 0 to 1.
        life_s: of tokens, the shortest and the longest.
        grid_s: the network delivers at multiples of this, so that much happens at the same time; 0: whenever.
        places: connections to each upstream.
        drains_at: when the proxy is told to end; later than all visits where nothing is to be interrupted.
    """

    seed: str
    visits: tuple[Visit, ...]
    events: tuple[Event, ...] = ()
    dial_faults: float = 0.0
    name_faults: float = 0.0
    platform_faults: float = 0.0
    life_s: tuple[float, float] = (300.0, 3_600.0)
    grid_s: float = 0.0
    places: int = LIMITS["upstream_connections"]
    drains_at: float = 10_000.0

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong: then nothing may fail."""
        return (
            not (self.events or self.dial_faults or self.name_faults or self.platform_faults or self.drains_at < 10_000)
            and self.life_s[0] >= 300
            and not any(visit.tls_fault for visit in self.visits)
            and not any(each.upstream_fault or each.client_fault for visit in self.visits for each in visit.requests)
        )


def draw_story(seed: str, exchanges: int) -> Story:
    """Return a story with so many exchanges."""
    chance = Random(seed)
    is_calm = chance.random() < 0.15
    faults = 0.0 if is_calm else chance.choice((0.05, 0.2, 0.5))
    visits: list[Visit] = []
    span_s = 30.0 if is_calm else chance.choice((30.0, 30.0, 4.0))
    number = 0
    while number < exchanges:
        mode = chance.choice(("forward", "forward", "reverse", "tunnel", "tunnel", "blind"))
        count = 1 if mode == "blind" else min(chance.choice((1, 1, 2, 4, 8)), exchanges - number)
        requests = tuple(_draw_request(chance, number + index + 1, mode, faults) for index in range(count))
        number += count
        has_tls = mode == "tunnel" and chance.random() < 0.8
        speaks_2 = mode != "blind" and (mode != "tunnel" or has_tls) and chance.random() < (0.5 if has_tls else 0.2)
        if mode == "tunnel":
            host = HOSTS[0] if any(each.is_upgrade for each in requests) else requests[0].host
            requests = tuple(replace(each, host=host) for each in requests)
        if speaks_2:
            requests = tuple(_over_http2(each, chance, faults) for each in requests)
            requests = _as_calls(requests, may_go_anywhere=mode != "reverse")
        visits.append(
            Visit(
                len(visits) + 1,
                chance.uniform(0, span_s),
                mode,
                mode != "blind" and chance.random() < 0.15,
                requests,
                version="2" if speaks_2 else "1.1",
                has_tls=has_tls,
                tls_fault=chance.choice(TLS_FAULTS) if has_tls and chance.random() < faults / 3 else "",
            )
        )
    if is_calm:
        return Story(seed, tuple(visits))
    events = tuple(
        Event(chance.uniform(0, 35), kind, chance.uniform(-1, 1))
        for kind in ("renew", "reload", "reload", "sleep", "sleep", "clock", "outage")
        if chance.random() < 0.3
    )
    return Story(
        seed,
        tuple(visits),
        events,
        dial_faults=chance.choice((0.0, 0.05, 0.3)),
        platform_faults=chance.choice((0.0, 0.1, 0.5)),
        life_s=chance.choice(((300.0, 3_600.0), (8.0, 40.0), (2.0, 6.0))),
        grid_s=chance.choice((0.0, 0.01, 0.05)),
        places=chance.choice((6, 6, 2)),
        drains_at=chance.choice((10_000.0, 10_000.0, chance.uniform(5, 35))),
        name_faults=chance.choice((0.0, 0.1, 0.4)),
    )


def _draw_request(chance: Random, number: int, mode: str, faults: float) -> Request:
    method = chance.choice(("GET", "GET", "POST", "PUT", "HEAD", "DELETE"))
    sizes = (0, 1, 100, 100, 2_000, 2_000, 5_000, 40_000)
    size = chance.choice(sizes) if method in ("POST", "PUT") else 0
    request = Request(
        number,
        method,
        HOSTS[0] if mode == "reverse" else chance.choice(HOSTS),
        size,
        is_chunked=size > 0 and chance.random() < 0.4,
        expects=size > 0 and chance.random() < 0.1,
        has_own_token=chance.random() < 0.2,
        status=chance.choice((200, 200, 200, 204, 404, 500)),
        response_size=chance.choice((0, 1, 300, 300, 300, 300, 5_000, 5_000, 60_000, 150_000)),
        framing=chance.choice(("sized", "sized", "chunked", "close")),
        upstream_fault=chance.choice(UPSTREAM_FAULTS) if chance.random() < faults else "",
        client_fault=chance.choice(CLIENT_FAULTS) if chance.random() < faults / 3 else "",
        at=chance.random(),
    )
    if mode != "blind" and chance.random() > 0.05:
        # Much depends on what has come of a request when its response does: more so than on most else.
        further = Random(f"{number} {request.at}")
        if request.upstream_fault and size and further.random() < 0.2:
            request = replace(request, upstream_fault="early")
        is_early = request.upstream_fault == "early"
        return replace(
            request,
            says_close=further.random() < (0.4 if is_early else 0.04),
            pauses=size > 1 and not request.client_fault and further.random() < (0.8 if is_early else 0.08),
        )
    # Bytes both ways.
    up, down = (chance.choice((0, 1, 500, 30_000, 200_000, 200_000)) for _ in range(2))
    request = replace(
        request,
        size=up,
        response_size=down,
        is_chunked=False,
        expects=False,
        has_own_token=False,
        framing="none",
        upstream_fault=chance.choice(_FAR_FAULTS) if request.upstream_fault else "",
        client_fault=chance.choice(_NEAR_FAULTS) if request.client_fault else "",
    )
    if mode == "blind":
        return replace(request, method="CONNECT", host=f"t{number}.blind.example")
    return replace(request, method="GET", host=HOSTS[0], is_upgrade=True)


def _over_http2(request: Request, chance: Random, faults: float) -> Request:
    """Return a request as a client of HTTP/2 may send it: it knows no 101."""
    if request.is_upgrade:
        request = replace(request, size=0, is_upgrade=False, framing="sized", upstream_fault="")
    if faults and chance.random() < 0.01:
        return replace(request, client_fault="floods", says_close=False, pauses=False)
    return replace(request, expects=False, says_close=False, pauses=False)


def _as_calls(requests: tuple[Request, ...], *, may_go_anywhere: bool) -> tuple[Request, ...]:
    """Return the requests of a client as calls of gRPC, now and then, and mostly to the host that has HTTP/2 mostly."""
    further = Random(f"{requests[0].number} {requests[0].at} calls")
    if further.random() < 0.6:
        return requests
    host = HOSTS[2] if may_go_anywhere and further.random() < 0.8 else requests[0].host
    calls: list[Request] = []
    for request in requests:
        grpc = further.choice(("unary", "stream", "only"))
        size = request.size or further.choice((1, 100, 2_000))
        down = 0 if grpc == "only" else request.response_size
        call = replace(request, grpc=grpc, method="POST", host=host, size=size, response_size=down)
        calls.append(replace(call, is_chunked=True, status=200, framing="chunked"))
    return tuple(calls)


@dataclass
class Token:
    audience: str
    ends_at: float


class Platform(TokenEndpoint):
    """The identity platform: answers late, wrongly, or not, and counts a token's life by the true time."""

    def __init__(self, world: World) -> None:
        super().__init__("https://login.example.com/tenant/oauth2/v2.0/token", wall_clock=world.loop.wall_time)
        self.world = world
        self.tokens: dict[str, Token] = {}
        self.is_out = False
        self._requests = 0

    async def post(self, url: str, form: Mapping[str, str], fields: Mapping[str, str], tls: Any = None) -> Answer:  # noqa: ARG002
        world, loop = self.world, self.world.loop
        self._requests += 1
        chance = world.draw(f"token {self._requests}")
        fault = (
            chance.choice(("503", "429", "hangs", "garbage")) if chance.random() < world.story.platform_faults else ""
        )
        if self.is_out:
            fault = "503"
        life_s = int(chance.uniform(*world.story.life_s))
        value = f"token-{self._requests}"
        if not fault:
            self.tokens[value] = Token(form["scope"], loop.true_time() + life_s)
        world.note("platform", "token request %d for %s: %s", self._requests, form["scope"], fault or f"{life_s} s")
        await asyncio.sleep(30 if fault == "hangs" else chance.choice((0.01, 0.1, 1.0)))
        date = formatdate(loop.wall_time() - loop.wall_error_s, usegmt=True)
        if fault:
            status = {"503": 503, "429": 429}.get(fault, 200)
            return Answer(status, b"<html>" if status == 200 else b"", "2" if status == 429 else None, date)
        content = {"token_type": "Bearer", "access_token": value, "expires_in": life_s}
        return Answer(200, json.dumps(content).encode(), None, date)


class NoProof:
    """Costs no signature."""

    name = "none"
    certificate = None
    tls = None

    async def form_fields(self, **_: object) -> Mapping[str, str]:
        return {}


class Log:
    """Stands for the access log."""

    def __init__(self, observe: Any) -> None:
        self.observe = observe

    def reopen(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class InOrder(set[Any]):
    """A set of connections that is gone through in the order of their numbers, and not of their addresses in memory."""

    def __iter__(self) -> Any:
        return iter(sorted(super().__iter__(), key=_number_of))


def _number_of(watched: Any) -> int:
    end = getattr(watched, "client", watched)  # of a splice
    transport = getattr(end, "transport", None) or end._transport
    return int(transport.get_extra_info("socket").endpoint.number)


class _Listening(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.name == "asyncio":
            self._world.fail(f"{record.name} logs: {record.getMessage()}")


@dataclass
class World:
    """One story, played.

    Attributes:
        trace: what happened, in order: virtual seconds, who, and what.
        broken: the promises that were not kept.
        arrivals: for each request by number, the tokens it came to an upstream with.
        sent: for each request by number, the responses that an upstream sent: status, length of the content, whether whole.
        refused: for each request by number, the tokens that an upstream has refused, where, and in front of which byte it had.
        unprocessed: for each request by number, how often an upstream has said that it did nothing with it.
        carried: for each request by number, the proxy's end of the client's connection that it came on last.
        mixed: requests that were under way when their upstream sent what nobody had asked for.
        ends: those of tunnels, by the number and whether it is the client's.
        versions: of HTTP, that each upstream has.
        suspects: requests that got a response which an upstream had sent unasked; that is a fault unless they were `mixed`.
        records: by number.
    """

    story: Story
    trace: list[tuple[float, str, str, tuple[object, ...]]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    arrivals: dict[int, list[str]] = field(default_factory=dict)
    sent: dict[int, list[tuple[int, int, bool]]] = field(default_factory=dict)
    records: dict[int, list[ExchangeRecord]] = field(default_factory=dict)
    refused: dict[int, dict[str, tuple[Endpoint, int]]] = field(default_factory=dict)
    mixed: set[int] = field(default_factory=set)
    suspects: dict[int, str] = field(default_factory=dict)
    open_upstreams: dict[str, int] = field(default_factory=dict)
    carried: dict[int, Endpoint] = field(default_factory=dict)
    unprocessed: dict[int, int] = field(default_factory=dict)
    ends: dict[int, dict[bool, End]] = field(default_factory=dict)
    contexts: dict[str, Context] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.loop = VirtualLoop()
        self.network = self.loop.network = Network(self.loop, self.draw, self.note)
        self.network.grid_s = self.story.grid_s
        self.network.least_window = 65_536 if self.story.is_calm else 0
        self.requests = {each.number: each for visit in self.story.visits for each in visit.requests}
        chance = self.draw("versions")
        self.versions = {
            HOSTS[0]: ("http/1.1",),
            HOSTS[1]: chance.choice((("http/1.1",), ("http/1.1",), ("h2",))),
            HOSTS[2]: chance.choice((("h2", "http/1.1"), ("h2",), ("http/1.1",))),
        }
        self._dialled = 0
        self._has_ended = False
        self._fetched = 0
        self._drains_since = 1e9
        self._unfinished = len(self.story.visits)
        self._finished = asyncio.Event()

    def draw(self, what: str) -> Random:
        """Return the chance of one thing, which does not depend on what else happens."""
        return Random(f"{self.story.seed} {what}")

    def note(self, who: str, what: str, *values: object) -> None:
        self.trace.append((self.loop.now, who, what, values))

    def fail(self, what: str) -> None:
        """Take note of a promise that was broken."""
        self.note("BROKEN", "%s", what)
        self.broken.append(what)

    def may_end_tunnels(self, moved_at: float) -> bool:
        """Return whether the proxy may by now have ended a tunnel into which something was sent last at that time."""
        idle_s = TIMEOUTS["tunnel_idle_s"] - 5  # what was sent has been under way
        return self.loop.now - moved_at > idle_s

    def has_read_refusal(self, number: int, token: str) -> bool:
        """Return whether the proxy has been told that a token was refused for a request."""
        endpoint, written = self.refused.get(number, {}).get(token, (None, 0))
        return endpoint is not None and endpoint.peer.taken >= written

    @property
    def is_draining(self) -> bool:
        return self.loop.now > self._drains_since

    def on_visit_end(self) -> None:
        self._unfinished -= 1
        if not self._unfinished:
            self._finished.set()

    # Playing.

    def run(self) -> None:
        """Play the story to its end."""
        handler = _Listening(self)
        root = logging.getLogger()
        root.addHandler(handler)
        self.loop.set_exception_handler(self._on_fault)
        patches = (
            mock.patch.object(proxy.dialing.dialer, "start_connection", self._dial),
            mock.patch.object(proxy.relay_server, "create_route_context", _make_context),
            mock.patch.object(proxy.relay_server, "AccessLog", return_value=Log(self._observe)),
            mock.patch.object(proxy.relay_server, "find_trim", return_value=int),
        )
        for patch in patches:
            patch.start()
        try:
            with virtual_time(self.loop):
                self.loop.run_until_complete(self._play())
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the story's end
            self.fail(f"the world ends with {type(error).__name__}: {error}")
        finally:
            for patch in patches:
                patch.stop()
            self.loop.close()
            gc.collect(1)
            root.removeHandler(handler)

    async def _play(self) -> None:
        platform = self.platform = Platform(self)
        proofs: Any = [NoProof()]
        credential = Credential(
            "app",
            client_id="app",
            endpoint=platform,
            proofs=proofs,
            clock=self.loop.time,
            wall_clock=self.loop.wall_time,
        )
        self.sources = TokenSources(
            {"app": credential},
            clock=self.loop.time,
            wall_clock=self.loop.wall_time,
            jitter=self.draw("jitter").random,
            patience_s=TIMEOUTS["token_s"],
        )
        self.resolver = Resolver(Names(self, ADDRESSES, BLIND), clock=self.loop.time)
        server = self.server = RelayServer(
            self.settings(), self.sources, self._find_context, self._fetch, resolver=self.resolver
        )
        relay = server.relay
        relay.clients, relay.arrivals, relay.upstreams, relay.splices = InOrder(), InOrder(), InOrder(), InOrder()
        await server.start()
        self.loop.on_waiting = Balances(self, relay).on_waiting
        server.loop_lag.close()
        for host in HOSTS:
            self.sources.source_for("app", Target(scope=scope_of(host))).keep_fresh()
        for visit in self.story.visits:
            caller = (Http2Caller if visit.version == "2" else Caller)(self, visit)
            self.loop.call_later(visit.begins_s, caller.begin)
        for event in self.story.events:
            self.loop.call_later(event.at_s, self._happen, event)
        try:
            async with asyncio.timeout(self.story.drains_at):
                await self._finished.wait()
        except TimeoutError:
            self.note("proxy", "drains")
        else:
            await asyncio.sleep(_CALM_QUIET_S if self.story.is_calm else _QUIET_S)
            self._check_quiet()
        self._has_ended = True
        self._drains_since = self.loop.now
        await server.stop()
        await asyncio.wait_for(self._finished.wait(), 3 * PATIENCE_S)
        await asyncio.sleep(5)
        await self.sources.close()
        if self.resolver.pending:
            await asyncio.sleep(SILENCE_S)
        self._check_end()

    def settings(self, *, hosts: tuple[str, ...] = HOSTS, **limits: int) -> Settings:
        """Return the configuration, with less of it in a reload."""
        return restore(
            {
                "listeners": [
                    {"address": "{}:{}".format(*FORWARD)},
                    {"address": "{}:{}".format(*REVERSE), "mode": "reverse", "upstream": f"https://{HOSTS[0]}"},
                ],
                "credentials": {
                    "app": {"client_id": "app", "tenant_id": "contoso.onmicrosoft.com", "client_secret": "none"}
                },
                "routes": [
                    {
                        "hosts": [host],
                        "credential": "app",
                        "scope": scope_of(host),
                        "http2": "preferred" if host == HOSTS[2] else "needed",
                    }
                    for host in hosts
                ],
                "other_hosts": "tunnel",
                "destinations": {"allow": [f"{BLIND}/32"]},
                "limits": LIMITS | {"concurrent_exchanges": 10_000, "upstream_connections": self.story.places} | limits,
                "timeouts": TIMEOUTS,
                "state_directory": "/nonexistent",
                "admin": None,
            }
        )

    def _happen(self, event: Event) -> None:
        if self._has_ended:
            return
        self.note("event", "%s %.2f", event.kind, event.value)
        if event.kind == "renew":
            for host in HOSTS:
                self.sources.source_for("app", Target(scope=scope_of(host))).renew()
        elif event.kind == "reload":
            less = HOSTS[:1] if event.value < -0.5 else HOSTS
            settings = self.settings(hosts=less, upstream_connections=1 + int(abs(event.value) * 6))
            self.loop.create_task(self._reload(settings))
        elif event.kind == "sleep":
            slept_s = abs(event.value) * 60
            self.loop.slept_s += slept_s
            self.sources._wake(slept_s)  # what watches the clocks reads those of this machine
        elif event.kind == "clock":
            self.loop.wall_error_s = event.value * 4_000
        elif event.kind == "outage":
            self.platform.is_out = True
            self.loop.call_later(abs(event.value) * 20, setattr, self.platform, "is_out", False)

    def _find_context(self, host: str) -> Any:
        return self.contexts.get(host)

    def _fetch(self, host: str, on_arrival: Callable[[], None], *, rsa: bool = False) -> None:
        """Make a leaf certificate, late or never."""
        del rsa
        self._fetched += 1
        chance = self.draw(f"leaf {self._fetched}")
        if not self.story.is_calm and chance.random() < 0.1:
            self.note("proxy", "makes no certificate for %s", host)
            return

        def arrive() -> None:
            self.contexts[host] = Context(("h2", "http/1.1"))
            on_arrival()

        self.loop.call_later(chance.choice((0.001, 0.1)), arrive)

    async def _reload(self, settings: Settings) -> None:
        plan = self.server.plan(settings, self.sources)
        await self.server.open(plan)
        self.server.use(plan)

    async def _dial(self, infos: Any, **_: object) -> Any:
        """Stand for `start_connection`."""
        address: tuple[str, int] = infos[0][4][:2]
        host = next((host for host, each in ADDRESSES.items() if each == address[0]), "blind")
        self._dialled += 1
        chance = self.draw(f"dial {self._dialled}")
        fault = chance.choice(DIAL_FAULTS) if chance.random() < self.story.dial_faults else ""
        self.note("proxy", "dials %s, %s", host, fault or "which accepts")
        await asyncio.sleep(chance.choice((0.001, 0.02, 0.3)))
        if fault == "refused":
            raise ConnectionRefusedError(111, "Connection refused")
        if fault == "unanswered":
            await asyncio.sleep(3_600)
        near, far = self.network.join(("10.9.9.9", 40_000 + self._dialled), address)
        self.network.endpoints.append(near)
        far.set_protocol(Blind(self, far) if host == "blind" else Http2Upstream(self, host, far, fault))
        far.begin()  # nothing is waited for behind this, so no cancellation can lose the connection
        return near.socket

    # What is noticed.

    def _observe(self, record: ExchangeRecord) -> None:
        # Of a request that was cut, less may have come.
        whole = _TARGET.search(record.target) or _TUNNEL.match(record.authority)
        number = int(whole[1]) if whole else 0
        self.note("proxy", "record of %d: %d %s %s", number, record.status, record.outcome, record.code)
        found = self.records.setdefault(number, [])
        found.append(record)
        if number and len(found) > 1:
            self.fail(f"request {number} has {len(found)} records")

    def _on_fault(self, _loop: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.fail(f"unhandled in the loop: {context['message']}: {type(error).__name__}: {error}")

    def _check_quiet(self) -> None:
        """Check what holds between exchanges, while the proxy runs."""
        relay = self.server.relay
        if relay.admission is not None and relay.admission.exchanges:
            self.fail(f"{relay.admission.exchanges} exchanges are counted, and none is under way")
        if relay.upstreams and not self.story.is_calm:
            kept = [_number_of(each) for each in relay.upstreams]
            self.fail(f"{len(kept)} connections to upstreams are neither used nor closed: {kept}")

    def _check_end(self) -> None:
        """Check what holds when everything is over."""
        relay = self.server.relay
        admission = relay.admission
        counts = {
            "accepted connections": relay.accepted_connections.count,
            "exchanges": 0 if admission is None else admission.exchanges,
            "clients": len(relay.clients),
            "arrivals": len(relay.arrivals),
            "upstreams": len(relay.upstreams),
            "idle upstreams": len(relay.idle),
            "requests over HTTP/2": relay.streams,
            "tunnels": len(relay.splices),
            "open connections": sum(not each.is_dead for each in self.network.endpoints),
            "look-ups of names": self.resolver.pending,
            "tasks": len(asyncio.all_tasks()) - 1,
        }
        for host in HOSTS[:1] if len(self.server._settings.routes) < len(HOSTS) else HOSTS:
            from proxy.policy.authority import Authority

            pool = relay.destinations.find(Authority(host, 443), 443).pool
            over = pool.over_http2()
            counts[f"places in the pool of {host}"] = pool.size + (0 if over is None else over.size)
        for what, count in counts.items():
            if count:
                self.fail(f"{count} {what} are left at the end")
        most = max((each.most_buffered - each.high - each.allowance for each in self.network.endpoints), default=0)
        if most > _READ:
            self.fail(f"{most} bytes more than the limit waited in one direction of a connection")
        for number, what in self.suspects.items():
            if number not in self.mixed:
                self.fail(what)
        for number, request in self.requests.items():
            tokens = self.arrivals.get(number, [])
            if tokens and not self.records.get(number):
                self.fail(f"request {number} came to an upstream and has no record")
            tokens = tokens[self.unprocessed.get(number, 0) :]  # of those nothing was done with the request
            if len(tokens) > 3 or (request.method == "POST" and len(tokens) > 1 + (request.upstream_fault == "refuse")):
                self.fail(f"request {number} ({request.method}) came to an upstream {len(tokens)} times")


def _make_context(_route: object, versions: tuple[str, ...] = ("http/1.1",)) -> Context:
    return Context(versions)


def scope_of(host: str) -> str:
    return f"api://{host}/.default"
