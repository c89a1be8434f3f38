"""A token appears on no socket but that of the authority its route names, whatever a client says and wherever DNS leads.

A state machine plays clients that lie about names on every layer at once (CONNECT target and its Host, SNI, absolute-form
target, Host), a DNS that points routed names at other servers, and upstreams that redirect. All of it goes over real sockets; only
name resolution is the test's own, by way of the event loop.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final, cast

import pytest
import trustme
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from proxy.config.settings import LimitSettings, TimeoutSettings
from proxy.dialing.dialer import Dialer
from proxy.dialing.resolver import Resolver
from proxy.interception.authority import issue
from proxy.interception.contexts import ServerContexts
from proxy.policy.destinations import check_destination
from proxy.policy.routing import RouteTable, parse_host_pattern
from proxy.relay.arrival import accept
from proxy.relay.destination_rule import FixedRule, ForwardRule
from proxy.relay.destinations import Destinations, Route
from proxy.relay.state import Relay
from tests.security.names import LoopLookup, NamedLoop
from tests.wire.rig import FixedTokens, create_token

if TYPE_CHECKING:
    from proxy.relay.tokens import Source

# A sequence takes about thirty milliseconds; `make security` plays thousands.
SEQUENCES: Final = int(os.environ.get("DESTINATION_SEQUENCES", "400"))
STEPS: Final = 12

A: Final = "a.example.test"
B: Final = "b.example.test"
EVIL: Final = "evil.test"
TOKENS: Final = {A: "token-for-a-alone", B: "token-for-b-alone"}  # of one length, which `Site.look` relies on
HERE: Final = "127.0.0.1"
THERE: Final = "127.0.0.2"


@dataclass
class Site:
    """A server that keeps everything it hears.

    Attributes:
        name: what for.
        heard: every byte since the last look, and before that enough to know a token that came in two pieces.
        tokens: how often each token was heard.
        total: bytes heard.
        requests: heads.
        redirects: whether it answers with a redirect to somewhere else.
    """

    name: str
    port: int = 0
    heard: bytearray = field(default_factory=bytearray)
    tokens: Counter[str] = field(default_factory=Counter)
    total: int = 0
    requests: list[bytes] = field(default_factory=list)
    redirects: bool = False

    def look(self) -> None:
        """Counts the tokens heard since the last look."""
        for token in TOKENS.values():
            self.tokens[token] += self.heard.count(token.encode())
        del self.heard[: -min(map(len, TOKENS.values())) + 1]

    async def listen(self, address: str, port: int, context: ssl.SSLContext | None) -> asyncio.Server:
        server = await asyncio.get_running_loop().create_server(
            lambda: SiteConnection(self), address, port, ssl=context
        )
        self.port = server.sockets[0].getsockname()[1]
        return server


class SiteConnection(asyncio.Protocol):
    """Answers each request at once."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.site.heard += data
        self.site.total += len(data)
        self.buffer += data
        if self.buffer.startswith(b"\x16"):
            self.transport.close()  # a TLS handshake, where none is spoken
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            self.site.requests.append(head)
            start = b"HTTP/1.1 200 OK\r\n"
            if self.site.redirects:
                start = f"HTTP/1.1 307 Elsewhere\r\nLocation: http://{EVIL}/\r\n".encode()
            self.transport.write(start + b"Content-Length: 0\r\n\r\n")


