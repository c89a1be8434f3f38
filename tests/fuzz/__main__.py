"""Fuzzes one target or all, each for a while: ``python -m tests.fuzz [--seconds 60] [TARGET ...]``. Needs atheris.

Runs each target in a process of its own, because the fuzzing engine never returns. What it has found that leads to new code is
kept below `build/fuzz`, to start from next time. An input that breaks a target is kept below `tests/regression`, where
`test_inputs.py` replays it ever after.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.fuzz.seeds import SEEDS

_CORPUS: Final = Path("build") / "fuzz"
_REGRESSION: Final = Path(__file__).resolve().parents[1] / "regression"
# What libFuzzer calls an input that broke, hung or bloated the target; it writes others, which only took a while.
_BROKEN: Final = ("crash-*", "timeout-*", "oom-*")
# An input that takes longer than this is a finding as well.
_SLOW_S: Final = 10


def main() -> int:
    """Runs what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[[], *SEEDS], help="default: all")
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    failed = []
    for name in arguments.targets or SEEDS:
        directory, found = _CORPUS / name, _CORPUS / f"{name}-found"
        for one in (directory, found):
            one.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(SEEDS[name]):
            (directory / f"seed-{number}").write_bytes(seed)
        sys.stderr.write(f"== {name}: {arguments.seconds} s\n")
        command = [sys.executable, "-m", "tests.fuzz.engine", name, f"-max_total_time={arguments.seconds}"]
        command += [
            f"-timeout={_SLOW_S}",
            f"-artifact_prefix={found}/",
            "-max_len=4096",
            "-print_final_stats=1",
            str(directory),
        ]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
            keep(found, _REGRESSION / name)
    if failed:
        sys.stderr.write(f"broken: {', '.join(failed)}. What broke them is in tests/regression.\n")
    return 1 if failed else 0


def keep(found: Path, kept: Path) -> None:
    """Moves the inputs that broke a target to where they are replayed."""
    kept.mkdir(parents=True, exist_ok=True)
    for pattern in _BROKEN:
        for path in found.glob(pattern):
            shutil.move(path, kept / path.name)


if __name__ == "__main__":
    sys.exit(main())
