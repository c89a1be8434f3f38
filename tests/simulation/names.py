"""Names that resolve late, wrongly, for a moment, or never: stands where the product asks name servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.dialing.lookup import Answer, Outcome

if TYPE_CHECKING:
    import asyncio

    from tests.simulation.world import World

# For how long a silent name server is asked, as c-ares does; longer than anybody waits for a connection.
SILENCE_S: Final = 12.0
_FAULTS: Final = ("silent", "late", "too late", "wrong", "unknown", "failed")


class Names:
    """A `Lookup`.

    Args:
        world: whose names they are.
        addresses: of each name.
        elsewhere: where all hosts are that no route names.
    """

    limit = 1_024

    def __init__(self, world: World, addresses: dict[str, str], elsewhere: str) -> None:
        self._world = world
        self._addresses = addresses
        self._elsewhere = elsewhere
        self._asked = 0

    def start(self, name: str) -> asyncio.Future[Answer]:
        """See `Lookup`."""
        world, loop = self._world, self._world.loop
        self._asked += 1
        chance = world.draw(f"name {self._asked}")
        fault = chance.choice(_FAULTS) if chance.random() < world.story.name_faults else ""
        world.note("names", "%s is asked for: %s", name, fault or "found")
        address = self._elsewhere if name.endswith(".blind.example") else self._addresses.get(name)
        if fault == "wrong":
            address = chance.choice((*self._addresses.values(), self._elsewhere))
        answer = Answer(Outcome.FOUND, (address,), chance.choice((0.0, 1.0, 5.0, 60.0))) if address else None
        if fault in ("silent", "unknown", "failed") or answer is None:
            answer = Answer({"silent": Outcome.TIMED_OUT, "failed": Outcome.FAILED}.get(fault, Outcome.NOT_FOUND))
        late_s = {"silent": SILENCE_S, "late": chance.uniform(0.4, 2.9), "too late": chance.uniform(2.9, 6)}
        future: asyncio.Future[Answer] = loop.create_future()
        loop.call_later(late_s.get(fault, 0.002), _settle, future, answer)
        return future


def _settle(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)
