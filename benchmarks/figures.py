"""What rounds add up to: medians, spreads, ratios, and whether a target is met. Does no I/O."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one cell on one proxy.

    Attributes:
        figure: what the cell compares, in the cell's unit.
        per_s: requests (or connections, messages) a second.
        p50_us, p99_us: latency as the client saw it; None where it was not measured.
        busy: the share of its core that the proxy used; None where it was not measured.
        note: what else there is to say.
    """

    figure: float
    per_s: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    busy: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """All rounds of one cell on one proxy: medians.

    Attributes:
        rival: the proxy's name.
        figure: the median.
        low, high: the smallest and the largest.
        rounds: how many there were.
        per_s, p50_us, p99_us, busy: medians of what `Round` has under these names.
        note: of the last round.
    """

    rival: str
    figure: float
    low: float
    high: float
    rounds: int
    per_s: float | None
    p50_us: float | None
    p99_us: float | None
    busy: float | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What our figure may be at most.

    Attributes:
        limit: as a ratio to the rival's figure, or in the cell's unit if there is no rival.
        rival: the proxy compared with; None for none.
        at_least: whether the figure may be more, and not less, than the limit.
    """

    limit: float
    rival: str | None = None
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what came of it; `reached` is the ratio, or our figure itself where there is no rival."""

    target: Target
    reached: float

    @property
    def is_met(self) -> bool:
        """Whether the target is met."""
        if self.target.at_least:
            return self.reached >= self.target.limit
        return self.reached <= self.target.limit


def sum_up(rival: str, rounds: Sequence[Round]) -> Result:
    """Return the medians of at least one round."""
    figures = [one.figure for one in rounds]
    return Result(
        rival=rival,
        figure=statistics.median(figures),
        low=min(figures),
        high=max(figures),
        rounds=len(rounds),
        per_s=_median([one.per_s for one in rounds]),
        p50_us=_median([one.p50_us for one in rounds]),
        p99_us=_median([one.p99_us for one in rounds]),
        busy=_median([one.busy for one in rounds]),
        note=rounds[-1].note,
    )


def subtract(results: Sequence[Result], baseline: str) -> list[Result]:
    """Return the results less the baseline's figure, without the baseline."""
    base = next((result.figure for result in results if result.rival == baseline), None)
    if base is None:
        return []
    return [
        replace(result, figure=result.figure - base, low=result.low - base, high=result.high - base)
        for result in results
        if result.rival != baseline
    ]


def judge(results: Sequence[Result], targets: Sequence[Target], subject: str = "ours") -> list[Verdict]:
    """Return a verdict for each target whose proxies were measured."""
    figures = {result.rival: result.figure for result in results}
    verdicts = []
    for target in targets:
        if subject not in figures or (target.rival is not None and not figures.get(target.rival)):
            continue
        base = 1.0 if target.rival is None else figures[target.rival]
        verdicts.append(Verdict(target, figures[subject] / base))
    return verdicts


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
