"""Which version an upstream is spoken to in: what the route says, what the upstream chooses, and what is remembered of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

import h2.errors
import h2.events
import pytest
import trustme
from msgspec.structs import replace

from proxy.config.settings import Http2
from tests.wire.rig import HOST, Peer, Rig, Wire, eventually
from tests.wire.test_http2_upstreams import Connection, Upstream, call, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# A record with the fatal alert no_application_protocol (RFC 8446 §6, RFC 7301 §3.2).
REFUSAL = b"\x15\x03\x03\x00\x02\x02\x78"
GET = b"GET /a HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST.encode()
POST = b"POST /a HTTP/1.1\r\nHost: %b\r\nContent-Length: 4\r\n\r\nping" % HOST.encode()
WEBSOCKET = GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Both(Upstream):
    """An upstream that speaks what has been agreed on.

    Attributes:
        context: offers what is agreed on.
        over_http1: connections of HTTP/1.1, and those on which nothing was agreed.
        handshakes: how many were begun.
        refuses: how many of the next handshakes are refused.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self.context = context
        self.over_http1: list[Peer] = []
        self.handshakes = 0
        self.refuses = 0
        self._accepting: list[asyncio.Task[Any]] = []

    async def accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            accepted, _ = await loop.sock_accept(listening)
            self.handshakes += 1
            if self.refuses:
                self.refuses -= 1
                await loop.sock_recv(accepted, 65_536)
                await loop.sock_sendall(accepted, REFUSAL)
                accepted.close()
            else:
                self._accepting.append(
                    asyncio.create_task(loop.connect_accepted_socket(lambda: Chooser(self), accepted, ssl=self.context))
                )

    async def http1(self, count: int = 1) -> Peer:
        """The connection of HTTP/1.1 that was opened as the `count`th, with a request on it."""
        await eventually(lambda: len(self.over_http1) >= count)
        peer = self.over_http1[count - 1]
        await peer.until(lambda peer: peer.received)
        return peer


class Chooser(asyncio.Protocol):
    """Gives a connection to whoever speaks what was chosen."""

    def __init__(self, upstream: Both) -> None:
        self.upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        protocol: Connection | Peer
        if chosen == "h2":
            protocol = Connection(self.upstream)
        else:
            protocol = Peer()
            self.upstream.over_http1.append(protocol)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


@contextlib.asynccontextmanager
async def upstream_with(rig: Rig, protocols: str, http2: Http2 = Http2.NEEDED) -> AsyncIterator[Both]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    upstream = Both(context)
    rig.trust.upstream_authority.issue_cert(HOST, key_type=trustme.KeyType.ECDSA).configure_cert(context)
    if protocols:
        context.set_alpn_protocols(protocols.split())
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    accepting = asyncio.create_task(upstream.accept(listening))
    try:
        with rig.leading_to(listening.getsockname()[1], http2=http2):
            yield upstream
    finally:
        accepting.cancel()
        listening.close()
        opened: list[Connection | Peer] = [*upstream.connections, *upstream.over_http1]
        for one in opened:
            if not one.lost:
                one.transport.abort()


async def ask(rig: Rig, request: bytes = GET) -> Peer:
    client = await rig.client("reverse")
    client.send(request)
    return client


async def answer_http2(upstream: Both, count: int = 1, connection: int = 0) -> None:
    """Answers the request that came as the `count`th on a connection of HTTP/2."""
    request = (await upstream.until(h2.events.RequestReceived, count, connection))[count - 1]
    await upstream.until(h2.events.StreamEnded, count, connection)
    one = upstream.connections[connection]
    one.h2.send_headers(request.stream_id, [(":status", "200"), ("content-length", "2")])
    one.h2.send_data(request.stream_id, b"ok", end_stream=True)
    one.flush()


async def serve_http1(upstream: Both, count: int = 1) -> None:
    peer = await upstream.http1(count)
    await peer.read_until()
    peer.send(OK)


async def is_answered(client: Peer) -> None:
    assert await client.read_until(b"\r\n\r\nok") == OK.replace(b"Content-Length", b"content-length")


@pytest.mark.parametrize("request_bytes", [GET, POST], ids=["GET", "POST"])
@pytest.mark.parametrize("says", ["by an alert", "by no choice"])
def test_an_upstream_that_speaks_http_2_alone_is_found_out_and_remembered(
    wire: Wire, says: str, request_bytes: bytes
) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_with(rig, "h2") as upstream:
            upstream.refuses = 1 if says == "by an alert" else 0
            client = await ask(rig, request_bytes)
            await answer_http2(upstream)
            await is_answered(client)
            client.send(request_bytes)
            await answer_http2(upstream, 2)
            await is_answered(client)
            other = await ask(rig, request_bytes)
            await answer_http2(upstream, 3)
            await is_answered(other)
            assert upstream.handshakes == 2
            assert not any(peer.received for peer in upstream.over_http1)
            await eventually(lambda: [record.outcome for record in rig.records] == ["ok"] * 3)

    wire.run(work)


