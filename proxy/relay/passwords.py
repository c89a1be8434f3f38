"""Verifies passwords in threads of its own, few at a time, and remembers the right and the wrong ones. Does no other I/O.

A right password costs its hash once, and so does a wrong one. Each address has ten guesses; this machine, whose addresses say
nothing about who is at them, has ten for each of a few groups of names. Beyond that a password is still checked, because it may be
the right one, but in a slow lane that never takes more than a fraction of one core. Names that nobody has cost the same as others.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from proxy.errors import Overloaded, ProxyAuthenticationRequired, ProxyError, TooManyRequests
from proxy.policy.access import THIS_MACHINE
from proxy.policy.passwords import BLOCK, LOG_N, PARALLEL, SALT_BYTES, PasswordHash
from proxy.policy.rate import TokenBucket
from proxy.relay.lanes import Lane

if TYPE_CHECKING:
    from proxy.policy.access import PasswordClaim

# One check is a fifth of a second of one core.
_CHECKS_AT_A_TIME: Final = 2
# Beyond this many waiting, an answer would take many seconds: better to say so at once, to whoever has most of them.
_CHECKS_WAITING: Final = 64
_SLOW_WAITING: Final = 8
# Between two checks of the slow lane: under a third of one core, and under two guesses a second in all.
_SLOW_PAUSE_S: Final = 0.5
# More than a proxy has clients, and more than guesses that one of them sends again.
_REMEMBERED: Final = 1_024
# Wrong passwords from one address: a person mistypes a few times; a program that guesses gets one every ten seconds.
_GUESSES: Final = 10
_GUESSES_PER_S: Final = 0.1
_GUESSERS_REMEMBERED: Final = 4_096
# Groups of names on this machine. As many as a machine has clients, so that one's guesses are rarely another's; made with a key,
# so that nobody can tell from them which names there are.
_NAME_GROUPS: Final = 16


class PasswordChecker:
    """Verifies passwords.

    Attributes:
        checks: hashes computed since the start.
    """

    def __init__(self) -> None:
        self.checks = 0
        self._threads: ThreadPoolExecutor | None = None
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._guessers: OrderedDict[str, TokenBucket] = OrderedDict()
        self._flights: dict[bytes, asyncio.Task[bool]] = {}
        self._fast = Lane(self._hash, at_a_time=_CHECKS_AT_A_TIME, limit=_CHECKS_WAITING, refuse=_refuse_waiting)
        self._slow = Lane(self._hash, at_a_time=1, limit=_SLOW_WAITING, refuse=_refuse_guesses, pause=self.pause)
        # What an unknown name is checked against, so that it takes as long as a known one. No password has this key.
        self._decoy = PasswordHash(LOG_N, BLOCK, PARALLEL, secrets.token_bytes(SALT_BYTES), secrets.token_bytes(32))

    async def pause(self) -> None:
        """Wait between two checks of the slow lane."""
        await asyncio.sleep(_SLOW_PAUSE_S)

    def is_known(self, claim: PasswordClaim) -> bool:
        """Whether this very password has been found right before."""
        digest = self._digest(claim)
        if digest in self._right:
            self._right.move_to_end(digest)
            return True
        return False

    async def verify(self, claim: PasswordClaim, place: str) -> None:
        """Check a password; the same one sent on several connections is checked once.

        Args:
            claim: what was sent.
            place: where from; wrong ones are counted by it.

        Raises:
            ProxyAuthenticationRequired: it is wrong.
            TooManyRequests: it is wrong, or was not checked, and there were too many wrong ones from there.
            Overloaded: too many are waiting to be checked.
        """
        now = time.monotonic()
        who = self._who(claim, place)
        guesses = self._guessers.pop(who, None) or TokenBucket(_GUESSES_PER_S, _GUESSES, now)
        self._remember_guesser(who, guesses)
        digest = self._digest(claim)
        wait_s = guesses.wait_s(now)
        flight = self._flights.get(digest)
        if flight is not None:
            right = await asyncio.shield(flight)
        elif digest in self._wrong:
            guesses.take(now)
            right = False
        elif wait_s:
            right = await self._start(self._slow, who, claim, digest)
        else:
            guesses.take(now)  # before it is known to be wrong, so that many at once do not all count as the first
            right = await self._start(self._fast, who, claim, digest)
            if right:
                guesses.give_back()
        if right:
            return
        if wait_s:
            raise _refuse_guesses(wait_s)
        raise ProxyAuthenticationRequired(
            "The name or the password is not that of a configured client.", code="wrong_credentials"
        )

    def close(self) -> None:
        """End the checks and their threads."""
        for flight in self._flights.values():
            flight.cancel()
        for lane in (self._fast, self._slow):
            lane.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _start(self, lane: Lane, who: str, claim: PasswordClaim, digest: bytes) -> bool:
        flight = self._flights[digest] = asyncio.get_running_loop().create_task(self._decide(lane, who, claim, digest))
        flight.add_done_callback(_take_note)  # everybody who waited for it may have gone
        return await asyncio.shield(flight)

    async def _decide(self, lane: Lane, who: str, claim: PasswordClaim, digest: bytes) -> bool:
        try:
            right = await lane.ask(who, claim)
        finally:
            del self._flights[digest]
        remembered = self._right if right else self._wrong
        remembered[digest] = None
        if len(remembered) > _REMEMBERED:
            remembered.popitem(last=False)
        return right

    async def _hash(self, claim: PasswordClaim) -> bool:
        stored = claim.client.password if claim.client is not None else None
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_CHECKS_AT_A_TIME + 1, thread_name_prefix="password-check")
        self.checks += 1
        verify = (stored or self._decoy_like(claim.like)).verify
        right = await asyncio.get_running_loop().run_in_executor(self._threads, verify, claim.password)
        return right and stored is not None

    def _decoy_like(self, known: PasswordHash | None) -> PasswordHash:
        """Return a hash that costs what a known one costs, and that no password fits."""
        decoy = self._decoy
        return decoy if known is None else PasswordHash(known.log_n, known.block, known.parallel, decoy.salt, decoy.key)

    def _who(self, claim: PasswordClaim, place: str) -> str:
        if place != THIS_MACHINE:
            return place
        return f"{place} {hmac.digest(self._key, claim.name.encode(), 'sha256')[0] % _NAME_GROUPS}"

    def _digest(self, claim: PasswordClaim) -> bytes:
        """Return what a password is remembered by: it says nothing without this process's key, and dies with its hash."""
        stored = "" if claim.client is None else f"{claim.client.name}:{claim.client.password}"
        return hmac.digest(self._key, stored.encode() + b"\0" + claim.password, "sha256")

    def _remember_guesser(self, who: str, guesses: TokenBucket) -> None:
        self._guessers[who] = guesses
        if len(self._guessers) > _GUESSERS_REMEMBERED:
            self._guessers.popitem(last=False)


def _take_note(flight: asyncio.Task[bool]) -> None:
    if not flight.cancelled():
        flight.exception()


def _refuse_waiting() -> ProxyError:
    return Overloaded("Too many passwords are waiting to be checked.", retry_after_s=1, code="password_checks")


def _refuse_guesses(wait_s: int = 5) -> ProxyError:
    return TooManyRequests(
        "Too many wrong passwords came from this address. Correct the client's, and wait.",
        retry_after_s=wait_s,
        code="too_many_wrong_passwords",
    )
