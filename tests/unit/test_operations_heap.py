"""Memory that a crowd of connections has held is given back when the crowd has gone."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

import pytest

from proxy.operations.heap import HeapTrimmer, find_trim

MEGABYTE = 1_000_000


async def look_at(counts: list[int]) -> list[int]:
    """Lets a trimmer see these numbers of connections; returns those at which it trimmed."""
    seen: list[int] = []
    trimmed: list[int] = []
    done = asyncio.Event()

    def count() -> int:
        if len(seen) < len(counts):
            seen.append(counts[len(seen)])
        else:
            done.set()
        return seen[-1]

    loop = asyncio.get_running_loop()

    def trim() -> None:
        at = len(seen)
        loop.call_soon_threadsafe(lambda: trimmed.append(at))

    trimmer = HeapTrimmer(count, trim, interval_s=0.02)
    trimmer.start()
    await asyncio.wait_for(done.wait(), 60)
    trimmer.close()
    await asyncio.get_running_loop().shutdown_default_executor()
    return trimmed


@pytest.mark.asyncio
async def test_a_crowd_that_has_gone_is_the_occasion() -> None:
    assert len(await look_at([0, 400, 350, 201, 200, 200, 10, 10])) == 2, "at the half, and at the half of that"


@pytest.mark.asyncio
async def test_a_few_connections_are_none() -> None:
    assert await look_at([0, 49, 0, 49, 0]) == []


@pytest.mark.asyncio
async def test_a_steady_load_is_none() -> None:
    assert await look_at([400, 380, 420, 250, 410, 390]) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_free_between_what_lasts_is_given_back() -> None:
    trim = find_trim()
    if trim is None:
        pytest.skip("the C library is not glibc")
    blocks = [bytes(1024) for _ in range(60_000)]
    full = resident()
    kept = blocks[::64]
    del blocks
    trim()
    assert resident() < full - 40 * MEGABYTE
    assert len(kept) == 938


def resident() -> int:
    """Returns this process's resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
