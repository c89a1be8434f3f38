"""Virtual time, the identity platform, and the store that replicas share. Does no I/O.

The platform's numbers are assumptions, and arguments: Entra ID publishes none of its limits.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections import deque
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from proxy.identity.sharing.availability import StoreError
from proxy.identity.token_endpoint import TokenEndpoint
from proxy.identity.token_response import Answer

if TYPE_CHECKING:
    import random
    import ssl
    from collections.abc import Mapping, Sequence

    from proxy.identity.certificate import PublicCertificate

EPOCH: Final = 1_780_000_000.0
Window = tuple[float, float]


class _VirtualSelector(selectors.DefaultSelector):
    """Never waits: where the loop would wait, its clock moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += max(timeout or 0.0, 0.0)
        return list(super().select(0))


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while everything waits."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._virtual.now


@dataclass(frozen=True, slots=True)
class PlatformSettings:
    """What is assumed of the platform.

    Attributes:
        life_s: the shortest and the longest life of a token.
        answers_in_s: the shortest and the longest time to an answer.
        limit: token requests of the application in ten seconds; more get 429. None: any number.
        retry_after_s: what a 429 asks for.
        outages: when it answers 503.
    """

    life_s: tuple[float, float] = (3_600.0, 5_400.0)
    answers_in_s: tuple[float, float] = (0.1, 0.5)
    limit: int | None = 150
    retry_after_s: int = 60
    outages: Sequence[Window] = ()


@dataclass
class Platform:
    """The platform as all replicas see it.

    Attributes:
        requests: when each token request came, virtual seconds.
        throttled: how many of them got 429.
    """

    settings: PlatformSettings
    chance: random.Random
    requests: list[float] = field(default_factory=list)
    throttled: int = 0
    _recent: deque[float] = field(default_factory=deque)
    _issued: int = 0

    async def answer(self) -> Answer:
        """Return what one token request gets."""
        now = asyncio.get_running_loop().time()
        self.requests.append(now)
        self._recent.append(now)
        while self._recent[0] <= now - 10:
            self._recent.popleft()
        await asyncio.sleep(self.chance.uniform(*self.settings.answers_in_s))
        date = formatdate(EPOCH + asyncio.get_running_loop().time(), usegmt=True)
        if any(begin <= now < end for begin, end in self.settings.outages):
            return Answer(503, b"", None, date)
        if self.settings.limit is not None and len(self._recent) > self.settings.limit:
            self.throttled += 1
            return Answer(429, b"Too Many Requests", str(self.settings.retry_after_s), date)
        self._issued += 1
        content = {
            "token_type": "Bearer",
            "access_token": f"token-{self._issued}",
            "expires_in": int(self.chance.uniform(*self.settings.life_s)),
        }
        return Answer(200, json.dumps(content).encode(), None, date)


class ModelEndpoint(TokenEndpoint):
    """A replica's token endpoint, which leads to the platform; the replica's clock may be wrong."""

    def __init__(self, platform: Platform, ahead_s: float) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            "https://login.example.com/tenant/oauth2/v2.0/token", wall_clock=lambda: EPOCH + loop.time() + ahead_s
        )
        self._platform = platform

    async def post(
        self,
        url: str,  # noqa: ARG002 -- as below: the platform is one, whatever is asked
        form: Mapping[str, str],  # noqa: ARG002
        fields: Mapping[str, str],  # noqa: ARG002
        tls: ssl.SSLContext | None = None,  # noqa: ARG002
    ) -> Answer:
        """Return the platform's answer."""
        return await self._platform.answer()


class NoProof:
    """Costs no signature."""

    name = "none"
    certificate: PublicCertificate | None = None
    tls: ssl.SSLContext | None = None

    async def form_fields(self, *, client_id: str, audience: str, now: float) -> Mapping[str, str]:  # noqa: ARG002 -- the interface
        """Return nothing."""
        return {}


class ModelStore:
    """What Redis does, as far as replicas see it: values that end, a round trip, and times when it is away."""

    def __init__(self, away: Sequence[Window], round_trip_s: float = 0.001) -> None:
        self._away = away
        self._round_trip_s = round_trip_s
        self._values: dict[str, tuple[bytes, float]] = {}

    async def get(self, name: str) -> tuple[bytes, float] | None:
        """See `Store.get`."""
        now = await self._travel()
        found = self._values.get(name)
        return None if found is None or found[1] <= now else (found[0], found[1] - now)

    async def set(self, name: str, value: bytes, life_ms: int) -> None:
        """See `Store.set`."""
        self._values[name] = (value, await self._travel() + life_ms / 1000)

    async def lock(self, name: str, life_ms: int) -> bool:
        """See `Store.lock`."""
        now = await self._travel()
        if name in self._values and self._values[name][1] > now:
            return False
        self._values[name] = (b"1", now + life_ms / 1000)
        return True

    async def close(self) -> None:
        """Do nothing."""

    async def _travel(self) -> float:
        await asyncio.sleep(self._round_trip_s)
        now = asyncio.get_running_loop().time()
        if any(begin <= now < end for begin, end in self._away):
            raise StoreError("is away")
        return now
