"""Every claim of the threat model names tests that exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
REFERENCE: Final = re.compile(r"`(test_[a-z0-9_]+)`")


def claims() -> list[str]:
    """The rows of the tables that have a column for what holds them."""
    found = []
    is_claim = False
    for line in PAGE.splitlines():
        if line.startswith("| claim"):
            is_claim = True
        elif not line.startswith("|"):
            is_claim = False
        elif is_claim and not line.startswith("|---"):
            found.append(line)
    return found


@cache
def known_tests() -> frozenset[str]:
    # Those named check_ are run by `make test-deploy` and `make image-test`.
    files = (path for name in ("test_*.py", "check_*.py") for path in (ROOT / "tests").rglob(name))
    sources = (path.read_text(encoding="utf-8") for path in files)
    return frozenset(
        name for source in sources for name in re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE)
    )


def test_there_are_claims() -> None:
    assert len(claims()) >= 30


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim[2:60])
def test_a_claim_names_what_holds_it(claim: str) -> None:
    references = REFERENCE.findall(claim)
    assert references
    assert [name for name in references if name not in known_tests()] == []


def test_no_other_line_names_a_test_that_does_not_exist() -> None:
    assert set(REFERENCE.findall(PAGE)) <= known_tests()
