"""Clients of HTTP/2 that break its rules, frame by frame: what they get, and what an upstream of HTTP/1.1 gets to see of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from proxy.relay.http2 import frames
from tests.http2_peer import Frame, block, data, frame, headers, read_frames, reset, settings, window_update
from tests.wire.rig import HOST, Rig, Wire, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.wire.rig import Peer

Fields = list[tuple[bytes, bytes]]

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
METHOD, SCHEME, AUTHORITY = (b":method", b"POST"), (b":scheme", b"https"), (b":authority", HOST.encode())
PATH: Final = (b":path", b"/evil")
USUAL: Final[Fields] = [METHOD, SCHEME, AUTHORITY, PATH]
SIZED: Final[Fields] = [*USUAL, (b"content-length", b"9")]
PRIORITY_UPDATE: Final = 0x10
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 1, 3, 5

# Heads of which nothing may reach an upstream. Each is the end of its stream, and of no other.
HEADS: Final[dict[str, Fields]] = {
    "a-name-in-upper-case": [*USUAL, (b"X-Evil", b"1")],
    "an-empty-name": [*USUAL, (b"", b"1")],
    "a-name-with-a-colon": [*USUAL, (b"x:y", b"1")],
    "a-name-with-crlf": [*USUAL, (b"x\r\nauthorization", b"1")],
    "a-value-with-lf": [*USUAL, (b"x", b"1\nauthorization: evil")],
    "a-value-with-nul": [*USUAL, (b"x", b"1\x00")],
    "a-value-that-begins-with-a-blank": [*USUAL, (b"x", b" 1")],
    "connection": [*USUAL, (b"connection", b"keep-alive")],
    "keep-alive": [*USUAL, (b"keep-alive", b"1")],
    "proxy-connection": [*USUAL, (b"proxy-connection", b"close")],
    "transfer-encoding": [*USUAL, (b"transfer-encoding", b"chunked")],
    "upgrade": [*USUAL, (b"upgrade", b"websocket")],
    "te-gzip": [*USUAL, (b"te", b"trailers, gzip")],
    "user-information": [METHOD, SCHEME, (b":authority", b"evil@" + HOST.encode()), PATH],
    "user-information-in-host": [METHOD, SCHEME, PATH, (b"host", b"evil@" + HOST.encode())],
    "another-host-than-authority": [*USUAL, (b"host", b"other.example")],
    "two-hosts": [METHOD, SCHEME, PATH, (b"host", HOST.encode()), (b"host", HOST.encode())],
    "no-authority": [METHOD, SCHEME, PATH],
    "two-paths": [*USUAL, PATH],
    "an-empty-path": [METHOD, SCHEME, AUTHORITY, (b":path", b"")],
    "a-path-with-a-blank": [METHOD, SCHEME, AUTHORITY, (b":path", b"/ HTTP/1.1")],
    "a-method-with-a-blank": [(b":method", b"GET /x HTTP/1.1\r\nx:"), SCHEME, AUTHORITY, PATH],
    "a-pseudo-field-behind-others": [METHOD, SCHEME, AUTHORITY, (b"x", b"1"), PATH],
    "a-pseudo-field-of-responses": [*USUAL, (b":status", b"200")],
    "extended-connect": [(b":method", b"CONNECT"), (b":protocol", b"websocket"), SCHEME, AUTHORITY, PATH],
    "connect-with-a-path": [(b":method", b"CONNECT"), AUTHORITY, PATH],
    "two-lengths": [*SIZED, (b"content-length", b"9")],
    "a-length-with-a-sign": [*USUAL, (b"content-length", b"+9")],
    "two-passwords-for-the-proxy": [*USUAL, (b"proxy-authorization", b"a"), (b"proxy-authorization", b"b")],
}
# What is wrong behind a good head, once the upstream has got the beginning; and the code with which the stream ends.
BODIES: Final[dict[str, tuple[Fields, Callable[[int], bytes], int]]] = {
    "trailers-with-a-pseudo-field": (USUAL, lambda one: headers(one, [(b":path", b"/other")]), PROTOCOL_ERROR),
    "trailers-with-a-name-in-upper-case": (USUAL, lambda one: headers(one, [(b"X", b"1")]), PROTOCOL_ERROR),
    "trailers-that-frame": (USUAL, lambda one: headers(one, [(b"content-length", b"1")]), PROTOCOL_ERROR),
    "trailers-that-authorise": (USUAL, lambda one: headers(one, [(b"authorization", b"Bearer evil")]), PROTOCOL_ERROR),
    "trailers-without-end": (USUAL, lambda one: headers(one, [(b"x", b"1")], ends=False), PROTOCOL_ERROR),
    "too-little-content": (SIZED, lambda one: data(one, b"", ends=True), PROTOCOL_ERROR),
    "too-little-before-trailers": (SIZED, lambda one: headers(one, [(b"x", b"1")]), PROTOCOL_ERROR),
    "too-much-content": (SIZED, lambda one: data(one, b"far too much"), PROTOCOL_ERROR),
    "a-window-that-overflows": (USUAL, lambda one: window_update(one, frames.WINDOW_LIMIT), FLOW_CONTROL_ERROR),
    "a-window-that-grows-by-nothing": (USUAL, lambda one: window_update(one, 0), PROTOCOL_ERROR),
}


class Evil:
    """A client that has said its preface, and says anything."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.seen: list[Frame] = []
        self.send(frames.PREFACE + settings())

    def send(self, wire: bytes) -> None:
        self.peer.send(wire)

    async def until(self, found: Callable[[Frame], bool]) -> Frame:
        """Waits for a frame."""
        while True:
            for one in self.seen:
                if found(one):
                    return one
            await self.peer.until(lambda peer: _size_of_first(bytes(peer.received)) or peer.lost)
            assert self.peer.received, f"the connection has ended: {self.seen[-3:]}"
            while size := _size_of_first(bytes(self.peer.received)):
                self.seen += read_frames(self.peer.take(size))

    async def reset_of(self, stream_id: int) -> Frame:
        return await self.until(lambda one: one.kind == frames.RST_STREAM and one.stream_id == stream_id)

    async def end_of(self, stream_id: int) -> Frame:
        return await self.until(lambda one: one.stream_id == stream_id and ends(one))


