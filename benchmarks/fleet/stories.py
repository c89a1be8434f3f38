"""What happens to a fleet, and what is counted meanwhile. Does no I/O; a seed decides all that is left to chance."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from benchmarks.fleet.model import EPOCH, ModelEndpoint, ModelStore, NoProof, Platform, PlatformSettings, VirtualLoop
from proxy.errors import IdentityError
from proxy.identity.cache import Pause
from proxy.identity.credential import Credential, Target
from proxy.identity.sharing.sealing import KeyRing
from proxy.identity.sharing.shared_token import SharedCache, SharedToken
from proxy.identity.source import TokenSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.fleet.model import Window

_MINUTE: Final = 60.0
_HOUR: Final = 3_600.0
# How often each replica is asked whether it could send a request.
_LOOK_S: Final = 30.0
_PATIENCE_S: Final = 20.0  # `timeouts.token_s`
_KEY: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Story:
    """What happens.

    Attributes:
        name: for the table.
        text: in a sentence.
        starts_within_s: all replicas start evenly over this time.
        restarts_at_s: when all of them start again, over `restarts_within_s`; None: never.
        restarts_within_s: see above.
        late: which share of the replicas starts in the middle of the outage instead.
        outages: of the platform.
        store_away: when the shared store is.
        lasts_s: until when there is something to count.
        largest: the most replicas that it is told of: failing for an hour, they cost most of all.
    """

    name: str
    text: str
    starts_within_s: float = 10 * _MINUTE
    restarts_at_s: float | None = None
    restarts_within_s: float = 30.0
    late: float = 0.0
    outages: Sequence[Window] = ()
    store_away: Sequence[Window] = ()
    lasts_s: float = 3 * _HOUR
    largest: int = 100_000


STORIES: Final = (
    Story("an ordinary day", "three hours, replicas started over ten minutes"),
    Story("a deployment", "after an hour all restart within 30 s", restarts_at_s=_HOUR),
    Story("an outage", "the platform is away for 20 min after an hour", outages=((_HOUR, _HOUR + 20 * _MINUTE),)),
    Story(
        "pods that start in an outage",
        "a tenth of the replicas starts while the platform is away for 20 min",
        late=0.1,
        outages=((_HOUR, _HOUR + 20 * _MINUTE),),
    ),
    Story(
        "a long outage",
        "the platform is away for 75 min after an hour",
        outages=((_HOUR, _HOUR + 75 * _MINUTE),),
        lasts_s=4 * _HOUR,
        largest=100,
    ),
    Story(
        "Redis away, and a deployment",
        "Redis is away for an hour, in which all restart within 30 s",
        restarts_at_s=1.5 * _HOUR,
        store_away=((_HOUR, 2 * _HOUR),),
    ),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a story.

    Attributes:
        story: which.
        replicas: how many.
        is_shared: whether they share tokens.
        requests: token requests in all.
        throttled: of these, answered 429.
        busiest_minute: the most that came within a minute.
        busiest_10s: within ten seconds.
        without_s: seconds without a token, a replica, on average.
        without_longest_s: of the replica that was without for longest.
        minutes: token requests minute by minute.
    """

    story: Story
    replicas: int
    is_shared: bool
    requests: int
    throttled: int
    busiest_minute: int
    busiest_10s: int
    without_s: float
    without_longest_s: float
    minutes: tuple[int, ...] = field(repr=False)


class _Replica:
    """One proxy with one route, from its start to its end."""

    def __init__(self, platform: Platform, store: ModelStore | None, chance: random.Random) -> None:
        clock = asyncio.get_running_loop().time
        endpoint = ModelEndpoint(platform, chance.uniform(-120, 120))
        credential = Credential("mine", client_id="client", endpoint=endpoint, proofs=[NoProof()], clock=clock)
        target = Target(scope="api://orders/.default")
        shared = None
        if store is not None:
            cache = SharedCache(
                store, KeyRing([_KEY]), "the store", clock=clock, wall_clock=lambda: EPOCH, jitter=chance.random
            )
            shared = SharedToken(cache, lambda claims: credential.name_token(target, claims) or "")
        self.source = TokenSource(
            credential,
            target,
            credential_name="mine",
            endpoint_pause=Pause(),
            client_pause=Pause(),
            patience_s=_PATIENCE_S,
            shared=shared,
            clock=clock,
            jitter=chance.random,
        )
        self.source.keep_fresh()
        self.without_s = 0.0


def tell(story: Story, replicas: int, *, is_shared: bool, platform: PlatformSettings, seed: int = 1) -> Outcome:
    """Return what comes of a story."""
    logger = logging.getLogger("proxy.identity")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # an outage of a thousand replicas is a thousand lines
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(_Telling(story, replicas, is_shared, platform, seed).run())
    finally:
        logger.setLevel(level)


class _Telling:
    def __init__(self, story: Story, replicas: int, is_shared: bool, settings: PlatformSettings, seed: int) -> None:
        self._story = story
        self._count = replicas
        self._chance = random.Random(seed)
        self._platform = Platform(replace(settings, outages=story.outages), self._chance)
        self._store = ModelStore(story.store_away) if is_shared else None
        self._without: list[float] = []

    async def run(self) -> Outcome:
        """Tell it."""
        await asyncio.gather(*(self._live(index) for index in range(self._count)))
        requests = sorted(self._platform.requests)
        minutes = [0] * (int(self._story.lasts_s / _MINUTE) + 1)
        for at in requests:
            minutes[int(min(at, self._story.lasts_s) / _MINUTE)] += 1
        return Outcome(
            self._story,
            self._count,
            self._store is not None,
            len(requests),
            self._platform.throttled,
            max(minutes),
            _busiest(requests, 10.0),
            sum(self._without) / self._count,
            max(self._without),
            tuple(minutes),
        )

    async def _live(self, index: int) -> None:
        story, share = self._story, index / self._count
        start_s = share * story.starts_within_s
        if share < story.late:
            begin, end = story.outages[0]
            start_s = (begin + end) / 2 + share * 60
        await asyncio.sleep(start_s)
        if story.restarts_at_s is None:
            self._without.append(await self._serve(story.lasts_s))
            return
        restart_s = story.restarts_at_s + self._chance.uniform(0, story.restarts_within_s)
        before_s = await self._serve(restart_s)
        self._without.append(before_s + await self._serve(story.lasts_s))

    async def _serve(self, until_s: float) -> float:
        """Run one replica; return for how long it had no token for a request."""
        loop = asyncio.get_running_loop()
        replica = _Replica(self._platform, self._store, self._chance)
        began_s = loop.time()
        without_s = 0.0
        while loop.time() < until_s:
            if replica.source.look(loop.time()) is None:
                asked_s = loop.time()
                try:
                    await replica.source.acquire()
                except IdentityError as error:
                    # Asked each second, ten thousand replicas without a token would be what the simulation is busy with.
                    wait_s = error.retry_after_s or 1
                    await asyncio.sleep(min(wait_s, max(until_s - loop.time(), 0.0)))
                without_s += min(loop.time(), until_s) - asked_s
            else:
                await asyncio.sleep(min(_LOOK_S, max(until_s - loop.time(), 0.0)))
        await replica.source.close()
        return min(without_s, until_s - began_s)


def _busiest(requests: list[float], window_s: float) -> int:
    most, first = 0, 0
    for index, at in enumerate(requests):
        while requests[first] <= at - window_s:
            first += 1
        most = max(most, index - first + 1)
    return most
