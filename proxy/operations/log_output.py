"""Where log lines go: a file that may be moved away under us, or standard error. Does blocking I/O: for a writer thread.

Invariants: nothing here raises once it is open; what cannot be written is counted and said once, not once a line; a line that
was cut short by a full disk is ended before the next one begins.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
from typing import TYPE_CHECKING, Final

from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("proxy.operations")

# Standard error may have been made non-blocking by whoever shares it; a reader that takes nothing for this long is away.
_PATIENCE_MS: Final = 500
_REASONS: Final = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the disk quota is used up; make room",
    errno.EPIPE: "the program that read it has ended",
    errno.EAGAIN: "the program that reads it does not keep up",
    errno.EROFS: "the file system is read-only; set access_log.file to a writable place",
    errno.EACCES: "this user may not write it; change its owner, or access_log.file",
    errno.ENOENT: "its directory does not exist; make it, or change access_log.file",
    errno.ENOTDIR: "its directory does not exist; make it, or change access_log.file",
    errno.EISDIR: "it is a directory; change access_log.file",
    errno.EIO: "the disk has an error",
}


class LogOutput:
    """An open file, or standard error.

    Args:
        file: appended to, made where there is none; None: standard error.
        descriptor: what stands for standard error; it is not closed.

    Attributes:
        lost: lines that could not be written.

    Raises:
        ConfigurationError: the file cannot be opened.
    """

    def __init__(self, file: Path | None, descriptor: int = 2) -> None:
        self.lost = 0
        self._file = file
        self._name = "standard error" if file is None else str(file)
        self._is_failing = False
        self._is_torn = False
        self._told_of_reopen = False
        self._descriptor = descriptor
        if file is not None:
            try:
                self._descriptor = _open(file)
            except OSError as error:
                raise ConfigurationError(f"The access log {file} cannot be opened: {_describe(error)}.") from None

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads along."""
        try:
            return os.isatty(self._descriptor)
        except OSError:
            return False

    def write(self, lines: bytes, count: int) -> None:
        """Write whole lines in one go.

        Args:
            lines: each with its line feed.
            count: how many they are.
        """
        if self._is_torn:
            lines = b"\n" + lines
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[_write(self._descriptor, rest) :]
        except OSError as error:
            self.lost += max(bytes(rest).count(b"\n"), 1) if len(rest) < len(lines) else count
            self._is_torn = self._is_torn if len(rest) == len(lines) else lines[len(lines) - len(rest) - 1] != 0x0A
            self._tell_failure(error)
            return
        self._is_torn = False
        if self._is_failing:
            self._is_failing = False
            logger.warning("The access log %s can be written again; %d lines were lost so far.", self._name, self.lost)

    def follow(self, *, reopen: bool = False) -> None:
        """Open the file anew where it has been moved away or deleted, as logrotate does, or where that is asked for.

        Where it cannot be opened, the old one goes on being written.
        """
        if self._file is None or not (reopen or self._has_moved()):
            return
        try:
            descriptor = _open(self._file)
        except OSError as error:
            if not self._told_of_reopen:
                self._told_of_reopen = True
                logger.error(  # noqa: TRY400 -- a library's text adds nothing to ours
                    "The access log %s cannot be opened anew: %s. The old file goes on being written.",
                    self._name,
                    _describe(error),
                )
            return
        self.close()
        self._descriptor = descriptor
        self._is_torn = False
        self._told_of_reopen = False

    def close(self) -> None:
        """Close the file; standard error stays open."""
        if self._file is not None:
            with contextlib.suppress(
                OSError
            ):  # a late error of a network file system; the lines are counted as written
                os.close(self._descriptor)

    def _has_moved(self) -> bool:
        if self._file is None:
            return False
        opened = os.fstat(self._descriptor)
        try:
            named = self._file.stat()
        except OSError:
            return True
        return (opened.st_dev, opened.st_ino) != (named.st_dev, named.st_ino)

    def _tell_failure(self, error: OSError) -> None:
        if self._is_failing:
            return
        self._is_failing = True
        logger.error(
            "The access log %s cannot be written: %s. Exchanges go on; their lines are lost until it can.",
            self._name,
            _describe(error),
        )


def _open(file: Path) -> int:
    # It tells who called what: for the owner and, as log directories are read, the group.
    return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o640)


def _write(descriptor: int, lines: memoryview) -> int:
    try:
        return os.write(descriptor, lines)
    except BlockingIOError:
        if not _is_writable_soon(descriptor):
            raise
        return 0


def _is_writable_soon(descriptor: int) -> bool:
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(_PATIENCE_MS))


def _describe(error: OSError) -> str:
    code = error.errno or 0
    return _REASONS.get(code) or f"the system says {errno.errorcode.get(code, 'nothing about why')}"