def ends(one: Frame) -> bool:
    return one.kind in (frames.HEADERS, frames.DATA) and bool(one.flags & frames.END_STREAM)


def _size_of_first(wire: bytes) -> int:
    """How long the first frame is, if all of it is there."""
    size = frames.FRAME_HEAD_BYTES + int.from_bytes(wire[:3], "big")
    return size if len(wire) >= max(size, frames.FRAME_HEAD_BYTES) else 0


async def connect(rig: Rig) -> Evil:
    return Evil(await rig.client("reverse"))


async def is_served(rig: Rig, evil: Evil, stream_id: int) -> bytes:
    """A request like any other on the same connection; returns what the upstream got."""
    evil.send(headers(stream_id, [(b":method", b"GET"), SCHEME, AUTHORITY, (b":path", b"/beside")]))
    upstream = await rig.upstream.next()
    received = await upstream.read_until()
    upstream.send(OK)
    await evil.end_of(stream_id)
    return received


@pytest.mark.parametrize("what", HEADS)
def test_nothing_of_a_malformed_head_reaches_an_upstream(wire: Wire, what: str) -> None:
    async def work(rig: Rig) -> None:
        evil = await connect(rig)
        evil.send(headers(1, HEADS[what], ends=False))
        assert (await evil.reset_of(1)).code == PROTOCOL_ERROR
        assert (await is_served(rig, evil, 3)).startswith(b"GET /beside HTTP/1.1\r\n")
        assert [record.target for record in rig.records if record.outcome == "ok"] == [b"/beside"]

    wire.run(work)


@pytest.mark.parametrize("what", BODIES)
def test_a_request_that_goes_wrong_behind_its_head_never_looks_complete(wire: Wire, what: str) -> None:
    async def work(rig: Rig) -> None:
        head, say, code = BODIES[what]
        evil = await connect(rig)
        evil.send(headers(1, head, ends=False) + data(1, b"begun"))
        upstream = await rig.upstream.next()
        await upstream.until(lambda peer: b"begun" in peer.received)
        evil.send(say(1))
        assert (await evil.reset_of(1)).code == code
        await upstream.until(lambda peer: peer.lost)
        content = bytes(upstream.received).partition(b"\r\n\r\n")[2]
        assert content in (b"begun", b"5\r\nbegun\r\n")
        assert (await is_served(rig, evil, 3)).startswith(b"GET /beside HTTP/1.1\r\n")
        await eventually(lambda: len(rig.records) == 2)
        assert [record.outcome for record in rig.records] == ["aborted_client", "ok"]

    wire.run(work)


@pytest.mark.parametrize("how", ["data", "headers"])
def test_what_follows_the_end_of_a_request_ends_its_stream(wire: Wire, how: str) -> None:
    async def work(rig: Rig) -> None:
        evil = await connect(rig)
        evil.send(headers(1, USUAL))
        upstream = await rig.upstream.next()
        await upstream.read_until()
        evil.send(data(1, b"more") if how == "data" else headers(1, [(b"x", b"1")]))
        assert (await evil.reset_of(1)).code == STREAM_CLOSED
        await upstream.until(lambda peer: peer.lost)
        await is_served(rig, evil, 3)

    wire.run(work)


