"""Fuzzes one target or all, each for a while: ``python -m tests.fuzz [--seconds 60] [TARGET ...]``. Needs atheris.

Runs each target in a process of its own, because the fuzzing engine never returns. What it has found that leads to new code is
kept in the directory `build/fuzz`, to start from next time; an input that breaks a target is left there as `crash-…`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.fuzz.seeds import SEEDS

_CORPUS = Path("build") / "fuzz"
# An input that takes longer than this is a finding as well.
_SLOW_S = 10


def main() -> int:
    """Runs what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[[], *SEEDS], help="default: all")
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    failed = []
    for name in arguments.targets or SEEDS:
        directory = _CORPUS / name
        directory.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(SEEDS[name]):
            (directory / f"seed-{number}").write_bytes(seed)
        sys.stderr.write(f"== {name}: {arguments.seconds} s\n")
        command = [sys.executable, "-m", "tests.fuzz.engine", name, f"-max_total_time={arguments.seconds}"]
        command += [
            f"-timeout={_SLOW_S}",
            f"-artifact_prefix={directory}/",
            "-max_len=4096",
            "-print_final_stats=1",
            str(directory),
        ]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        sys.stderr.write(f"broken: {', '.join(failed)}. Add the input to tests/fuzz/seeds.py.\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
