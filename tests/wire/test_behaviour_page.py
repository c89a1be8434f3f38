"""The page on behaviour is held by tests: each line names some that exist, and its table of answers is the error tree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

import proxy.server  # noqa: F401  # every class of the error tree is defined below it
from proxy.errors import ProxyError
from tests.wire.corpus import CASES
from tests.wire.corpus_bad_responses import BAD_BODIES, BAD_HEADS
from tests.wire.corpus_refused import REFUSED_BODIES, REFUSED_HEADS
from tests.wire.corpus_repaired_responses import REPAIRED

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "behaviour.md").read_text(encoding="utf-8")
REFERENCE: Final = re.compile(r"`((?:case|refused|bad|repaired) [^`]+|test_[a-z0-9_]+)`")
TABLE_ROW: Final = re.compile(r"\| (\d{3}) \| `([a-z_]+)` \|")
CORPORA: Final = {
    "case": {case.name for case in CASES},
    "refused": {case.name for case in (*REFUSED_HEADS, *REFUSED_BODIES)},
    "bad": {*BAD_HEADS, *BAD_BODIES},
    "repaired": {*REPAIRED},
}
LINES: Final = [line for line in PAGE.splitlines() if line.startswith("- ") or TABLE_ROW.match(line)]


def known_tests() -> set[str]:
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def exists(reference: str, tests: set[str]) -> bool:
    """Whether a reference of the page leads anywhere."""
    corpus, _, name = reference.partition(" ")
    if corpus not in CORPORA:
        return reference in tests
    if name.endswith("*"):
        return any(entry.startswith(name[:-1]) for entry in CORPORA[corpus])
    return name in CORPORA[corpus]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:60])
def test_each_line_names_what_holds_it(line: str) -> None:
    references = REFERENCE.findall(line)
    assert references
    tests = known_tests()
    assert [reference for reference in references if not exists(reference, tests)] == []


def test_a_reference_to_nothing_is_found() -> None:
    tests = known_tests()
    assert not exists("test_that_nobody_wrote", tests)
    assert not exists("case target: nobody's", tests)
    assert not exists("refused nobody's*", tests)


def test_no_answer_is_missing_from_the_table() -> None:
    listed = {(int(status), token) for status, token in TABLE_ROW.findall(PAGE)}
    assert listed == {(kind.status, kind.proxy_status) for kind in _kinds(ProxyError)}


def _kinds(kind: type[ProxyError]) -> set[type[ProxyError]]:
    return {kind}.union(*(_kinds(below) for below in kind.__subclasses__()))
