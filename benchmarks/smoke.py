"""The guard in CI: our CPU time a request against the bare relay's, in one run. Does I/O.

A ratio holds on any machine, where times do not. Exit code 1 says that the cost has grown past `LIMIT`.
"""

from __future__ import annotations

import argparse
import sys
from typing import Final

from benchmarks.cells import CELLS
from benchmarks.figures import Target, judge
from benchmarks.packages import install_debian_programs
from benchmarks.processes import BenchmarkError
from benchmarks.report import Row, format_row
from benchmarks.run import run_cell
from benchmarks.stage import open_stage

# What strictness, limits, time-outs, metrics and the access log may cost over relaying and nothing else. It was 2.0 when this was
# written, give or take a tenth; the rest is room for a noisy machine.
LIMIT: Final = 2.6
_ROUNDS: Final = 5
_SECONDS: Final = 2.0


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smoke", description="Our cost against a bare relay's.")
    parser.add_argument("--limit", type=float, default=LIMIT, help="the ratio that may not be passed")
    limit: float = parser.parse_args().limit
    cell = next(cell for cell in CELLS if cell.name == "tls-get")
    install_debian_programs(["nginx", "wrk"])
    complaints: list[str] = []
    try:
        with open_stage(f"{sys.executable} -m proxy") as stage:
            results = run_cell(
                stage, cell, ["bare", "ours"], rounds=_ROUNDS, seconds=_SECONDS, complain=complaints.append
            )
    except BenchmarkError as error:
        complaints.append(str(error))
    if complaints:
        print("\n".join(complaints), file=sys.stderr)
        return 1
    verdicts = judge(results, [Target(limit, "bare")])
    print(format_row(Row(cell, results, verdicts)))
    return 0 if all(verdict.is_met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
