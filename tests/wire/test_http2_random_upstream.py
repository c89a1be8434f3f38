"""An upstream of HTTP/2 that does with each request whatever chance says: every exchange ends once, and gets its own or nothing."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, cast

import h2.events
import pytest

from proxy.relay.http2 import frames
from proxy.relay.http2.faults import HTTP_1_1_REQUIRED, REFUSED_STREAM
from proxy.relay.http2.upstream import Http2UpstreamConnection
from tests.http2_peer import block, data, frame, headers, reset, settings, window_update
from tests.wire.evil_upstream import EvilConnection, EvilUpstream, evil_upstream
from tests.wire.rig import HOST, Peer, Rig, Wire, eventually, settle
from tests.wire.test_http2_clients import Client

if TYPE_CHECKING:
    from tests.http2_peer import Frame

OK: Final = (b":status", b"200")
# More of what answers than of what does not, so that connections live for a while.
PLANS: Final = (
    *("answer", "answer", "answer", "padded", "pieces", "interim", "late", "late", "refuse", "reset", "silent"),
    *("half", "short", "long", "twice", "goaway below", "goaway", "broken", "close", "cut", "noise"),
)


class Chance:
    """What the upstream does with each request, and what it has told of it."""

    def __init__(self, seed: int, evil: EvilUpstream) -> None:
        self.random = random.Random(seed)
        self.evil = evil
        self.put_off: list[tuple[EvilConnection, int]] = []
        self.unprocessed: set[tuple[EvilConnection, int]] = set()
        self.last_ids: dict[EvilConnection, int] = {}
        evil.on_frame = self.on_frame

    def on_frame(self, connection: EvilConnection, seen: Frame) -> None:
        if seen.kind not in (frames.HEADERS, frames.DATA) or not seen.flags & frames.END_STREAM or connection.lost:
            return
        one = seen.stream_id
        if one > self.last_ids.get(connection, frames.HIGHEST_STREAM):
            return
        self.act(connection, one, self.random.choice(PLANS))
        while self.put_off and self.random.random() < 0.7:
            index = self.random.randrange(len(self.put_off))
            waiting, its = self.put_off.pop(index)
            if not waiting.lost:
                waiting.send(self.whole(waiting, its))

    def act(self, connection: EvilConnection, one: int, plan: str) -> None:
        if plan == "late":
            self.put_off.append((connection, one))
        elif plan == "refuse":
            self.unprocessed.add((connection, one))
            connection.send(reset(one, REFUSED_STREAM))
        elif plan.startswith("goaway"):
            last = one - 2 if plan == "goaway below" and one > 1 else one
            self.last_ids[connection] = last
            connection.send(frame(frames.GOAWAY, 0, 0, struct.pack(">LL", last, 0)))
            if last == one:
                connection.send(self.whole(connection, one))
        elif plan == "close":
            connection.close()
        elif plan == "cut":
            connection.cut()
        else:
            connection.send(self.frames_of(connection, one, plan))

    def frames_of(self, connection: EvilConnection, one: int, plan: str) -> bytes:
        path = connection.paths[one]
        head = headers(one, [OK, (b"content-length", b"%d" % len(path))], ends=False)
        if plan == "padded":
            padded = frame(frames.DATA, frames.PADDED | frames.END_STREAM, one, b"\x09" + path + bytes(9))
            return headers(one, [OK], ends=False) + padded
        if plan == "pieces":
            whole = block([OK, (b"x", b"y" * 50)])
            return (
                frame(frames.HEADERS, 0, one, whole[:3])
                + frame(frames.CONTINUATION, frames.END_HEADERS, one, whole[3:])
                + b"".join(data(one, path[at : at + 1]) for at in range(len(path)))
                + headers(one, [(b"x-sum", b"1")])
            )
        if plan == "interim":
            return headers(one, [(b":status", b"103")], ends=False) + self.whole(connection, one)
        if plan == "reset":
            code = self.random.randrange(HTTP_1_1_REQUIRED)
            if code == REFUSED_STREAM:
                self.unprocessed.add((connection, one))
            return reset(one, code)
        if plan == "half":
            return head + data(one, path[:2]) + reset(one, self.random.choice((0, 2, 7, 8)))
        if plan == "short":
            return head + data(one, path[:2], ends=True)
        if plan == "long":
            return head + data(one, path + path, ends=True)
        if plan == "twice":
            return self.whole(connection, one) + self.whole(connection, one)
        if plan == "broken":
            return self.random.choice((data(99, b"x"), window_update(0, 0), settings((2, 1)), headers(2, [OK])))
        if plan == "noise":
            allowed = self.random.choice((1, 3, 100))
            window = self.random.choice((1, 100, 65_535))
            table = self.random.choice((0, 100, 4_096))
            connection._decoder.max_allowed_table_size = max(4_096, table)
            noise = settings((3, allowed), (4, window), (1, table), (0xFE03, 1)) + frame(0x77, 0xFF, one, b"unknown")
            return noise + window_update(0, 1) + frame(frames.PING, 0, 0, b"12345678") + self.whole(connection, one)
        return self.whole(connection, one) if plan == "answer" else b""

    @staticmethod
    def whole(connection: EvilConnection, one: int) -> bytes:
        path = connection.paths[one]
        return headers(one, [OK, (b"content-length", b"%d" % len(path))], ends=False) + data(one, path, ends=True)


def request(path: bytes, method: bytes) -> bytes:
    content = b"content-length: 4\r\n\r\nping" if method == b"POST" else b"\r\n"
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (method, path, HOST.encode(), content)


async def ends(peer: Peer) -> None:
    """Waits for the end of a response, or of its connection."""

    def is_over(peer: Peer) -> bool:
        if peer.lost:
            return True
        _, _, received = bytes(peer.received).rpartition(b"HTTP/1.1 ")
        head, found, content = received.partition(b"\r\n\r\n")
        lengths = [line[16:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
        if not found or head.startswith(b"1"):
            return False
        return len(content) >= int(lengths[0]) if lengths else content.endswith((b"0\r\n\r\n", b"x-sum: 1\r\n\r\n"))

    await peer.until(is_over)


def check(path: bytes, received: bytes) -> None:
    """Nothing of another response is in it."""
    others = [other for other in (b"/c%d-" % each for each in range(30)) if other in received and other not in path]
    assert not others, received
    if received.startswith(b"HTTP/1.1 5"):
        assert received.split(b" ")[1] in (b"502", b"503", b"504"), received


@pytest.mark.parametrize("seed", range(25))
def test_whatever_an_upstream_does_each_exchange_ends_once_with_its_own_response_or_none(
    uv_wire: Wire, seed: int
) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            chance = Chance(seed, evil)
            peers: list[tuple[bytes, Peer]] = []
            methods: dict[bytes, bytes] = {}
            for each in range(20):
                path, method = b"/c%d-" % each, chance.random.choice((b"GET", b"POST"))
                methods[path] = method
                peer = await rig.client("reverse")
                peer.send(request(path, method))
                peers.append((path, peer))
                for _ in range(chance.random.randrange(40)):
                    await asyncio.sleep(0)
            client = Client(await rig.client("reverse"), "reverse")
            streams = {}
            for each in range(20, 26):
                path = b"/c%d-" % each
                methods[path] = b"GET"
                streams[client.request(path=path.decode())] = path
            rounds = 0
            total = len(methods)
            while len(rig.records) < total:
                await settle(60)
                rounds += 1
                if rounds % 10 == 0:
                    rig.later(max(rig.timeouts.response_s, rig.timeouts.connect_s * 2) + 1)
                assert rounds < 400, "an exchange goes on beyond its time-outs"
            for path, peer in peers:
                await ends(peer)
                check(path, bytes(peer.received))
            await eventually(lambda: rig.relay.streams == 0)
            await settle()
            client.events += client.h2.receive_data(client.peer.take())
            over = [
                event for event in client.events if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset)
            ]
            assert {event.stream_id for event in over} == set(streams)
            for stream_id, path in streams.items():
                check(path, client.content(stream_id))
            assert Counter(record.target for record in rig.records) == dict.fromkeys(methods, 1)
            sent = Counter(
                path
                for connection in evil.connections
                for one, path in connection.paths.items()
                if (connection, one) not in chance.unprocessed and one <= chance.last_ids.get(connection, one)
            )
            for path, method in methods.items():
                assert sent[path] <= (1 if method == b"POST" else 2), (path, method)
            await at_rest(rig)

    uv_wire.run(work)


async def at_rest(rig: Rig) -> None:
    """Nothing is left at the upstream's side, neither open nor counted."""
    pool: Any = cast("Any", rig.reverse.destination.pool)._preferred()
    ours = [each for each in rig.relay.upstreams if isinstance(each, Http2UpstreamConnection)]
    assert all(each.is_idle and not each.core.streams for each in ours if not each.transport.is_closing())
    rig.later(rig.timeouts.upstream_idle_s + 31)
    await settle()
    rig.later(31)
    await eventually(lambda: not rig.relay.upstreams)
    assert pool.size == 0
    assert not pool._queue