def test_an_upstream_that_has_both_is_spoken_to_in_http_1_where_http_2_is_not_preferred(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_with(rig, "h2 http/1.1") as upstream:
            client = await ask(rig)
            await serve_http1(upstream)
            assert await client.read(len(OK)) == OK
            assert upstream.handshakes == 1

    wire.run(work)


def test_an_upstream_without_alpn_is_asked_once_whether_it_has_http_2(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_with(rig, "") as upstream:
            client = await ask(rig)
            await serve_http1(upstream)
            assert await client.read(len(OK)) == OK
            assert upstream.handshakes == 2
            rig.relay.destinations.close_idle()
            await eventually(lambda: not rig.relay.upstreams)
            client.send(GET)
            await serve_http1(upstream, 3)
            assert await client.read(len(OK)) == OK
            assert upstream.handshakes == 3

    wire.run(work)


def test_where_http_2_is_preferred_exchanges_share_a_connection(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_with(rig, "h2 http/1.1", Http2.PREFERRED) as upstream:
            clients = [await ask(rig) for _ in range(5)]
            for count in range(1, 6):
                await answer_http2(upstream, count)
            for client in clients:
                await is_answered(client)
            assert (upstream.handshakes, len(upstream.connections)) == (1, 1)

    wire.run(work)


@pytest.mark.parametrize("protocols", ["http/1.1 h2", "http/1.1", ""])
def test_where_http_2_is_preferred_and_not_chosen_http_1_goes_on_the_same_connection(
    wire: Wire, protocols: str
) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_with(rig, protocols, Http2.PREFERRED) as upstream:
            client = await ask(rig)
            await serve_http1(upstream)
            assert await client.read(len(OK)) == OK
            assert upstream.handshakes == 1
            again = await ask(rig)
            await upstream.http1()
            further = await ask(rig)
            await serve_http1(upstream, 2)
            await serve_http1(upstream)
            assert await again.read(len(OK)) == await further.read(len(OK)) == OK
            assert upstream.handshakes == 2

    wire.run(work)


def test_where_http_2_is_preferred_a_call_of_grpc_has_it_although_the_upstream_would_choose_http_1(wire: Wire) -> None:
    """Offered both, it chooses HTTP/1.1, as many servers do; a call can do nothing with that."""

    async def work(rig: Rig) -> None:
        async with upstream_with(rig, "http/1.1 h2", Http2.PREFERRED) as upstream:
            plain = await ask(rig)
            await serve_http1(upstream)
            assert await plain.read(len(OK)) == OK
            client = await connect(rig)
            stream_id = call(client)
            await upstream.until(h2.events.RequestReceived)
            await upstream.until(h2.events.StreamEnded)
            upstream.connections[0].answer(1)
            await client.until(h2.events.StreamEnded, stream_id)
            await eventually(lambda: [record.status for record in rig.records] == [200, 200])
            plain.send(GET)
            await serve_http1(upstream)
            assert await plain.read(len(OK)) == OK
            client.peer.transport.abort()

    wire.run(work)


def test_an_upstream_that_had_no_http_2_is_asked_again_after_a_while(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_with(rig, "http/1.1", Http2.PREFERRED) as upstream:
            client = await ask(rig)
            await serve_http1(upstream)
            assert await client.read(len(OK)) == OK
            upstream.context.set_alpn_protocols(["h2", "http/1.1"])
            rig.relay.destinations.close_idle()
            client.send(GET)
            await serve_http1(upstream, 2)
            assert await client.read(len(OK)) == OK
            rig.relay.destinations.close_idle()
            rig.relay.now += 601
            client.send(GET)
            await answer_http2(upstream)
            await is_answered(client)

    wire.run(work)


def test_an_upstream_that_has_lost_http_2_is_spoken_to_in_http_1(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_with(rig, "h2") as upstream:
            client = await ask(rig)
            await answer_http2(upstream)
            await is_answered(client)
            upstream.context.set_alpn_protocols(["http/1.1"])
            rig.relay.destinations.close_idle()
            await eventually(lambda: not rig.relay.upstreams)
            client.send(GET)
            await serve_http1(upstream, 3)
            assert await client.read(len(OK)) == OK

    wire.run(work)


@pytest.mark.parametrize("refuses", [0, 1])
def test_with_http_2_off_none_is_spoken_and_the_answer_says_so(wire: Wire, refuses: int) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_with(rig, "h2", Http2.OFF) as upstream:
            upstream.refuses = refuses
            client = await ask(rig)
            if not refuses:
                (await upstream.http1()).close()
            answer = await client.read_until(b"}")
            assert b" 502 " in answer
            assert b"http2: off" in answer
            assert upstream.handshakes == 1

    wire.run(work)


def test_an_upstream_that_speaks_neither_is_said_so(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_with(rig, "h2") as upstream:
            upstream.refuses = 2
            client = await ask(rig)
            assert b"none of the HTTP versions" in await client.read_until(b"}")
            await eventually(lambda: [record.code for record in rig.records] == ["upstream_http2_only"])

    wire.run(work)


@pytest.mark.parametrize("refuses", [0, 2])
def test_a_websocket_to_an_upstream_of_http_2_alone_is_told_what_it_lacks(wire: Wire, refuses: int) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_with(rig, "h2") as upstream:
            upstream.refuses = refuses
            answer = await (await ask(rig, WEBSOCKET)).read_until(b"}")
            assert b" 502 " in answer
            assert b"does not speak HTTP/1.1, which a WebSocket needs" in answer
            await eventually(lambda: [record.code for record in rig.records] == ["upstream_http2_only"])

    wire.run(work)


@pytest.mark.parametrize("protocols", ["", "h2 http/1.1"])
@pytest.mark.parametrize("http2", [Http2.NEEDED, Http2.PREFERRED])
def test_nobody_is_told_to_switch_http_2_on_where_it_is_on(wire: Wire, protocols: str, http2: Http2) -> None:
    """An upstream that closes the connection may have any reason, but not that HTTP/2 is off."""

    async def work(rig: Rig) -> None:
        async with upstream_with(rig, protocols, http2) as upstream:
            if protocols and http2 is Http2.PREFERRED:
                asking = await ask(rig, WEBSOCKET)
            else:
                asking = await ask(rig, POST)
            peer = await upstream.http1()
            await peer.read_until()
            peer.close()
            answer = await asking.read_until(b"}")
            assert b" 502 " in answer
            assert b"http2" not in answer

    wire.run(work)


@pytest.mark.parametrize("is_known", [False, True])
def test_a_websocket_keeps_to_http_1(wire: Wire, is_known: bool) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_with(rig, "h2 http/1.1", Http2.PREFERRED) as upstream:
            if is_known:
                client = await ask(rig)
                await answer_http2(upstream)
                await is_answered(client)
            upgrade = (
                b"GET /ws HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" % HOST.encode()
            )
            client = await ask(rig, upgrade)
            peer = await upstream.http1()
            assert (await peer.read_until()).startswith(b"GET /ws HTTP/1.1\r\n")
            peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi")
            assert (await client.read_until(b"\r\n\r\nhi")).startswith(b"HTTP/1.1 101 ")

    wire.run(work)


@pytest.mark.parametrize("told", ["on the stream", "on the connection"])
def test_a_request_for_which_the_upstream_requires_http_1_is_sent_again_over_it(wire: Wire, told: str) -> None:
    """As some do that ask for a client certificate late (RFC 9113 §7, §9.2.1)."""

    async def work(rig: Rig) -> None:
        async with upstream_with(rig, "h2 http/1.1", Http2.PREFERRED) as upstream:
            client = await ask(rig, POST)
            await upstream.until(h2.events.StreamEnded)
            connection = upstream.connections[0]
            if told == "on the stream":
                connection.h2.reset_stream(1, h2.errors.ErrorCodes.HTTP_1_1_REQUIRED)
            else:
                connection.h2.close_connection(h2.errors.ErrorCodes.HTTP_1_1_REQUIRED, last_stream_id=0)
            connection.flush()
            peer = await upstream.http1()
            assert (await peer.read_until(b"ping")).startswith(b"POST /a HTTP/1.1\r\n")
            peer.send(OK)
            assert await client.read(len(OK)) == OK
            client.send(GET)
            await peer.until(lambda peer: b"GET /a" in peer.received)

    wire.run(work)


def test_idle_connections_of_both_versions_are_bounded_together(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        limits = rig.relay.limits
        rig.relay.limits = replace(limits, idle_upstream_connections=1)
        try:
            async with upstream_with(rig, "h2 http/1.1", Http2.PREFERRED) as upstream:
                client = await ask(rig)
                await answer_http2(upstream)
                await is_answered(client)
                assert len(rig.relay.idle) == 1
                websocket = GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                other = await ask(rig, websocket)
                await serve_http1(upstream)
                assert await other.read(len(OK)) == OK
                (goaway,) = await upstream.until(h2.events.ConnectionTerminated)
                assert goaway.error_code == 0
                await eventually(lambda: len(rig.relay.idle) == len(rig.relay.upstreams) == 1)
                rig.relay.destinations.close_idle()
                await eventually(lambda: not rig.relay.idle and not rig.relay.upstreams)
        finally:
            rig.relay.limits = limits

    wire.run(work)


def test_nobody_is_left_waiting_when_a_client_goes_while_the_version_is_found_out(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_with(rig, "h2") as upstream:
            gone, stays = await ask(rig), await ask(rig)
            await eventually(lambda: upstream.handshakes)
            gone.cut()
            await answer_http2(upstream)
            await is_answered(stays)
            await eventually(lambda: len(rig.relay.upstreams) == 1)

    wire.run(work)
