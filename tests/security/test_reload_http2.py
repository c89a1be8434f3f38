"""A configuration that takes no HTTP/2 from clients any more, or not on their listener: those that speak it finish, and go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from proxy.relay.http2 import frames
from tests.http2_peer import headers, read_frames, settings
from tests.security.boundary import ANSWER, HOST, eventually, running, status

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http2_peer import Frame
    from tests.security.boundary import Boundary
    from tests.wire.rig import Peer, Trust

FORWARD: Final[dict[str, Any]] = {"address": "127.0.0.1:0"}
REVERSE: Final[dict[str, Any]] = {"address": "127.0.0.1:0", "mode": "reverse", "upstream": f"https://{HOST}"}
CONNECT: Final = f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode()
GET: Final = f"GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
WAYS: Final = ("forward", "reverse", "tunnel")


def listener(way: str, **more: Any) -> dict[str, Any]:
    return {"listeners": [(REVERSE if way == "reverse" else FORWARD) | more]}


async def connect(boundary: Boundary, way: str) -> Peer:
    peer = await boundary.connect()
    if way == "tunnel":
        peer.send(CONNECT)
        assert status(await peer.read_until()) == 200
    return peer


def request(way: str, stream_id: int) -> bytes:
    fields = [(b":method", b"GET"), (b":path", b"/"), (b":authority", HOST.encode())]
    return headers(stream_id, [*fields, (b":scheme", b"http" if way == "forward" else b"https")])


async def ask(boundary: Boundary, way: str) -> tuple[Peer, Peer]:
    """A client of HTTP/2 that has sent a request, and the upstream that has it. `h2` reads nothing behind GOAWAY."""
    peer = await connect(boundary, way)
    peer.send(frames.PREFACE + settings() + request(way, 1))
    upstream = await boundary.upstream.next()
    await upstream.read_until()
    return peer, upstream


def has_ended(peer: Peer) -> bool:
    """Whether the response to the first request is there."""
    return any(one.stream_id == 1 and one.flags & frames.END_STREAM for one in read_frames(bytes(peer.received)))


def farewells(peer: Peer) -> list[Frame]:
    return [one for one in read_frames(bytes(peer.received)) if one.kind == frames.GOAWAY]


def last_id(goaway: Frame) -> int:
    return int.from_bytes(goaway.payload[:4], "big")


@pytest.mark.asyncio
@pytest.mark.parametrize("way", WAYS)
async def test_where_http_2_is_switched_off_streams_finish_and_the_connection_ends(
    tmp_path: Path, trust: Trust, way: str
) -> None:
    async with running(tmp_path, trust, **listener(way)) as boundary:
        peer, upstream = await ask(boundary, way)
        await boundary.reload(**listener(way, http2="off"))
        await peer.until(farewells)
        assert not has_ended(peer)
        upstream.send(ANSWER)
        await peer.until(lambda peer: peer.ended or peer.lost)
        assert has_ended(peer)
        assert {goaway.code for goaway in farewells(peer)} == {0}
        assert [last_id(goaway) for goaway in farewells(peer)] == [2**31 - 1, 1]
        assert [record.outcome for record in boundary.records] == ["ok"]


@pytest.mark.asyncio
@pytest.mark.parametrize("way", WAYS)
async def test_where_http_2_is_switched_off_an_idle_connection_of_it_ends(
    tmp_path: Path, trust: Trust, way: str
) -> None:
    async with running(tmp_path, trust, **listener(way)) as boundary:
        peer, upstream = await ask(boundary, way)
        upstream.send(ANSWER)
        await peer.until(has_ended)
        await boundary.reload(**listener(way, http2="off"))
        await peer.until(lambda peer: peer.ended or peer.lost)
        assert (last_id(farewells(peer)[-1]), farewells(peer)[-1].code) == (1, 0)
        await eventually(lambda: not boundary.server.relay.clients)


@pytest.mark.asyncio
@pytest.mark.parametrize("way", WAYS)
async def test_where_http_2_is_switched_off_none_begins_on_a_connection_that_was_open(
    tmp_path: Path, trust: Trust, way: str
) -> None:
    async with running(tmp_path, trust, **listener(way)) as boundary:
        peer = await connect(boundary, way)
        await boundary.reload(**listener(way, http2="off"))
        peer.send(frames.PREFACE)
        assert status(await peer.read_to_end()) == 400
        assert [record.code for record in boundary.records] == ["http2"]


@pytest.mark.asyncio
async def test_where_http_2_is_switched_on_it_may_begin_on_a_connection_that_was_open(
    tmp_path: Path, trust: Trust
) -> None:
    async with running(tmp_path, trust, **listener("tunnel", http2="off")) as boundary:
        peer = await connect(boundary, "tunnel")
        await boundary.reload(**listener("tunnel", http2="needed"))
        peer.send(frames.PREFACE + settings() + request("tunnel", 1))
        upstream = await boundary.upstream.next()
        await upstream.read_until()
        upstream.send(ANSWER)
        await peer.until(has_ended)


@pytest.mark.asyncio
async def test_where_http_2_is_switched_off_http_1_goes_on(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust) as boundary:
        peer = await boundary.connect()
        for changes in ({}, listener("forward", http2="off")):
            await boundary.reload(**changes)
            peer.send(GET)
            assert status(await boundary.answer(peer)) == 200
            peer.take()


@pytest.mark.asyncio
@pytest.mark.parametrize("way", WAYS)
async def test_another_change_leaves_connections_of_http_2_alone(tmp_path: Path, trust: Trust, way: str) -> None:
    async with running(tmp_path, trust, **listener(way)) as boundary:
        peer, upstream = await ask(boundary, way)
        await boundary.reload(**listener(way, http2="preferred"), limits={"head_bytes": 30_000})
        upstream.send(ANSWER)
        await peer.until(has_ended)
        boundary.upstream.release(upstream)
        peer.send(request(way, 3))
        await (await boundary.upstream.next()).read_until()
        assert not farewells(peer)


@pytest.mark.asyncio
@pytest.mark.parametrize("way", WAYS)
async def test_where_the_listener_is_gone_streams_finish_and_nothing_new_is_taken(
    tmp_path: Path, trust: Trust, way: str
) -> None:
    """The client is told at once which requests nobody has seen, so that it can send them elsewhere (RFC 9113 §6.8)."""
    async with running(tmp_path, trust, **listener(way)) as boundary:
        peer, upstream = await ask(boundary, way)
        await boundary.reload(**listener(way, address="localhost:0"))  # another address makes another listener
        peer.send(request(way, 3))  # crosses the announcement
        await peer.until(farewells)
        upstream.send(ANSWER)
        await peer.until(lambda peer: peer.ended or peer.lost)
        assert has_ended(peer)
        assert [(last_id(goaway), goaway.code) for goaway in farewells(peer)] == [(1, 0)]
        assert {one.stream_id for one in read_frames(bytes(peer.received))} == {0, 1}
        assert [record.outcome for record in boundary.records] == ["ok"]
        assert not boundary.upstream.heard()
