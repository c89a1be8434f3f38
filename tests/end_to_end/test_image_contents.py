"""The image's package, which lacks what plays the cloud on one machine: it serves, and says what it lacks."""

from __future__ import annotations

import re
import shutil
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.end_to_end.programs import ROOT, environment, run_program

if TYPE_CHECKING:
    from pathlib import Path

DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package without what the Dockerfile removes."""
    (removed,) = re.findall(r"&& rm -r (proxy/.+?) \\", DOCKERFILE)
    directory = tmp_path_factory.mktemp("image")
    shutil.copytree(ROOT / "proxy", directory / "proxy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "config.example.yaml", directory / "proxy" / "config" / "example.yaml")
    for path in removed.split():
        place = directory / path
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    return directory


def test_its_help_lists_what_it_has(package: Path) -> None:
    done = run_program(
        [sys.executable, "-m", "proxy", "--help"], environ=environment(PYTHONPATH=str(package)), directory=package
    )
    assert done.status == 0
    listed = re.findall(rb"^  ([a-z]+) {2,}", done.stdout, re.MULTILINE)
    assert b"run" in listed
    assert {b"sandbox", b"demo"} & set(listed) == set()


@pytest.mark.parametrize("words", [["sandbox", "--directory", "x"], ["demo"], ["init", "--sandbox"]])
def test_what_it_lacks_is_said(package: Path, words: list[str]) -> None:
    environ = environment(PYTHONPATH=str(package))
    done = run_program([sys.executable, "-m", "proxy", *words], environ=environ, directory=package)
    assert (done.status, done.stdout) == (1, b"")
    assert re.fullmatch(r"Error: The container image has no (sandbox|demo)\. Install the package .*\n", done.stderr)


@pytest.mark.parametrize("command", ["run", "check", "token", "explain", "exec", "init", "config"])
def test_everything_else_is_there(package: Path, command: str) -> None:
    environ = environment(PYTHONPATH=str(package))
    done = run_program([sys.executable, "-m", "proxy", command, "--help"], environ=environ, directory=package)
    assert done.status == 0, done.stderr
