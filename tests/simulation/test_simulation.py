"""The whole relay and the real token code in a simulated world: no promise is broken, and each seed plays the same again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.run import hash_of, play, search
from tests.simulation.world import draw_story

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", ["one", "two", "three", "four", "five"])
def test_no_promise_is_broken(seed: str) -> None:
    found = search(seed, 2_000)
    assert found is None, found.describe()


def test_a_seed_plays_the_same_again_to_the_last_byte() -> None:
    for index in range(5):
        story = draw_story(f"again-{index}", 100)
        assert hash_of(play(story)) == hash_of(play(story))


def test_a_seed_plays_the_same_in_another_process() -> None:
    """Where objects lie at other addresses, and strings have other hashes."""
    here = [hash_of(play(draw_story(f"elsewhere-{index}", 100))) for index in range(4)]
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "elsewhere", "--exchanges", "400", "--hash"],
            cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert ran.stdout.split() == here


def test_much_goes_well_and_much_goes_wrong() -> None:
    """A world in which nothing happened would break no promise either."""
    outcomes: Counter[str] = Counter()
    for index in range(20):
        world = play(draw_story(f"much-{index}", 100))
        outcomes.update(record.outcome for records in world.records.values() for record in records)
    assert outcomes["ok"] > 800
    assert set(outcomes) > {
        "aborted_client", "aborted_upstream", "connection_terminated", "http_response_timeout", "destination_unavailable",
        "tls_certificate_error", "http_protocol_error", "http_request_error",
    }  # fmt: skip
