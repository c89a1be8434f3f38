"""Verifies passwords in threads of its own, few at a time, and remembers the right ones. Does no other I/O.

A right password costs its hash once; a wrong one costs whoever sends it a place in a short queue, and after a few of them
the address it came from waits.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from proxy.errors import Overloaded, ProxyAuthenticationRequired, TooManyRequests
from proxy.policy.passwords import BLOCK, LOG_N, PARALLEL, SALT_BYTES, PasswordHash
from proxy.policy.rate import TokenBucket

if TYPE_CHECKING:
    from proxy.policy.access import PasswordClaim

# One check is a fifth of a second of one core.
_CHECKS_AT_A_TIME: Final = 2
# Beyond this many waiting, an answer would take seconds: better to say so at once.
_CHECKS_WAITING: Final = 16
# More than a proxy has clients.
_REMEMBERED: Final = 1_024
# Wrong passwords from one address: a person mistypes a few times; a program that guesses gets one every ten seconds.
_GUESSES: Final = 10
_GUESSES_PER_S: Final = 0.1
_GUESSERS_REMEMBERED: Final = 4_096


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
        self._guessers: OrderedDict[str, TokenBucket] = OrderedDict()
        self._flights: dict[bytes, asyncio.Task[bool]] = {}
        # What an unknown name is checked against, so that it takes as long as a known one. No password has this key.
        self._decoy = PasswordHash(LOG_N, BLOCK, PARALLEL, secrets.token_bytes(SALT_BYTES), secrets.token_bytes(32))

    def is_known(self, claim: PasswordClaim) -> bool:
        """Whether this very password has been found right before."""
        digest = self._digest(claim)
        if digest in self._right:
            self._right.move_to_end(digest)
            return True
        return False

    async def verify(self, claim: PasswordClaim, address: str) -> None:
        """Checks a password; the same one sent on several connections is checked once.

        Args:
            claim: what was sent.
            address: where from; wrong ones are counted by it.

        Raises:
            ProxyAuthenticationRequired: it is wrong.
            TooManyRequests: there were too many wrong ones from there.
            Overloaded: too many are waiting to be checked.
        """
        guesses = self._guessers.get(address)
        if guesses is not None and (wait_s := guesses.wait_s(time.monotonic())):
            raise TooManyRequests(
                "Too many wrong passwords came from this address. Correct the client's, and wait.",
                retry_after_s=wait_s,
                code="too_many_wrong_passwords",
            )
        digest = self._digest(claim)
        flight = self._flights.get(digest)
        if flight is None:
            if len(self._flights) >= _CHECKS_WAITING:
                raise Overloaded(
                    "Too many passwords are waiting to be checked.", retry_after_s=1, code="password_checks"
                )
            flight = self._flights[digest] = asyncio.get_running_loop().create_task(self._check(claim, digest))
        if not await asyncio.shield(flight):
            self._count_guess(address)
            raise ProxyAuthenticationRequired(
                "The name or the password is not that of a configured client.", code="wrong_credentials"
            )

    def close(self) -> None:
        """Ends the checks and their threads."""
        for flight in self._flights.values():
            flight.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _check(self, claim: PasswordClaim, digest: bytes) -> bool:
        stored = (claim.client.password if claim.client is not None else None) or self._decoy
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_CHECKS_AT_A_TIME, thread_name_prefix="password-check")
        self.checks += 1
        try:
            right = await asyncio.get_running_loop().run_in_executor(self._threads, stored.verify, claim.password)
        finally:
            del self._flights[digest]
        if right and claim.client is not None:
            self._right[digest] = None
            if len(self._right) > _REMEMBERED:
                self._right.popitem(last=False)
        return right

    def _digest(self, claim: PasswordClaim) -> bytes:
        """Returns what a password is remembered by: it says nothing without this process's key, and dies with its hash."""
        stored = "" if claim.client is None else f"{claim.client.name}:{claim.client.password}"
        return hmac.digest(self._key, stored.encode() + b"\0" + claim.password, "sha256")

    def _count_guess(self, address: str) -> None:
        now = time.monotonic()
        guesses = self._guessers.pop(address, None) or TokenBucket(_GUESSES_PER_S, _GUESSES, now)
        guesses.take(now)
        self._guessers[address] = guesses
        if len(self._guessers) > _GUESSERS_REMEMBERED:
            self._guessers.popitem(last=False)
