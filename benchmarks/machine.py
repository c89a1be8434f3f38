"""What the figures were measured on: processor, system, versions. Does I/O (reads /proc, asks programs for their versions)."""

from __future__ import annotations

import os
import platform
import re
import ssl
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

from benchmarks.packages import REQUIREMENTS
from benchmarks.processes import BenchmarkError, find_program

_VERSION_OPTIONS: Final = {"nginx": "-v", "haproxy": "-v", "squid": "-v", "wrk": "-v"}
_VERSION: Final = re.compile(r"\d+\.\d[\w.+-]*")


def describe_machine() -> list[str]:
    """Return one fact a line. The machine's name is not among them."""
    packages = [f"{name} {metadata.version(name)}" for name in ("uvloop", "httptools")]
    others = [f"{name} {_version(name, option)}" for name, option in _VERSION_OPTIONS.items()]
    others += [requirement.replace("==", " ") for requirement in REQUIREMENTS.values()]
    return [
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"{os.cpu_count()} cores, {_processor()}, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        f"Linux {platform.release()}, {platform.freedesktop_os_release()['PRETTY_NAME']}",
        f"CPython {platform.python_version()}, {ssl.OPENSSL_VERSION}, {', '.join(packages)}",
        ", ".join(others),
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            kind = line.partition(":")[2].strip()
            return f"{kind} (virtual machine)" if _is_virtual() else kind
    return platform.machine()


def _is_virtual() -> bool:
    return "hypervisor" in Path("/proc/cpuinfo").read_text(errors="replace")


def _version(name: str, option: str) -> str:
    try:
        done = subprocess.run([find_program(name), option], capture_output=True, text=True, check=False)
    except BenchmarkError:
        return "missing"
    found = _VERSION.search(done.stdout + done.stderr)
    return found[0] if found else "of unknown version"
