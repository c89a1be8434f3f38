"""Every input that once broke a fuzz target is played again: ``tests/regression/TARGET/FILE``, as `make fuzz` leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.fuzz.__main__ import keep
from tests.fuzz.targets import TARGETS

HERE: Final = Path(__file__).parent


def test_inputs_are_kept_by_the_names_of_targets() -> None:
    assert {path.name for path in HERE.iterdir() if path.is_dir()} - {"__pycache__"} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_what_once_broke_a_target_does_so_no_more(name: str) -> None:
    for path in sorted(HERE.glob(f"{name}/*")):
        TARGETS[name](path.read_bytes())


def test_what_broke_a_target_is_kept_and_what_was_only_slow_is_not(tmp_path: Path) -> None:
    found, kept = tmp_path / "found", tmp_path / "regression" / "authority"
    found.mkdir()
    for name in ("crash-1", "timeout-2", "slow-unit-3"):
        (found / name).write_bytes(name.encode())
    keep(found, kept)
    assert sorted(path.name for path in kept.iterdir()) == ["crash-1", "timeout-2"]
    assert (kept / "crash-1").read_bytes() == b"crash-1"
