"""How late the event loop is: what every exchange waits on top of everything else. Does no I/O; sets a timer.

A timer twice a second sees a lag of its own length surely, and a short one as often as it happens to be there. That costs nothing
and tells a loop that is overloaded, or blocked by something that should not run on it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from proxy.relay.counters import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERVAL_S: Final = 0.5


class LoopLag:
    """Measures from `start` to `close`.

    Args:
        interval_s: between two measurements.
        clock: monotonic seconds. Not the loop's own time, which stands still while the loop is busy.

    Attributes:
        histogram: of lags, in seconds.
    """

    def __init__(self, *, interval_s: float = _INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.histogram = Histogram()
        self._interval_s = interval_s
        self._clock = clock
        self._due_mono = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins; needs the running loop."""
        self._due_mono = self._clock() + self._interval_s
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._measure)

    def close(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _measure(self) -> None:
        self.histogram.observe(max(self._clock() - self._due_mono, 0.0))
        self.start()
