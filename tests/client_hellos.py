"""ClientHello messages for tests, made of their parts; and one that Chromium sent. Does no I/O."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

# RFC 8701: values that mean nothing, which clients put where others must pass over them.
GREASE: Final = 0x1A1A
ECH: Final = 0xFE0D


def vector(content: bytes, size: int) -> bytes:
    """Return content behind its length."""
    return len(content).to_bytes(size, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    """Return an extension."""
    return kind.to_bytes(2, "big") + vector(content, 2)


def server_name(name: bytes) -> bytes:
    """Return the extension that names a host (RFC 6066 §3)."""
    return extension(0, vector(b"\x00" + vector(name, 2), 2))


def protocols(*names: bytes) -> bytes:
    """Return the extension for ALPN (RFC 7301 §3.1)."""
    return extension(16, vector(b"".join(vector(name, 1) for name in names), 2))


def message(*extensions: bytes) -> bytes:
    """Return a ClientHello; without extensions it ends before them, as TLS 1.2 allows."""
    body = b"\x03\x03" + bytes(32) + vector(bytes(32), 1) + vector(b"\x1a\x1a\x13\x01\xc0\x2f", 2) + vector(b"\x00", 1)
    if extensions:
        body += vector(b"".join(extensions), 2)
    return b"\x01" + vector(body, 3)


def records(content: bytes, cuts: Sequence[int] = ()) -> bytes:
    """Return handshake records that carry a message, cut at these places."""
    places = [0, *sorted(cuts), len(content)]
    parts = [content[start:end] for start, end in pairwise(places)]
    return b"".join(b"\x16\x03\x01" + vector(part, 2) for part in parts if part)


USUAL: Final = records(
    message(
        extension(GREASE, b""),
        server_name(b"api.example.test"),
        extension(23, b""),
        protocols(b"h2", b"http/1.1"),
        extension(51, bytes(1_216)),  # a hybrid key share's size
    )
)
