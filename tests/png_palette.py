"""Makes a screenshot's PNG smaller: a palette in place of all its colours, which nobody sees on flat areas. Does no I/O.

Takes what Chromium writes: 8 bits a channel, no interlacing. Source: PNG (Third Edition), W3C, §9 and §11.2.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Colour: TypeAlias = "tuple[int, ...]"

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHANNELS: Final = {2: 3, 6: 4}  # truecolour, and with alpha
_PALETTE: Final = 256
# The most frequent colours, which are those of areas, stay as they are.
_KEPT: Final = 64
# The square of a distance in RGB: about ten steps in each channel.
_ALIKE: Final = 300


def reduce_colours(png: bytes) -> bytes:
    """Returns the picture with a palette."""
    width, height, rows = _decode(png)
    pixels = [list(zip(row[::3], row[1::3], row[2::3], strict=True)) for row in rows]
    counts: Counter[Colour] = Counter()
    for line in pixels:
        counts.update(line)
    palette = _choose(counts)
    index = {colour: number for number, colour in enumerate(palette)}
    for colour in counts.keys() - index.keys():
        index[colour] = min(range(len(palette)), key=lambda number: _distance(palette[number], colour))
    content = b"".join(b"\0" + bytes([index[colour] for colour in line]) for line in pixels)
    return _SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", bytes(part for colour in palette for part in colour)),
            _chunk(b"IDAT", zlib.compress(content, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _choose(counts: Counter[Colour]) -> list[Colour]:
    """Returns the most frequent colours, then those that look like none of them: a red word must stay red."""
    chosen: list[Colour] = []
    for colour, _ in counts.most_common():
        if len(chosen) < _KEPT or all(_distance(colour, other) > _ALIKE for other in chosen):
            chosen.append(colour)
            if len(chosen) == _PALETTE:
                break
    return chosen


def _decode(png: bytes) -> tuple[int, int, list[bytes]]:
    """Returns width, height, and the rows as RGB."""
    chunks = list(_chunks(png))
    width, height, depth, kind, _, _, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    assert (depth, interlace) == (8, 0), "another kind of PNG than Chromium's"
    channels = _CHANNELS[kind]
    stride = width * channels
    raw = zlib.decompress(b"".join(content for name, content in chunks if name == b"IDAT"))
    above = bytearray(stride)
    rows = []
    for start in range(0, height * (stride + 1), stride + 1):
        row = bytearray(raw[start + 1 : start + 1 + stride])
        _unfilter(raw[start], row, above, channels)
        rows.append(bytes(row) if channels == 3 else b"".join(row[at : at + 3] for at in range(0, stride, 4)))
        above = row
    return width, height, rows


def _unfilter(kind: int, row: bytearray, above: bytearray, step: int) -> None:
    if kind == 2:
        row[:] = bytes((one + other) & 255 for one, other in zip(row, above, strict=True))
    elif kind:
        for at in range(len(row)):
            left = row[at - step] if at >= step else 0
            corner = above[at - step] if at >= step else 0
            guess = (left, 0, (left + above[at]) >> 1, _paeth(left, above[at], corner))[kind - 1]
            row[at] = (row[at] + guess) & 255


def _paeth(left: int, above: int, corner: int) -> int:
    estimate = left + above - corner
    return min((left, above, corner), key=lambda value: abs(estimate - value))


def _distance(one: Colour, other: Colour) -> int:
    return sum((mine - its) ** 2 for mine, its in zip(one, other, strict=True))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
