"""Every fuzz target holds for its seeds, which include every input that once broke it, and for cut and doubled ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS


def test_every_target_has_seeds() -> None:
    assert set(SEEDS) == set(TARGETS)


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, seeds in SEEDS.items() for seed in seeds])
def test_a_target_holds_for_its_seeds(name: str, seed: bytes) -> None:
    target = TARGETS[name]
    for data in (seed, seed[:-1], seed[: len(seed) // 2], seed + seed, seed.swapcase(), seed.replace(b"\r\n", b"\n")):
        target(data)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=64))
def test_a_target_holds_for_any_bytes(name: str, data: bytes) -> None:
    TARGETS[name](data)
