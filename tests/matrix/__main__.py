"""Runs the tests in other surroundings, one after another, and prints a table: other loops, limits, disks, locales, interpreters.

    python -m tests.matrix [WORD ...]

With words, only the settings whose names have one of them. Ends with 1 where a test failed or a setting could not be made.
The compiled relay has a target of its own, `make test-compiled`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.matrix.settings import ROOT, SETTINGS, Setting, interpreters

if TYPE_CHECKING:
    from collections.abc import Sequence

# A setting that takes longer hangs.
_LIMIT_S: Final = 1800
_SIDE_BY_SIDE: Final = ("--numprocesses", "4", "--dist", "worksteal")
_SUMMARY: Final = re.compile(r"^=*\s?(\d.*(?:passed|failed|error).*?) in [\d.]+s", re.MULTILINE)
_FAULT: Final = re.compile(r"^(?:FAILED|ERROR) .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a setting ended.

    Attributes:
        said: pytest's closing words, or why there are none.
        faults: the tests that failed.
    """

    setting: Setting
    is_passed: bool
    said: str
    faults: Sequence[str]
    took_s: float


def main(words: Sequence[str]) -> int:
    """Run what was chosen, and print the table."""
    known = [*SETTINGS, *interpreters()]
    chosen = [one for one in known if not words or any(word in one.name for word in words)]
    outcomes = []
    for setting in chosen:
        outcome = _run(setting)
        outcomes.append(outcome)
        verdict = "passed" if outcome.is_passed else "FAILED"
        _say(f"{setting.name}: {verdict}, {outcome.said}, {outcome.took_s:.0f} s")
        for fault in outcome.faults:
            _say(f"    {fault}")
    _say("\n| setting | made by | tests |\n|---|---|---|")
    for one in outcomes:
        _say(f"| {one.setting.name} | {one.setting.what} | {one.said} |")
    return 0 if outcomes and all(one.is_passed for one in outcomes) else 1


def _run(setting: Setting) -> Outcome:
    began = time.monotonic()

    def ended(said: str, faults: Sequence[str] = (), *, is_passed: bool = False) -> Outcome:
        return Outcome(setting, is_passed, said, faults, time.monotonic() - began)

    if setting.needs_root and os.geteuid() != 0:
        return ended("not run: it takes root")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    python = sys.executable
    if setting.python:
        environment = ROOT / "build" / "matrix" / setting.name
        made = ["make", "--silent", f"VENV={environment}", f"PYTHON={setting.python}", f"{environment}/.test"]
        if subprocess.run(made, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL).returncode != 0:
            return ended("not run: its environment could not be made")
        python = str(environment / "bin" / "python")
    command = [*setting.within, python, "-m", "pytest", "-q", *_SIDE_BY_SIDE, "-p", "no:cacheprovider", *setting.tests]
    # Its output goes to a file and not to a pipe: what a test left behind would keep a pipe open.
    log = Path(environ.get("TMPDIR", "/tmp"), f"matrix-{setting.name}.log")  # noqa: S108  # to be read by whoever looks for a fault
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environ, **setting.environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            status = process.wait(_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return ended(f"hangs, see {log}")
    text = log.read_text(encoding="utf-8", errors="replace")
    closing = _SUMMARY.findall(text)
    said = closing[-1] if closing else f"ended with {status}, see {log}"
    return ended(said, _FAULT.findall(text), is_passed=status == 0)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