class Caller(asyncio.Protocol):
    """A client's end of a connection."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False
        self.news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.news.set()

    def eof_received(self) -> bool:
        self.lost = True
        self.news.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.lost = True
        self.news.set()

    async def answer(self) -> bytes:
        """The next head, without what follows it; nothing where the connection ends before."""
        async with asyncio.timeout(60):
            while b"\r\n\r\n" not in self.received and not self.lost:
                self.news.clear()
                await self.news.wait()
        head, _, rest = self.received.partition(b"\r\n\r\n")
        self.received = rest if rest.startswith(b"HTTP/") else b""
        return head


class World:
    """The relay and everything around it; made once, because sequences leave nothing behind but what they have to prove."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner(loop_factory=NamedLoop)
        self.a, self.b, self.plain = Site("a"), Site("b"), Site("evil, plain")
        self.evil_a, self.evil_b = Site("evil, trusted for its own name"), Site("evil, in the clear")
        self.sites = [self.a, self.b, self.plain, self.evil_a, self.evil_b]
        self.sent = 0
        self.seen: Counter[str] = Counter()
        self.runner.run(self._start())

    async def _start(self) -> None:
        authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        contexts = {}
        for name in (A, B, EVIL):
            contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(name, key_type=trustme.KeyType.ECDSA).configure_cert(contexts[name])
        self.servers = [
            await self.a.listen(HERE, 0, contexts[A]),
            await self.b.listen(HERE, 0, contexts[B]),
            await self.plain.listen(HERE, 0, None),
        ]
        self.servers += [
            await self.evil_a.listen(THERE, self.a.port, contexts[EVIL]),
            await self.evil_b.listen(THERE, self.b.port, None),
        ]
        trusted = ssl.create_default_context()
        authority.configure_trust(trusted)
        ca = ServerContexts(issue([A, B], datetime.now(UTC), reason="created for tests"), [A, B])
        self.relay = relay = Relay(LimitSettings(), TimeoutSettings(), ca.context_for, None)
        relay.dialer = Dialer(resolver=Resolver(LoopLookup()))
        patterns = [f"{A}:{self.a.port}", f"{B}:{self.b.port}"]
        routes = []
        for pattern, host in zip(patterns, (A, B), strict=True):
            tokens = FixedTokens()
            tokens.token = create_token(TOKENS[host])
            routes.append(
                Route(
                    name=pattern,
                    tokens=cast("Source", tokens),
                    fields=b"",
                    field_names=frozenset(),
                    dial=None,
                    context=trusted,
                )
            )
        ports = (self.a.port, self.b.port, self.plain.port)
        loopback = [ip_network("127.0.0.0/8")]
        table = RouteTable((parse_host_pattern(pattern), index) for index, pattern in enumerate(patterns))
        relay.destinations = Destinations(
            relay, table, routes, lambda address, port: check_destination(address, port, loopback, ports)
        )
        authority_a = parse_host_pattern(patterns[0]).authority
        reverse = FixedRule(
            relay.destinations.find(authority_a, authority_a.port),
            authority_a,
            "reverse",
            own_names=frozenset({"localhost"}),
        )
        loop = asyncio.get_running_loop()
        self.ports = []
        for destination_rule in (ForwardRule(), reverse):
            server = await loop.create_server(functools.partial(accept, relay, destination_rule), HERE, 0)
            self.servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])
        self.lying = ssl.create_default_context()
        self.lying.check_hostname = False
        self.lying.verify_mode = ssl.CERT_NONE

    def reset(self) -> None:
        """Begins a sequence: what earlier ones proved is added up, and what is heard from now on is this one's."""
        NamedLoop.names = {A: [HERE], B: [HERE], EVIL: [HERE]}
        for site in self.sites:
            site.redirects = False
            self.seen[site.name] += site.tokens.total()
            site.heard.clear()
            site.requests.clear()
            site.tokens.clear()

    async def connect(self, listener: int) -> Caller:
        _, caller = await asyncio.get_running_loop().create_connection(Caller, HERE, self.ports[listener])
        return caller

    async def connect_through(self, name: str, host: str, inside: str) -> Caller | None:
        """A connection inside a tunnel: in the clear, or inside TLS with a server name. None where it is refused."""
        caller = await self.connect(0)
        caller.transport.write(f"CONNECT {name} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("utf-8", "replace"))
        if b" 200 " not in (await caller.answer())[:13]:
            caller.transport.close()
            return None
        if inside == "plain":
            return caller
        inner = Caller()
        try:
            async with asyncio.timeout(60):
                transport = await asyncio.get_running_loop().start_tls(
                    caller.transport, inner, self.lying, server_hostname=inside or HERE
                )
        except (ssl.SSLError, ConnectionError):
            caller.transport.close()
            return None
        assert transport is not None
        inner.connection_made(transport)
        return inner

    def spellings(self) -> list[str]:
        """Names of every kind: right, wrong, and such as two programs might read differently."""
        a, b, e = self.a.port, self.b.port, self.plain.port
        return [
            f"{A}:{a}",
            f"{A}:{a}",
            f"A.Example.TEST:{a}",
            f"{A}.:{a}",
            f"{B}:{b}",
            f"{B}:{b}",
            A,
            f"{A}:{b}",
            f"{A}:{e}",
            f"{A}:0{a}",
            f"{A}:{a}:{e}",
            f"{A}..:{a}",
            f"{EVIL}:{a}",
            f"{EVIL}:{e}",
            f"{EVIL}@{A}:{a}",
            f"{A}:{a}@{EVIL}:{e}",
            f"{A}%2e{EVIL}:{a}",
            f"{A}%00{EVIL}:{a}",
            f"{A}#@{EVIL}:{e}",
            f"{A}\\@{EVIL}:{e}",
            f"{A},{EVIL}:{e}",
            f"x.{A}:{a}",
            f"{HERE}:{a}",
            f"{THERE}:{a}",
            f"{THERE}:{b}",
            f"0x7f.1:{a}",
            f"[::ffff:{THERE}]:{a}",
            f"\uff41.example.test:{a}",
            "localhost",
            "",
        ]


def world() -> World:
    """The one world of this process."""
    global _WORLD  # noqa: PLW0603  # made when the first machine runs
    if _WORLD is None:
        _WORLD = World()
    return _WORLD


_WORLD: World | None = None

# Mostly the truth: a lie that comes first ends most connections, and then nothing is left to be led astray.
names = st.sampled_from([0, 0, 0, 4, 4]) | st.sampled_from([0, 4, 13]) | st.integers(0, 29)
# A, B, A at the port of B, at one of nobody's, and the servers that lie in wait.
KEY_NAMES: Final = (0, 4, 7, 8, 13, 22, 23, 24)
answers = st.sampled_from([[HERE], [THERE], [HERE, THERE], [THERE, HERE], ["127.0.0.9"]])
FIELDS: Final = (
    "",
    f"X-Forwarded-Host: {EVIL}\r\n",
    f"Forwarded: host={EVIL}\r\n",
    "Connection: host\r\n",
    "Connection: authorization, close\r\n",
    "Authorization: Bearer mine\r\n",
    "Authorization: Bearer mine\r\nAuthorization: Bearer mine, too\r\n",
    "Proxy-Authorization: Basic eDp5\r\n",
    "Connection: Upgrade\r\nUpgrade: websocket\r\n",
    f"Host: {EVIL}\r\n",
)


class Clients(RuleBasedStateMachine):
    """Clients that share the proxy, none of them honest for long."""

    def __init__(self) -> None:
        super().__init__()
        self.world = world()
        self.world.reset()
        self.callers: list[Caller] = []

    def _name(self, index: int) -> str:
        spellings = self.world.spellings()
        return spellings[index % len(spellings)]

    @rule(listener=st.sampled_from([0, 0, 1]))
    def open_connection(self, listener: int) -> None:
        self.callers.append(self.world.runner.run(self.world.connect(listener)))

    @rule(name=names, host=st.none() | names, inside=st.sampled_from([A, A, B, EVIL, "", "plain", f"{A}.{EVIL}"]))
    def open_tunnel(self, name: int, host: int | None, inside: str) -> None:
        target = self._name(name)
        said = target if host is None else self._name(host)
        caller = self.world.runner.run(self.world.connect_through(target, said, inside))
        if caller is not None:
            self.callers.append(caller)

    @precondition(lambda self: self.callers)
    @rule(
        which=st.integers(0, 9),
        form=st.sampled_from(["origin", "origin", "http", "http", "https", "HTTP", "star", "authority"]),
        named=names,
        host=st.none() | names,
        fields=st.sampled_from(FIELDS),
        method=st.sampled_from(["GET", "GET", "HEAD", "OPTIONS", "DELETE"]),
    )
    def send(self, which: int, form: str, named: int, host: int | None, fields: str, method: str) -> None:
        caller = self.callers[which % len(self.callers)]
        if caller.lost or caller.transport.is_closing():
            self.callers.remove(caller)
            return
        name = self._name(named)
        said = name if host is None else self._name(host)
        written = {"origin": "/path", "star": "*", "authority": name}.get(form, f"{form}://{name}/path")
        request = f"{method} {written} HTTP/1.1\r\nHost: {said}\r\n{fields}\r\n"

        async def talk() -> bytes:
            caller.transport.write(request.encode())
            return await caller.answer()

        self.world.sent += 1
        self.world.runner.run(talk())

    @rule(host=st.sampled_from([A, B]), tunnelled=st.booleans())
    def tell_the_truth(self, host: str, tunnelled: bool) -> None:
        """What an honest client does, so that there are connections and tokens for the others to go astray with."""
        site = self.world.a if host == A else self.world.b
        name = f"{host}:{site.port}"

        async def talk() -> tuple[Caller | None, bytes]:
            caller = await (self.world.connect_through(name, name, host) if tunnelled else self.world.connect(0))
            if caller is None:
                return None, b""
            target = "" if tunnelled else f"http://{name}"
            caller.transport.write(f"GET {target}/ HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            return caller, await caller.answer()

        before = site.total
        caller, head = self.world.runner.run(talk())
        assert caller is not None
        self.callers.append(caller)
        self.world.sent += 1
        if NamedLoop.names[host] == [HERE]:
            assert head[9:12] in (b"200", b"307"), head
            assert site.total > before

    @rule(first=st.sampled_from(KEY_NAMES), second=st.sampled_from(KEY_NAMES), tunnelled=st.booleans())
    def name_two(self, first: int, second: int, tunnelled: bool) -> None:
        """One name where the request leads, another where a careless proxy would look for the token.

        C1: the target alone decides, of CONNECT too; but inside a tunnel it is the tunnel's, and Host has to agree with it.
        """
        one, other = self._name(first), self._name(second)

        async def talk() -> bytes:
            caller = await (self.world.connect_through(one, other, "plain") if tunnelled else self.world.connect(0))
            if caller is None:
                return b""
            target = "" if tunnelled else f"http://{one}"
            caller.transport.write(f"GET {target}/ HTTP/1.1\r\nHost: {other}\r\n\r\n".encode())
            self.callers.append(caller)
            return await caller.answer()

        host = {0: A, 4: B}.get(first)
        site = {A: self.world.a, B: self.world.b}.get(host or "")
        before = 0 if site is None else site.total
        self.world.sent += 1
        head = self.world.runner.run(talk())
        if site is None:
            return
        if tunnelled and first != second:
            assert head[9:12] == b"421", head
            assert site.total == before
        elif NamedLoop.names[host or ""] == [HERE]:
            assert head[9:12] in (b"200", b"307"), head
            assert site.total > before

    @rule(name=st.sampled_from([A, B, EVIL]), addresses=answers)
    def change_dns(self, name: str, addresses: list[str]) -> None:
        NamedLoop.names = {**NamedLoop.names, name: addresses}

    @rule()
    def end_idle_upstream_connections(self) -> None:
        """So that the next request resolves and connects again."""

        async def end() -> None:
            self.world.relay.destinations.close_idle()
            await asyncio.sleep(0)

        self.world.runner.run(end())

    @rule(index=st.integers(0, 4), redirects=st.booleans())
    def redirect(self, index: int, redirects: bool) -> None:
        self.world.sites[index].redirects = redirects

    @invariant()
    def each_token_is_where_it_belongs(self) -> None:
        for site in self.world.sites:
            site.look()
            for host, token in TOKENS.items():
                if site is not {A: self.world.a, B: self.world.b}[host]:
                    assert not site.tokens[token], f"the token for {host} reached {site.name}"

    @invariant()
    def what_a_routed_site_hears_was_meant_for_it(self) -> None:
        for site, host in ((self.world.a, A), (self.world.b, B)):
            for head in site.requests:
                lines = head.split(b"\r\n")[1:]
                if TOKENS[host].encode() in head:
                    assert lines.count(f"Host: {host}:{site.port}".encode()) == 1
                    said = [line for line in lines if line.lower().startswith(b"authorization:")]
                    assert said == [f"Authorization: Bearer {TOKENS[host]}".encode()]

    def teardown(self) -> None:
        async def close() -> None:
            for caller in self.callers:
                caller.transport.abort()
            self.world.relay.destinations.close_idle()
            await asyncio.sleep(0)

        self.world.runner.run(close())


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address of every Linux machine only")
@pytest.mark.timeout(600)
def test_a_token_reaches_no_socket_but_its_routes() -> None:
    run_state_machine_as_test(
        Clients,
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    seen = world()
    seen.reset()
    # Otherwise the lies would have been all there is, and nothing proved.
    assert seen.seen["a"] > SEQUENCES // 10
    assert seen.seen["b"] > SEQUENCES // 10
    assert seen.plain.total > 0
    assert seen.evil_a.total + seen.evil_b.total > 0
