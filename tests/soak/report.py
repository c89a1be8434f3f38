"""The soak's figures as text. Pure: does no I/O."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.soak.watch import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.soak.journal import Journal
    from tests.soak.watch import Held


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of the proxy's processes.

    Attributes:
        seed: of everything that was left to chance.
        start, warm, end: before the first request, at rest after warming up, at rest after the end.
        peak_bytes, peak_descriptors: the most at any time.
        longest_stall_s: of the clients themselves, which share a machine with the proxy.
    """

    seed: int
    start: Held
    warm: Held
    end: Held
    peak_bytes: int
    peak_descriptors: int
    longest_stall_s: float


def describe(figures: Figures, journal: Journal) -> str:
    """Returns the whole report, a text of several lines."""
    return "\n".join([*_lines(figures, journal), ""])


def _lines(figures: Figures, journal: Journal) -> Iterator[str]:
    elapsed_s = time.monotonic() - journal.began
    yield f"{journal.exchanges} exchanges in {elapsed_s:.0f} s; seed {figures.seed}"
    yield from _table("way", ((way, outcome, number) for (way, _, outcome), number in journal.outcomes.items()))
    yield from _table("planned", ((kind, outcome, number) for (_, kind, outcome), number in journal.outcomes.items()))
    yield "done to it: " + ", ".join(f"{name} {number}" for name, number in sorted(journal.happenings.items()))
    yield f"memory and descriptors at the start: {figures.start}"
    yield f"                         warmed up: {figures.warm}"
    yield f"                        at the end: {figures.end}"
    yield f"                              most: {figures.peak_bytes / MEGABYTE:.1f} MB, {figures.peak_descriptors} descriptors"
    yield f"the clients stood still for {figures.longest_stall_s:.1f} s at most"
    for violation in journal.violations:
        yield f"VIOLATION {violation}"
    if journal.violation_count:
        yield f"{journal.violation_count} violations; seed {figures.seed}"
    else:
        yield "No response crossed to another request, none was wrong, and nothing is left over."


def _table(title: str, counted: Iterator[tuple[str, str, int]]) -> Iterator[str]:
    """One line a row: how often each outcome came."""
    rows: dict[str, Counter[str]] = {}
    for name, outcome, number in counted:
        rows.setdefault(name, Counter())[outcome] += number
    yield f"by {title}:"
    for name, outcomes in sorted(rows.items(), key=lambda row: -row[1].total()):
        details = ", ".join(f"{outcome} {number}" for outcome, number in outcomes.most_common(7))
        yield f"  {name:20} {outcomes.total():8}  {details}"
