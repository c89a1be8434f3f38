"""Plays stories one after the other; makes one that breaks a promise shorter, and prints what happened in it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tests.simulation.world import Story, World, draw_story

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXCHANGES: Final = 100
_ATTEMPTS: Final = 300
_NUMBERS: Final = re.compile(r"[\d.]+|b'.*'")


def play(story: Story) -> World:
    """Play a story."""
    world = World(story)
    world.run()
    return world


def hash_of(world: World) -> str:
    """Return what two runs of the same story have in common to the last byte."""
    return hashlib.sha256("\n".join(lines_of(world)).encode()).hexdigest()


def lines_of(world: World) -> list[str]:
    """Return what happened, a line each."""
    began = world.trace[0][0] if world.trace else 0.0
    return [
        f"{at - began:10.4f}  {who:18} {what % values if values else what}" for at, who, what, values in world.trace
    ]


@dataclass(frozen=True)
class Found:
    """A story in which a promise was broken.

    Attributes:
        exchanges: how many had been played by then, with those of this story.
        shortest: the shortest story that breaks a promise, played.
    """

    exchanges: int
    story: Story
    broken: list[str]
    shortest: World

    def describe(self) -> str:
        requests = sum(len(visit.requests) for visit in self.shortest.story.visits)
        return "\n".join(
            (
                f"Seed {self.story.seed!r}: {self.broken[0]}",
                f"The same with {requests} requests: {self.shortest.story}",
                *lines_of(self.shortest),
            )
        )


def search(seed: str, exchanges: int, play: Callable[[Story], World] = play) -> Found | None:
    """Play stories until a promise is broken, or so many exchanges have passed."""
    for index in range((exchanges + EXCHANGES - 1) // EXCHANGES):
        story = draw_story(f"{seed}-{index}", EXCHANGES)
        world = play(story)
        if world.broken:
            return Found((index + 1) * EXCHANGES, story, world.broken, play(shorten(story, play)))
    return None


def shorten(story: Story, play: Callable[[Story], World] = play) -> Story:
    """Return a story with as little in it as still breaks a promise."""
    left, kind = _ATTEMPTS, _kind_of(play(story))
    shorter = True
    while shorter and left:
        shorter = False
        for candidate in _candidates(story):
            left -= 1
            if _kind_of(play(candidate)) == kind:
                story, shorter = candidate, True
                break
            if not left:
                break
    return story


def _kind_of(world: World) -> str:
    """Return the first promise that is broken, without its numbers."""
    return _NUMBERS.sub("#", world.broken[0]) if world.broken else ""


def _candidates(story: Story) -> Iterator[Story]:
    visits = story.visits
    size = len(visits) // 2
    while size:
        for begin in range(0, len(visits), size):
            yield replace(story, visits=visits[:begin] + visits[begin + size :])
        size //= 2
    for index in range(len(story.events)):
        yield replace(story, events=story.events[:index] + story.events[index + 1 :])
    for change in (
        {"dial_faults": 0.0},
        {"name_faults": 0.0},
        {"platform_faults": 0.0},
        {"drains_at": 10_000.0},
        {"life_s": (300.0, 3_600.0)},
    ):
        if any(getattr(story, name) != value for name, value in change.items()):
            yield replace(story, **change)
    for index, visit in enumerate(visits):
        for at, request in enumerate(visit.requests):
            fewer = visit.requests[:at] + visit.requests[at + 1 :]
            if fewer:
                yield replace(story, visits=(*visits[:index], replace(visit, requests=fewer), *visits[index + 1 :]))
            if request.upstream_fault or request.client_fault:
                plain = replace(request, upstream_fault="", client_fault="")
                same = (*visit.requests[:at], plain, *visit.requests[at + 1 :])
                yield replace(story, visits=(*visits[:index], replace(visit, requests=same), *visits[index + 1 :]))
