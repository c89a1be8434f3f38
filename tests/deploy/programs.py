"""Runs helm and kubectl, which `.ci/install-test-tools deploy` puts into the cache directory, on the files below deploy/."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
CHART: Final = DEPLOY / "helm/apim-auth-proxy"
LIBRARY: Final = DEPLOY / "helm/apim-auth-proxy-sidecar"
TOOLS: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apim-auth-proxy/deploy-tools"

Document = dict[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TOOLS / "helm", *arguments], capture_output=True, text=True)


def template(chart: Path, values: Path, *arguments: str, release: str = "try") -> list[Document]:
    """Return what a chart renders for a release in the namespace `apps`."""
    done = helm("template", release, chart, "--namespace", "apps", "--values", values, *arguments)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def copy_example(directory: Path) -> Path:
    """Copy the chart that includes the sidecar's library, let helm resolve the one's dependency on the other, and return it."""
    example = ROOT / "tests/deploy/legacy-app"
    for each in (LIBRARY, example):
        shutil.copytree(each, directory / each.relative_to(ROOT))
    copy = directory / example.relative_to(ROOT)
    done = helm("dependency", "build", copy)
    assert done.returncode == 0, done.stderr
    return copy


def documents(text: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(rendered: list[Document], kind: str) -> list[Document]:
    return [document for document in rendered if document["kind"] == kind]
