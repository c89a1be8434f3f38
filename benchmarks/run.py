"""Runs a cell: all its proxies stand ready, and are measured in turn, round by round. Does I/O.

In turn, because a machine's pace changes from minute to minute: every round of each proxy has a neighbour of each other.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from benchmarks.figures import Round, subtract, sum_up
from benchmarks.processes import BenchmarkError
from benchmarks.rivals import Rival, start_rival

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.cells import Cell
    from benchmarks.figures import Result
    from benchmarks.stage import Stage

_WARM_UP_S = 1.0


def run_cell(
    stage: Stage, cell: Cell, names: Sequence[str], *, rounds: int, seconds: float, complain: Callable[[str], None]
) -> list[Result]:
    """Return the results of the proxies that could be measured; `complain` is told why others could not."""
    with contextlib.ExitStack() as stack:
        ready: list[Rival] = []
        for name in names:
            try:
                ready.append(_prepare(stage, cell, name, stack))
            except BenchmarkError as error:
                complain(f"{cell.name}: {name} takes no part. {error}")
        done: dict[str, list[Round]] = {rival.name: [] for rival in ready}
        for _ in range(rounds):
            for rival in list(ready):
                try:
                    done[rival.name].append(cell.run(stage, rival, seconds))
                except BenchmarkError as error:
                    complain(f"{cell.name}: {rival.name} has dropped out. {error}")
                    ready.remove(rival)
                    del done[rival.name]
    results = [sum_up(name, each) for name, each in done.items()]
    return results if cell.baseline is None else subtract(results, cell.baseline)


def _prepare(stage: Stage, cell: Cell, name: str, stack: contextlib.ExitStack) -> Rival:
    rival = start_rival(name, stage)
    if rival.program is not None:
        stack.enter_context(rival.program)
    cell.check(stage, rival)
    if cell.warms_up:
        cell.run(stage, rival, _WARM_UP_S)
    return rival
