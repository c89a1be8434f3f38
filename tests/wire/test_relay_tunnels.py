"""Blind tunnels, to hosts that no route names: bytes, ends and cuts pass as they come, within bounds."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.wire.rig import Peer, Rig, Wire, eventually, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@asynccontextmanager
async def tunnel(rig: Rig, behind: bytes = b"", *, ends: bool = False) -> AsyncIterator[tuple[Peer, Peer]]:
    """A tunnel to a plain server: its two ends. `behind` follows CONNECT in one segment, and then the client's end."""
    far = Peer()
    far.kept_open = True
    server = await asyncio.get_running_loop().create_server(lambda: far, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    usual, rig.relay.destinations = rig.relay.destinations, rig.destinations(rig.upstream.port, tunnels=True)
    try:
        client = await rig.client("forward")
        client.send(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode() + behind)
        if ends:
            client.end()
        assert await client.read(len(ESTABLISHED)) == ESTABLISHED
        await eventually(lambda: hasattr(far, "transport"))
        yield client, far
    finally:
        rig.relay.destinations = usual
        server.close()
        far.transport.abort()


def test_every_byte_passes_and_no_token_with_them(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        every = bytes(range(256)) * 100
        async with tunnel(rig) as (client, far):
            for sender, reader in ((client, far), (far, client)):
                sender.send(every)
                assert await reader.read(len(every)) == every
            await settle()
            assert not client.received
            assert not far.received

    wire.run(work)


def test_what_comes_with_connect_is_not_lost(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with tunnel(rig, b"early") as (_, far):
            assert await far.read(5) == b"early"

    wire.run(work)


@pytest.mark.parametrize("first", ["client", "far"])
def test_one_end_may_end_sending_and_go_on_reading(wire: Wire, first: str) -> None:
    async def work(rig: Rig) -> None:
        async with tunnel(rig) as (client, far):
            one, other = (client, far) if first == "client" else (far, client)
            other.kept_open = True
            one.send(b"last words")
            one.end()
            assert await other.read_to_end() == b"last words"
            other.send(b"answer")
            assert await one.read(6) == b"answer"
            other.close()
            await one.until(lambda peer: peer.ended)
            assert not one.reset
            await eventually(lambda: not rig.relay.splices)

    wire.run(work)


def test_an_end_that_came_with_connect_is_passed_on(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with tunnel(rig, b"all there is", ends=True) as (client, far):
            assert await far.read_to_end() == b"all there is"
            far.send(b"answer")
            assert await client.read(6) == b"answer"

    wire.run(work)


@pytest.mark.parametrize("first", ["client", "far"])
def test_a_cut_is_passed_on_as_a_cut(wire: Wire, first: str) -> None:
    async def work(rig: Rig) -> None:
        async with tunnel(rig) as (client, far):
            one, other = (client, far) if first == "client" else (far, client)
            one.send(b"before")
            await other.read(6)
            one.cut()
            await other.until(lambda peer: peer.lost)
            assert other.reset

    wire.run(work)


def test_what_was_sent_before_a_close_arrives(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        size = 3_000_000
        async with tunnel(rig) as (client, far):
            client.discards = True
            far.send(b"x" * size)
            far.close()
            await client.until(lambda peer: peer.ended)
            assert client.total == size + len(ESTABLISHED)

    wire.run(work)


@pytest.mark.parametrize("first", ["client", "far"])
def test_a_stopped_reader_stops_the_sender(wire: Wire, first: str) -> None:
    async def work(rig: Rig) -> None:
        async with tunnel(rig) as (client, far):
            reader, sender = (client, far) if first == "client" else (far, client)
            reader.transport.pause_reading()
            sent = 0
            while True:
                if await sender.is_stopped():
                    break
                sender.send(bytes(65_536))
                sent += 65_536
                assert sent < 60_000_000, "the sender was never stopped"
                await asyncio.sleep(0)
            reader.discards = True
            reader.transport.resume_reading()
            await reader.until(lambda peer: peer.total >= sent)

    wire.run(work)


def test_a_tunnel_nobody_uses_ends(uv_wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with tunnel(rig) as (client, far):
            rig.later(rig.timeouts.tunnel_idle_s - 1)
            far.send(b"x")
            await client.read(1)
            rig.later(rig.timeouts.tunnel_idle_s - 1)
            assert not client.ended
            rig.later(rig.timeouts.tunnel_idle_s + 1)
            await client.until(lambda peer: peer.ended)
            await far.until(lambda peer: peer.ended)

    uv_wire.run(work)


@pytest.mark.parametrize("first", ["client", "far"])
def test_a_tunnel_whose_bytes_nobody_takes_is_cut(wire: Wire, first: str) -> None:
    """What is still to be read of the sender is lost: behind a proper end, the rest would look like all there is."""

    async def work(rig: Rig) -> None:
        async with tunnel(rig) as (client, far):
            reader, sender = (client, far) if first == "client" else (far, client)
            reader.transport.pause_reading()
            (splice,) = rig.relay.splices
            while not (splice.client.is_held or splice.upstream.is_held):
                if sender.may_write.is_set():
                    sender.send(bytes(65_536))
                await asyncio.sleep(0)
            rig.later(rig.timeouts.tunnel_idle_s + 1)
            reader.discards = True
            reader.transport.resume_reading()
            await reader.until(lambda peer: peer.lost)
            assert reader.reset
            assert not reader.ended
            await eventually(lambda: not rig.relay.splices)

    wire.run(work)


def test_a_plain_request_for_such_a_host_passes_without_a_token(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        far = Peer()
        server = await asyncio.get_running_loop().create_server(lambda: far, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        fields = f"Host: 127.0.0.1:{port}\r\nAuthorization: Basic dTpw\r\n\r\n".encode()
        usual, rig.relay.destinations = rig.relay.destinations, rig.destinations(rig.upstream.port, tunnels=True)
        try:
            client = await rig.client("forward")
            client.send(b"GET http://127.0.0.1:%d/x?y HTTP/1.1\r\n" % port + fields)
            assert await far.read_until() == b"GET /x?y HTTP/1.1\r\n" + fields
            far.send(b"HTTP/1.1 204 N\r\n\r\n")
            assert await client.read_until() == b"HTTP/1.1 204 N\r\n\r\n"
        finally:
            rig.relay.destinations = usual
            server.close()
            far.transport.abort()

    wire.run(work)
