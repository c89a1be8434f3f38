"""What a proxy's processes hold: memory, descriptors, and what its metrics say is open. Reads /proc, and the admin site."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.own_faults import find_own_faults

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.end_to_end.programs import ProxyProgram

MEGABYTE: Final = 1_000_000
_OPEN: Final = ("client_connections_open", "upstream_connections_open", "tunnels_open")
_SAMPLE: Final = re.compile(r"^apim_auth_proxy_(\w+)(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Held:
    """What all processes of a proxy hold together.

    Attributes:
        memory_bytes: resident, and their own: pages of files, such as libraries, are shared with whatever else runs on this
            machine, and come and go with it.
        descriptors: open files and sockets.
        processes: how many there are.
    """

    memory_bytes: int
    descriptors: int
    processes: int

    def __str__(self) -> str:
        return f"{self.memory_bytes / MEGABYTE:.1f} MB in {self.processes} process(es), {self.descriptors} descriptors"


def measure(process_id: int) -> Held:
    """Returns what a process and its children hold now."""
    family = list(_family(process_id))
    return Held(
        sum(_own_bytes(member) for member in family),
        sum(len(list(Path(f"/proc/{member}/fd").iterdir())) for member in family),
        len(family),
    )


def _family(process_id: int) -> Iterator[int]:
    yield process_id
    for child in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split():
        yield from _family(int(child))


def _own_bytes(process_id: int) -> int:
    """Returns the anonymous memory of a process, that which it shares with its parent since a fork in proportion."""
    rollup = Path(f"/proc/{process_id}/smaps_rollup").read_text()
    return sum(int(size) * 1024 for size in re.findall(r"^Pss_Anon:\s+([0-9]+) kB", rollup, re.MULTILINE))


class PeakWatch:
    """Looks at a process again and again, and keeps the most that it held.

    Args:
        process_id: of the process; its children count as well.
        every_s: how often.
        tell_every_s: how often it is written down what is held; 0 for never.

    Attributes:
        longest_stall_s: how late it came to look: how long this very event loop, and so every client, has stood still.
    """

    def __init__(self, process_id: int, every_s: float = 0.5, tell_every_s: float = 0.0) -> None:
        self._process_id = process_id
        self._every_s = every_s
        self._tell_every_s = tell_every_s
        self.peak_bytes = 0
        self.peak_descriptors = 0
        self.longest_stall_s = 0.0

    async def run(self) -> None:
        """Looks until cancelled."""
        began = told = time.monotonic()
        while True:
            held = measure(self._process_id)
            self.peak_bytes = max(self.peak_bytes, held.memory_bytes)
            self.peak_descriptors = max(self.peak_descriptors, held.descriptors)
            slept_at = time.monotonic()
            if self._tell_every_s and slept_at - told >= self._tell_every_s:
                told = slept_at
                sys.stderr.write(f"after {slept_at - began:4.0f} s: {held}\n")
            await asyncio.sleep(self._every_s)
            self.longest_stall_s = max(self.longest_stall_s, time.monotonic() - slept_at - self._every_s)


def read_metrics(proxy: ProxyProgram) -> dict[str, float]:
    """Returns the proxy's metrics, labels summed up, by their names without the prefix. Blocks."""
    samples: dict[str, float] = {}
    for name, value in _SAMPLE.findall(proxy.ask_admin("/metrics").decode()):
        samples[name] = samples.get(name, 0.0) + float(value)
    return samples


async def wait_for_rest(proxy: ProxyProgram, patience_s: float) -> dict[str, float]:
    """Waits until nothing is open any more; returns what is, by metric: nothing, if all is well."""
    left: dict[str, float] = {}
    for _ in range(int(patience_s * 2) + 1):
        samples = await asyncio.to_thread(read_metrics, proxy)
        left = {name: samples[name] for name in _OPEN if samples[name]}
        if not left:
            break
        await asyncio.sleep(0.5)
    return left


def find_tracebacks(lines: Iterable[str]) -> list[str]:
    """Returns the lines of a log that tell of a fault of the proxy's own, or of anything else that failed."""
    return [line for line in lines if " failed: " in line or find_own_faults([line])]


def find_exchanges(access_log: Path, violations: Iterable[str]) -> list[str]:
    """Returns what the access log says of the exchanges that violations are about."""
    names = set(re.findall(r"identifier='([^']+)'", "\n".join(violations)))
    with access_log.open(encoding="utf-8") as lines:
        return [line.rstrip() for line in lines if any(f'/soak/{name}"' in line for name in names)] if names else []
