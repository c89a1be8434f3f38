"""The last lives of each access token, and when there was none: what the page draws as a timeline. Does no I/O.

Made from what the sources say of themselves, looked at every two seconds; holds times, and nothing of a token.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.identity.lifetime import flight_margin_s

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.identity.source import SourceStatistics

_TOKENS: Final = 4
_OUTAGES: Final = 3
# Ages are measured by one clock and shown by another; two tokens are never this close.
_SAME_S: Final = 0.25


@dataclass(slots=True)
class TokenLife:
    """One token; Unix seconds.

    Attributes:
        obtained_at: when it was asked for.
        refresh_at: when it is, or was, to be replaced.
        usable_until_at: from then on it is put on no request: a margin before its expiry.
        expires_at: as the platform said.
        replaced_at: when another took its place, or it was dropped; None while it is the current one.
    """

    obtained_at: float
    refresh_at: float
    usable_until_at: float
    expires_at: float
    replaced_at: float | None = None


@dataclass(slots=True)
class Outage:
    """For how long there was no usable token although one was wanted; Unix seconds, `until_at` None while it lasts."""

    since_at: float
    until_at: float | None = None


class Lifeline:
    """One source's: the oldest first, the current token last."""

    def __init__(self) -> None:
        self.tokens: deque[TokenLife] = deque(maxlen=_TOKENS)
        self.outages: deque[Outage] = deque(maxlen=_OUTAGES)

    def look(self, source: SourceStatistics, at: float) -> None:
        """Take note of what a source says at a moment, Unix seconds."""
        self._follow_token(read_life(source, at), at)
        self._follow_outage(source.without_s, at)

    def _follow_token(self, life: TokenLife | None, at: float) -> None:
        last = self.tokens[-1] if self.tokens and self.tokens[-1].replaced_at is None else None
        if life is not None and last is not None and abs(life.obtained_at - last.obtained_at) <= _SAME_S:
            # What was drawn stays where it is; the refresh may have been moved.
            last.refresh_at = life.refresh_at
            return
        if last is not None:
            last.replaced_at = at if life is None else max(life.obtained_at, last.obtained_at)
        if life is not None:
            self.tokens.append(life)

    def _follow_outage(self, without_s: float | None, at: float) -> None:
        last = self.outages[-1] if self.outages and self.outages[-1].until_at is None else None
        if without_s is None:
            if last is not None:
                last.until_at = at
        elif last is None:
            self.outages.append(Outage(at - without_s))


class TokenHistory:
    """The lifelines of the sources that there are."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], Lifeline] = {}

    def add(self, sources: Iterable[SourceStatistics], at: float) -> None:
        """Take another look; sources that are gone are forgotten."""
        lines = {}
        for source in sources:
            key = source.credential, source.target
            line = lines[key] = self._lines.get(key) or Lifeline()
            line.look(source, at)
        self._lines = lines

    def find(self, source: SourceStatistics) -> Lifeline:
        """Return a source's lifeline; an empty one where it has not been looked at yet."""
        return self._lines.get((source.credential, source.target)) or Lifeline()


def read_life(source: SourceStatistics, at: float) -> TokenLife | None:
    """Return the times of a source's current token; None without one."""
    if source.age_s is None or source.expires_in_s is None:
        return None
    expires_at = at + source.expires_in_s
    return TokenLife(
        obtained_at=at - source.age_s,
        refresh_at=at + (source.expires_in_s if source.refresh_in_s is None else source.refresh_in_s),
        usable_until_at=expires_at - flight_margin_s(source.age_s + source.expires_in_s),
        expires_at=expires_at,
    )
