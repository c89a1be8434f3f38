"""Watches the files of key pairs: loads, checks and puts to use a new one, without a restart. Reads files, in a thread.

Invariants: a pair that cannot be used is reported once and changes nothing; cached tokens stay; a file that is replaced
piece by piece is read again when its last piece is there.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from proxy.errors import ConfigurationError
from proxy.keys.fingerprint import Fingerprint, read_fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

logger = logging.getLogger("proxy.identity")

# A look at a few files costs microseconds, and nobody waits for it: what Kubernetes replaces takes a minute to arrive.
POLL_S = 5.0
# Days before a certificate's end at which to warn.
EXPIRY_WARNINGS = (30, 14, 7, 1)


class Named(Protocol):
    """What can be told in the log."""

    @property
    def name(self) -> str:
        """Without a secret."""
        ...


_Loaded = TypeVar("_Loaded", bound=Named)


@dataclass(slots=True)
class Watched(Generic[_Loaded]):
    """The files of one credential, or of one route's client certificate, and what to do when they change.

    Attributes:
        name: of the credential or the route.
        files: looked at for changes.
        load: reads them anew; runs in a thread.
        use: puts what was read to use; runs on the event loop.
        in_use: how the files were right before what is in use was read: what changed meanwhile is read again.
        kind: what is named.
        patience: how many looks a change waits before it is put to use: for others who look at the same files to go first.
    """

    name: str
    files: tuple[Path, ...]
    load: Callable[[], Sequence[_Loaded]]
    use: Callable[[Sequence[_Loaded]], None]
    in_use: Fingerprint
    kind: str = "credential"
    patience: int = 0
    waited: int = 0
    seen: Fingerprint = ()
    reported: str = field(default="", repr=False)


class RotationWatch:
    """Watches the files of any number of key pairs."""

    def __init__(self, watched: Iterable[Watched[Any]], *, poll_s: float = POLL_S) -> None:
        """Begin with what is in use."""
        self._watched = [one for one in watched if one.files]
        self._poll_s = poll_s
        # A reload of the configuration looks as well: a pair that both see first must not be put to use twice.
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            await self.poll()

    async def poll(self) -> None:
        """Look once, and put to use what has changed."""
        async with self._looking:
            for one in self._watched:
                fingerprint = await asyncio.to_thread(read_fingerprint, one.files)
                if fingerprint == one.in_use:
                    one.waited = 0
                elif one.waited < one.patience:
                    one.waited += 1
                else:
                    await self._reload(one, fingerprint)

    async def reload(self) -> None:
        """Load everything anew, changed or not, as on a signal."""
        async with self._looking:
            for one in self._watched:
                await self._reload(one, await asyncio.to_thread(read_fingerprint, one.files))

    async def _reload(self, one: Watched[Any], fingerprint: Fingerprint) -> None:
        settled, one.seen = fingerprint == one.seen, fingerprint
        try:
            proofs = await asyncio.to_thread(one.load)
            one.use(proofs)
        except ConfigurationError as error:
            # Half of a pair may be on its way: only what stays wrong until the next look is worth a word, and one word.
            if settled and one.reported != error.detail:
                one.reported = error.detail
                what = f"{one.kind} {one.name}"
                logger.error("%s: the new files are not used, the old ones stay. %s", what, error.detail)  # noqa: TRY400 -- no traceback: the sentence says it all
            return
        one.in_use, one.reported = fingerprint, ""
        names = ", ".join(proof.name for proof in proofs)
        logger.info("%s %s: the new files are in use: %s", one.kind, one.name, names)


class ExpiryWarnings:
    """Warns of each certificate's end once at 30, 14, 7 and 1 days before it, and once after it.

    Args:
        advice: what to do about it.
    """

    def __init__(self, advice: str = "make and upload a new one (`apim-auth-proxy cert new`)") -> None:
        self._warned: dict[str, int] = {}
        self._advice = advice

    def check(self, ends: Mapping[str, datetime], now: datetime) -> list[str]:
        """Return the warnings that are due.

        Args:
            ends: of the certificates by their proofs' names.
            now: aware.
        """
        warnings = []
        for name, end in ends.items():
            threshold = expiry_threshold(end - now)
            if threshold is not None and threshold != self._warned.get(name):
                self._warned[name] = threshold
                when = f"expires on {end:%Y-%m-%d %H:%M} UTC" if threshold else f"expired on {end:%Y-%m-%d %H:%M} UTC"
                warnings.append(f"{name} {when}; {self._advice}")
        return warnings


def expiry_threshold(left: timedelta) -> int | None:
    """Return the smallest of 30, 14, 7, 1 and 0 days that is not less than what is left; None for more than 30."""
    for days in (0, *reversed(EXPIRY_WARNINGS)):
        if left <= timedelta(days=days):
            return days
    return None


async def warn_of_expiry(
    ends: Callable[[], Mapping[str, datetime]], warnings: ExpiryWarnings, *, interval_s: float = 3_600.0
) -> None:
    """Log what is to be warned of, now and every hour, until cancelled."""
    while True:
        for warning in warnings.check(ends(), datetime.now(UTC)):
            logger.warning("%s", warning)
        await asyncio.sleep(interval_s)
