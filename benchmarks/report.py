"""The results as text: for the terminal, and as Markdown. Does no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.cells import Cell
    from benchmarks.figures import Result, Verdict


_TIMES: Final = "×"  # noqa: RUF001  # the multiplication sign is meant


@dataclass(frozen=True, slots=True)
class Row:
    """A cell and what came of it."""

    cell: Cell
    results: Sequence[Result]
    verdicts: Sequence[Verdict]


def format_row(row: Row) -> str:
    """Return one cell's results as lines for the terminal."""
    lines = [f"\n{row.cell.title} [{row.cell.name}], {row.cell.unit}"]
    for one in row.results:
        parts = [
            f"  {one.rival:15}{format_figure(one.figure):>9}",
            f"{format_figure(one.low)} to {format_figure(one.high)}".ljust(18),
        ]
        parts += _describe_load(one)
        lines.append("  ".join(parts).rstrip())
    lines += [f"  {_describe_verdict(row.cell, verdict)}" for verdict in row.verdicts]
    return "\n".join(lines)


def format_summary(rows: Sequence[Row]) -> str:
    """Return all targets as a table for the terminal."""
    table = [_summary_cells(row, verdict) for row in rows for verdict in row.verdicts]
    if not table:
        return ""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return "\n" + "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def format_results(rows: Sequence[Row], machine: Sequence[str], complaints: Sequence[str]) -> str:
    """Return the whole run as Markdown."""
    lines = ["# Results", "", "One run of `make bench`; [README.md](README.md) says how to read it.", ""]
    lines += [f"- {fact}" for fact in machine]
    lines += [
        "",
        "## Targets",
        "",
        "| scenario | ours | compared with | reached | target | |",
        "|---|--:|---|--:|--:|---|",
    ]
    lines += [f"| {' | '.join(_summary_cells(row, verdict))} |" for row in rows for verdict in row.verdicts]
    lines += ["", "## All figures", "", "The figure is the median of the rounds, then the smallest and the largest."]
    for row in rows:
        lines += ["", f"### {row.cell.title}", "", f"`{row.cell.name}`, {row.cell.unit}", ""]
        lines += [
            "| proxy | figure | from | to | requests/s | p50 µs | p99 µs | of its core | |",
            "|---|--:|--:|--:|--:|--:|--:|--:|---|",
        ]
        lines += [f"| {' | '.join(_markdown_cells(one))} |" for one in row.results]
    if complaints:
        lines += ["", "## Not measured", "", *(f"- {complaint.splitlines()[0]}" for complaint in complaints)]
    return "\n".join(lines) + "\n"


def format_figure(value: float) -> str:
    """Return a figure with three significant digits, or all of its whole part."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _markdown_cells(one: Result) -> list[str]:
    return [
        one.rival,
        format_figure(one.figure),
        format_figure(one.low),
        format_figure(one.high),
        _whole(one.per_s),
        _whole(one.p50_us),
        _whole(one.p99_us),
        _share(one.busy),
        one.note,
    ]


def _summary_cells(row: Row, verdict: Verdict) -> list[str]:
    target = verdict.target
    ours = next(one.figure for one in row.results if one.rival == row.cell.subject)
    sign = "≥" if target.at_least else "≤"
    times = f" {_TIMES}" if target.rival is not None else ""
    return [
        row.cell.title,
        f"{format_figure(ours)} {row.cell.unit}",
        target.rival or "",
        f"{format_ratio(verdict.reached)}{times}",
        f"{sign} {format_ratio(target.limit)}{times}",
        "met" if verdict.is_met else "**not met**",
    ]


def format_ratio(value: float) -> str:
    """Return a ratio or a limit; small ones as a fraction of one, as the targets are put."""
    if 0 < value < 0.3:
        return f"1/{1 / value:.3g}"
    return f"{value:.3g}" if value < 1_000 else f"{value:,.0f}"


def _describe_verdict(cell: Cell, verdict: Verdict) -> str:
    target = verdict.target
    what, unit = format_ratio(verdict.reached), f" {cell.unit}"
    if target.rival is not None:
        what, unit = f"{what} {_TIMES} {target.rival}", ""
    bound = "at least" if target.at_least else "at most"
    return f"{what}; the target is {bound} {format_ratio(target.limit)}{unit}: {'met' if verdict.is_met else 'NOT MET'}"


def _describe_load(one: Result) -> list[str]:
    parts = []
    if one.per_s is not None:
        parts.append(f"{_whole(one.per_s):>9}/s")
    if one.p50_us is not None:
        parts.append(f"p50 {_whole(one.p50_us):>6} µs  p99 {_whole(one.p99_us):>6} µs")
    if one.busy is not None:
        parts.append(f"core {_share(one.busy):>4}")
    return [*parts, one.note]


def _whole(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
