"""How much is borne of what costs its sender nothing (RFC 9113 §10.5). Pure: the clock is an argument."""

from __future__ import annotations

from typing import Final

# nghttp2's numbers since CVE-2023-44487: a client may cancel a page's worth of requests at once, and go on with some.
_RESETS_AT_ONCE: Final = 1_000
_RESETS_PER_S: Final = 33
# nginx's: what is neither fields nor content may be eight times as much as these, beyond the first megabyte of them. grpc sends
# a PING with each call, and whoever downloads sends WINDOW_UPDATEs, so what we send counts as content as well.
_OVERHEAD_RATIO: Final = 8
_FREE_BYTES: Final = 1 << 20


class ResetBucket:
    """A bucket of streams that may be reset; each reset takes one out, and time puts them back."""

    __slots__ = ("_filled_mono", "_left")

    def __init__(self) -> None:
        self._left = float(_RESETS_AT_ONCE)
        self._filled_mono = 0.0

    def take(self, now_mono: float) -> bool:
        """Whether one more is borne."""
        self._left = min(self._left + (now_mono - self._filled_mono) * _RESETS_PER_S, float(_RESETS_AT_ONCE))
        self._filled_mono = now_mono
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def is_mostly_overhead(total_bytes: int, content_bytes: int) -> bool:
    """Whether frames that carry nothing are so many that they are sent for their own sake.

    Args:
        total_bytes: received on a connection.
        content_bytes: fields and content of these, and of what was sent.
    """
    return total_bytes // _OVERHEAD_RATIO > content_bytes + _FREE_BYTES
