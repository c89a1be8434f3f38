"""Watches the files of proofs: loads, checks and puts to use a new pair, without a restart. Reads files, in a thread.

Invariants: a pair that cannot be used is reported once and changes nothing; cached tokens stay; a file that is replaced
piece by piece is read again when its last piece is there.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from proxy.identity.proof.interface import Proof

logger = logging.getLogger("proxy.identity")

# A look at a few files costs microseconds, and nobody waits for it: what Kubernetes replaces takes a minute to arrive.
POLL_S = 5.0
# Days before a certificate's end at which to warn.
EXPIRY_WARNINGS = (30, 14, 7, 1)

Fingerprint = tuple[tuple[int, int, int] | None, ...]


@dataclass(slots=True)
class Watched:
    """One credential's files and what to do when they change.

    Attributes:
        name: of the credential.
        files: looked at for changes.
        load: reads them anew; runs in a thread.
        use: puts the new proofs to use; runs on the event loop.
        in_use: how the files were right before what is in use was read: what changed meanwhile is read again.
    """

    name: str
    files: tuple[Path, ...]
    load: Callable[[], Sequence[Proof]]
    use: Callable[[Sequence[Proof]], None]
    in_use: Fingerprint
    seen: Fingerprint = ()
    reported: str = field(default="", repr=False)


class RotationWatch:
    """Watches any number of credentials."""

    def __init__(self, watched: Iterable[Watched], *, poll_s: float = POLL_S) -> None:
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
                if fingerprint != one.in_use:
                    await self._reload(one, fingerprint)

    async def reload(self) -> None:
        """Load everything anew, changed or not, as on a signal."""
        async with self._looking:
            for one in self._watched:
                await self._reload(one, await asyncio.to_thread(read_fingerprint, one.files))

    async def _reload(self, one: Watched, fingerprint: Fingerprint) -> None:
        settled, one.seen = fingerprint == one.seen, fingerprint
        try:
            proofs = await asyncio.to_thread(one.load)
        except ConfigurationError as error:
            # Half of a pair may be on its way: only what stays wrong until the next look is worth a word, and one word.
            if settled and one.reported != error.detail:
                one.reported = error.detail
                logger.error("credential %s: the new files are not used, the old ones stay. %s", one.name, error.detail)  # noqa: TRY400 -- no traceback: the sentence says it all
            return
        one.in_use, one.reported = fingerprint, ""
        one.use(proofs)
        names = ", ".join(proof.name for proof in proofs)
        logger.info("credential %s: the new files are in use: %s", one.name, names)


def read_fingerprint(files: Iterable[Path]) -> Fingerprint:
    """Return what changes when a file is replaced or rewritten: modification time, inode and size; None if it is gone.

    Links are followed, so that a mounted secret whose link is switched has changed.
    """
    fingerprint: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            fingerprint.append(None)
        else:
            fingerprint.append((status.st_mtime_ns, status.st_ino, status.st_size))
    return tuple(fingerprint)


class ExpiryWarnings:
    """Warns of each certificate's end once at 30, 14, 7 and 1 days before it, and once after it."""

    def __init__(self) -> None:
        self._warned: dict[str, int] = {}

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
                warnings.append(f"{name} {when}; make and upload a new one (`apim-auth-proxy cert new`)")
        return warnings


def expiry_threshold(left: timedelta) -> int | None:
    """Return the smallest of 30, 14, 7, 1 and 0 days that is not less than what is left; None for more than 30."""
    for days in (0, *reversed(EXPIRY_WARNINGS)):
        if left <= timedelta(days=days):
            return days
    return None


async def warn_of_expiry(ends: Callable[[], Mapping[str, datetime]], *, interval_s: float = 3_600.0) -> None:
    """Log what `ExpiryWarnings` says, now and every hour, until cancelled."""
    warnings = ExpiryWarnings()
    while True:
        for warning in warnings.check(ends(), datetime.now(UTC)):
            logger.warning("%s", warning)
        await asyncio.sleep(interval_s)
