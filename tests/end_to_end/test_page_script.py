"""The page's script, as TypeScript and ESLint see it: types in comments, nothing unused, no markup out of text."""

from __future__ import annotations

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
CHECKERS: Final = {
    "types": ("typescript/bin/tsc", "--project", "."),
    "style": ("eslint/bin/eslint.js", "--config", "eslint.config.mjs", "--max-warnings", "0", "."),
}


@pytest.fixture
def beside_packages(pytestconfig: pytest.Config, tmp_path: Path) -> Path:
    """A directory with the script, what it is checked by, and the packages for that."""
    packages = install_packages(pytestconfig, PACKAGES)
    for file in (*SCRIPTS.glob("*.js"), *CHECKS.iterdir()):
        shutil.copy(file, tmp_path)
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    return tmp_path


def check(directory: Path, what: str) -> tuple[int, str]:
    """Runs one of the checkers; returns its exit code, and what it said."""
    node = shutil.which("node")
    assert node is not None
    program, *arguments = CHECKERS[what]
    ran = run_program([node, directory / "node_modules" / program, *arguments], directory=directory)
    return ran.status, ran.stdout.decode() + ran.stderr


@pytest.mark.parametrize("what", CHECKERS)
def test_the_pages_script_has_no_fault(beside_packages: Path, what: str) -> None:
    status, said = check(beside_packages, what)
    assert status == 0, said


@pytest.mark.parametrize(
    ("what", "line"), [("types", "\ndocument.body.inert = 1;\n"), ("style", "\ndocument.body.innerHTML = '';\n")]
)
def test_a_fault_in_the_script_is_found(beside_packages: Path, what: str, line: str) -> None:
    """Or the checkers look at nothing."""
    with (beside_packages / "page.js").open("a", encoding="utf-8") as script:
        script.write(line)
    status, said = check(beside_packages, what)
    assert status != 0
    assert "page.js" in said
