"""What repeats tests names those that differ, plays an order again, and knows the surroundings it has none of."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.flaky.plugin import SEED, pytest_collection_modifyitems
from tests.matrix.settings import SETTINGS, interpreters

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[2]


def repeat(file: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.flaky", "--seed", "7", "--side-by-side", "2", "--rounds", "1", str(file)],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
    )


def test_a_test_that_differs_is_named_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "test_luck.py"
    file.write_text(
        "from pathlib import Path\n"
        f"def test_first_come() -> None: Path({str(tmp_path / 'taken')!r}).touch(exist_ok=False)\n"
        "def test_sound() -> None: pass\n"
    )
    done = repeat(file)
    assert done.returncode == 1, done
    assert "test_first_come: 1 passed, 1 failed" in done.stdout or "test_first_come: 1 failed, 1 passed" in done.stdout
    assert "FileExistsError" in done.stdout
    assert "4 runs of 2 tests, each 2 to 2 times; 1 did not pass each time" in done.stdout


def test_a_seed_gives_its_order_again_and_keeps_modules_together(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = request.session.items[:500]

    def order(seed: str) -> list[pytest.Item]:
        monkeypatch.setenv(SEED, seed)
        shuffled = items.copy()
        pytest_collection_modifyitems(shuffled)
        return shuffled

    assert order("7/0/0") == order("7/0/0")
    assert sorted(order("7/0/0"), key=items.index) == items
    modules = [item.path for item in order("7/0/0")]
    changes = sum(one != other for one, other in itertools.pairwise(modules))
    assert changes == len(set(modules)) - 1
    if len(items) > 50:
        assert order("7/0/0") != order("7/0/1")


def test_each_setting_names_tests_that_exist() -> None:
    for setting in (*SETTINGS, *interpreters()):
        for path in setting.tests:
            assert (ROOT / path).exists(), path
    names = [setting.name for setting in SETTINGS]
    assert len(set(names)) == len(names)
