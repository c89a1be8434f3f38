"""Back-pressure: whoever stops reading stops whoever sends, and what waits in between stays within its limit."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from tests.wire.rig import HOST, KERNEL_BYTES, MODES, PATIENCE_S, Mode, Peer, Rig, Wire, address_form, settle

HOST_LINE = b"Host: " + HOST.encode() + b"\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST_LINE + b"\r\n"
PIECE = bytes(65_536)
BULK_BYTES = 96 * len(PIECE) * 10  # 63 MB: a hundred times what may wait anywhere
# What one read of the event loop can bring in on top of the limit.
READ_BYTES = 262_144
RESIDENT_GROWTH_BYTES = 32_000_000

FRAMINGS = {
    "of a length": (b"Content-Length: %d\r\n" % BULK_BYTES, PIECE, b""),
    "in chunks": (b"Transfer-Encoding: chunked\r\n", b"10000\r\n" + PIECE + b"\r\n", b"0\r\n\r\n"),
}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def waiting_bytes(rig: Rig) -> int:
    """The most that the relay has waiting on any one connection."""
    transports = [end.transport for end in rig.relay.clients] + [end.transport for end in rig.relay.upstreams]
    return max((transport.get_write_buffer_size() for transport in transports), default=0)


async def pump(rig: Rig, sender: Peer, piece: bytes, count: int) -> int:
    """Sends `count` pieces as fast as they are taken; returns the most that waited in the relay meanwhile."""
    most = 0
    for _ in range(count):
        await asyncio.wait_for(sender.may_write.wait(), PATIENCE_S)
        sender.send(piece)
        await asyncio.sleep(0)
        most = max(most, waiting_bytes(rig))
    return most


async def download(rig: Rig, mode: Mode, fields: bytes) -> tuple[Peer, Peer]:
    client = await rig.client(mode)
    client.send(address_form(GET, mode))
    upstream = await rig.upstream.next()
    await upstream.read_until()
    for connection in rig.relay.upstreams:
        connected = connection.transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
    upstream.send(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")
    return upstream, client


async def upload(rig: Rig, mode: Mode, fields: bytes) -> tuple[Peer, Peer]:
    client = await rig.client(mode)
    client.send(address_form(b"POST /x HTTP/1.1\r\n" + HOST_LINE + fields + b"\r\n", mode))
    upstream = await rig.upstream.next()
    await upstream.read_until()
    return client, upstream


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("direction", ["down", "up"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_stopped_reader_stops_the_sender_and_memory_stays_flat(
    uv_wire: Wire, mode: Mode, direction: str, framing: str
) -> None:
    async def work(rig: Rig) -> None:
        fields, piece, last = FRAMINGS[framing]
        sender, reader = await (download if direction == "down" else upload)(rig, mode, fields)
        reader.discards = True
        reader.transport.pause_reading()
        before = resident_bytes()
        sent = 0
        while True:  # until nobody takes any more
            if await sender.is_stopped():
                break
            sender.send(piece)
            sent += 1
            await asyncio.sleep(0)
            assert sent * len(piece) < BULK_BYTES / 2, "the sender was never stopped"
        assert waiting_bytes(rig) <= rig.limits.buffer_bytes + READ_BYTES
        reader.transport.resume_reading()
        most = await pump(rig, sender, piece, BULK_BYTES // len(PIECE) - sent)
        sender.send(last)
        await reader.until(lambda peer: peer.total >= BULK_BYTES)
        assert most <= rig.limits.buffer_bytes + READ_BYTES
        assert resident_bytes() - before < RESIDENT_GROWTH_BYTES
        if direction == "up":
            sender.transport.abort()

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_slow_reader_slows_the_sender_down_and_loses_nothing(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        total = 64 * len(PIECE)
        sender, reader = await download(rig, mode, b"Content-Length: %d\r\n" % total)
        reader.discards = True
        head = 20
        sending = asyncio.ensure_future(pump(rig, sender, PIECE, 64))
        while reader.total < total - 1_000_000:
            reader.transport.pause_reading()
            await settle(3)
            reader.transport.resume_reading()
            await settle(2)
        assert await sending <= rig.limits.buffer_bytes + READ_BYTES
        await reader.until(lambda peer: peer.total >= total + head)

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_an_upload_waits_while_its_connection_is_being_opened(uv_wire: Wire, mode: Mode) -> None:
    """Nothing takes it yet: what is read is bounded, and the rest waits with the client."""

    async def work(rig: Rig) -> None:
        server = await asyncio.get_running_loop().create_server(Peer, "127.0.0.1", 0)  # never answers the TLS handshake
        try:
            with rig.leading_to(server.sockets[0].getsockname()[1]):
                client = await rig.client(mode)
                request = b"POST /x HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: 500000000\r\n\r\n"
                client.send(address_form(request, mode))
                sent = 0
                while client.may_write.is_set():
                    client.send(PIECE)
                    sent += 1
                    await asyncio.sleep(0.001)
                    assert sent < 200
                client.transport.abort()
                await settle()
        finally:
            server.close()

    uv_wire.run(work)
