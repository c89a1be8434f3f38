"""A relay in this process, a scripted raw upstream behind it, and raw clients in front of it, one for each way in. Does I/O.

Everything is on loopback, on ports the kernel chose. A `Peer` is one end of a connection: it keeps every byte it received,
and knows how the connection ended. Nothing here understands HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

import trustme

from proxy.config.settings import Http2, LimitSettings, TimeoutSettings
from proxy.dialing.trust import HTTP_2, HTTP_2_OR_1_1
from proxy.identity.access_token import AccessToken, create_access_token
from proxy.interception.authority import issue
from proxy.interception.contexts import ServerContexts
from proxy.policy.authority import Authority, parse_authority
from proxy.policy.routing import RouteTable, parse_host_pattern
from proxy.relay.arrival import accept
from proxy.relay.destination_rule import FixedRule, ForwardRule
from proxy.relay.destinations import Destinations, Route
from proxy.relay.state import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from proxy.identity.source import TokenSource
    from proxy.relay.record import ExchangeRecord

T = TypeVar("T")
Mode = Literal["forward", "connect", "reverse"]
MODES: Final[tuple[Mode, ...]] = ("forward", "connect", "reverse")

HOST: Final = "api.example.test"
TOKEN: Final = "fixed-token-of-the-tests"
AUTHORIZATION: Final = b"Authorization: Bearer " + TOKEN.encode()
# What never comes must not hold up everything; whatever comes, comes within this even on a machine that stalls for seconds.
PATIENCE_S: Final = 30.0
# How often to look before nothing more is expected. Looks are counted, not time: while a machine stalls, nobody looks.
LOOKS: Final = 15
LOOK_EVERY_S: Final = 0.01
# The kernel's buffers between client, relay and upstream: left alone they grow to megabytes (32 where the kernel is new), and hide
# who stops whom. Under two segments of loopback, delayed acknowledgements would make every test slow.
KERNEL_BYTES: Final = 131_072


class Peer(asyncio.Protocol):
    """One end of a connection.

    Attributes:
        received: every byte so far.
        total, reads: how many bytes those were, and in how many pieces they came.
        ended: the other side has ended sending, properly.
        lost: the connection is gone.
        reset: it went with an error.
        kept_open: whether to go on sending after the other side has ended.
    """

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream | None = None) -> None:
        self.received = bytearray()
        self.total = 0
        self.reads = 0
        self.ended = False
        self.lost = False
        self.reset = False
        self.kept_open = False
        self.discards = False
        self.may_write = asyncio.Event()
        self.may_write.set()
        self._news = asyncio.Event()
        self._upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._upstream is not None:
            self._upstream.connections.append(self)
            self._upstream.opened += 1

    def data_received(self, data: bytes) -> None:
        self.total += len(data)
        self.reads += 1
        if not self.discards:
            self.received += data
        self._news.set()
        if self._upstream is not None:
            self._upstream.on_data(self)

    def eof_received(self) -> bool:
        self.ended = True
        self._news.set()
        return self.kept_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.reset = exc is not None
        self.may_write.set()
        self._news.set()
        if self._upstream is not None:
            self._upstream.connections.remove(self)

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    async def until(self, happened: Callable[[Peer], object], within_s: float = PATIENCE_S) -> Peer:
        """Waits until something holds of this peer; fails with what was received if it never does."""
        try:
            async with asyncio.timeout(within_s):
                while not happened(self):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            if happened(self):  # it came in the very turn in which the time was up
                return self
            msg = f"waited in vain; ended={self.ended} lost={self.lost} received={bytes(self.received[-2000:])!r}"
            raise AssertionError(msg) from None
        return self

    async def read(self, size: int) -> bytes:
        """Takes exactly `size` bytes."""
        await self.until(lambda peer: len(peer.received) >= size or peer.lost)
        return self.take(size)

    async def read_until(self, mark: bytes = b"\r\n\r\n") -> bytes:
        """Takes everything up to and including `mark`."""
        await self.until(lambda peer: mark in peer.received or peer.lost)
        assert mark in self.received, f"ended before {mark!r}: {bytes(self.received)!r}"
        return self.take(self.received.index(mark) + len(mark))

    async def read_to_end(self) -> bytes:
        """Takes everything up to the connection's end, proper or not."""
        await self.until(lambda peer: peer.ended or peer.lost)
        return self.take()

    async def is_stopped(self) -> bool:
        """Whether the other side takes no more of what was sent."""
        for _ in range(LOOKS):
            if self.may_write.is_set():
                return False
            await asyncio.sleep(LOOK_EVERY_S)
        return not self.may_write.is_set()

    def take(self, size: int | None = None) -> bytes:
        """Takes what there is."""
        taken = bytes(self.received[:size])
        del self.received[:size]
        return taken

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    async def send_split(self, data: bytes) -> None:
        """Sends byte by byte, each in a turn of the event loop of its own, so that each is read alone."""
        for index in range(len(data)):
            if self.transport.is_closing():
                return
            self.transport.write(data[index : index + 1])
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def close(self) -> None:
        self.transport.close()

    def end(self) -> None:
        """Ends sending; goes on reading."""
        self.kept_open = True
        self.transport.write_eof()

    def cut(self) -> None:
        """Resets the connection."""
        connected = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):  # it may be closed already
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def vanish(self) -> None:
        """Closes the socket as the kernel does for a program that was killed: FIN, and RST for whatever still comes."""
        self.transport.abort()