def test_what_follows_a_reset_is_refused_and_harms_nobody(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        evil = await connect(rig)
        evil.send(headers(1, USUAL, ends=False))
        upstream = await rig.upstream.next()
        await upstream.read_until()
        evil.send(reset(1) + data(1, b"more") + headers(1, [(b"x", b"1")]))
        assert (await evil.reset_of(1)).code == STREAM_CLOSED
        await upstream.until(lambda peer: peer.lost)
        await is_served(rig, evil, 3)

    wire.run(work)


def test_initial_windows_that_overflow_end_the_connection_and_its_exchanges(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        evil = await connect(rig)
        evil.send(headers(1, USUAL))
        upstream = await rig.upstream.next()
        await upstream.read_until()
        evil.send(window_update(1, 1 << 30) + settings((4, frames.WINDOW_LIMIT)))
        farewell = await evil.until(lambda one: one.kind == frames.GOAWAY)
        assert farewell.code == FLOW_CONTROL_ERROR
        await upstream.until(lambda peer: peer.lost)
        await eventually(lambda: [record.outcome for record in rig.records] == ["aborted_client"])
        assert not rig.relay.streams

    wire.run(work)


def test_a_client_that_says_goaway_gets_its_responses(wire: Wire) -> None:
    """It names streams of ours, of which there are none: RFC 9113 §6.8."""

    async def work(rig: Rig) -> None:
        evil = await connect(rig)
        evil.send(headers(1, USUAL))
        upstream = await rig.upstream.next()
        await upstream.read_until()
        evil.send(frame(frames.GOAWAY, 0, 0, bytes(8)))
        upstream.send(OK)
        await evil.end_of(1)

    wire.run(work)


def test_what_looks_odd_and_is_allowed_passes(wire: Wire) -> None:
    """Crumbs of a cookie in four frames, padding as long as can be, and PRIORITY_UPDATE (RFC 9218 §7.1) again and again."""

    async def work(rig: Rig) -> None:
        evil = await connect(rig)
        fields = block(
            [*USUAL, (b"cookie", b"a=1"), (b"x", b""), (b"cookie", b"b=2"), (b"cookie", b"c=3"), (b"te", b"trailers")]
        )
        cuts = [len(fields) // 3, 2 * len(fields) // 3, len(fields) - 1]
        update = frame(PRIORITY_UPDATE, 0, 0, b"\x00\x00\x00\x01u=1, i")
        padding = bytes(255)
        evil.send(
            update
            + frame(frames.HEADERS, frames.PADDED, 1, b"\xff" + fields[: cuts[0]] + padding)
            + frame(frames.CONTINUATION, 0, 1, fields[cuts[0] : cuts[1]])
            + frame(frames.CONTINUATION, 0, 1, fields[cuts[1] : cuts[2]])
            + frame(frames.CONTINUATION, frames.END_HEADERS, 1, fields[cuts[2] :])
            + update
            + frame(frames.DATA, frames.PADDED, 1, b"\xff" + padding)
            + frame(frames.DATA, frames.PADDED, 1, b"\xff" + b"content" + padding)
            + frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, b"\xff" + padding)
            + update
        )
        upstream = await rig.upstream.next()
        received = await upstream.read_until(b"0\r\n\r\n")
        assert b"\r\ncookie: a=1; b=2; c=3\r\n" in received.lower()
        assert received.endswith(b"\r\n\r\n7\r\ncontent\r\n0\r\n\r\n")
        upstream.send(OK)
        await evil.end_of(1)

    wire.run(work)


def test_interim_responses_without_end_reach_nobody(wire: Wire) -> None:
    """Some pass; then the exchange ends, and the upstream is cut."""

    async def work(rig: Rig) -> None:
        evil = await connect(rig)
        evil.send(headers(1, USUAL))
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 10_000)
        await evil.end_of(1)
        assert sum(one.kind == frames.HEADERS for one in evil.seen) <= 40
        await upstream.until(lambda peer: peer.lost)
        await is_served(rig, evil, 3)

    wire.run(work)


def test_padding_that_is_all_of_a_frame_and_more_ends_the_connection(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        evil = await connect(rig)
        evil.send(headers(1, USUAL, ends=False) + frame(frames.DATA, frames.PADDED, 1, b"\x05abcd"))
        farewell = await evil.until(lambda one: one.kind == frames.GOAWAY)
        assert farewell.code == PROTOCOL_ERROR
        async with asyncio.timeout(30):
            await evil.peer.until(lambda peer: peer.lost)

    wire.run(work)
