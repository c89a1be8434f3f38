"""No request is read in two ways: hundreds that try, through every mode, before nginx and Node, with the published outcome."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.security.smuggling import MODES, UPSTREAMS, Mode, read_table, run
from tests.security.smuggling_cases import cases

if TYPE_CHECKING:
    from tests.wire.rig import Trust

CASES = cases()


def test_there_are_hundreds_of_cases_and_no_two_have_one_name() -> None:
    assert len({(case.family, case.name) for case in CASES}) == len(CASES) >= 200


def test_the_published_table_has_every_case() -> None:
    assert set(read_table()) == {(case.family, case.name) for case in CASES}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_every_case_is_refused_or_arrives_as_what_it_is(
    tmp_path: Path, trust: Trust, upstream: str, mode: Mode
) -> None:
    if not (shutil.which(upstream) or Path("/usr/sbin", upstream).exists()):
        pytest.skip(f"{upstream} is not installed")
    outcomes = run(trust, mode, upstream, CASES, tmp_path)
    assert [f"{one.case.family}, {one.case.name}: {one.fault()}" for one in outcomes if one.fault()] == []
    table = read_table()
    # Otherwise run `python -m tests.security.smuggling` and read what has changed.
    assert [one.case.name for one in outcomes if one.word() not in table[one.case.family, one.case.name]] == []
