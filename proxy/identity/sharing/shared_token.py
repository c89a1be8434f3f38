"""One token of a fleet: look whether another replica has a newer one, else lock, else ask the identity platform. Does I/O.

    newer there   → adopt it
    none, no lock → lock for a few seconds, ask the platform, put the token there
    none, locked  → another replica is asking: look again

The lock is never released. After a success it is moot, since the token is there; after a failure it is the whole fleet's back-off.
Whatever the store does, a token is had: if it fails, each replica asks the platform for itself.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol

from proxy.errors import IdentityPlatformUnavailable
from proxy.identity.credential import IssuedToken
from proxy.identity.sharing.availability import Availability, StoreError
from proxy.identity.sharing.sealing import MARK_NAME, Entry, KeyRing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import TypeVar

    from proxy.identity.access_token import AccessToken

    _Answer = TypeVar("_Answer")

STORE_TIMEOUT_S: Final = 0.25
_SHORTEST_LOCK_MS: Final = 3_000
_LONGEST_LOCK_MS: Final = 5_000
_LOCK_SHARE_MS: Final = 100.0  # a tenth of a life, in milliseconds a second
_LOOK_AGAIN_S: Final = 0.1
# Where the current token is good for a while: a fleet must not fill the store with questions in an outage of the platform.
_LOOK_AGAIN_AT_LEISURE_S: Final = 1.0
# Longer than any lock: whoever waited so long without one has seen others take it, and fail.
_LONGEST_WAIT_S: Final = 6.0
# A token with a smaller share of its life left is not worth adopting.
_SMALLEST_SHARE: Final = 0.1
# Two replicas measure the life of one token a round trip apart.
_NEWER_BY_S: Final = 1.0
_REFUSED_KEPT: Final = 32
# Of the start, where Redis hangs.
_OPENING_S: Final = 1.0
# For a person who waits for a verdict, name resolution and a first handshake included.
_PROBE_S: Final = 5.0


class Store(Protocol):
    """Where replicas meet. Every method raises `StoreError`."""

    async def get(self, name: str) -> tuple[bytes, float] | None:
        """Return a value, and its remaining seconds, measured before it was read; None where there is none."""
        ...

    async def set(self, name: str, value: bytes, life_ms: int) -> None:
        """Put a value there, for so long."""
        ...

    async def lock(self, name: str, life_ms: int) -> bool:
        """Put a lock there unless there is one; whether it was put."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True, slots=True)
class SharingStatistics:
    """A snapshot for metrics and the page.

    Attributes:
        is_shared: False: each replica is on its own.
        alone_since_at: Unix seconds; None while shared.
        reason: what the store did last; empty while shared.
        outcomes: how tokens were had: ``adopted``, ``requested``, ``alone``; and what happened on the way: ``awaited``,
            ``unreadable``.
    """

    is_shared: bool
    alone_since_at: float | None
    reason: str
    outcomes: Mapping[str, int]


