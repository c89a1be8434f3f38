"""Keeps a process's memory to itself, and lets it open as many files as it may. Does I/O: system calls, once, at the start."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import Final

try:
    import resource
except ImportError:  # Windows has neither of these limits
    resource = None  # type: ignore[assignment]

# linux/prctl.h
_PR_SET_DUMPABLE: Final = 4


def harden_process() -> None:
    """Turns core dumps off, and on Linux reading this process's memory by others of the same user (ptrace, /proc/PID/mem).

    Keys and tokens are in that memory. Both last until the process executes another program, which then has to do the same.
    What the system does not have is passed over.
    """
    if resource is not None:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def raise_file_limit() -> None:
    """Raises the number of files this process may open to what the administrator allows: each connection is one.

    The usual soft limit of 1,024 is a relic of select(2), which nothing here uses.
    """
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
