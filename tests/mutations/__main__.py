"""Breaks what `critical` lists, one thing at a time in a copy of the project, and says which breaks no test notices.

    python -m tests.mutations [WORD ...]

With words, only entries whose promise or file has one of them. Ends with 1 where a break was not noticed.
"""

from __future__ import annotations

import os
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.mutations.critical import MUTATIONS, Mutation

ROOT: Final = Path(__file__).resolve().parents[2]
_LEFT_OUT: Final = shutil.ignore_patterns(
    ".git", ".venv", ".hypothesis", ".*_cache", "build", "dist", "node_modules", "__pycache__", "*.so"
)
# More than the slowest takes on a busy machine; a break that makes a test hang has been noticed, too.
_LIMIT_S: Final = 300
_PASSED, _FAILED = 0, 1


def main(words: list[str]) -> int:
    chosen = [one for one in MUTATIONS if not words or any(word in one.promise or word in one.file for word in words)]
    workers = min(os.cpu_count() or 1, 4)
    with tempfile.TemporaryDirectory(prefix="mutations-") as directory:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(workers):
            copies.put(Path(shutil.copytree(ROOT, Path(directory, str(number)), ignore=_LEFT_OUT, symlinks=True)))

        def judge(mutation: Mutation | str) -> str:
            copy = copies.get()
            try:
                return _check_unbroken(copy, mutation) if isinstance(mutation, str) else _check(copy, mutation)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(workers) as pool:
            # Tests that fail anyway would notice everything.
            faults = [fault for fault in pool.map(judge, dict.fromkeys(one.tests for one in chosen)) if fault]
            if not faults:
                faults = [fault for fault in pool.map(judge, chosen) if fault]
    _say("\n".join(faults) or f"{len(chosen)} of {len(chosen)} breaks noticed")
    return 1 if faults else 0


def _check(copy: Path, mutation: Mutation) -> str:
    """Return what is wrong with the tests of a mutation; nothing where one of them fails."""
    file = copy / mutation.file
    text = file.read_text(encoding="utf-8")
    began = time.monotonic()
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        status, output = _run(copy, ["-x", *shlex.split(mutation.tests)])
    finally:
        file.write_text(text, encoding="utf-8")
    _say(f"{time.monotonic() - began:5.1f} s  {'noticed' if status == _FAILED else 'NOT NOTICED'}  {mutation.promise}")
    if status == _FAILED:
        return ""
    return f"not noticed ({mutation.file}): {mutation.promise}" + ("" if status == _PASSED else f"\n{output}")


def _check_unbroken(copy: Path, tests: str) -> str:
    status, output = _run(copy, shlex.split(tests))
    return "" if status == _PASSED else f"fails without any break: pytest {tests}\n{output}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run(copy: Path, arguments: list[str]) -> tuple[int, str]:
    """Run tests in a copy, against the proxy in it; programs that they start come from there as well."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", *arguments]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return _FAILED, ""
    return done.returncode, done.stdout[-2_000:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
