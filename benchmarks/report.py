"""The results as text: a table for the terminal. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.cells import Cell
    from benchmarks.figures import Result, Verdict


def format_cell(cell: Cell, results: Sequence[Result], verdicts: Sequence[Verdict]) -> str:
    """Returns one row's results as lines."""
    lines = [f"{cell.title} [{cell.name}]"]
    lines += [
        f"  {one.rival:15} {one.figure:10.2f} {cell.unit:12} ({one.low:.2f}-{one.high:.2f})"
        f"  {_number(one.per_s):>9}/s  p50 {_number(one.p50_us):>7} µs  p99 {_number(one.p99_us):>7} µs  core {_share(one.busy)}"
        for one in results
    ]
    lines += [
        f"  {verdict.reached:.3g} {verdict.target.rival or cell.unit}, target {verdict.target.limit:.3g}: "
        f"{'met' if verdict.is_met else 'NOT MET'}"
        for verdict in verdicts
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
