"""Counts the instructions of a request with callgrind, where CPU time is too coarse. Does I/O; needs valgrind.

CPU time on a shared machine varies by a tenth from run to run; the number of instructions by a hundredth, so that a change of 3 %
can be seen. The kernel's share is not in it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from benchmarks.cells import CELLS
from benchmarks.packages import image_command, install_debian_programs
from benchmarks.processes import BenchmarkError, CpuTime, Program, find_program
from benchmarks.rivals import start_rival
from benchmarks.stage import open_stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.cells import Cell
    from benchmarks.stage import Stage

CELL_NAMES: Final = ("tls-get", "intercepted-get", "plain-get")
RIVAL_NAMES: Final = ("nginx", "bare", "ours", "ours-interpreted")
# Under callgrind everything is some fifty times slower, and the first seconds go into its translation of the program.
_WARM_UP_S: Final = 8.0
_ROUND_S: Final = 6.0
_ROUNDS: Final = 5
_WARM_UPS: Final = 4
_SUMMARY: Final = re.compile(r"^summary: (\d+)$", re.MULTILINE)


class CountedProgram(Program):
    """A program under callgrind, whose `cpu_time` counts instructions: a second stands for 10⁹ of them."""

    patience_s = 180.0

    def __init__(
        self, arguments: Sequence[str], cores: Sequence[int], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._profile = log.with_suffix(".callgrind")
        self._counts = False
        tool = [find_program("valgrind"), "--quiet", "--tool=callgrind", "--instr-atstart=no", "--trace-children=yes"]
        super().__init__([*tool, f"--callgrind-out-file={self._profile}.%p", *arguments], cores, log, environment)

    def cpu_time(self) -> CpuTime:
        """Return the instructions so far; from the first call on they are counted."""
        for pid in self.processes():
            self._control(["--dump"] if self._counts else ["-i", "on"], pid)
        self._counts = True
        counted = sum(int(found) for file in self.profiles() for found in _SUMMARY.findall(file.read_text("utf-8")))
        return CpuTime(counted / 1e9, 0.0)

    def profiles(self) -> list[Path]:
        """Return what callgrind has written so far, a file for each process and call of `cpu_time`."""
        return sorted(self._profile.parent.glob(f"{self._profile.name}.*.*"))

    def _control(self, what: list[str], pid: int) -> None:
        arguments = ["callgrind_control", *what, str(pid)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise BenchmarkError(f"callgrind_control failed: {done.stdout}{done.stderr}")


def count(stage: Stage, cell: Cell, name: str) -> tuple[float, list[str]]:
    """Return the thousands of instructions that a request takes, the fewest of some rounds, and the costliest functions.

    Raises:
        BenchmarkError: the proxy does not start, or does not do its job.
    """
    rival = start_rival(name, stage)
    assert isinstance(rival.program, CountedProgram)
    with rival.program as program:
        for attempt in range(_WARM_UPS):
            try:
                cell.run(stage, rival, _WARM_UP_S)
                break
            except BenchmarkError:
                if attempt == _WARM_UPS - 1:
                    raise
        rounds = [cell.run(stage, rival, _ROUND_S) for _ in range(_ROUNDS)]
        return min(one.figure for one in rounds), _list_functions(max(program.profiles(), key=_size))


def _size(profile: Path) -> int:
    return profile.stat().st_size


def _list_functions(profile: Path) -> list[str]:
    """Return the lines that callgrind_annotate prints about functions, those with the most instructions first, callees included."""
    done = subprocess.run(
        ["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(profile)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [line for line in done.stdout.splitlines() if re.match(r"\s*[\d,]+ \(", line)][1:]


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description="Count the instructions of a request (user space, thousands).",
    )
    parser.add_argument("--cells", default=",".join(CELL_NAMES), help=f"of {', '.join(CELL_NAMES)}")
    parser.add_argument("--rivals", default=",".join(RIVAL_NAMES), help=f"of {', '.join(RIVAL_NAMES)}")
    parser.add_argument("--functions", type=int, default=0, help="how many of the costliest functions to list")
    options = parser.parse_args()
    names = options.rivals.split(",")
    install_debian_programs(["nginx", "wrk", "valgrind"])
    complaints = 0
    with open_stage(image_command() if "ours" in names else "", CountedProgram) as stage:
        for cell in (cell for cell in CELLS if cell.name in options.cells.split(",")):
            for name in names:
                try:
                    figure, functions = count(stage, cell, name)
                except BenchmarkError as error:
                    complaints += 1
                    print(f"{cell.name:16} {name:18} {error}", file=sys.stderr)
                    continue
                print(f"{cell.name:16} {name:18} {figure:8.1f}", flush=True)
                for line in functions[: options.functions]:
                    print(f"    {line}")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
