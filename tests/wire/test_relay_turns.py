"""What takes long is done in turns: whoever sends, others have theirs, and nothing of it is lost (G2)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest

from proxy.relay.secure import RECORDS_AT_ONCE, SecureTransport
from proxy.relay.upstream import _CLIENT
from tests.wire.messages import split_chunked
from tests.wire.rig import HOST, MODES, Mode, Peer, Rig, Wire, address_form, eventually

# More than one read holds.
CHUNKS = 60_000
TINY = b"1\r\nx\r\n" * CHUNKS + b"0\r\n\r\n"
UPLOAD = f"POST /x HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
GET = f"GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def read_chunked(peer: Peer) -> bytes:
    await peer.until(lambda peer: peer.received.endswith(b"\r\n0\r\n\r\n") or peer.lost)
    content, _, rest = split_chunked(peer.take())
    assert not rest
    return content


@pytest.mark.parametrize(("mode", "ends"), [*((mode, False) for mode in MODES), ("forward", True), ("reverse", True)])
def test_an_upload_of_tiny_chunks_arrives_whole(uv_wire: Wire, mode: Mode, ends: bool) -> None:  # a parameter
    async def work(rig: Rig) -> None:
        client = await rig.client(mode)
        client.send(address_form(UPLOAD, mode) + TINY + (b"" if ends else address_form(GET, mode)))
        if ends:
            client.end()
        upstream = await rig.upstream.next()
        await upstream.read_until()
        assert await read_chunked(upstream) == b"x" * CHUNKS
        upstream.send(OK)
        if ends:
            assert (await client.read_to_end()).startswith(b"HTTP/1.1 200 OK\r\n")
        else:
            assert await client.read(len(OK)) == OK
            rig.upstream.release(upstream)
            upstream = await rig.upstream.next()
            assert (await upstream.read_until()).startswith(b"GET /x ")
            upstream.send(OK)
            assert await client.read(len(OK)) == OK

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("closes", [False, True])
def test_a_download_of_tiny_chunks_arrives_whole(uv_wire: Wire, mode: Mode, closes: bool) -> None:  # a parameter
    async def work(rig: Rig) -> None:
        client = await rig.client(mode)
        client.send(address_form(GET, mode))
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.send(CHUNKED + TINY)
        if closes:
            upstream.close()
        assert (await client.read_until()).startswith(b"HTTP/1.1 200 OK\r\n")
        assert await read_chunked(client) == b"x" * CHUNKS

    uv_wire.run(work)


def test_a_client_that_is_slow_over_what_was_put_off_gets_all_of_it(uv_wire: Wire) -> None:
    """The upstream is held for as long as its response cannot be taken, also where the last of it was read in a later turn."""
    # What one read brings takes several turns, so the client's buffer is full while some of it is still put off.
    count = 40_000
    chunk = b"y" * 64

    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.transport.pause_reading()
        client.send(GET)
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.send(CHUNKED + (b"40\r\n%b\r\n" % chunk) * count)
        await eventually(lambda: any(one._holds == _CLIENT for one in rig.relay.upstreams))
        for _ in range(3):
            [slow] = [one for one in rig.relay.clients if one.exchange is not None]
            slow._blocked_bytes = slow.transport.get_write_buffer_size() + 1  # it has taken something since
            rig.later(rig.timeouts.body_idle_s + 1)
        client.transport.resume_reading()
        upstream.send(b"0\r\n\r\n")
        await client.read_until()
        assert await read_chunked(client) == chunk * count

    uv_wire.run(work)


@pytest.mark.parametrize("cut", ["client", "upstream"])
def test_a_side_that_goes_meanwhile_ends_the_exchange(uv_wire: Wire, cut: str) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.send(UPLOAD + TINY)
        upstream = await rig.upstream.next()
        await upstream.until(lambda peer: peer.total > 1_000)
        (client if cut == "client" else upstream).cut()
        other = upstream if cut == "client" else client
        await other.until(lambda peer: peer.lost or peer.ended)

    uv_wire.run(work)


class Below(asyncio.Transport):
    """The transport under a TLS connection: notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reads = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to close."""


def test_tiny_records_are_read_in_turns(uv_wire: Wire) -> None:
    """A WebSocket, and all else inside TLS, passes in records of its sender's choice: 11,000 of them in one read."""

    async def work(rig: Rig) -> None:
        below, above = Below(), Peer()
        secure = SecureTransport(
            rig.trust.upstream_context, above, lambda error: pytest.fail(str(error)), server_side=True
        )
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        sender = rig.trust.relay_context.wrap_bio(incoming, outgoing, server_hostname=HOST)
        secure.connection_made(below)
        for _ in range(3):
            with contextlib.suppress(ssl.SSLWantReadError):
                sender.do_handshake()
            secure.data_received(outgoing.read() or b"")
            incoming.write(below.written)
            below.written = b""
        assert secure.established
        count = 3 * RECORDS_AT_ONCE + 7
        for _ in range(count):
            sender.write(b"x")
        with contextlib.suppress(ssl.SSLWantReadError):
            sender.unwrap()
        secure.data_received(outgoing.read())
        assert above.total == RECORDS_AT_ONCE
        assert not below.reads
        secure.pause_reading()
        secure.resume_reading()
        assert not below.reads, "no more is read before what is there has been"
        turns = 0
        while not above.ended:
            await asyncio.sleep(0)
            turns += 1
            assert above.total <= (turns + 1) * RECORDS_AT_ONCE
        assert above.total == count

    uv_wire.run(work)
