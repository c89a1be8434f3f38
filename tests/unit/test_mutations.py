"""The list of critical mutations fits the code: each text stands once in its file, and the tests it names are there."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.mutations.critical import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutation", [pytest.param(one, id=one.promise) for one in MUTATIONS])
def test_a_mutation_fits_the_code(mutation: Mutation) -> None:
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1, f"{mutation.file} has changed: adapt the entry"
    compile(text.replace(mutation.old, mutation.new), mutation.file, "exec")
    named = [word for word in shlex.split(mutation.tests) if word.startswith("tests/")]
    assert named
    for word in named:
        path, _, function = word.partition("::")
        assert (ROOT / path).exists(), word
        assert not function or f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), word
