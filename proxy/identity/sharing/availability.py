"""Whether replicas share at present, or each is on its own: since when, and why. Does no I/O but the log.

Invariants: a store that fails is left alone for one to three seconds; its failures are at most one line a minute, and so is what
does not open.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("proxy.identity")

_SHORTEST_REST_S: Final = 1.0
_LONGEST_REST_S: Final = 3.0
_LINE_EVERY_S: Final = 60.0


class StoreError(Exception):
    """The store gave no answer that can be used.

    Attributes:
        reason: what it does, to stand behind its name; ours, never a library's.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Availability:
    """One store's."""

    def __init__(
        self,
        name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float],
    ) -> None:
        """Begin hopefully.

        Args:
            name: of the store, for the log: no password in it.
            clock: monotonic seconds.
            wall_clock: Unix seconds, for people.
            jitter: 0 to 1.
        """
        self.name = name
        self.alone_since_at: float | None = None
        self.reason = ""
        self._clock = clock
        self._wall_clock = wall_clock
        self._jitter = jitter
        self._rest_until_mono = -math.inf
        self._line_after_mono = -math.inf
        self._unreadable_line_after_mono = -math.inf

    @property
    def may_be_asked(self) -> bool:
        """Whether it is not at rest."""
        return self._clock() >= self._rest_until_mono

    def succeed(self) -> None:
        """Note an answer."""
        if self.alone_since_at is None:
            return
        self._say(logging.INFO, "%s works again; tokens are shared", self.name)
        self.alone_since_at, self.reason = None, ""

    def fail(self, error: StoreError) -> None:
        """Note a failure, and let it rest."""
        now = self._clock()
        self._rest_until_mono = now + _SHORTEST_REST_S + (_LONGEST_REST_S - _SHORTEST_REST_S) * self._jitter()
        if self.alone_since_at is None:
            self.alone_since_at = self._wall_clock()
        self.reason = error.reason
        self._say(
            logging.WARNING,
            "%s %s. Tokens are not shared meanwhile: this replica asks for its own, and no request fails for it",
            self.name,
            error.reason,
        )

    def note_unreadable(self) -> None:
        """Note that something was there, and did not open."""
        now = self._clock()
        if now >= self._unreadable_line_after_mono:
            self._unreadable_line_after_mono = now + _LINE_EVERY_S
            logger.warning(
                "%s has tokens that this replica cannot open: they were sealed with another key, or damaged. It asks for its own,"
                " and no request fails for it. Compare key_files with the other replicas'",
                self.name,
            )

    def _say(self, level: int, text: str, *values: str) -> None:
        now = self._clock()
        if now >= self._line_after_mono:
            self._line_after_mono = now + _LINE_EVERY_S
            logger.log(level, text, *values)
