"""Nothing outlives its use: a connection that is to be closed is closed, whether the peer takes what is left for it or not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

import pytest
import uvloop

from tests.wire.rig import HOST, Peer, Rig, Trust, eventually, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

PIECE = bytes(65_536)
HOST_LINE = f"Host: {HOST}\r\n".encode()
UPGRADE = b"GET /x HTTP/1.1\r\n" + HOST_LINE + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
# Longer than any limit on time, so that what is still there then stays.
LATER_S = 100_000.0


Run: TypeAlias = "Callable[[Callable[[Rig], Coroutine[None, None, None]]], None]"


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's work with a rig of its own."""

    async def bounded(work: Callable[[Rig], Coroutine[None, None, None]]) -> None:
        rig = Rig(Trust.create())
        await rig.start()
        try:
            await work(rig)
        finally:
            await rig.stop()

    def run_bounded(work: Callable[[Rig], Coroutine[None, None, None]]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(bounded(work), 120))

    return run_bounded


async def send_until_nobody_takes_it(peer: Peer) -> None:
    for _ in range(1_000):
        peer.send(PIECE)
        if await peer.is_stopped():
            return
        await asyncio.sleep(0)
    pytest.fail("the sender was never stopped")


async def let_time_pass(rig: Rig, gone: Callable[[], object]) -> None:
    """More than once, because what has begun to close may take a second limit to be cut; fails if it never goes."""
    for _ in range(200):
        rig.later(LATER_S)
        await asyncio.sleep(0.02)
        await settle()
        if gone():
            return
    pytest.fail("it is still there")


def test_an_upstream_that_stops_taking_an_upload_it_has_answered_is_cut_in_the_end(run: Run) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.send(b"POST /x HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: 900000000\r\n\r\n")
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.transport.pause_reading()
        await send_until_nobody_takes_it(client)
        upstream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        await client.read_until(b"ok")
        await let_time_pass(rig, lambda: not rig.relay.upstreams and not rig.relay.clients)

    run(work)


@pytest.mark.parametrize("reader", ["client", "upstream"])
def test_a_websocket_whose_reader_has_stopped_is_cut_when_the_other_side_has_closed(run: Run, reader: str) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.send(UPGRADE)
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.send(SWITCHED)
        await client.read_until()
        stopped, sender = (client, upstream) if reader == "client" else (upstream, client)
        stopped.transport.pause_reading()
        await send_until_nobody_takes_it(sender)
        (splice,) = rig.relay.splices
        sender.transport.abort() if reader == "upstream" else sender.close()
        await settle()
        await let_time_pass(rig, lambda: not rig.relay.splices)
        for side in (splice.client, splice.upstream):
            connected = side.transport.get_extra_info("socket")
            assert connected is None or connected.fileno() < 0

    run(work)


def test_what_is_left_for_a_slow_reader_of_a_websocket_arrives_after_the_other_side_has_closed(run: Run) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.send(UPGRADE)
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.send(SWITCHED)
        await client.read_until()
        client.transport.pause_reading()
        upstream.send(PIECE * 6)
        await asyncio.sleep(0.1)
        upstream.close()
        await settle()
        client.transport.resume_reading()
        assert await client.read_to_end() == PIECE * 6
        assert not client.reset

    run(work)


def test_a_client_that_never_takes_the_end_of_a_response_until_close_sees_a_cut(run: Run) -> None:
    """Without TLS a FIN would make what it has taken look like all there was (RFC 9112 §6.3)."""

    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.send(b"GET /x HTTP/1.1\r\n" + HOST_LINE + b"\r\n")
        upstream = await rig.upstream.next()
        await upstream.read_until()
        client.transport.pause_reading()
        (connection,) = rig.relay.clients
        upstream.send(b"HTTP/1.1 200 OK\r\n\r\n" + PIECE * 9)
        upstream.close()
        await eventually(lambda: connection.exchange is None)
        assert connection.transport.get_write_buffer_size() > 0
        await let_time_pass(rig, lambda: not rig.relay.clients)
        client.transport.resume_reading()
        await client.until(lambda peer: peer.lost)
        assert client.reset

    run(work)
