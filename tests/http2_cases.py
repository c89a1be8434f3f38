"""What h2spec asks of a server, 146 cases, written anew from the sections of RFC 9113 (7540 where that has gone) and RFC 7541.

A case is what a client sends behind its preface and settings, and what has to come back. Where `sends` has a number, the client
waits for the end of that stream first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import hpack

from proxy.relay.http2 import frames as f
from proxy.relay.http2.faults import (
    CANCEL,
    COMPRESSION_ERROR,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
)
from tests.http2_peer import POST, REQUEST, block, data, frame, headers, reset, settings, window_update

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http2_peer import Frame

PING: Final = frame(f.PING, 0, 0, b"still on")


@dataclass(frozen=True)
class Answered:
    """A response of this stream, with content unless the request was HEAD."""

    stream_id: int = 1
    has_content: bool = True

    def holds(self, frames: list[Frame]) -> bool:
        mine = [one for one in frames if one.stream_id == self.stream_id]
        content = b"".join(one.payload for one in mine if one.kind == f.DATA)
        return (
            bool(mine)
            and mine[0].kind == f.HEADERS
            and any(one.flags & f.END_STREAM and one.kind in (f.DATA, f.HEADERS) for one in mine)
            and bool(content) is self.has_content
            and not any(one.kind == f.GOAWAY for one in frames)
        )


@dataclass(frozen=True)
class Reset:
    """RST_STREAM, and the connection lives."""

    code: int
    stream_id: int = 1

    def holds(self, frames: list[Frame]) -> bool:
        return any(
            one.kind == f.RST_STREAM and one.stream_id == self.stream_id and one.code == self.code for one in frames
        ) and not any(one.kind == f.GOAWAY for one in frames)


@dataclass(frozen=True)
class Goaway:
    """GOAWAY, and nothing is read any more."""

    code: int

    def holds(self, frames: list[Frame]) -> bool:
        return frames[-1].kind == f.GOAWAY and int.from_bytes(frames[-1].payload[4:8], "big") == self.code


@dataclass(frozen=True)
class Alive:
    """The last PING is answered."""

    def holds(self, frames: list[Frame]) -> bool:
        return any(one.kind == f.PING and one.flags & f.ACK and one.payload == PING[9:] for one in frames)


@dataclass(frozen=True)
class Acknowledged:
    """Each of so many SETTINGS is acknowledged, the first ones included."""

    count: int

    def holds(self, frames: list[Frame]) -> bool:
        return sum(one.kind == f.SETTINGS and bool(one.flags & f.ACK) for one in frames) == self.count


@dataclass(frozen=True)
class Pieces:
    """The first DATA frames of stream 1 have these sizes."""

    sizes: tuple[int, ...]

    def holds(self, frames: list[Frame]) -> bool:
        sizes = [len(one.payload) for one in frames if one.kind == f.DATA and one.stream_id == 1]
        return tuple(sizes[: len(self.sizes)]) == self.sizes


Outcome = Answered | Reset | Goaway | Alive | Acknowledged | Pieces


@dataclass(frozen=True)
class Case:
    """One question.

    Attributes:
        name: section and number.
        sends: in this order; a number: waits for the end of that stream.
        outcome: what has to come back.
        preface: what stands before it.
    """

    name: str
    sends: tuple[bytes | int, ...]
    outcome: Outcome
    preface: bytes = f.PREFACE + settings()


def priority(stream_id: int, depends: int = 0, weight: int = 0, *, exclusive: bool = False) -> bytes:
    return frame(f.PRIORITY, 0, stream_id, struct.pack(">LB", depends | (1 << 31 if exclusive else 0), weight))


def fields(*more: tuple[bytes, bytes], without: bytes = b"", base: list[tuple[bytes, bytes]] | None = None) -> bytes:
    """HEADERS of a GET on stream 1 with some fields more or less."""
    return headers(1, [field for field in (base or REQUEST) if field[0] != without] + list(more))


def raw_headers(payload: bytes, flags: int = f.END_HEADERS | f.END_STREAM, stream_id: int = 1) -> bytes:
    return frame(f.HEADERS, flags, stream_id, payload)


GET: Final = headers(1, REQUEST)
OPEN: Final = headers(1, POST, ends=False)
BLOCK: Final = block(REQUEST)
HALF: Final = len(BLOCK) // 2
TRAILERS: Final = headers(1, [(b"x-trailer", b"a")])


def starting() -> Iterator[Case]:
    yield Case("generic 1/1 preface", (PING,), Alive())
    yield Case("generic 2/1 PRIORITY on an idle stream", (priority(1), GET, 1), Answered())
    yield Case("generic 2/2 WINDOW_UPDATE on half-closed", (GET, window_update(1, 100), 1), Answered())
    yield Case("generic 2/3 PRIORITY on half-closed", (GET, priority(1), 1), Answered())
    yield Case("generic 2/4 RST_STREAM on half-closed", (GET, reset(1, CANCEL), PING), Alive())
    yield Case("generic 2/5 PRIORITY on closed", (GET, 1, priority(1), PING), Alive())


def kinds_of_frames() -> Iterator[Case]:
    yield Case("generic 3.1/1 DATA", (OPEN, data(1, b"test", ends=True), 1), Answered())
    yield Case("generic 3.1/2 DATA twice", (OPEN, data(1, b"test"), data(1, b"test", ends=True), 1), Answered())
    padded = frame(f.DATA, f.PADDED | f.END_STREAM, 1, b"\x05test" + bytes(5))
    yield Case("generic 3.1/3 DATA padded", (OPEN, padded, 1), Answered())
    yield Case("generic 3.2/1 HEADERS", (GET, 1), Answered())
    padded = raw_headers(b"\x06" + BLOCK + bytes(6), f.PADDED | f.END_HEADERS | f.END_STREAM)
    yield Case("generic 3.2/2 HEADERS padded", (padded, 1), Answered())
    with_priority = raw_headers(struct.pack(">LB", 0, 255) + BLOCK, f.HAS_PRIORITY | f.END_HEADERS | f.END_STREAM)
    yield Case("generic 3.2/3 HEADERS with priority", (with_priority, 1), Answered())
    yield Case("generic 3.3/1 PRIORITY 1", (priority(1, 0, 0), GET, 1), Answered())
    yield Case("generic 3.3/2 PRIORITY 256", (priority(1, 0, 255), GET, 1), Answered())
    yield Case("generic 3.3/3 PRIORITY with dependency", (GET, priority(3, 1), PING), Alive())
    yield Case("generic 3.3/4 PRIORITY exclusive", (priority(1, 0, 0, exclusive=True), PING), Alive())
    yield Case("generic 3.3/5 PRIORITY on idle, then a lower stream", (priority(3), GET, 1), Answered())
    yield Case("generic 3.4/1 RST_STREAM", (OPEN, reset(1, CANCEL), PING), Alive())
    yield Case("generic 3.5/1 SETTINGS", (settings(),), Acknowledged(2))
    yield Case("generic 3.7/1 PING", (PING,), Alive())
    yield Case("generic 3.8/1 GOAWAY", (frame(f.GOAWAY, 0, 0, bytes(8)), PING), Alive())
    yield Case("generic 3.9/1 WINDOW_UPDATE of the connection", (window_update(0, 1), PING), Alive())
    yield Case("generic 3.9/2 WINDOW_UPDATE of a stream", (GET, window_update(1, 1), 1), Answered())
    head = raw_headers(BLOCK[:HALF], f.END_STREAM)
    end = frame(f.CONTINUATION, f.END_HEADERS, 1, BLOCK[HALF:])
    yield Case("generic 3.10/1 CONTINUATION", (head, end, 1), Answered())
    more = [frame(f.CONTINUATION, 0, 1, BLOCK[at : at + 2]) for at in range(HALF, HALF + 8, 2)]
    end = frame(f.CONTINUATION, f.END_HEADERS, 1, BLOCK[HALF + 8 :])
    yield Case("generic 3.10/2 CONTINUATION more than once", (head, *more, end, 1), Answered())


def messages() -> Iterator[Case]:
    yield Case("generic 4/1 GET", (GET, 1), Answered())
    head = [(b":method", b"HEAD"), *REQUEST[1:]]
    yield Case("generic 4/2 HEAD", (headers(1, head), 1), Answered(has_content=False))
    yield Case("generic 4/3 POST", (OPEN, data(1, b"test", ends=True), 1), Answered())
    yield Case("generic 4/4 POST with trailers", (OPEN, data(1, b"test"), TRAILERS, 1), Answered())


def representations() -> Iterator[Case]:
    name = hpack.Encoder().huffman_coder.encode(b"user-agent")
    value = hpack.Encoder().huffman_coder.encode(b"h2spec")
    plain, coded = b"\x06h2spec", bytes([0x80 | len(value)]) + value
    plain_name, coded_name = b"\x0auser-agent", bytes([0x80 | len(name)]) + name
    yield Case("generic 5/1 indexed", (raw_headers(b"\x82\x87\x84" + block(REQUEST[3:])), 1), Answered())
    number = 1
    for first, index in ((0x40, b"\x7a"), (0x00, b"\x0f\x2b"), (0x10, b"\x1f\x2b")):
        for head, string in (
            (index, plain),
            (index, coded),
            (bytes([first]) + plain_name, plain),
            (bytes([first]) + coded_name, coded),
        ):
            number += 1
            yield Case(f"generic 5/{number} literal", (raw_headers(BLOCK + head + string), 1), Answered())
    yield Case("generic 5/14 size update", (raw_headers(b"\x20" + BLOCK), 1), Answered())
    yield Case("generic 5/15 size updates", (raw_headers(b"\x20\x3f\xe1\x1f" + BLOCK), 1), Answered())


def connections() -> Iterator[Case]:
    yield Case("3.5/1 preface", (), Acknowledged(1))
    yield Case("3.5/2 wrong preface", (), Goaway(PROTOCOL_ERROR), b"INVALID CONNECTION PREFACE\r\n\r\n")
    yield Case("4.1/1 unknown kind of frame", (frame(0xFF, 0, 0, bytes(8)), PING), Alive())
    yield Case("4.1/2 undefined flags", (frame(f.PING, 0x16, 0, b"still on"),), Alive())
    yield Case("4.1/3 reserved bit", (frame(f.PING, 0, 1 << 31, b"still on"),), Alive())
    yield Case("4.2/1 DATA of 2^14 bytes", (OPEN, data(1, bytes(1 << 14), ends=True), 1), Answered())
    too_large = bytes((1 << 14) + 1)
    yield Case("4.2/2 DATA over the limit", (OPEN, data(1, too_large, ends=True)), Goaway(FRAME_SIZE_ERROR))
    yield Case("4.2/3 HEADERS over the limit", (raw_headers(too_large),), Goaway(FRAME_SIZE_ERROR))
    yield Case("4.3/1 broken block", (raw_headers(b"\x00\xff\xff\xff\xff\xff"),), Goaway(COMPRESSION_ERROR))
    head = raw_headers(BLOCK[:HALF], f.END_STREAM)
    yield Case("4.3/2 PRIORITY within a block", (head, priority(1)), Goaway(PROTOCOL_ERROR))
    yield Case("4.3/3 HEADERS within a block", (head, headers(3, REQUEST)), Goaway(PROTOCOL_ERROR))


def states() -> Iterator[Case]:
    more = frame(f.CONTINUATION, f.END_HEADERS, 1, b"\x82")
    yield Case("5.1/1 idle: DATA", (data(1, b"test", ends=True),), Goaway(PROTOCOL_ERROR))
    yield Case("5.1/2 idle: RST_STREAM", (reset(1),), Goaway(PROTOCOL_ERROR))
    yield Case("5.1/3 idle: WINDOW_UPDATE", (window_update(1, 100),), Goaway(PROTOCOL_ERROR))
    yield Case("5.1/4 idle: CONTINUATION", (more,), Goaway(PROTOCOL_ERROR))
    # A request whose response waits, so that its stream stays half-closed.
    waits = (settings((f.INITIAL_WINDOW_SIZE, 0)), GET)
    yield Case("5.1/5 half-closed (remote): DATA", (*waits, data(1, b"test", ends=True)), Reset(STREAM_CLOSED))
    yield Case("5.1/6 half-closed (remote): HEADERS", (*waits, GET), Reset(STREAM_CLOSED))
    yield Case("5.1/7 half-closed (remote): CONTINUATION", (*waits, more), Goaway(PROTOCOL_ERROR))
    cancelled = (OPEN, reset(1, CANCEL))
    yield Case("5.1/8 reset: DATA", (*cancelled, data(1, b"test", ends=True)), Reset(STREAM_CLOSED))
    yield Case("5.1/9 reset: HEADERS", (*cancelled, GET), Reset(STREAM_CLOSED))
    yield Case("5.1/10 reset: CONTINUATION", (*cancelled, more), Goaway(PROTOCOL_ERROR))
    yield Case("5.1/11 closed: DATA", (GET, 1, data(1, b"test", ends=True)), Reset(STREAM_CLOSED))
    yield Case("5.1/12 closed: HEADERS", (GET, 1, GET), Goaway(STREAM_CLOSED))
    yield Case("5.1/13 closed: CONTINUATION", (GET, 1, more), Goaway(PROTOCOL_ERROR))
    yield Case("5.1.1/1 even number", (headers(2, REQUEST),), Goaway(PROTOCOL_ERROR))
    yield Case("5.1.1/2 lower number", (headers(5, REQUEST), 5, headers(3, REQUEST)), Goaway(PROTOCOL_ERROR))
    many = b"".join(headers(number, POST, ends=False) for number in range(1, 203, 2))
    yield Case("5.1.2/1 more streams than allowed", (many,), Reset(REFUSED_STREAM, 201))
    depends = raw_headers(struct.pack(">LB", 1, 255) + BLOCK, f.HAS_PRIORITY | f.END_HEADERS | f.END_STREAM)
    yield Case("5.3.1/1 HEADERS depends on itself", (depends,), Reset(PROTOCOL_ERROR))
    yield Case("5.3.1/2 PRIORITY depends on itself", (OPEN, priority(1, 1)), Reset(PROTOCOL_ERROR))
    yield Case("5.4.1/1 the connection ends", (frame(f.PING, 0, 3, bytes(8)), PING), Goaway(PROTOCOL_ERROR))
    yield Case("5.4.1/2 GOAWAY has the last stream", (GET, 1, frame(f.PING, 0, 3, bytes(8))), Goaway(PROTOCOL_ERROR))
    yield Case("5.5/1 extension frame", (frame(0xFA, 0, 1, b"extension"), PING), Alive())
    head = raw_headers(BLOCK[:HALF], f.END_STREAM)
    yield Case("5.5/2 extension frame within a block", (head, frame(0xFA, 0, 1)), Goaway(PROTOCOL_ERROR))


def definitions() -> Iterator[Case]:
    yield Case("6.1/1 DATA on 0", (data(0, b"test"),), Goaway(PROTOCOL_ERROR))
    yield Case("6.1/2 DATA on a closed stream", (GET, 1, data(1, b"test")), Reset(STREAM_CLOSED))
    padded = frame(f.DATA, f.PADDED | f.END_STREAM, 1, b"\x06test")
    yield Case("6.1/3 DATA with too much padding", (OPEN, padded), Goaway(PROTOCOL_ERROR))
    head = raw_headers(BLOCK[:HALF], f.END_STREAM)
    yield Case("6.2/1 block and PRIORITY", (head, priority(1)), Goaway(PROTOCOL_ERROR))
    yield Case("6.2/2 block and another stream's HEADERS", (head, headers(3, REQUEST)), Goaway(PROTOCOL_ERROR))
    yield Case("6.2/3 HEADERS on 0", (raw_headers(BLOCK, stream_id=0),), Goaway(PROTOCOL_ERROR))
    padded = raw_headers(bytes([len(BLOCK) + 1]) + BLOCK, f.PADDED | f.END_HEADERS | f.END_STREAM)
    yield Case("6.2/4 HEADERS with too much padding", (padded,), Goaway(PROTOCOL_ERROR))
    yield Case("6.3/1 PRIORITY on 0", (priority(0),), Goaway(PROTOCOL_ERROR))
    yield Case("6.3/2 short PRIORITY", (OPEN, frame(f.PRIORITY, 0, 1, bytes(4))), Reset(FRAME_SIZE_ERROR))
    yield Case("6.4/1 RST_STREAM on 0", (reset(0),), Goaway(PROTOCOL_ERROR))
    yield Case("6.4/2 RST_STREAM on idle", (reset(1),), Goaway(PROTOCOL_ERROR))
    yield Case("6.4/3 short RST_STREAM", (OPEN, frame(f.RST_STREAM, 0, 1, bytes(3))), Goaway(FRAME_SIZE_ERROR))
    yield Case("6.5/1 ACK with settings", (frame(f.SETTINGS, f.ACK, 0, bytes(6)),), Goaway(FRAME_SIZE_ERROR))
    yield Case("6.5/2 SETTINGS on a stream", (frame(f.SETTINGS, 0, 1, bytes(6)),), Goaway(PROTOCOL_ERROR))
    yield Case("6.5/3 SETTINGS cut off", (frame(f.SETTINGS, 0, 0, bytes(3)),), Goaway(FRAME_SIZE_ERROR))
    yield Case("6.5.2/1 ENABLE_PUSH 2", (settings((f.ENABLE_PUSH, 2)),), Goaway(PROTOCOL_ERROR))
    too_large = settings((f.INITIAL_WINDOW_SIZE, 1 << 31))
    yield Case("6.5.2/2 INITIAL_WINDOW_SIZE too large", (too_large,), Goaway(FLOW_CONTROL_ERROR))
    yield Case("6.5.2/3 MAX_FRAME_SIZE too small", (settings((f.MAX_FRAME_SIZE, 16_383)),), Goaway(PROTOCOL_ERROR))
    yield Case("6.5.2/4 MAX_FRAME_SIZE too large", (settings((f.MAX_FRAME_SIZE, 1 << 24)),), Goaway(PROTOCOL_ERROR))
    yield Case("6.5.2/5 unknown setting", (settings((0xFF, 1)), PING), Alive())
    in_order = settings((f.INITIAL_WINDOW_SIZE, 100), (f.INITIAL_WINDOW_SIZE, 1))
    yield Case("6.5.3/1 settings in their order", (in_order, GET), Pieces((1,)))
    yield Case("6.5.3/2 ACK", (settings(),), Acknowledged(2))
    yield Case("6.7/1 PING", (PING,), Alive())
    yield Case("6.7/2 PING with ACK", (frame(f.PING, f.ACK, 0, b"not ours"), PING), Alive())
    yield Case("6.7/3 PING on a stream", (frame(f.PING, 0, 1, bytes(8)),), Goaway(PROTOCOL_ERROR))
    yield Case("6.7/4 short PING", (frame(f.PING, 0, 0, bytes(6)),), Goaway(FRAME_SIZE_ERROR))
    yield Case("6.8/1 GOAWAY on a stream", (frame(f.GOAWAY, 0, 1, bytes(8)),), Goaway(PROTOCOL_ERROR))


def windows() -> Iterator[Case]:
    yield Case("6.9/1 WINDOW_UPDATE 0", (window_update(0, 0),), Goaway(PROTOCOL_ERROR))
    yield Case("6.9/2 WINDOW_UPDATE 0 of a stream", (OPEN, window_update(1, 0)), Reset(PROTOCOL_ERROR))
    short = frame(f.WINDOW_UPDATE, 0, 0, bytes(3))
    yield Case("6.9/3 short WINDOW_UPDATE", (short,), Goaway(FRAME_SIZE_ERROR))
    one = settings((f.INITIAL_WINDOW_SIZE, 1))
    yield Case("6.9.1/1 window of 1", (one, GET), Pieces((1,)))
    most = (1 << 31) - 1
    twice = (window_update(0, most), window_update(0, most))
    yield Case("6.9.1/2 window over the limit", twice, Goaway(FLOW_CONTROL_ERROR))
    of_a_stream = (OPEN, window_update(1, most), window_update(1, most))
    yield Case("6.9.1/3 stream's window over the limit", of_a_stream, Reset(FLOW_CONTROL_ERROR))
    none = settings((f.INITIAL_WINDOW_SIZE, 0))
    yield Case("6.9.2/1 window changes behind HEADERS", (none, GET, one), Pieces((1,)))
    three, two = settings((f.INITIAL_WINDOW_SIZE, 3)), settings((f.INITIAL_WINDOW_SIZE, 2))
    yield Case("6.9.2/2 negative window", (three, GET, two, window_update(1, 2)), Pieces((3, 1)))
    too_large = settings((f.INITIAL_WINDOW_SIZE, 1 << 31))
    yield Case("6.9.2/3 INITIAL_WINDOW_SIZE too large", (too_large,), Goaway(FLOW_CONTROL_ERROR))


def continuations() -> Iterator[Case]:
    head = raw_headers(BLOCK[:HALF], f.END_STREAM)
    middle = frame(f.CONTINUATION, 0, 1, BLOCK[HALF : HALF + 5])
    last = frame(f.CONTINUATION, f.END_HEADERS, 1, BLOCK[HALF + 5 :])
    yield Case("6.10/1 CONTINUATION twice", (head, middle, last, 1), Answered())
    yield Case("6.10/2 block interrupted", (head, middle, data(1, b"test")), Goaway(PROTOCOL_ERROR))
    yield Case("6.10/3 CONTINUATION on 0", (head, frame(f.CONTINUATION, 0, 0, b"\x82")), Goaway(PROTOCOL_ERROR))
    more = frame(f.CONTINUATION, f.END_HEADERS, 1, b"\x82")
    yield Case("6.10/4 CONTINUATION behind the block", (OPEN, more), Goaway(PROTOCOL_ERROR))
    yield Case("6.10/5 CONTINUATION behind CONTINUATION", (head, middle, last, more), Goaway(PROTOCOL_ERROR))
    yield Case("6.10/6 CONTINUATION behind DATA", (OPEN, data(1, b"test"), more), Goaway(PROTOCOL_ERROR))


def http() -> Iterator[Case]:
    malformed = Reset(PROTOCOL_ERROR)
    unknown = frame(f.GOAWAY, 0, 0, bytes(4) + b"\xff\xff\xff\xff")
    yield Case("7/1 GOAWAY with an unknown code", (unknown, PING), Alive())
    yield Case("7/2 RST_STREAM with an unknown code", (OPEN, reset(1, 0xFF), PING), Alive())
    again = headers(1, [(b"x-trailer", b"a")], ends=False)
    yield Case("8.1/1 HEADERS again, without an end", (OPEN, again), malformed)
    yield Case("8.1.2/1 capitals", (fields((b"X-TEST", b"ok")),), malformed)
    yield Case("8.1.2.1/1 unknown pseudo-field", (fields(base=[(b":test", b"ok"), *REQUEST]),), malformed)
    yield Case("8.1.2.1/2 pseudo-field of responses", (fields(base=[(b":status", b"200"), *REQUEST]),), malformed)
    yield Case("8.1.2.1/3 pseudo-field as a trailer", (OPEN, headers(1, [(b":method", b"POST")])), malformed)
    yield Case("8.1.2.1/4 pseudo-field behind others", (fields(base=[(b"x-test", b"ok"), *REQUEST]),), malformed)
    yield Case("8.1.2.2/1 of a connection", (fields((b"connection", b"keep-alive")),), malformed)
    yield Case("8.1.2.2/2 TE", (fields((b"te", b"trailers, deflate")),), malformed)
    yield Case("8.1.2.3/1 empty :path", (fields(base=[(b":path", b""), *REQUEST[:2], REQUEST[3]]),), malformed)
    for number, name in enumerate((b":method", b":scheme", b":path"), 2):
        yield Case(f"8.1.2.3/{number} no {name.decode()}", (fields(without=name),), malformed)
    for number, field in enumerate(REQUEST[:3], 5):
        again = fields(base=[field, *REQUEST])
        yield Case(f"8.1.2.3/{number} {field[0].decode()} twice", (again,), malformed)
    declared = headers(1, [*POST, (b"content-length", b"1")], ends=False)
    yield Case("8.1.2.6/1 more content than declared", (declared, data(1, b"test", ends=True)), malformed)
    pieces = (declared, data(1, b"t"), data(1, b"est", ends=True))
    yield Case("8.1.2.6/2 more content than declared, in pieces", pieces, malformed)
    push = frame(f.PUSH_PROMISE, f.END_HEADERS, 1, struct.pack(">L", 2) + BLOCK)
    yield Case("8.2/1 PUSH_PROMISE", (OPEN, push), Goaway(PROTOCOL_ERROR))


def compression() -> Iterator[Case]:
    broken = Goaway(COMPRESSION_ERROR)
    yield Case("hpack 2.3.3/1 index of nothing", (raw_headers(BLOCK + b"\xc6"),), broken)
    yield Case("hpack 4.2/1 size update behind fields", (raw_headers(BLOCK + b"\x20"),), broken)
    yield Case("hpack 5.2/1 long padding", (raw_headers(BLOCK + b"\x00\x83\xf1\xe3\xff\x01a"),), broken)
    yield Case("hpack 5.2/2 padding of zeros", (raw_headers(BLOCK + b"\x00\x81\x18\x01a"),), broken)
    yield Case("hpack 5.2/3 EOS", (raw_headers(BLOCK + b"\x00\x84\xff\xff\xff\xff\x01a"),), broken)
    yield Case("hpack 6.1/1 index 0", (raw_headers(BLOCK + b"\x80"),), broken)
    yield Case("hpack 6.3/1 size over the limit", (raw_headers(b"\x3f\xe2\x1f" + BLOCK),), broken)


CASES: Final = tuple(
    case
    for group in (
        starting,
        kinds_of_frames,
        messages,
        representations,
        connections,
        states,
        definitions,
        windows,
        continuations,
        http,
        compression,
    )
    for case in group()
)
