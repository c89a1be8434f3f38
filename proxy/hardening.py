"""Keeps a process's memory to itself, lets it open as many files as it may, starts no code but ours. Does I/O: system calls."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path
from typing import Final

try:
    import resource
except ImportError:  # Windows has neither of these limits
    resource = None  # type: ignore[assignment]

_ROOT: Final = Path(__file__).resolve().parents[1]
# linux/prctl.h
_PR_SET_DUMPABLE: Final = 4
# linux/capability.h. Kept: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_NET_BIND_SERVICE, for files of other users, which root is
# expected to read, and for listeners below port 1024 that a reload adds.
_CAPABILITY_VERSION_3: Final = 0x2008_0522
_CAPABILITIES_KEPT: Final = 1 << 1 | 1 << 2 | 1 << 10


def harden_process() -> None:
    """Turn core dumps off, and on Linux reading this process's memory by others of the same user (ptrace, /proc/PID/mem).

    Keys and tokens are in that memory. Also gives up capabilities that nothing here uses. All of that lasts until the process
    executes another program, which then has to do the same. What the system does not have is passed over.
    """
    if resource is not None:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
            _drop_capabilities()


def _drop_capabilities() -> None:
    """Give up what root may beyond opening files and low ports: loading modules, tracing others, raw sockets, mounts.

    For the calling thread and those it starts, so before there are others. A program that this one executes as root has them again.
    """
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (
        ctypes.c_uint32 * 6
    )()  # twice effective, permitted, inheritable: of capabilities 0 to 31, and of the others
    if libc.capget(header, data) == 0:
        for index in range(6):
            data[index] &= _CAPABILITIES_KEPT if index < 3 else 0
        libc.capset(header, data)


def raise_file_limit() -> None:
    """Raise the number of files this process may open to what the administrator allows: each connection is one.

    The usual soft limit of 1,024 is a relic of select(2), which nothing here uses.
    """
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def own_program(module: str) -> list[str]:
    """Return the words that run a module of this very code in another process.

    `python -m` looks in the working directory first: what is called ``proxy`` there would run in our place, with our keys
    (CWE-427). It may where we come from there ourselves.
    """
    try:
        is_here = Path.cwd() == _ROOT
    except OSError:  # the directory is gone
        is_here = False
    return [sys.executable, *([] if is_here else ["-P"]), "-m", module]
