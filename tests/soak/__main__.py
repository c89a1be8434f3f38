"""Soaks the proxy in mixed traffic for some minutes: ``python -m tests.soak --minutes 10``. Does I/O.

Starts the proxy by its command line, with the sandbox as identity platform and upstreams of its own, and fails where a response
crosses to another request, an exchange that nobody cut is not complete and right, or something is left over at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.soak.accounts import compare
from tests.soak.clients import Crowd
from tests.soak.connection import Way
from tests.soak.disturbances import disturb
from tests.soak.journal import Journal, Weather
from tests.soak.report import Figures, describe
from tests.soak.stage import TIMEOUTS, Stage, set_up
from tests.soak.watch import (
    MEGABYTE,
    Held,
    PeakWatch,
    find_exchanges,
    find_tracebacks,
    measure,
    read_metrics,
    wait_for_rest,
)

CLIENTS: Final = 40
# Of memory: what the allocator keeps in half-used pages after one load may differ from what it keeps after another.
MEMORY_ALLOWANCE_BYTES: Final = 12 * MEGABYTE
# Of descriptors: kept-alive connections to the token endpoint, and the reader of the admin site.
DESCRIPTOR_ALLOWANCE: Final = 4
# Until every kept-alive connection is idle for too long, and what was cut has gone.
_REST_S: Final = 2 * max(TIMEOUTS["client_idle_s"], TIMEOUTS["upstream_idle_s"]) + TIMEOUTS["tunnel_idle_s"]
_NICE: Final = 10
_TELL_EVERY_S: Final = 15.0


async def soak(options: argparse.Namespace, seed: int, journal: Journal) -> Figures:
    """Soaks; returns what was measured. What was wrong is in the journal."""
    with tempfile.TemporaryDirectory() as directory:
        async with set_up(Path(directory), journal, options.processes) as stage:
            crowd = Crowd(stage.listeners, journal, Weather(), seed, tuple(map(Way, options.ways)))
            figures = await _load(stage, crowd, options)
            if options.memory:
                _compare(figures.warm, figures.end, journal)
            counted = await _balance(stage, journal)
            lines = stage.proxy.lines
        for line in find_tracebacks(lines):
            journal.violate(f"the proxy's log has: {line}")
        _reconcile(Path(directory, "access.log"), counted, journal)
    return figures


async def _load(stage: Stage, crowd: Crowd, options: argparse.Namespace) -> Figures:
    """Warms the proxy up for a fifth of the time, lets it rest, and then loads it in earnest."""
    process_id, clients, seconds = stage.proxy.process.pid, options.clients, options.minutes * 60
    start = measure(process_id)
    watch = PeakWatch(process_id, tell_every_s=_TELL_EVERY_S)
    looking = asyncio.create_task(watch.run())
    chance = random.Random(crowd.seed)
    disturbing = asyncio.create_task(disturb(stage, crowd.journal, crowd.weather, chance, reloads=options.reloads))
    try:
        await _run(crowd, clients, seconds / 5)
        warm = await _rest(stage, crowd.journal)
        await _run(crowd, clients, seconds * 4 / 5)
        disturbing.cancel()
        end = await _rest(stage, crowd.journal)
    finally:
        looking.cancel()
        disturbing.cancel()
        results = await asyncio.gather(looking, disturbing, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return Figures(crowd.seed, start, warm, end, watch.peak_bytes, watch.peak_descriptors, watch.longest_stall_s)


async def _run(crowd: Crowd, clients: int, seconds: float) -> None:
    running = asyncio.create_task(crowd.run(clients))
    await asyncio.wait({running}, timeout=seconds)
    crowd.stopping = True
    await running


async def _rest(stage: Stage, journal: Journal) -> Held:
    """Waits until nothing is left open; returns what the proxy holds then."""
    left = await wait_for_rest(stage.proxy, _REST_S)
    if left:
        journal.violate(f"still open {_REST_S} s after the last client has gone: {left}")
    return measure(stage.proxy.process.pid)


def _reconcile(access_log: Path, counted: int, journal: Journal) -> None:
    with access_log.open(encoding="utf-8") as lines:
        for difference in compare(journal.accounts, journal.tunnels, counted, lines):
            journal.violate(difference)
    journal.violations += find_exchanges(access_log, journal.violations)


def _compare(warm: Held, end: Held, journal: Journal) -> None:
    if end.memory_bytes > warm.memory_bytes + MEMORY_ALLOWANCE_BYTES:
        journal.violate(f"memory has grown: {warm} after warming up, {end} at the end")
    if end.descriptors > warm.descriptors + DESCRIPTOR_ALLOWANCE:
        journal.violate(f"descriptors are left: {warm} after warming up, {end} at the end")


async def _balance(stage: Stage, journal: Journal) -> int:
    """Looks whether a line of a log was dropped; returns how many exchanges have been counted."""
    samples = await asyncio.to_thread(read_metrics, stage.proxy)
    for name in ("access_log_dropped_total", "access_log_lost_total", "event_log_dropped_total"):
        if samples[name]:
            journal.violate(f"{name} is {samples[name]:g}")
    if samples.get("errors_total", 0) > samples["exchanges_total"]:
        journal.violate("there are more errors than exchanges")
    return int(samples["exchanges_total"])


def main() -> int:
    """Soaks as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="default: by chance, and said")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--processes", type=int, default=1, help="relay processes")
    parser.add_argument(
        "--ways", nargs="+", choices=list(Way), default=[], help="those that clients take; default: all"
    )
    parser.add_argument("--no-reloads", dest="reloads", action="store_false", help="leave the configuration as it is")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="too short for memory to show a trend")
    arguments = parser.parse_args()
    seed = time.time_ns() % 1_000_000 if arguments.seed is None else arguments.seed
    os.nice(_NICE)
    journal = Journal()
    # On asyncio's own loop: uvloop's TLS loses what was not read yet when close_notify comes.
    figures = asyncio.run(soak(arguments, seed, journal))
    sys.stdout.write(describe(figures, journal))
    return 1 if journal.violation_count else 0


if __name__ == "__main__":
    sys.exit(main())
