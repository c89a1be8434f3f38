"""What the image is built from is pinned: one version of everything, by the hash of its files, and nothing left out."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parents[2]
LOCK: Final = (ROOT / "requirements.lock").read_text(encoding="utf-8")
ENTRIES: Final = [entry for entry in re.split(r"\n(?=\S)", LOCK.strip()) if not entry.startswith("#")]


def pinned() -> dict[str, Requirement]:
    found = [Requirement(entry.partition(" \\")[0]) for entry in ENTRIES]
    return {canonicalize_name(one.name): one for one in found}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.partition("=")[0])
def test_each_entry_is_one_version_with_the_hashes_of_its_files(entry: str) -> None:
    first, *hashes = [line.strip().removesuffix(" \\") for line in entry.splitlines()]
    (only,) = Requirement(first).specifier
    assert only.operator == "=="
    assert hashes
    assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes)


def test_every_dependency_is_in_the_lock_in_a_version_that_will_do() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = pinned()
    for text in project["dependencies"]:
        wanted = Requirement(text)
        (only,) = locked[canonicalize_name(wanted.name)].specifier
        assert wanted.specifier.contains(only.version), text


def test_what_dependencies_depend_on_is_in_the_lock_too() -> None:
    locked = pinned()
    for name in locked:
        try:
            version(name)
        except PackageNotFoundError:
            continue  # for another platform
        for text in requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in locked, f"{name} needs {needed.name}"


def test_the_lock_names_no_index() -> None:
    assert "://" not in LOCK
