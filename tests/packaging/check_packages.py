"""What `make packages` left in dist/: complete, and good for a 200 from the wheel alone, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
DIST: Final = ROOT / "dist"


def only(pattern: str) -> Path:
    (found,) = DIST.glob(pattern)
    return found


def test_the_source_archive_has_what_the_checkout_has() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    wanted = {
        name for name in listed.split("\0") if name.partition("/")[0] in {"proxy", "tests", "docs", "deploy", "website"}
    }
    with tarfile.open(only("*.tar.gz")) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert wanted - inside == set()


def test_the_wheel_has_the_package_and_nothing_else() -> None:
    with zipfile.ZipFile(only("*-py3-none-any.whl")) as wheel:
        places = {name.partition("/")[0] for name in wheel.namelist()}
        assert "proxy/config/example.yaml" in wheel.namelist()
    assert {place for place in places if not place.endswith(".dist-info")} == {"proxy"}


def test_the_wheel_alone_gets_an_answer_through_the_proxy(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--python", python, "install", only("*-py3-none-any.whl")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if installed.returncode != 0:
        pytest.fail(installed.stderr)
    done = subprocess.run(
        [python, ROOT / "tests/packaging/installed.py", "--interpreted"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("apim-auth-proxy ")
