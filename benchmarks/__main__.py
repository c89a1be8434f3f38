"""`python -m benchmarks`: runs the cells, prints the table. Does I/O."""

from __future__ import annotations

import argparse
import contextlib
import sys

from benchmarks.cells import CELLS, Cell
from benchmarks.figures import Result, Round, judge, sum_up
from benchmarks.processes import BenchmarkError
from benchmarks.report import format_cell
from benchmarks.rivals import Rival, start_rival
from benchmarks.stage import Stage, open_stage


def main() -> int:
    """Returns the exit code: 0 if every cell could be measured."""
    options = _parse_arguments()
    cells = [cell for cell in CELLS if not options.cells or cell.name in options.cells]
    faults = 0
    for cell in cells:
        wanted = [name for name in cell.rivals if not options.rivals or name in options.rivals]
        try:
            with open_stage() as stage:
                results = _run_cell(stage, cell, wanted, options)
        except BenchmarkError as error:
            print(f"{cell.name}: {error}", file=sys.stderr)
            faults += 1
            continue
        print(format_cell(cell, results, judge(results, cell.targets)), flush=True)
    return 1 if faults else 0


def _run_cell(stage: Stage, cell: Cell, names: list[str], options: argparse.Namespace) -> list[Result]:
    with contextlib.ExitStack() as stack:
        rivals: list[Rival] = []
        for name in names:
            rival = start_rival(name, stage, options.command)
            if rival.program is not None:
                stack.enter_context(rival.program)
            cell.check(stage, rival)
            cell.run(stage, rival, 1.0)
            rivals.append(rival)
        rounds: dict[str, list[Round]] = {rival.name: [] for rival in rivals}
        for _ in range(options.rounds):
            for rival in rivals:
                rounds[rival.name].append(cell.run(stage, rival, options.seconds))
        return [sum_up(name, each) for name, each in rounds.items()]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="The cost of a request, side by side.")
    parser.add_argument(
        "--cells",
        type=_names,
        default=[],
        help=f"which rows, comma-separated; there are: {', '.join(c.name for c in CELLS)}",
    )
    parser.add_argument("--rivals", type=_names, default=[], help="which proxies, comma-separated")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured, in turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long one round lasts")
    parser.add_argument(
        "--command", default=f"{sys.executable} -m proxy", help="what starts our proxy, less `run --config FILE`"
    )
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


if __name__ == "__main__":
    sys.exit(main())
