"""Gives memory back when a crowd of connections has gone. Does I/O: a system call, in a thread.

The C library keeps freed memory wherever something small that lasts lies above it, and many TLS connections at once leave much
of that.
"""

from __future__ import annotations

import asyncio
import ctypes
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERVAL_S: Final = 5.0
# Fewer hold too little to be worth a walk through the heap.
_CROWD: Final = 50


class HeapTrimmer:
    """Looks from `start` to `close`.

    Args:
        count: how many connections are open.
        trim: gives back what can be; None: there is no such thing here. May take milliseconds.
        interval_s: between two looks.
    """

    def __init__(
        self, count: Callable[[], int], trim: Callable[[], None] | None, *, interval_s: float = _INTERVAL_S
    ) -> None:
        self._count = count
        self._trim = trim
        self._interval_s = interval_s
        self._most = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins; needs the running loop."""
        if self._trim is not None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._look, self._trim)

    def close(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, trim: Callable[[], None]) -> None:
        count = self._count()
        self._most = max(self._most, count)
        if self._most >= _CROWD and count <= self._most // 2:
            self._most = count
            asyncio.get_running_loop().run_in_executor(None, trim)
        self.start()


def find_trim() -> Callable[[], None] | None:
    """Return what gives the free pages of the C library's heap back to the system; None where it is not glibc."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None

    def trim() -> None:
        malloc_trim(ctypes.c_size_t(0))

    return trim
