"""Installs pinned packages of npm once, into a directory that stays in pytest's cache. Does I/O: asks a registry."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.programs import run_program

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE_S = 300.0


def install_packages(config: pytest.Config, packages: Sequence[str]) -> Path:
    """Returns the directory that has these packages in it; skips the test where npm, or its registry, is out of reach."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed here")
    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:16]
    cache = getattr(config, "cache", None)  # a plugin, which may be switched off
    directory = Path(tempfile.mkdtemp()) if cache is None else Path(cache.mkdir(f"npm-{digest}"))
    done = directory / "installed"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of tests in other processes, one installs and the others find it done
        if not done.exists():
            quietly = ["--no-audit", "--no-fund", "--ignore-scripts"]
            # With this machine's own variables: npm may need a proxy of its own to get out.
            ran = run_program(
                [npm, "install", *quietly, "--prefix", directory, *packages], environ=os.environ, patience_s=PATIENCE_S
            )
            if ran.status != 0:
                pytest.skip(f"npm cannot install the packages here: {ran.stderr.strip().splitlines()[-1:]}")
            done.touch()
    return directory
