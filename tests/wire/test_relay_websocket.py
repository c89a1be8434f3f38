"""WebSocket (RFC 6455) between a real client and a real server, through each way in: nothing of it is the relay's business."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import h2.events
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.frames import CloseCode
from websockets.typing import Subprotocol

from tests.wire.rig import HOST, MODES, TOKEN, Mode, Rig, Wire, eventually, settle
from tests.wire.test_http2_clients import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from websockets.asyncio.client import ClientConnection


async def echo(server: ServerConnection) -> None:
    async for message in server:
        await server.send(message)


@asynccontextmanager
async def websocket(
    rig: Rig, mode: Mode, handler: Callable[[ServerConnection], Awaitable[None]] = echo, **options: Any
) -> AsyncIterator[ClientConnection]:
    """A client's end of a WebSocket, with `handler` at the other end."""
    server_options = options.pop("server", {})
    server = await serve(handler, "127.0.0.1", 0, ssl=rig.trust.upstream_context, max_size=2**25, **server_options)
    if mode == "connect":
        options |= {"proxy": f"http://127.0.0.1:{rig.ports['forward']}", "ssl": rig.trust.client_context}
        uri = f"wss://{HOST}/chat?room=1"
    elif mode == "reverse":
        options |= {"proxy": None, "host": "127.0.0.1", "port": rig.ports["reverse"]}
        uri = f"ws://{HOST}/chat?room=1"
    else:  # a ws URL through an HTTP proxy goes through CONNECT, and inside the tunnel comes plain HTTP
        options |= {"proxy": f"http://127.0.0.1:{rig.ports['forward']}"}
        uri = f"ws://{HOST}/chat?room=1"
    try:
        with rig.leading_to(server.sockets[0].getsockname()[1]):
            async with connect(uri, max_size=2**25, **options) as client:
                yield client
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("mode", MODES)
def test_the_handshake_reaches_the_server_with_a_token_and_everything_the_client_said(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        seen: list[Any] = []

        async def remember(server: ServerConnection) -> None:
            assert server.request is not None
            seen.append(server.request)

        options = {"subprotocols": [Subprotocol("v2.chat"), Subprotocol("v1.chat")], "origin": "https://app.example"}
        async with websocket(
            rig, mode, remember, server={"subprotocols": [Subprotocol("v1.chat")]}, **options
        ) as client:
            assert client.subprotocol == "v1.chat"
            assert not any(one.is_idle for one in rig.relay.upstreams)
            await client.wait_closed()
        [request] = seen
        assert request.path == "/chat?room=1"
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        assert request.headers["Origin"] == "https://app.example"
        assert request.headers.get_all("Connection") == ["Upgrade"]

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_of_every_size_arrive_whole(wire: Wire, mode: Mode, compression: str | None) -> None:
    async def work(rig: Rig) -> None:
        async with websocket(rig, mode, compression=compression) as client:
            assert client.protocol.extensions if compression else not client.protocol.extensions
            for size in (0, 1, 125, 126, 65_535, 65_536, 1_000_000):
                message = os.urandom(size)
                await client.send(message)
                assert await client.recv() == message
            await client.send("Grüße 🎈")
            assert await client.recv() == "Grüße 🎈"

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_message_of_16_mib_arrives_whole(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        message = os.urandom(2**24)
        async with websocket(rig, mode, compression=None) as client:
            sending = asyncio.ensure_future(client.send(message))
            assert await client.recv() == message
            await sending

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_fragments_stay_fragments(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        fragments: list[str | bytes] = []

        async def collect(server: ServerConnection) -> None:
            async for fragment in server.recv_streaming():
                fragments.append(fragment)  # noqa: PERF401  # an asynchronous comprehension would hide the point
            await server.send([b"a", b"bc", b"", b"def"])

        async with websocket(rig, mode, collect) as client:
            await client.send(["one", "two", "", "three"])
            # An empty fragment of the sender's own ends the message.
            assert [piece async for piece in client.recv_streaming()] == [b"a", b"bc", b"", b"def", b""]
        assert fragments == ["one", "two", "", "three", ""]

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_ping_and_pong_pass_in_both_directions(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        async def ping_too(server: ServerConnection) -> None:
            await (await server.ping(b"from the server"))
            await server.recv()

        async with websocket(rig, mode, ping_too) as client:
            assert await (await client.ping(b"from the client")) >= 0
            await client.send("done")

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code", [CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.POLICY_VIOLATION, 4_999])
@pytest.mark.parametrize("side", ["client", "server", "both"])
def test_close_codes_and_reasons_pass_whoever_begins(wire: Wire, mode: Mode, code: int, side: str) -> None:
    async def work(rig: Rig) -> None:
        ended: asyncio.Future[tuple[int | None, str | None]] = asyncio.get_running_loop().create_future()

        async def closing(server: ServerConnection) -> None:
            await server.recv()
            if side != "client":
                await server.close(code, "the server's reason")
            await server.wait_closed()
            ended.set_result((server.close_code, server.close_reason))

        async with websocket(rig, mode, closing) as client:
            await client.send("now")
            if side != "server":
                await client.close(code, "the client's reason")
            await client.wait_closed()
            expected = {"client": {"the client's reason"}, "server": {"the server's reason"}}.get(
                side, {"the client's reason", "the server's reason"}
            )
            assert client.close_code == code
            assert client.close_reason in expected
            assert (await ended)[0] == code
            assert (await ended)[1] in expected

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_that_is_cut_is_cut_on_the_other_side(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        closed: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

        async def listening(server: ServerConnection) -> None:
            try:
                await server.recv()
            except ConnectionClosed:
                closed.set_result(server.close_code)

        async with websocket(rig, mode, listening) as client:
            client.transport.abort()
            assert await closed == CloseCode.ABNORMAL_CLOSURE

        async def cutting(server: ServerConnection) -> None:
            server.transport.abort()

        async with websocket(rig, mode, cutting) as client:
            with pytest.raises(ConnectionClosedError):
                await client.recv()

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_declines_answers_the_client(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        options = {"process_request": lambda connection, _: connection.respond(403, "not you\n")}
        with pytest.raises(InvalidStatus) as declined:
            async with websocket(rig, mode, server=options):
                pass
        assert declined.value.response.status_code == 403
        assert declined.value.response.body == b"not you\n"

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_silent_websocket_lives_until_its_own_idle_limit(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        async with websocket(rig, mode, ping_interval=None, server={"ping_interval": None}) as client:
            rig.later(rig.timeouts.tunnel_idle_s - 1)
            await client.send("still there")
            assert await client.recv() == "still there"
            rig.later(rig.timeouts.tunnel_idle_s + 1)
            await settle()
            with pytest.raises(ConnectionClosed):
                await client.recv()

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_bytes_right_behind_the_switch_are_not_lost(wire: Wire, mode: Mode) -> None:
    """A server may speak in the same segment as its 101, and a client before it has read it."""

    async def work(rig: Rig) -> None:
        client = await rig.client(mode)
        target = f"http://{HOST}/chat" if mode == "forward" else "/chat"
        client.send(
            f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly".encode()
        )
        upstream = await rig.upstream.next()
        await upstream.read_until()
        switched = b"HTTP/1.1 101 Switching Protocols\r\nX: 1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        upstream.send(switched + b"hello")
        assert await client.read(len(switched) + 5) == switched + b"hello"
        assert await upstream.read(5) == b"early"
        for sender, reader in ((client, upstream), (upstream, client)):
            sender.send(b"x" * 1_000)
            assert await reader.read(1_000) == b"x" * 1_000
        upstream.send(b"last words")
        upstream.close()
        assert await client.read_to_end() == b"last words"
        await eventually(lambda: not rig.relay.splices)

    wire.run(work)


def test_no_client_is_told_that_it_may_open_one_over_http_2(wire: Wire) -> None:
    """So that browsers open a connection of HTTP/1.1 for it (RFC 8441 §3)."""

    async def work(rig: Rig) -> None:
        client = Client(await rig.client("reverse"), "reverse")
        client.h2.ping(b"answered")
        client.flush()
        while not any(isinstance(event, h2.events.PingAckReceived) for event in client.events):
            await client.peer.until(lambda peer: peer.received)
            client.events += client.h2.receive_data(client.peer.take())
        assert any(isinstance(event, h2.events.RemoteSettingsChanged) for event in client.events)
        assert client.h2.remote_settings.enable_connect_protocol == 0

    wire.run(work)
