"""The pictures of the page are there, small, and of the sizes that the script takes; and making them small keeps what they show."""

from __future__ import annotations

import struct
import zlib
from typing import Final

import pytest

from tests.end_to_end.programs import ROOT
from tests.png_palette import reduce_colours
from tests.screenshots import IMAGES, LIMIT_BYTES, SCENES, SCHEMES, SIZES

README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATING: Final = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
PICTURES: Final = [
    (f"{scene}-{name}-{scheme}.png", width, height)
    for scene in SCENES
    for name, width, height in SIZES
    for scheme in SCHEMES
]
# Three by five pixels, no two neighbours alike.
PIXELS: Final = [[(7 * x, 50 * y, 200 - 30 * x) for x in range(3)] for y in range(5)]


@pytest.mark.parametrize(("name", "width", "height"), PICTURES)
def test_each_picture_is_shown_and_small(name: str, width: int, height: int) -> None:
    content = (IMAGES / name).read_bytes()
    pixels = struct.unpack(">II", content[16:24])
    assert pixels[0] == width
    assert pixels[1] <= height
    assert len(content) < LIMIT_BYTES
    assert f"docs/images/{name}" in README or f"images/{name}" in OPERATING


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def written_with_every_filter() -> bytes:
    """`PIXELS` as RGB, each row with another of the filters of PNG §9.2."""
    rows, above = [], bytes(9)
    for kind, line in enumerate(PIXELS):
        row = bytes(part for colour in line for part in colour)
        filtered = bytearray([kind])
        for at, value in enumerate(row):
            left, up, corner = (row[at - 3] if at > 2 else 0), above[at], (above[at - 3] if at > 2 else 0)
            estimate = left + up - corner
            paeth = min((left, up, corner), key=lambda one: abs(estimate - one))
            filtered.append((value - (0, left, up, (left + up) // 2, paeth)[kind]) & 255)
        rows.append(bytes(filtered))
        above = row
    head = struct.pack(">IIBBBBB", 3, 5, 8, 2, 0, 0, 0)
    content = zlib.compress(b"".join(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def test_a_picture_of_few_colours_loses_none() -> None:
    small = reduce_colours(written_with_every_filter())
    found: dict[bytes, bytes] = {}
    at = 8
    while at < len(small):
        (length,) = struct.unpack_from(">I", small, at)
        found[small[at + 4 : at + 8]] = small[at + 8 : at + 8 + length]
        at += 12 + length
    palette = [tuple(found[b"PLTE"][start : start + 3]) for start in range(0, len(found[b"PLTE"]), 3)]
    raw = zlib.decompress(found[b"IDAT"])
    assert [[palette[number] for number in raw[start + 1 : start + 4]] for start in range(0, len(raw), 4)] == PIXELS
