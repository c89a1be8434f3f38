"""`python -m benchmarks`: runs the cells, prints the table, writes it down. Does I/O."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.cells import CELLS
from benchmarks.figures import judge
from benchmarks.machine import describe_machine
from benchmarks.packages import image_command, install_debian_programs
from benchmarks.processes import DEBIAN_PACKAGES, BenchmarkError
from benchmarks.report import Row, format_results, format_row, format_summary
from benchmarks.run import run_cell
from benchmarks.stage import INTERPRETED, open_stage


def main() -> int:
    """Return the exit code: 0 if everything could be measured, 2 for a wrong argument; targets do not count."""
    options = _parse_arguments()
    unknown = set(options.cells) - {cell.name for cell in CELLS}
    if unknown:
        print(f"There is no cell called {', '.join(sorted(unknown))}.", file=sys.stderr)
        return 2
    install_debian_programs(list(DEBIAN_PACKAGES))
    complaints: list[str] = []

    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)  # before minutes of measuring

    def complain(text: str) -> None:
        complaints.append(text)
        print(text, file=sys.stderr, flush=True)

    try:
        command = options.command or image_command()
    except BenchmarkError as error:
        complain(f"{error}\nMeasured instead: the sources, interpreted.")
        command = INTERPRETED
    rows: list[Row] = []
    for cell in CELLS:
        if options.cells and cell.name not in options.cells:
            continue
        names = [name for name in cell.rivals if not options.rivals or name in (*options.rivals, cell.baseline)]
        try:
            with open_stage(command) as stage:
                results = run_cell(
                    stage, cell, names, rounds=options.rounds, seconds=options.seconds, complain=complain
                )
        except BenchmarkError as error:
            complain(f"{cell.name}: {error}")
            continue
        rows.append(Row(cell, results, judge(results, cell.targets, cell.subject)))
        print(format_row(rows[-1]), flush=True)
    print(format_summary(rows))
    if options.output is not None:
        _write(options.output, rows, complaints, options)
    return 1 if complaints else 0


def _write(directory: Path, rows: list[Row], complaints: list[str], options: argparse.Namespace) -> None:
    from benchmarks.chart import draw_chart  # noqa: PLC0415  # needs a charting library, which the rest does without

    machine = [
        *describe_machine(),
        f"{options.rounds} rounds of about {options.seconds:g} s for each proxy in each cell",
    ]
    (directory / "results.md").write_text(format_results(rows, machine, complaints))
    (directory / "chart.svg").write_text(draw_chart(rows))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="The cost of a request, side by side.")
    cells = ", ".join(cell.name for cell in CELLS)
    parser.add_argument("--cells", type=_names, default=[], help=f"which rows, comma-separated: {cells}")
    parser.add_argument("--rivals", type=_names, default=[], help="which proxies, comma-separated; ours is called ours")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured, in turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long one round lasts")
    parser.add_argument("--output", type=Path, help="a directory to write results.md and chart.svg into")
    parser.add_argument(
        "--command",
        help="what starts our proxy, less `run --config FILE`; by default a build with the relay compiled, as in the image",
    )
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


if __name__ == "__main__":
    sys.exit(main())