class Upstream:
    """A server that does what the test says.

    Attributes:
        connections: those open now.
        opened: how many there have been.
    """

    def __init__(self) -> None:
        self.connections: list[Peer] = []
        self.opened = 0
        self._active: asyncio.Queue[Peer] = asyncio.Queue()
        self._claimed: set[Peer] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), "127.0.0.1", 0, ssl=context)
        self._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    def on_data(self, peer: Peer) -> None:
        if peer not in self._claimed:
            self._claimed.add(peer)
            self._active.put_nowait(peer)

    async def next(self, within_s: float = PATIENCE_S) -> Peer:
        """The connection on which a request is arriving."""
        try:
            async with asyncio.timeout(within_s):
                return await self._active.get()
        except TimeoutError:
            msg = "nothing reached the upstream"
            raise AssertionError(msg) from None

    def release(self, peer: Peer) -> None:
        """What arrives on this connection next belongs to another request."""
        self._claimed.discard(peer)
        if peer.received and not peer.lost:
            self.on_data(peer)

    def heard(self) -> bool:
        """Whether a request has begun to arrive that `next` has not returned yet."""
        return not self._active.empty()

    def forget(self) -> None:
        """Cuts all connections, and forgets what came on them."""
        for peer in list(self.connections):
            peer.transport.abort()
        self._claimed.clear()
        while not self._active.empty():
            self._active.get_nowait()

    def close(self) -> None:
        self.forget()
        if self._server is not None:
            self._server.close()


class FixedTokens:
    """A token source that always has a token, or the one the test puts there.

    Attributes:
        token: what `peek` returns.
        successor: what `acquire` returns once the token was rejected; None: a rejected token stays.
        rejections: how often `report_refusal` was called.
    """

    def __init__(self) -> None:
        self.token: AccessToken | None = create_token(TOKEN)
        self.successor: AccessToken | None = None
        self.rejections = 0

    def peek(self, now_mono: float) -> AccessToken | None:  # noqa: ARG002  # the seam's signature
        return self.token

    async def acquire(self) -> AccessToken:
        await asyncio.sleep(0)
        self.token = self.token or self.successor
        assert self.token is not None
        return self.token

    def report_refusal(
        self,
        token: AccessToken,
        now_mono: float,  # noqa: ARG002  # the seam's signature
        claims: str | None = None,  # noqa: ARG002  # the seam's signature
        *,
        certain: bool = False,  # noqa: ARG002  # the seam's signature
    ) -> bool:
        self.rejections += 1
        if self.successor is None or token is not self.token:
            return False
        self.token = None
        return True


def create_token(value: str) -> AccessToken:
    """A token that is good for an hour."""
    return create_access_token(
        value, requested_at_mono=time.monotonic(), expires_in_s=3_600, refresh_in_s=None, jitter=0.5
    )


