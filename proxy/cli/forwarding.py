"""Hands the signals that this process gets to the program that runs under it. Starts the program; replaces signal handlers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

# What a program's status begins at that a signal has ended, as a shell has it (POSIX.1-2024, 2.8.2).
KILLED: Final = 128

# A terminal sends these to the program itself, too, and a second one means more than one.
_FROM_KEYBOARD: Final = frozenset(getattr(signal, name, 0) for name in ("SIGINT", "SIGQUIT"))

_FORWARDED: Final = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


class Forwarding:
    """While entered, a signal to this process is the program's: none is lost, none leaves behind what was started for the program.

    Before the program is started, and when it has ended, a signal ends this process by SystemExit, so that what stands around the
    program is stopped. While it is being started, a signal waits for it. What is ignored (`nohup`) stays ignored.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = False
        self._waiting: list[int] = []
        self._earlier: dict[int, signal.Handlers | None] = {}

    def start(self, command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start the program.

        Raises:
            OSError: it cannot be run.
        """
        self._starting = True
        try:
            self._process = subprocess.Popen(command, env=dict(environ))  # noqa: S603  # it is what the user asked for
        finally:
            self._starting = False
        while self._waiting:
            self._receive(self._waiting.pop(0))
        return self._process

    def __enter__(self) -> Self:
        for name in _FORWARDED:
            number = getattr(signal, name, None)  # Windows has few of them
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._earlier[number] = signal.signal(number, self._receive)  # type: ignore[assignment]
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None = None) -> None:
        if self._starting:
            self._waiting.append(number)
        elif self._process is not None and self._process.poll() is None:
            if number not in _FROM_KEYBOARD or not _is_in_foreground():
                self._process.send_signal(number)
        else:
            raise SystemExit(KILLED + number)


def _is_in_foreground() -> bool:
    """Whether a terminal's keys reach this process and the programs under it."""
    for descriptor in range(3):
        with contextlib.suppress(OSError, AttributeError):  # no terminal, or Windows
            return os.tcgetpgrp(descriptor) == os.getpgrp()
    return False
