"""Notices that the machine slept: a monotonic clock stands still meanwhile, tokens age all the same. Reads clocks only.

Python's monotonic clock does not count suspended time on Linux (clock_gettime(2): CLOCK_MONOTONIC), so a token would look
as young after a night as before it. CLOCK_BOOTTIME counts it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# How soon after waking up tokens are aged; a look costs a microsecond.
INTERVAL_S = 1.0
# The two clocks are read one after the other, and a busy machine may stop in between.
_NOISE_S = 0.2


def slept_s() -> float:
    """Return how long the machine has slept since it was started; 0 where that cannot be told."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return 0.0 if clock is None else time.clock_gettime(clock) - time.clock_gettime(time.CLOCK_MONOTONIC)


async def watch_suspension(
    on_wake: Callable[[float], None], *, read: Callable[[], float] = slept_s, interval_s: float = INTERVAL_S
) -> None:
    """Call back with the seconds slept whenever the machine has slept, until cancelled."""
    before = read()
    while True:
        await asyncio.sleep(interval_s)
        after = read()
        if after - before > _NOISE_S:
            on_wake(after - before)
            before = after