@dataclass
class Trust:
    """Certificates for all the tests; making keys is slow."""

    upstream_authority: trustme.CA
    upstream_context: ssl.SSLContext
    relay_context: ssl.SSLContext
    contexts: ServerContexts
    client_context: ssl.SSLContext
    http2_context: ssl.SSLContext
    both_context: ssl.SSLContext

    @classmethod
    def create(cls) -> Trust:
        authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        upstream_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HOST, "127.0.0.1", key_type=trustme.KeyType.ECDSA).configure_cert(upstream_context)
        upstream_context.set_alpn_protocols(["http/1.1"])
        relay_context = ssl.create_default_context()
        relay_context.set_alpn_protocols(["http/1.1"])  # as the relay's own have it
        authority.configure_trust(relay_context)
        http2_context = ssl.create_default_context()
        http2_context.set_alpn_protocols(["h2"])
        authority.configure_trust(http2_context)
        both_context = ssl.create_default_context()
        both_context.set_alpn_protocols(["h2", "http/1.1"])
        authority.configure_trust(both_context)
        interception = issue([HOST], datetime.now(UTC), reason="created for tests")
        client_context = ssl.create_default_context(cadata=interception.anchor_pem().decode())
        return cls(
            authority,
            upstream_context,
            relay_context,
            ServerContexts(interception, [HOST]),
            client_context,
            http2_context,
            both_context,
        )


@dataclass
class Rig:
    """The relay with everything around it.

    Attributes:
        records: of every exchange.
    """

    trust: Trust
    limits: LimitSettings = field(default_factory=LimitSettings)
    timeouts: TimeoutSettings = field(default_factory=TimeoutSettings)
    upstream: Upstream = field(default_factory=Upstream)
    tokens: FixedTokens = field(default_factory=FixedTokens)
    records: list[ExchangeRecord] = field(default_factory=list)
    relay: Relay = field(init=False)
    reverse: FixedRule = field(init=False)
    ports: dict[str, int] = field(default_factory=dict)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _clients: list[Peer] = field(default_factory=list)

    async def start(self) -> None:
        await self.upstream.start(self.trust.upstream_context)
        self.relay = Relay(self.limits, self.timeouts, self.trust.contexts.context_for, self.records.append)
        self.relay.destinations = self.destinations(self.upstream.port)
        authority = parse_authority(HOST.encode(), 443)
        self.reverse = FixedRule(
            self.relay.destinations.find(authority, 443),
            authority,
            "reverse",
            own_names=frozenset({"127.0.0.1", "localhost"}),
        )
        loop = asyncio.get_running_loop()
        for mode, rule in (("forward", ForwardRule()), ("reverse", self.reverse)):
            server = await loop.create_server(functools.partial(accept, self.relay, rule), "127.0.0.1", 0)
            self._servers.append(server)
            for kind in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                server.sockets[0].setsockopt(socket.SOL_SOCKET, kind, KERNEL_BYTES)
            self.ports[mode] = server.sockets[0].getsockname()[1]
        self.ports["connect"] = self.ports["forward"]

    def destinations(
        self, port: int, *, tunnels: bool = False, fields: bytes = b"", http2: Http2 = Http2.NEEDED
    ) -> Destinations:
        """Routes `HOST` to a port on loopback; other hosts are refused, unless `tunnels`; `fields` are the route's own."""
        contexts = {HTTP_2: self.trust.http2_context, HTTP_2_OR_1_1: self.trust.both_context}
        route = Route(
            name=HOST,
            tokens=cast("TokenSource", self.tokens),
            fields=fields,
            field_names=frozenset(line.partition(b":")[0].lower() for line in fields.split(b"\r\n")[:-1]),
            dial=Authority("127.0.0.1", port),
            context=self.trust.relay_context,
            http2_context=None if http2 is Http2.OFF else lambda protocols: contexts[protocols],
            prefers_http2=http2 is Http2.PREFERRED,
        )
        return Destinations(
            self.relay,
            RouteTable([(parse_host_pattern(HOST), 0)]),
            [route],
            (lambda _address, _port: None) if tunnels else None,
        )

    @contextlib.contextmanager
    def leading_to(self, port: int, *, fields: bytes = b"", http2: Http2 = Http2.NEEDED) -> Iterator[None]:
        """For a while, `HOST` is at another port on loopback, by every way in."""
        usual, destination = self.relay.destinations, self.reverse.destination
        self.relay.destinations = self.destinations(port, fields=fields, http2=http2)
        self.reverse.destination = self.relay.destinations.find(self.reverse.authority, 443)
        try:
            yield
        finally:
            self.relay.destinations, self.reverse.destination = usual, destination

    async def stop(self) -> None:
        self._abort_clients()
        for server in self._servers:
            server.close()
        self.relay.abort()
        self.upstream.close()
        for _ in range(10):
            await asyncio.sleep(0)

    def _abort_clients(self) -> None:
        for client in self._clients:
            # A TLS transport of Python 3.11.2, which Debian 12 has, cannot be aborted once it is lost.
            if not client.lost:
                client.transport.abort()

    async def reset(self) -> None:
        """Ends every connection, so that a test starts from nothing."""
        self._abort_clients()
        self._clients.clear()
        self.relay.abort()
        self.upstream.forget()
        relay = self.relay
        await eventually(lambda: not (relay.clients or relay.upstreams or relay.arrivals or relay.splices))
        self.upstream.forget()
        self.records.clear()
        self.tokens = self.tokens  # the destinations hold it
        self.tokens.token, self.tokens.successor, self.tokens.rejections = create_token(TOKEN), None, 0
        self.relay.tick(time.monotonic())
        await settle()

    async def client(self, mode: Mode) -> Peer:
        """A connection over which requests can be sent in the given way."""
        loop = asyncio.get_running_loop()
        connected = socket.socket()
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        connected.setblocking(False)
        await loop.sock_connect(connected, ("127.0.0.1", self.ports[mode]))
        _, peer = await loop.create_connection(Peer, sock=connected)
        self._clients.append(peer)
        if mode == "connect":
            peer.send(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode())
            answer = await peer.read_until()
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            plain = peer.transport
            peer = Peer()
            secured = await loop.start_tls(plain, peer, self.trust.client_context, server_hostname=HOST)
            assert secured is not None
            peer.connection_made(secured)
            self._clients.append(peer)
        return peer

    def later(self, seconds: float) -> None:
        """Lets time pass for the relay."""
        self.relay.tick(self.relay.now + seconds)


