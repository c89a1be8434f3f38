"""Calls of gRPC to an upstream of HTTP/2 that does what it should, and what it should not."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Final

import h2.config
import h2.connection
import h2.events
import pytest
import trustme

from proxy.config.settings import Http2
from tests.wire.rig import AUTHORIZATION, HOST, Rig, Wire, create_token, eventually
from tests.wire.test_http2_clients import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GRPC: Final = (("content-type", "application/grpc"), ("te", "trailers"))
OK: Final = [(":status", "200"), ("content-type", "application/grpc")]
DONE: Final = [("grpc-status", "0")]


class Connection(asyncio.Protocol):
    """One connection at the upstream."""

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.events: list[h2.events.Event] = []
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # stream transports only
        self.upstream.connections.append(self)
        self.h2.initiate_connection()
        if self.upstream.settings:
            self.h2.update_settings(self.upstream.settings)
        self.flush()

    def data_received(self, data: bytes) -> None:
        events = self.h2.receive_data(data)
        self.events += events
        for event in events:
            if isinstance(event, h2.events.DataReceived) and self.upstream.credits and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()
        self.upstream.news.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.lost = True
        self.upstream.news.set()

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def find(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def answer(self, stream_id: int, content: bytes = b"hello") -> None:
        self.h2.send_headers(stream_id, OK)
        self.h2.send_data(stream_id, content)
        self.h2.send_headers(stream_id, DONE, end_stream=True)
        self.flush()


class Upstream:
    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.news = asyncio.Event()
        self.settings: dict[Any, int] = {}
        self.credits = True

    async def until(self, kind: type[Any], count: int = 1, connection: int = 0) -> list[Any]:
        async with asyncio.timeout(30):
            while True:
                if len(self.connections) > connection:
                    found = self.connections[connection].find(kind)
                    if len(found) >= count:
                        return found
                self.news.clear()
                await self.news.wait()


@contextlib.asynccontextmanager
async def upstream_of(
    rig: Rig, protocols: tuple[str, ...] = ("h2",), http2: Http2 = Http2.NEEDED
) -> AsyncIterator[Upstream]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    rig.trust.upstream_authority.issue_cert(HOST, key_type=trustme.KeyType.ECDSA).configure_cert(context)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    upstream = Upstream()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(upstream), "127.0.0.1", 0, ssl=context)
    try:
        with rig.leading_to(server.sockets[0].getsockname()[1], http2=http2):
            yield upstream
    finally:
        server.close()
        for connection in upstream.connections:
            if not connection.lost:
                connection.transport.abort()


async def connect(rig: Rig) -> Client:
    return Client(await rig.client("reverse"), "reverse")


def call(client: Client, content: bytes | None = b"ping", authority: str = HOST) -> int:
    stream_id = client.request("POST", "/echo/Unary", GRPC, ends=False, authority=authority)
    if content is not None:
        client.h2.send_data(stream_id, content, end_stream=True)
    client.flush()
    return stream_id


def test_a_call_has_a_token_and_its_fields_and_trailers_pass(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_of(rig) as upstream:
            client = await connect(rig)
            stream_id = call(client)
            (request,) = await upstream.until(h2.events.RequestReceived)
            fields = [tuple(field) for field in request.headers]
            token = AUTHORIZATION.decode().partition(": ")[2]
            assert fields == [
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", HOST),
                (":path", "/echo/Unary"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("authorization", token),
            ]
            await upstream.until(h2.events.StreamEnded)
            upstream.connections[0].answer(1)
            await client.until(h2.events.StreamEnded, stream_id)
            assert client.content(stream_id) == b"hello"
            response = await client.until(h2.events.ResponseReceived, stream_id)
            assert [tuple(field) for field in response.headers] == OK
            trailers = await client.until(h2.events.TrailersReceived, stream_id)
            assert [tuple(field) for field in trailers.headers] == DONE
            await eventually(lambda: [record.outcome for record in rig.records] == ["ok"])

    wire.run(work)


def test_trailers_only_stays_one_frame(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_of(rig) as upstream:
            client = await connect(rig)
            stream_id = call(client)
            await upstream.until(h2.events.StreamEnded)
            upstream.connections[0].h2.send_headers(1, [*OK, ("grpc-status", "5")], end_stream=True)
            upstream.connections[0].flush()
            response = await client.until(h2.events.ResponseReceived, stream_id)
            assert [tuple(field) for field in response.headers] == [*OK, ("grpc-status", "5")]
            assert response.stream_ended is not None
            assert not any(isinstance(event, h2.events.DataReceived) for event in client.events)

    wire.run(work)


def test_calls_share_a_connection_and_another_is_opened_where_the_upstream_allows_no_more(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_of(rig) as upstream:
            upstream.settings = {3: 2}
            client = await connect(rig)
            first = call(client)
            await upstream.until(h2.events.StreamEnded)
            upstream.connections[0].answer(1)
            await client.until(h2.events.StreamEnded, first)
            calls = [call(client) for _ in range(5)]
            await upstream.until(h2.events.RequestReceived, 3)
            await upstream.until(h2.events.RequestReceived, 3, connection=1)  # whose limit was not known yet
            for connection in upstream.connections:
                for request in connection.find(h2.events.RequestReceived):
                    if connection is not upstream.connections[0] or request.stream_id > 1:
                        connection.answer(request.stream_id)
            for stream_id in calls:
                await client.until(h2.events.StreamEnded, stream_id)
            assert len(upstream.connections) == 2

    wire.run(work)


def test_what_the_upstream_refused_or_left_behind_is_sent_again_whatever_its_method(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_of(rig) as upstream:
            client = await connect(rig)
            refused = call(client)
            await upstream.until(h2.events.StreamEnded)
            upstream.connections[0].h2.reset_stream(1, 7)
            upstream.connections[0].flush()
            await upstream.until(h2.events.StreamEnded, 2)
            upstream.connections[0].answer(3)
            await client.until(h2.events.StreamEnded, refused)
            left = call(client)
            await upstream.until(h2.events.StreamEnded, 3)
            upstream.connections[0].h2.close_connection(last_stream_id=3)
            upstream.connections[0].flush()
            await upstream.until(h2.events.StreamEnded, connection=1)
            upstream.connections[1].answer(1)
            await client.until(h2.events.StreamEnded, left)
            await eventually(lambda: [record.outcome for record in rig.records] == ["ok", "ok"])

    wire.run(work)


@pytest.mark.parametrize("way", ["reset", "cut"])
def test_an_upstream_that_breaks_off_is_said_in_the_protocols_words_or_cut(wire: Wire, way: str) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_of(rig) as upstream:
            client = await connect(rig)
            before, within = call(client), call(client)
            await upstream.until(h2.events.StreamEnded, 2)
            connection = upstream.connections[0]
            connection.h2.send_headers(3, OK)
            connection.h2.send_data(3, b"begun")
            connection.flush()
            await client.until(h2.events.DataReceived, within)
            if way == "reset":
                connection.h2.reset_stream(1, 2)
                connection.h2.reset_stream(3, 2)
                connection.flush()
            else:
                connection.transport.abort()
            response = await client.until(h2.events.ResponseReceived, before)
            assert dict(response.headers)["grpc-status"] == "14"
            reset = await client.until(h2.events.StreamReset, within)
            assert reset.error_code == 2

    wire.run(work)


def test_a_cancelled_call_cancels_its_stream_and_no_other(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_of(rig) as upstream:
            client = await connect(rig)
            cancelled, other = call(client, None), call(client)
            await upstream.until(h2.events.RequestReceived, 2)
            client.h2.reset_stream(cancelled, 8)
            client.flush()
            (reset,) = await upstream.until(h2.events.StreamReset)
            assert reset.error_code == 8
            answered = 4 - reset.stream_id
            upstream.connections[0].answer(answered)
            await client.until(h2.events.StreamEnded, other)

    wire.run(work)


def test_an_upstream_that_reads_slowly_holds_its_call_and_no_other(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_of(rig) as upstream:
            upstream.credits = False
            client = await connect(rig)
            slow = call(client, None)
            await upstream.until(h2.events.RequestReceived)
            sent = 0
            while (room := client.h2.local_flow_control_window(slow)) > 0 and sent < 4_000_000:
                size = min(room, 16_384)
                client.h2.send_data(slow, bytes(size))
                sent += size
                client.flush()
                await asyncio.sleep(0)
                client.events += client.h2.receive_data(client.peer.take())
            assert sent < 1 << 20  # stopped by windows, far from all of it
            upstream.connections[0].h2.increment_flow_control_window(1 << 20)
            upstream.connections[0].flush()
            other = call(client)
            await upstream.until(h2.events.RequestReceived, 2)
            await upstream.until(h2.events.StreamEnded)
            upstream.connections[0].answer(3)
            await client.until(h2.events.StreamEnded, other)

    wire.run(work)


def test_an_upstream_without_http_2_is_said_so(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_of(rig, ()):
            client = await connect(rig)
            response = await client.until(h2.events.ResponseReceived, call(client))
            fields = dict(response.headers)
            assert fields["grpc-status"] == "14"
            assert "does not speak HTTP/2" in fields["grpc-message"]
            assert "as every call of gRPC does" in fields["grpc-message"]
            await eventually(lambda: [record.code for record in rig.records] == ["upstream_without_http2"])

    wire.run(work)


def test_a_call_for_which_no_http_2_is_spoken_is_refused_and_grpc_web_is_not(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        with rig.leading_to(rig.upstream.port, http2=Http2.OFF):
            client = await connect(rig)
            await refused_for(rig, client, HOST, "`http2: off`")
            passed = client.request("POST", "/web", (("content-type", "application/grpc-web+proto"),))
            upstream = await rig.upstream.next()
            assert (await upstream.read_until()).startswith(b"POST /web HTTP/1.1\r\n")  # the first that it gets
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await client.until(h2.events.StreamEnded, passed)

    wire.run(work)


def test_a_call_to_a_host_of_plain_http_that_no_route_names_is_refused(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        usual, rig.relay.destinations = rig.relay.destinations, rig.destinations(rig.upstream.port, tunnels=True)
        try:
            client = Client(await rig.client("forward"), "forward")
            await refused_for(rig, client, f"127.0.0.1:{rig.upstream.port}", "no route names")
            assert not rig.upstream.connections
        finally:
            rig.relay.destinations = usual

    wire.run(work)


async def refused_for(rig: Rig, client: Client, authority: str, why: str) -> None:
    """Makes a call that is refused."""
    refused = call(client, authority=authority)
    response = await client.until(h2.events.ResponseReceived, refused)
    fields = dict(response.headers)
    assert (fields[":status"], fields["grpc-status"]) == ("200", "12")
    assert why in fields["grpc-message"]
    await client.until(h2.events.StreamEnded, refused)
    assert [(record.code, record.status) for record in rig.records] == [("grpc_needs_http2", 502)]


def test_a_401_about_the_token_is_repeated_with_another(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_of(rig) as upstream:
            rig.tokens.successor = create_token("the-next-token")
            client = await connect(rig)
            stream_id = call(client)
            await upstream.until(h2.events.StreamEnded)
            challenge = ("www-authenticate", 'Bearer error="invalid_token"')
            upstream.connections[0].h2.send_headers(1, [(":status", "401"), challenge], end_stream=True)
            upstream.connections[0].flush()
            _, again = await upstream.until(h2.events.RequestReceived, 2)
            assert dict(again.headers)["authorization"] == "Bearer the-next-token"
            await upstream.until(h2.events.StreamEnded, 2)
            upstream.connections[0].answer(3)
            await client.until(h2.events.StreamEnded, stream_id)

    wire.run(work)


def test_a_silent_upstream_is_given_up_and_its_connection_lives(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_of(rig) as upstream:
            client = await connect(rig)
            silent = call(client)
            await upstream.until(h2.events.StreamEnded)
            rig.later(rig.timeouts.response_s + 1)
            response = await client.until(h2.events.ResponseReceived, silent)
            assert dict(response.headers)["grpc-status"] == "4"
            other = call(client)
            await upstream.until(h2.events.StreamEnded, 2)
            upstream.connections[0].answer(3)
            await client.until(h2.events.StreamEnded, other)

    wire.run(work)


@pytest.mark.parametrize("ends", [True, False])
def test_an_upstream_that_takes_a_request_slowly_is_waited_for_as_long_as_it_takes_some(wire: Wire, ends: bool) -> None:
    """Whether the whole of it waits for the upstream's windows, or more of it than is kept, so that its sender is held."""

    async def work(rig: Rig) -> None:
        async with upstream_of(rig) as upstream:
            upstream.credits = False
            client = await connect(rig)
            slow = call(client, None)
            await upstream.until(h2.events.RequestReceived)
            left = 115_000 if ends else 160_000  # less than what is kept, and more
            while left:
                while (room := client.h2.local_flow_control_window(slow)) == 0:
                    await client.more()
                size = min(left, room, 16_000)
                left -= size
                client.h2.send_data(slow, bytes(size), end_stream=ends and not left)
                client.flush()
            (kept,) = (each for each in rig.relay.upstreams if hasattr(each, "core"))
            (stream,) = kept.core.streams.values()
            await eventually(lambda: stream.local_ended if ends else stream.is_blocked)
            connection = upstream.connections[0]
            taken = 65_535
            for _ in range(3):
                await until_taken(upstream, taken)
                rig.later(0.8 * rig.timeouts.response_s)
                connection.h2.increment_flow_control_window(5_000)
                connection.h2.increment_flow_control_window(5_000, 1)
                connection.flush()
                taken += 5_000
            await until_taken(upstream, taken)
            rig.later(0.8 * rig.timeouts.response_s)
            rig.later(0.8 * rig.timeouts.response_s)
            assert not any(isinstance(event, h2.events.ResponseReceived) for event in client.events)
            connection.h2.ping(b"still up")  # so that only the stream is given up
            connection.flush()
            await upstream.until(h2.events.PingAckReceived)
            rig.later(1.3 * max(rig.timeouts.response_s, rig.timeouts.body_idle_s))
            response = await client.until(h2.events.ResponseReceived, slow)
            assert dict(response.headers)["grpc-status"] == "4"

    wire.run(work)


async def until_taken(upstream: Upstream, size: int) -> None:
    """Waits until so much content has come, on all streams together."""
    async with asyncio.timeout(30):
        while (
            sum(event.flow_controlled_length for event in upstream.connections[0].find(h2.events.DataReceived)) < size
        ):
            upstream.news.clear()
            await upstream.news.wait()
