"""The Kustomize base is the rendered chart, and an overlay can give it a configuration and a namespace."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.deploy.kustomize_base import BASE, make_base, render_for_kustomize
from tests.deploy.programs import TOOLS, Document, documents, of_kind

if TYPE_CHECKING:
    from pathlib import Path


def kustomize(directory: Path) -> list[Document]:
    done = subprocess.run([TOOLS / "kubectl", "kustomize", directory], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def in_order(rendered: list[Document]) -> list[Document]:
    return sorted(rendered, key=lambda document: (document["kind"], document["metadata"]["name"]))


@pytest.mark.parametrize("name", ["gateway.yaml", "config.yaml"])
def test_the_base_is_up_to_date(name: str) -> None:
    assert (BASE / name).read_text(encoding="utf-8") == make_base()[BASE / name], "run: make kustomize"


def test_kustomize_builds_what_the_chart_renders() -> None:
    assert in_order(kustomize(BASE)) == in_order(render_for_kustomize())


def test_an_overlay_gives_it_a_configuration_and_a_namespace(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("routes: []\n")
    overlay = {
        "resources": [os.path.relpath(BASE, tmp_path)],
        "namespace": "egress",
        "configMapGenerator": [{"name": "apim-auth-proxy", "behavior": "replace", "files": ["config.yaml"]}],
        "images": [{"name": "apim-auth-proxy", "newName": "registry.example/apim-auth-proxy", "newTag": "1.2.3"}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    built = kustomize(tmp_path)
    assert {document["metadata"]["namespace"] for document in built} == {"egress"}
    (config,) = of_kind(built, "ConfigMap")
    assert config["metadata"]["name"] == "apim-auth-proxy"
    assert config["data"]["config.yaml"] == "routes: []\n"
    (deployment,) = of_kind(built, "Deployment")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/apim-auth-proxy:1.2.3"
