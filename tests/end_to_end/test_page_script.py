"""The page's script, as TypeScript and ESLint see it: types in comments, nothing unused, no markup out of text."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Final

import pytest

from tests.end_to_end.npm_packages import install_packages
from tests.end_to_end.programs import ROOT, run_program

if TYPE_CHECKING:
    from pathlib import Path

# The newest that run on Node.js 18, which Debian 12 has.
PACKAGES: Final = ("eslint@9.39.5", "@eslint/js@9.39.5", "typescript@6.0.3")
SCRIPTS: Final = ROOT / "proxy" / "operations" / "static"
CHECKS: Final = ROOT / "tests" / "page_script"
# A fault for each checker, in a file of its own: who finds nothing else has looked.
FAULTY: Final = "document.body.inert = 1;\ndocument.body.innerHTML = '';\n"


@pytest.fixture
def beside_packages(pytestconfig: pytest.Config, tmp_path: Path) -> Path:
    """A directory with the script, a faulty one, what both are checked by, and the packages for that."""
    packages = install_packages(pytestconfig, PACKAGES)
    for file in (*SCRIPTS.glob("*.js"), *CHECKS.iterdir()):
        shutil.copy(file, tmp_path)
    (tmp_path / "faulty.js").write_text(FAULTY, encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    return tmp_path


def check(directory: Path, program: str, *arguments: str) -> str:
    """Runs one of the checkers, which must find something; returns what."""
    node = shutil.which("node")
    assert node is not None
    ran = run_program([node, directory / "node_modules" / program, *arguments], directory=directory)
    assert ran.status != 0
    return ran.stdout.decode()


def test_the_pages_script_keeps_its_types(beside_packages: Path) -> None:
    said = check(beside_packages, "typescript/bin/tsc", "--project", ".", "--pretty", "false")
    assert [line.partition(":")[0] for line in said.splitlines()] == ["faulty.js(1,1)"], said


def test_the_pages_script_keeps_its_style(beside_packages: Path) -> None:
    said = check(beside_packages, "eslint/bin/eslint.js", "--config", "eslint.config.mjs", "--format", "json", ".")
    found = [
        (one["filePath"].rpartition("/")[2], message["ruleId"])
        for one in json.loads(said)
        for message in one["messages"]
    ]
    assert found == [("faulty.js", "no-restricted-properties")], said