class SharedCache:
    """What all shared tokens of a process have in common.

    Attributes:
        outcomes: how tokens were had; see `SharingStatistics`.
        timeout_s: for one command.
    """

    def __init__(
        self,
        store: Store,
        ring: KeyRing,
        name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Bring the parts together.

        Args:
            store: closed with this object.
            ring: the keys.
            name: of the store, for the log.
            clock: monotonic seconds.
            wall_clock: Unix seconds, for people.
            jitter: 0 to 1.
        """
        self.store = store
        self.ring = ring
        self.clock = clock
        self.jitter = jitter
        self.availability = Availability(name, clock=clock, wall_clock=wall_clock, jitter=jitter)
        self.outcomes: Counter[str] = Counter()
        self.timeout_s = STORE_TIMEOUT_S

    def statistics(self) -> SharingStatistics:
        """Return a snapshot."""
        state = self.availability
        return SharingStatistics(state.alone_since_at is None, state.alone_since_at, state.reason, dict(self.outcomes))

    async def ask(self, question: Awaitable[_Answer]) -> _Answer:
        """Return the store's answer to one command.

        Raises:
            StoreError: it gave none in time.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await question
        except TimeoutError:
            raise StoreError(f"does not answer within {self.timeout_s * 1000:.0f} ms") from None
        self.availability.succeed()
        return answer

    async def open(self) -> None:
        """Connect, which may take longer than a command may: TCP, TLS and signing in. Nobody waits for it but the start."""
        try:
            async with asyncio.timeout(_OPENING_S):
                await self.store.get(self.ring.names("opening")[0])
        except TimeoutError:
            self.availability.fail(StoreError(f"did not connect within {_OPENING_S:g} s"))
        except StoreError as error:
            self.availability.fail(error)

    async def probe(self) -> str:
        """Return what is wrong with the store, to stand behind its name; empty where it takes and gives what it should."""
        name = self.ring.names("probe")[0]
        sealed = self.ring.seal(name, Entry("", 1.0, None, ""))
        try:
            async with asyncio.timeout(_PROBE_S):
                await self.store.set(name, sealed, 1_000)
                got = await self.store.get(name)
        except TimeoutError:
            return f"does not answer within {_PROBE_S:g} s"
        except StoreError as error:
            return error.reason
        return "" if got is not None and self.ring.open(name, got[0]) else "does not give back what was put there"

    async def close(self) -> None:
        """Close the store."""
        await self.store.close()


class SharedToken:
    """One (credential, target)."""

    def __init__(self, cache: SharedCache, name: Callable[[str | None], str]) -> None:
        """Prepare.

        Args:
            cache: what it has in common with others.
            name: from the claims that are asked for to what tells this token apart from all others.
        """
        self._cache = cache
        self._name = name
        # Digests of tokens that an upstream refused: they may be in the store for a while.
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def refuse(self, value: str) -> None:
        """Never adopt this token again."""
        self._refused[sha256(value.encode()).digest()] = None
        while len(self._refused) > _REFUSED_KEPT:
            self._refused.popitem(last=False)

    async def request(
        self, request: Callable[[], Awaitable[IssuedToken]], claims: str | None, current: AccessToken | None
    ) -> IssuedToken:
        """Return a token: another replica's, or a new one.

        Args:
            request: asks the platform.
            claims: as for `Credential.request_token`.
            current: the token that is to be replaced; None where there is none.

        Raises:
            IdentityError: as `request` does; or others keep asking, and get nothing.
        """
        cache = self._cache
        names = cache.ring.names(self._name(claims))
        if not cache.availability.may_be_asked:
            return await self._request_alone(request)
        try:
            found = await self._meet(names, current)
        except StoreError as error:
            cache.availability.fail(error)
            return await self._request_alone(request)
        if found is not None:
            cache.outcomes["adopted"] += 1
            return found
        issued = await request()
        cache.outcomes["requested"] += 1
        await self._publish(names[0], issued)
        return issued

    async def _request_alone(self, request: Callable[[], Awaitable[IssuedToken]]) -> IssuedToken:
        issued = await request()
        self._cache.outcomes["alone"] += 1
        return issued

    async def _meet(self, names: list[str], current: AccessToken | None) -> IssuedToken | None:
        """Return another replica's token; None: the lock is ours.

        Raises:
            StoreError: the store failed.
            IdentityPlatformUnavailable: others have been asking for longer than any of them may.
        """
        cache, began_mono = self._cache, self._cache.clock()
        waits = False
        while True:
            found = await self._look(names, current)
            if found is not None:
                return found
            life_ms = _SHORTEST_LOCK_MS + int((_LONGEST_LOCK_MS - _SHORTEST_LOCK_MS) * cache.jitter())
            if current is not None:  # The lock of one token must have ended when the next one is due.
                life_ms = min(life_ms, int((current.expires_at_mono - current.obtained_at_mono) * _LOCK_SHARE_MS))
            if await cache.ask(cache.store.lock(f"{names[0]}:lock", life_ms)):
                # Who had the lock before may have put a token there a moment ago.
                return await self._look(names, current)
            if not waits:
                waits = True
                cache.outcomes["awaited"] += 1
            if cache.clock() - began_mono > _LONGEST_WAIT_S:
                lock = await cache.ask(cache.store.get(f"{names[0]}:lock"))
                if lock is None or lock[1] * 1000 > _LONGEST_LOCK_MS:
                    raise StoreError(
                        "keeps a lock for longer than any replica takes one; its clock may have been set back"
                    )
                raise IdentityPlatformUnavailable(
                    "Other replicas of this proxy are asking for the access token, and have not got one; their logs say why. "
                    "The proxy tries again by itself.",
                    code="shared_token_awaited",
                )
            again_s = _LOOK_AGAIN_S if current is None else _LOOK_AGAIN_AT_LEISURE_S
            await asyncio.sleep(again_s * (1 + cache.jitter()))

    async def _look(self, names: list[str], current: AccessToken | None) -> IssuedToken | None:
        cache = self._cache
        for name in names:
            sent_mono = cache.clock()
            got = await cache.ask(cache.store.get(name))
            if got is None:
                continue
            sealed, left_s = got
            entry = cache.ring.open(name, sealed)
            if entry is None:
                self._note_unreadable()
                continue
            # Never more than it had when it was put there: it may have replaced one with more between two commands.
            left_s = min(left_s, entry.life_s, self._ends_mono(entry.value, sent_mono + left_s) - sent_mono)
            if self._is_worth_adopting(entry, sent_mono, left_s, current):
                spent_s = entry.life_s - left_s
                refresh_in_s = None if entry.refresh_in_s is None else max(entry.refresh_in_s - spent_s, 1.0)
                return IssuedToken(entry.value, sent_mono, left_s, refresh_in_s, entry.proof, age_s=spent_s)
        return None

    def _ends_mono(self, value: str, ends_mono: float) -> float:
        """Return the earliest end that this token was ever said to have: no store can give it another life."""
        digest = sha256(value.encode()).digest()
        ends_mono = self._ends[digest] = min(ends_mono, self._ends.get(digest, ends_mono))
        while len(self._ends) > _REFUSED_KEPT:
            self._ends.popitem(last=False)
        return ends_mono

    def _is_worth_adopting(self, entry: Entry, sent_mono: float, left_s: float, current: AccessToken | None) -> bool:
        if left_s <= entry.life_s * _SMALLEST_SHARE or sha256(entry.value.encode()).digest() in self._refused:
            return False
        if current is None:
            return True
        is_newer = sent_mono + left_s > current.expires_at_mono + _NEWER_BY_S
        return is_newer and entry.value != current.value

    def _note_unreadable(self) -> None:
        self._cache.outcomes["unreadable"] += 1
        self._cache.availability.note_unreadable()

    async def _publish(self, name: str, issued: IssuedToken) -> None:
        """Put a new token there, for what is left of its life by now. A failure is the store's affair, and no more."""
        cache = self._cache
        spent_s = cache.clock() - issued.requested_at_mono
        life_s = issued.expires_in_s - spent_s
        self._ends_mono(issued.value, issued.requested_at_mono + issued.expires_in_s)
        life_ms = int(life_s * 1000)
        if life_ms <= 0:
            return
        refresh_in_s = None if issued.refresh_in_s is None else max(issued.refresh_in_s - spent_s, 1.0)
        sealed = cache.ring.seal(name, Entry(issued.value, life_ms / 1000, refresh_in_s, issued.proof))
        try:
            await cache.ask(cache.store.set(name, sealed, life_ms))
            mark = await cache.ask(cache.store.get(MARK_NAME))
            if mark is not None and not cache.ring.knows(mark[0]):
                self._note_unreadable()
            await cache.ask(cache.store.set(MARK_NAME, cache.ring.mark, life_ms))
        except StoreError as error:
            cache.availability.fail(error)
