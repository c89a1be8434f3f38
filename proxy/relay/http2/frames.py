"""Numbers of frames and settings, and how a frame is written (RFC 9113 §4, §6). Pure: does no I/O."""

from __future__ import annotations

import struct
from typing import Final

# RFC 9113 §3.4: what a client begins with.
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# RFC 9113 §6.
DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

# RFC 9113 §6.5.2.
HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

FRAME_HEAD_BYTES: Final = 9
# The smallest limit there can be (RFC 9113 §4.2), so the one that everybody takes; larger frames would only make streams wait
# longer for one another.
FRAME_BYTES: Final = 16_384
FRAME_BYTES_LIMIT: Final = 2**24 - 1
# RFC 9113 §6.9.1, §6.9.2.
WINDOW_LIMIT: Final = 2**31 - 1
INITIAL_WINDOW: Final = 65_535
HIGHEST_STREAM: Final = 2**31 - 1

_HEAD: Final = struct.Struct(">HBBBL")
_PAIR: Final = struct.Struct(">HL")


def format_head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Return the nine bytes before a frame's payload: RFC 9113 §4.1."""
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def format_frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return a whole frame, whose payload may have up to `FRAME_BYTES`."""
    return format_head(len(payload), kind, flags, stream_id) + payload


def format_settings(settings: list[tuple[int, int]]) -> bytes:
    """Return a SETTINGS frame: RFC 9113 §6.5."""
    return format_frame(SETTINGS, 0, 0, b"".join([_PAIR.pack(name, value) for name, value in settings]))


def format_window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame: RFC 9113 §6.9."""
    return format_frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def format_reset(stream_id: int, code: int) -> bytes:
    """Return an RST_STREAM frame: RFC 9113 §6.4."""
    return format_frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def format_goaway(last_id: int, code: int) -> bytes:
    """Return a GOAWAY frame: RFC 9113 §6.8."""
    return format_frame(GOAWAY, 0, 0, last_id.to_bytes(4, "big") + code.to_bytes(4, "big"))


def format_block(stream_id: int, block: bytes, *, ends: bool) -> bytes:
    """Return a HEADERS frame, and as many CONTINUATION frames as the block needs: RFC 9113 §4.3."""
    flags = END_STREAM if ends else 0
    size = len(block)
    if size <= FRAME_BYTES:
        return format_head(size, HEADERS, flags | END_HEADERS, stream_id) + block
    frames = [format_frame(HEADERS, flags, stream_id, block[:FRAME_BYTES])]
    for start in range(FRAME_BYTES, size, FRAME_BYTES):
        piece = block[start : start + FRAME_BYTES]
        frames.append(format_frame(CONTINUATION, END_HEADERS if start + FRAME_BYTES >= size else 0, stream_id, piece))
    return b"".join(frames)
