"""The chunked coding is decoded at a cost that does not depend on the content, a bounded number of chunks at a time."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from proxy.errors import MalformedRequest
from proxy.relay.chunked import CHUNKS_AT_ONCE, ChunkedReader, format_chunk, format_last_chunk

if TYPE_CHECKING:
    from types import FrameType

# What one read from a socket brings at the most.
READ_BYTES = 262_144
CONTENTS = {
    "zeros": bytes(READ_BYTES),
    "line ends": b"\r\n" * (READ_BYTES // 2),
    "empty lines and a last chunk": b"\r\n0\r\n\r\n" * (READ_BYTES // 8),
    "requests": b"GET / HTTP/1.1\r\n\r\n" * (READ_BYTES // 18),
}


def read_all(reader: ChunkedReader, data: bytes) -> tuple[bytes, bytes]:
    """The content, and what follows the message."""
    content = b""
    while data and not reader.complete:
        pieces, data = reader.feed(data)
        content += b"".join(pieces)
    return content, data


def count_work(reader: ChunkedReader, data: bytes) -> int:
    """How many functions are called, in Python and in C, to feed once."""
    calls: Counter[str] = Counter()

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        calls[event] += 1

    sys.setprofile(note)
    try:
        reader.feed(data)
    finally:
        sys.setprofile(None)
    return calls["call"] + calls["c_call"]


@pytest.mark.parametrize("name", CONTENTS)
def test_content_costs_the_same_whatever_it_is(name: str) -> None:
    """G2: 16 MB of line ends took 4.6 s, and kept every other client waiting."""
    begun, zeros = ChunkedReader(), ChunkedReader()
    for reader in (begun, zeros):
        reader.feed(b"%x\r\n" % (4 * READ_BYTES))
    work = count_work(begun, CONTENTS[name])
    assert work == count_work(zeros, CONTENTS["zeros"])
    assert work < 50


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"2\r\n\r\n\r\n", b"1;a=b\r\nx\r\n", b"0000000001\r\nx\r\n"])
def test_no_more_than_so_many_chunks_are_read_at_once(chunk: bytes) -> None:
    """G2: one read holds 43,000 chunks of one byte."""
    data = chunk * (READ_BYTES // len(chunk))
    reader = ChunkedReader()
    assert count_work(reader, data) < 20 * CHUNKS_AT_ONCE
    pieces, rest = ChunkedReader().feed(data)
    assert len(data) - len(rest) == CHUNKS_AT_ONCE * len(chunk)
    assert len(pieces) == CHUNKS_AT_ONCE
    content, rest = read_all(ChunkedReader(), data + b"0\r\n\r\nnext")
    assert len(content) == sum(map(len, pieces)) * (len(data) // len(chunk)) // CHUNKS_AT_ONCE
    assert rest == b"next"


def test_trailers_cost_no_more_than_their_bytes() -> None:
    reader = ChunkedReader(response=True)
    assert count_work(reader, b"0\r\n" + b"a:\r\n" * 4_000 + b"\r\n") < 10 * 4_000
    assert reader.trailers == b"a: \r\n" * 4_000


MESSAGES = {
    "empty": (b"0\r\n\r\n", b"", b""),
    "one chunk": (b"3\r\nabc\r\n0\r\n\r\n", b"abc", b""),
    "content that looks like an end": (format_chunk(b"\r\n0\r\n\r\n") + b"0\r\n\r\n", b"\r\n0\r\n\r\n", b""),
    "trailers": (b"1\r\nx\r\n" + format_last_chunk(b"A: 1\r\nB: 2\r\n"), b"x", b"A: 1\r\nB: 2\r\n"),
    "extensions": (b'3;a=b;c="d"\r\nabc\r\n0;last\r\n\r\n', b"abc", b""),
    "many": (
        b"".join(format_chunk(b"%d" % i) for i in range(30)) + b"00\r\n\r\n",
        b"".join(b"%d" % i for i in range(30)),
        b"",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("step", [1, 2, 3, 5, 1_000])
def test_a_message_is_the_same_in_whatever_pieces_it_comes(name: str, step: int) -> None:
    wire, content, trailers = MESSAGES[name]
    behind = b"GET / HTTP/1.1\r\n\r\n"
    reader, found, rest = ChunkedReader(), b"", b""
    for start in range(0, len(wire + behind), step):
        piece = (wire + behind)[start : start + step]
        if reader.complete:
            rest += piece
            continue
        some, rest = read_all(reader, piece)
        found += some
    assert (found, reader.trailers, rest) == (content, trailers, behind)


BROKEN = (
    b"x\r\n", b"\r\n", b"-1\r\n", b"+1\r\nx\r\n", b"0x1\r\n", b"1 \r\nx\r\n", b"1\nx\n", b"1\r\nxy\r\n", b"1\r\nx\n",
    b"1_0\r\n", b"11111111111111111\r\n",
)  # fmt: skip


@pytest.mark.parametrize("wire", BROKEN)
@pytest.mark.parametrize("step", [1, 1_000])
def test_what_is_broken_is_refused_in_whatever_pieces_it_comes(wire: bytes, step: int) -> None:
    reader = ChunkedReader()

    def read() -> None:
        for start in range(0, len(wire), step):
            read_all(reader, wire[start : start + step])

    with pytest.raises(MalformedRequest):
        read()
