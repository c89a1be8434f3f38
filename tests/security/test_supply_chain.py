"""What the image is built from is pinned: one version of everything, by the hash of its files, and nothing left out."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from proxy import __version__
from tests.security import audit, sbom

ROOT: Final = Path(__file__).resolve().parents[2]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS: Final = {name: (ROOT / name).read_text(encoding="utf-8") for name in audit.LOCKS}


def entries(name: str) -> list[str]:
    return [entry for entry in re.split(r"\n(?=\S)", LOCKS[name].strip()) if not entry.startswith("#")]


def pinned(name: str) -> dict[str, Requirement]:
    found = [Requirement(entry.partition(" \\")[0]) for entry in entries(name)]
    return {canonicalize_name(one.name): one for one in found}


@pytest.mark.parametrize(
    "entry", [entry for name in LOCKS for entry in entries(name)], ids=lambda entry: entry.partition("=")[0]
)
def test_each_entry_is_one_version_with_the_hashes_of_its_files(entry: str) -> None:
    first, *hashes = [line.strip().removesuffix(" \\") for line in entry.splitlines()]
    (only,) = Requirement(first).specifier
    assert only.operator == "=="
    assert hashes
    assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("requirements.lock", PROJECT["project"]["dependencies"]),
        ("requirements-build.lock", PROJECT["build-system"]["requires"]),
        (
            "requirements-build.lock",
            PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]["dependencies"],
        ),
        ("requirements-build.lock", (ROOT / "requirements-build.in").read_text(encoding="utf-8").splitlines()[1:]),
    ],
    ids=["product", "build system", "compiling hook", "what the lock is made of"],
)
def test_every_dependency_is_in_the_lock_in_a_version_that_will_do(name: str, wanted: list[str]) -> None:
    locked = pinned(name)
    assert wanted
    for one in map(Requirement, wanted):
        (only,) = locked[canonicalize_name(one.name)].specifier
        assert one.specifier.contains(only.version), str(one)


def test_the_lock_of_the_build_is_made_of_what_the_project_says() -> None:
    hook = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]["dependencies"]
    wanted = (ROOT / "requirements-build.in").read_text(encoding="utf-8").splitlines()[1:]
    assert wanted == PROJECT["build-system"]["requires"] + hook


def test_a_package_of_both_locks_has_one_version() -> None:
    product, build = (pinned(name) for name in LOCKS)
    assert {name for name in product.keys() & build.keys() if product[name].specifier != build[name].specifier} == set()


@pytest.mark.parametrize("name", LOCKS)
def test_what_dependencies_depend_on_is_in_the_lock_too(name: str) -> None:
    locked = pinned(name)
    for one in locked:
        try:
            version(one)
        except PackageNotFoundError:
            continue  # for another platform, or for the build only
        for text in requires(one) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in locked, f"{one} needs {needed.name}"


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_names_no_index(name: str) -> None:
    assert "://" not in LOCKS[name]


def test_the_image_installs_nothing_without_a_hash() -> None:
    """Whatever pip installs there comes from a lock, or is the wheel that was built a line above."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    instructions = re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE)  # a comment may stand within one
    lines = instructions.replace("\\\n", " ").splitlines()
    (run,) = (line for line in lines if "pip install" in line)
    locked = re.search(r'locked="([^"]+)"', run)
    assert locked is not None
    assert {"--require-hashes", "--only-binary=:all:"} <= set(locked[1].split())
    for command in re.findall(r"\$pip (?:install|wheel) [^&]+", run):
        assert "$locked --requirement" in command or "--no-deps" in command, command
        assert "--no-build-isolation" in command or " wheel " not in command
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{name}" for name in LOCKS} <= set(ignored)


PACKAGES: Final = {"a 1.0", "b 2.0"}
CLEAN: Final = [{"name": "a", "version": "1.0", "vulns": []}, {"name": "b", "version": "2.0", "vulns": []}]


@pytest.mark.parametrize(
    ("output", "status", "words"),
    [
        (json.dumps({"dependencies": CLEAN}), 0, "2 packages, no known vulnerability"),
        (json.dumps({"dependencies": CLEAN[:1]}), 2, "1 of 2 packages were not audited: b 2.0"),
        (
            json.dumps({"dependencies": [CLEAN[0], {"name": "b", "skip_reason": "not on PyPI"}]}),
            2,
            "vulnerability-service osv",
        ),
        (
            json.dumps({"dependencies": [CLEAN[0] | {"vulns": [{"id": "X-1", "fix_versions": ["1.1"]}]}]}),
            1,
            "a 1.0: X-1, fixed in 1.1",
        ),
        ("", 2, "pip-audit failed: no route"),
        ("[]", 2, "not audited"),
    ],
    ids=["clean", "left out", "passed over", "vulnerable", "failed", "nonsense"],
)
def test_an_audit_counts_what_was_audited_only(output: str, status: int, words: str) -> None:
    verdict = audit.judge("x.lock", PACKAGES, output, "WARNING\nno route\n")
    assert verdict.status == status
    assert words in "\n".join(verdict.lines)


def test_an_audit_expects_every_package_of_this_platform() -> None:
    everywhere = len(entries("requirements.lock"))
    found = audit.expected(LOCKS["requirements.lock"])
    assert everywhere - 3 <= len(found) <= everywhere
    assert all(re.fullmatch(r"[a-z0-9-]+ [0-9.]+", one) for one in found)


def test_a_bill_of_materials_is_of_the_lock_and_says_its_own_version() -> None:
    bill = {
        "metadata": {"component": {"name": "apim-auth-proxy"}},
        "components": [{"name": "A", "version": "1.0"}, {"name": "c", "version": "3.0"}],
    }
    assert sbom.differences(bill, PACKAGES) == [
        "b 2.0 is in the lock and not in the environment",
        "c 3.0 is in the environment and not in the lock",
    ]
    assert sbom.differences({"components": CLEAN}, PACKAGES) == []
    assert sbom.complete(bill)["metadata"]["component"]["purl"] == f"pkg:pypi/apim-auth-proxy@{__version__}"
