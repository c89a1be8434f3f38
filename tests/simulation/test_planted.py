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

MOST: Final = 5_000


def found_after(fault: Fault, most: int = MOST) -> int | None:
    """Return how many exchanges it takes until the promise is broken that the fault breaks; None: more than that."""
    with fault.planted():
        for index in range(most // EXCHANGES):
            if any(fault.broken in each for each in play(draw_story(f"planted-{index}", EXCHANGES)).broken):
                return (index + 1) * EXCHANGES
    return None


@pytest.mark.parametrize(
    "fault", FAULTS, ids=[fault.what.strip("_") + "_" + str(index) for index, fault in enumerate(FAULTS)]
)
@pytest.mark.logs_own_fault
def test_a_planted_fault_is_found(fault: Fault) -> None:
    assert found_after(fault) is not None, fault.name


def test_what_is_found_is_made_short_and_told() -> None:
    fault = next(each for each in FAULTS if each.what == "_routed")
    with fault.planted():
        found: Found | None = search("short", 1_000)
    assert found is not None
    requests = [request for visit in found.shortest.story.visits for request in visit.requests]
    assert len(requests) == 1
    told = found.describe()
    assert "Seed 'short-0'" in told
    assert f"sends request {requests[0].number}" in told
    assert "BROKEN" in told


if __name__ == "__main__":
    for each in FAULTS:
        sys.stdout.write(f"| {each.name} | {each.origin} | {found_after(each):,} |\n")
