"""File descriptors: how many this process may have, and what is said when none is left. Does I/O: system calls."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from math import inf
from typing import Final

from proxy.errors import Overloaded

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]

logger = logging.getLogger("proxy.dialing")

EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE))
_LOG_EVERY_S: Final = 60.0
_RESERVE: Final = 64


def read_limit() -> int | None:
    """Return how many descriptors this process may have; None where that is not bounded."""
    if resource is not None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            return soft
    return None


def reserve(limit: int) -> int:
    """Return how many of the descriptors no client's connection gets, so that those who are connected can be served."""
    return min(_RESERVE, limit // 8)


def report_exhausted(number: int = errno.EMFILE) -> Overloaded:
    """Return the error for a descriptor that was not to be had, and log it, once a minute at most.

    Args:
        number: ``EMFILE`` or ``ENFILE``.
    """
    if number == errno.ENFILE:
        what = "This machine is out of file descriptors (fs.file-max)."
    else:
        what = (
            f"The proxy is out of file descriptors: it may have {read_limit()} (ulimit -n, LimitNOFILE). Raise that limit, or "
            "lower limits.connections."
        )
    _log.write(what)
    return Overloaded(what, retry_after_s=5, code="out_of_file_descriptors")


def find_exhaustion() -> Overloaded | None:
    """Return the error if no descriptor is left at this moment, for callers whose library does not say why it failed."""
    try:
        reading, writing = os.pipe()
    except OSError as error:
        return report_exhausted(error.errno) if error.errno in EXHAUSTED else None
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    return None


class _Log:
    """Writes a line a minute, with how often it would have been written."""

    def __init__(self) -> None:
        self._written_at = -inf
        self._unsaid = 0

    def write(self, what: str) -> None:
        now = time.monotonic()
        if now < self._written_at + _LOG_EVERY_S:
            self._unsaid += 1
            return
        more = f" {self._unsaid} more since the last such line." if self._unsaid else ""
        self._written_at, self._unsaid = now, 0
        logger.error("%s%s", what, more)


_log: Final = _Log()
