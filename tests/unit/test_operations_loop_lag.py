from __future__ import annotations

import asyncio
import time

import pytest

from proxy.operations.loop_lag import LoopLag
from proxy.relay.counters import LATENCY_BOUNDS_S


async def measured_times(lag: LoopLag, times: int) -> None:
    for _ in range(1_000):
        if sum(lag.histogram.buckets) >= times:
            return
        await asyncio.sleep(0.005)
    pytest.fail("it does not measure")


@pytest.mark.asyncio
async def test_a_loop_that_is_blocked_is_seen() -> None:
    lag = LoopLag(interval_s=0.01)
    lag.start()
    await asyncio.sleep(0)
    time.sleep(0.15)  # noqa: ASYNC251 -- this is the fault to be seen
    await measured_times(lag, 1)
    lag.close()
    assert lag.histogram.total >= 0.1


@pytest.mark.asyncio
async def test_a_lag_is_counted_once() -> None:
    now = 0.0  # a clock that no stall of this machine moves
    lag = LoopLag(interval_s=0.01, clock=lambda: now)
    lag.start()
    now = 0.15
    await measured_times(lag, 3)
    lag.close()
    assert lag.histogram.total == pytest.approx(0.14)
    assert sum(lag.histogram.buckets[LATENCY_BOUNDS_S.index(0.1) + 1 :]) == 1


@pytest.mark.asyncio
async def test_it_goes_on_measuring_until_it_is_closed() -> None:
    lag = LoopLag(interval_s=0.005)
    lag.start()
    await measured_times(lag, 3)
    lag.close()
    measured = sum(lag.histogram.buckets)
    await asyncio.sleep(0.02)
    assert sum(lag.histogram.buckets) == measured


@pytest.mark.asyncio
async def test_a_timer_that_comes_early_counts_as_no_lag() -> None:
    lag = LoopLag(interval_s=0.001, clock=lambda: 0.0)
    lag.start()
    await measured_times(lag, 1)
    lag.close()
    assert lag.histogram.total == 0.0
