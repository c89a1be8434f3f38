"""Every exchange of the corpus, by every way in, delivered at once and byte by byte: only declared differences."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.wire.corpus import CASES, Case
from tests.wire.declared import Sent, expected_request, expected_response, read_request, read_response
from tests.wire.messages import Incomplete
from tests.wire.rig import HOST, MODES, Mode, Peer, Rig, Wire, address_form

if TYPE_CHECKING:
    from collections.abc import Callable

# Longer messages are split at every byte up to here, and then come in larger pieces.
SPLIT_BYTES = 700

DELIVERIES = ("at once", "request byte by byte", "response byte by byte")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_sides_read_what_the_other_sent_less_the_declared_list(uv_wire: Wire, case: Case, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        for delivery in DELIVERIES:
            await exchange(rig, case, mode, delivery)

    uv_wire.run(work)


@pytest.mark.parametrize(
    "case", [case for case in CASES if "body" in case.name or "HTTP/1.0" in case.name], ids=lambda c: c.name
)
def test_the_event_loop_makes_no_difference(wire: Wire, case: Case) -> None:
    async def work(rig: Rig) -> None:
        for mode in MODES:
            await exchange(rig, case, mode, "at once")

    wire.run(work)


def test_byte_by_byte_is_what_it_says(wire: Wire) -> None:
    """Sent fast, bytes would come in one piece again; then the corpus would prove half of what it says."""

    async def work(rig: Rig) -> None:
        for context in (None, rig.trust.upstream_context):
            reader = Peer()
            loop = asyncio.get_running_loop()
            server = await loop.create_server(lambda reader=reader: reader, "127.0.0.1", 0, ssl=context)
            trusting = None if context is None else rig.trust.relay_context
            address = server.sockets[0].getsockname()
            _, sender = await loop.create_connection(
                Peer, *address, ssl=trusting, server_hostname=None if context is None else HOST
            )
            await sender.send_split(b"x" * 500)
            await reader.until(lambda peer: peer.total == 500)
            assert reader.reads > 450
            sender.transport.abort()
            server.close()

    wire.run(work)


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 150


async def exchange(rig: Rig, case: Case, mode: Mode, delivery: str) -> None:
    """Plays one case, then shows that the client's connection is in step, or closed."""
    client = await rig.client(mode)
    await send(client, address_form(case.request, mode), split=delivery.startswith("request"))
    upstream = await rig.upstream.next()
    assert await arrival(upstream, read_request) == expected_request(case)
    upstream.received.clear()

    await send(upstream, case.response, split=delivery.startswith("response"))
    if case.upstream_closes:
        upstream.close()
    received = await arrival(client, lambda raw: read_response(case, raw, ended=client.ended))
    assert received == expected_response(case)
    client.received.clear()

    if case.client_closes:
        await client.until(lambda peer: peer.ended)
        assert not client.reset
    elif delivery == "at once":
        await check_in_step(rig, client, upstream, mode)
    rig.upstream.release(upstream)
    client.close()


async def check_in_step(rig: Rig, client: Peer, upstream: Peer, mode: Mode) -> None:
    """Another exchange on the same connection of the client."""
    rig.upstream.release(upstream)
    request = b"GET /in-step HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST.encode()
    client.send(address_form(request, mode))
    upstream = await rig.upstream.next()
    assert (await upstream.read_until()).startswith(b"GET /in-step HTTP/1.1\r\n")
    response = b"HTTP/1.1 200 In Step\r\nContent-Length: 0\r\n\r\n"
    upstream.send(response)
    assert await client.read(len(response)) == response
    rig.upstream.release(upstream)


async def arrival(peer: Peer, read: Callable[[bytes], Sent]) -> Sent:
    """Waits for a whole message."""

    def arrived(peer: Peer) -> bool:
        try:
            read(bytes(peer.received))
        except Incomplete:
            return peer.lost
        return True

    await peer.until(arrived)
    return read(bytes(peer.received))


async def send(peer: Peer, data: bytes, *, split: bool) -> None:
    if not split:
        peer.send(data)
        return
    await peer.send_split(data[:SPLIT_BYTES])
    for start in range(SPLIT_BYTES, len(data), 397):
        peer.send(data[start : start + 397])
        await peer.may_write.wait()
