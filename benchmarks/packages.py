"""Rivals from Debian, and from PyPI, each of these in an environment of its own, kept between runs. Does I/O (apt, pip, files).

Never in our own environment: `proxy.py` also installs a package named `proxy`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.processes import DEBIAN_PACKAGES, SEARCH_PATH, BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Pinned, so that two runs measure the same program.
REQUIREMENTS: Final = {"mitmproxy": "mitmproxy==11.0.2", "proxy.py": "proxy.py==2.4.10"}


# While this file is there, a Debian package does not start its daemon when it is installed (invoke-rc.d(8)).
_POLICY: Final = Path("/usr/sbin/policy-rc.d")


def install_debian_programs(programs: Sequence[str]) -> None:
    """Installs those of `programs` that are missing, where this user may; elsewhere `find_program` will say what to do."""
    missing = [DEBIAN_PACKAGES[name] for name in programs if shutil.which(name, path=SEARCH_PATH) is None]
    if not missing or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    print(f"Installing {', '.join(missing)}", file=sys.stderr)
    has_policy = _POLICY.exists()
    if not has_policy:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            done = subprocess.run(
                ["apt-get", "-qq", *arguments],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                print(done.stderr, file=sys.stderr)
    finally:
        if not has_policy:
            _POLICY.unlink(missing_ok=True)


def package_program(package: str, program: str) -> str:
    """Returns the path of a package's program; makes its environment first if need be.

    Raises:
        BenchmarkError: the package cannot be installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    environment = cache / "apim-auth-proxy-benchmarks" / REQUIREMENTS[package].replace("==", "-")
    path = environment / "bin" / program
    if not (environment / "installed").exists():
        print(f"Installing {REQUIREMENTS[package]} into {environment}", file=sys.stderr)
        _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(environment)], package)
        # pip's own option to install elsewhere, so that no pip is needed there.
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
        _run([*pip, "--python", str(environment / "bin" / "python"), "install", REQUIREMENTS[package]], package)
        (environment / "installed").touch()
    return str(path)


def _run(arguments: list[str], package: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{package} cannot be installed:\n{done.stderr[-2_000:]}")
