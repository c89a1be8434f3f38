"""A token bucket: so many a second on average, so many at once. Pure: time comes in as an argument."""

from __future__ import annotations

from math import ceil


class TokenBucket:
    """How much of a rate is left.

    Args:
        per_s: how much comes back each second; over 0.
        burst: how much there is at most; at least 1.
        now: monotonic seconds; the bucket starts full.
    """

    __slots__ = ("_burst", "_filled_at", "_level", "_per_s")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._level = burst
        self._filled_at = now

    def take(self, now: float) -> int:
        """Take one; return 0, or where there is none, the whole seconds after which there will be."""
        self._fill(now)
        if self._level >= 1.0:
            self._level -= 1.0
            return 0
        return max(1, ceil((1.0 - self._level) / self._per_s))

    def give_back(self) -> None:
        """Give back one that was taken for nothing."""
        self._level = min(self._burst, self._level + 1.0)

    def wait_s(self, now: float) -> int:
        """Return what `take` would, and take nothing."""
        self._fill(now)
        return 0 if self._level >= 1.0 else max(1, ceil((1.0 - self._level) / self._per_s))

    def _fill(self, now: float) -> None:
        # A clock that goes back, as between processes, gives nothing and takes nothing.
        self._level = min(self._burst, self._level + max(0.0, now - self._filled_at) * self._per_s)
        self._filled_at = now
