"""Repeats the tests under load, and names those that ever failed or differed.

    python -m tests.flaky [--minutes 20] [--seed N] [--side-by-side 4] [--rounds N] [what pytest is to run ...]

Several runs go on side by side, each in random orders of its own, again and again until the time is up, while a busy loop at the
lowest priority takes what is left of each core. Ends with 1 where a test did not pass each time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.flaky.plugin import RECORD, SEED, UNTIL

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
_BUSY: Final = "import os; os.nice(19)\nwhile True: pass"
# pytest's own codes: all passed, some failed, and what it says when it was stopped.
_JUDGED: Final = (0, 1, 2)


def main(arguments: Sequence[str]) -> int:
    """Repeat until the time is up, and report."""
    parser = argparse.ArgumentParser(prog="python -m tests.flaky", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--side-by-side", type=int, default=4, metavar="RUNS")
    parser.add_argument("--rounds", type=int, default=1_000_000, metavar="N", help="orders of each run, at most")
    chosen, what = parser.parse_known_args(arguments)
    _say(f"seed {chosen.seed}")
    until = time.time() + chosen.minutes * 60
    with tempfile.TemporaryDirectory(prefix="flaky-") as directory, ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            busy = subprocess.Popen([sys.executable, "-c", _BUSY])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        records = [Path(directory, str(number)) for number in range(chosen.side_by_side)]
        with ThreadPoolExecutor(chosen.side_by_side) as pool:
            faults = list(pool.map(lambda each: _repeat(each, chosen, until, what), records))
        return _report(records, [fault for fault in faults if fault])


def _repeat(record: Path, chosen: argparse.Namespace, until: float, what: Sequence[str]) -> str:
    """Run what is to be run in one order after another; return what pytest said where it could not."""
    for number in range(chosen.rounds):
        if time.time() > until:
            break
        environ = os.environ | {SEED: f"{chosen.seed}/{record.name}/{number}", UNTIL: str(until), RECORD: str(record)}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", "-p", "tests.flaky.plugin", *what],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode not in _JUDGED:
            return f"pytest ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return ""


def _report(records: Sequence[Path], faults: Sequence[str]) -> int:
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    reasons: dict[str, str] = {}
    for record in records:
        for line in record.read_text(encoding="utf-8").splitlines() if record.exists() else ():
            name, outcome, reason = json.loads(line)
            outcomes[name][outcome] += 1
            if reason:
                reasons[name] = reason
    unstable = {name: seen for name, seen in outcomes.items() if seen["failed"] or len(seen) > 1}
    for name, seen in unstable.items():
        _say(f"\n{name}: {', '.join(f'{count} {outcome}' for outcome, count in seen.items())}\n{reasons.get(name, '')}")
    for fault in faults:
        _say(fault)
    times = sorted(sum(seen.values()) for seen in outcomes.values())
    if not times:
        _say("No test was run.")
        return 1
    _say(
        f"{sum(times)} runs of {len(times)} tests, each {times[0]} to {times[-1]} times; "
        f"{len(unstable)} did not pass each time"
    )
    return 1 if unstable or faults else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
