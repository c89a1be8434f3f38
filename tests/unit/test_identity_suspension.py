"""A machine that slept is noticed by the clock that counted it."""

from __future__ import annotations

import asyncio

import pytest

from proxy.identity.suspension import slept_s, watch_suspension


@pytest.mark.asyncio
async def test_each_sleep_is_told_once() -> None:
    readings = iter([5.0, 5.0, 5.1, 65.1, 65.1, 65.15, 95.0])
    told: list[float] = []

    def read() -> float:
        try:
            return next(readings)
        except StopIteration:
            raise asyncio.CancelledError from None

    with pytest.raises(asyncio.CancelledError):
        await watch_suspension(told.append, read=read, interval_s=0)

    assert told == pytest.approx([60.1, 29.9])


def test_the_time_slept_is_known_to_be_none_or_some() -> None:
    assert max(slept_s() for _ in range(3)) >= -0.01  # two clocks are read, and a machine may stall in between
