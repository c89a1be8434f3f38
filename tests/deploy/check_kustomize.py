"""The Kustomize base is the rendered chart, and an overlay can give it a configuration and a namespace."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.deploy.check_documentation import blocks
from tests.deploy.kustomize_base import (
    BASE,
    COMPONENT,
    make_base,
    make_component,
    render_for_kustomize,
    render_redirected,
)
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


def test_the_component_is_up_to_date() -> None:
    for path, text in make_component().items():
        assert path.read_text(encoding="utf-8") == text, "run: make kustomize"


def test_a_deployment_with_the_component_is_the_pod_that_the_sidecars_chart_renders(tmp_path: Path) -> None:
    """Rules first, then the sidecar, then what the pod has of its own; another Deployment beside it is left alone."""
    rendered = render_redirected()
    (expected,), (configuration,) = of_kind(rendered, "Deployment"), of_kind(rendered, "ConfigMap")
    bare = copy.deepcopy(expected)
    del bare["spec"]["template"]["spec"]["initContainers"], bare["spec"]["template"]["spec"]["volumes"]
    other = copy.deepcopy(bare) | {"metadata": {"name": "other", "namespace": "apps"}}
    migration = {"name": "migrate", "image": "vendor/legacy:1"}
    bare["spec"]["template"]["spec"]["initContainers"] = [migration]
    bare["metadata"]["labels"] = {"apim-auth-proxy/redirected": "true"}
    (tmp_path / "program.yaml").write_text(yaml.safe_dump_all([bare, other]))
    overlay = {
        "resources": ["program.yaml"],
        "components": [os.path.relpath(COMPONENT, tmp_path)],
        "namespace": "apps",
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))

    built = kustomize(tmp_path)

    deployments = {document["metadata"]["name"]: document for document in of_kind(built, "Deployment")}
    assert deployments["other"] == other
    pod, chart_pod = (each["spec"]["template"]["spec"] for each in (deployments["redirected"], expected))
    assert pod["initContainers"] == [*chart_pod["initContainers"], migration]
    assert {**pod, "initContainers": chart_pod["initContainers"]} == chart_pod
    (config,) = of_kind(built, "ConfigMap")
    assert (config["data"], config["metadata"]) == (configuration["data"], configuration["metadata"])


def test_the_overlay_shown_has_its_own_images_and_configuration(tmp_path: Path) -> None:
    ((overlay,), (configuration,)) = (blocks(f"redirected-{kind}") for kind in ("overlay", "configuration"))
    (deployment,) = of_kind(render_redirected(), "Deployment")
    bare = {"containers": deployment["spec"]["template"]["spec"]["containers"]}
    deployment["spec"]["template"]["spec"] = bare
    deployment["metadata"]["labels"] = {"apim-auth-proxy/redirected": "true"}
    shutil.copytree(COMPONENT, tmp_path / "apim-auth-proxy/deploy/kustomize/redirected-sidecar")
    own = tmp_path / "own"
    (own / "configuration").mkdir(parents=True)
    (own / "kustomization.yaml").write_text(overlay)
    (own / "program.yaml").write_text(yaml.safe_dump(deployment))
    (own / "configuration/kustomization.yaml").write_text(configuration)
    (own / "configuration/config.yaml").write_text("routes: []\n")

    built = kustomize(own)

    (config,) = of_kind(built, "ConfigMap")
    assert config["metadata"]["namespace"] == "orders"
    assert config["data"] == {
        "config.yaml": "routes: []\n",
        "rules.nft": (COMPONENT / "rules.nft").read_text(encoding="utf-8"),
    }
    (deployment,) = of_kind(built, "Deployment")
    images = [each["image"] for each in deployment["spec"]["template"]["spec"]["initContainers"]]
    assert images == ["registry.example.com/your-tools:1.1", "registry.example.com/apim-auth-proxy:0.1.0"]