class Wire:
    """Runs coroutines on one event loop with one rig on it, so that a test costs its exchanges only."""

    def __init__(self, runner: asyncio.Runner, rig: Rig) -> None:
        self._runner = runner
        self.rig = rig

    def run(self, work: Callable[[Rig], Coroutine[Any, Any, T]], within_s: float = 120.0) -> T:
        """Runs one test's work from a clean start."""

        async def bounded() -> T:
            async with asyncio.timeout(within_s):
                await self.rig.reset()
                return await work(self.rig)

        return self._runner.run(bounded())


async def settle(turns: int = 20) -> None:
    """Lets everything that is ready happen, and what the kernel still has to deliver where a thread of its own does that."""
    for turn in range(turns):
        await asyncio.sleep(0.001 if turn == 10 else 0)


async def eventually(holds: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Waits until something holds that can only be looked at; fails if it never does."""
    try:
        async with asyncio.timeout(within_s):
            while not holds():  # noqa: ASYNC110  # what is looked at says nothing when it changes
                await asyncio.sleep(0.001)
    except TimeoutError:
        msg = "waited in vain for what never came to hold"
        raise AssertionError(msg) from None


def address_form(request: bytes, mode: Mode) -> bytes:
    """A request in origin-form, as a client sends it in the given mode."""
    if mode != "forward":
        return request
    empty = request[: len(request) - len(request.lstrip(b"\r\n"))]
    method, _, rest = request[len(empty) :].partition(b" ")
    target, _, rest = rest.partition(b" ")
    return empty + b"%b http://%b%b %b" % (method, HOST.encode(), b"" if target == b"*" else target, rest)
