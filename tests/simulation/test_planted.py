"""Each fault that is planted is found, and told shortly: a simulation that finds nothing may be one that sees nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.simulation.planted import FAULTS, Fault
from tests.simulation.run import EXCHANGES, play, search
from tests.simulation.world import draw_story

if TYPE_CHECKING:
    from tests.simulation.run import Found

MOST: Final = 10_000
# After how many exchanges each was found when the table in docs/proof.md was made. They are tried first, to be quick.
KNOWN: Final = (
    2000, 600, 600, 300, 100, 1900, 5600, 400, 400, 600, 100, 300, 400, 1300, 1600, 200, 100, 100, 100, 1800,
    800, 300, 200, 100, 200, 100, 200, 1600, 600, 800, 100, 100, 300, 1800, 2000, 1800, 100, 200, 4300,
)  # fmt: skip


def found_after(fault: Fault, most: int = MOST, known: int = 0) -> int | None:
    """Return how many exchanges it takes until the promise is broken that the fault breaks; None: more than that.

    Args:
        fault: to be planted.
        most: how many are tried.
        known: tried before all others, because it was found there.
    """
    with fault.planted():
        for index in (max(known // EXCHANGES - 1, 0), *range(most // EXCHANGES)):
            if any(fault.broken in each for each in play(draw_story(f"planted-{index}", EXCHANGES)).broken):
                return (int(index) + 1) * EXCHANGES
    return None


@pytest.mark.parametrize(
    ("fault", "known"),
    list(zip(FAULTS, KNOWN, strict=True)),
    ids=[fault.what.strip("_") + "_" + str(index) for index, fault in enumerate(FAULTS)],
)
@pytest.mark.logs_own_fault
def test_a_planted_fault_is_found(fault: Fault, known: int) -> None:
    assert found_after(fault, known=known) is not None, fault.name


def test_what_is_found_is_made_short_and_told() -> None:
    fault = next(each for each in FAULTS if each.what == "_routed")
    with fault.planted():
        found: Found | None = search("short", 1_000)
    assert found is not None
    requests = [request for visit in found.shortest.story.visits for request in visit.requests]
    assert len(requests) == 1
    told = found.describe()
    assert f"Seed {found.story.seed!r}" in told
    assert f"sends request {requests[0].number}" in told
    assert "BROKEN" in told


if __name__ == "__main__":
    for each in FAULTS:
        if any(word in each.name for word in sys.argv[1:] or [""]):
            sys.stdout.write(f"| {each.name} | {each.origin} | {found_after(each)} |\n")
