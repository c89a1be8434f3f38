"""Makes the files of the Kustomize base, and of the component for a sidecar, from the charts. Runs helm, by `make kustomize`."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Final

import yaml

from tests.deploy.programs import CHART, DEPLOY, ROOT, Document, copy_example, documents, helm, of_kind, template

BASE: Final = DEPLOY / "kustomize"
_VALUES: Final = CHART.parents[2] / "tests/deploy/values/secret.yaml"
_MADE: Final = "# Made from deploy/helm/apim-auth-proxy by `make kustomize`. Change it in an overlay.\n"
COMPONENT: Final = BASE / "redirected-sidecar"
# Of the ConfigMap, whose name follows from it.
_RELEASE: Final = "redirected"
_MADE_COMPONENT: Final = (
    "# Made from deploy/helm/apim-auth-proxy-sidecar by `make kustomize`. Change it in an overlay.\n"
)
# Helm's own.
_LABELS: Final = ("helm.sh/chart", "app.kubernetes.io/managed-by")


def render_for_kustomize() -> list[Document]:
    """Return what the chart renders, without what is Helm's: its labels, and the namespace, which Kustomize or kubectl gives."""
    done = helm("template", "apim-auth-proxy", CHART, "--values", _VALUES)
    assert done.returncode == 0, done.stderr
    rendered = documents(done.stdout)
    for document in rendered:
        del document["metadata"]["namespace"]
        places = [document["metadata"]]
        if document["kind"] == "Deployment":
            places.append(document["spec"]["template"]["metadata"])
        for metadata in places:
            for label in _LABELS:
                metadata["labels"].pop(label)
    return rendered


def render_redirected() -> list[Document]:
    """Return what the example chart renders with the values that docs/kubernetes.md shows for a redirected sidecar."""
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml redirected\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    with tempfile.TemporaryDirectory() as name:
        values = Path(name) / "values.yaml"
        values.write_text(shown, encoding="utf-8")
        return template(copy_example(Path(name)), values, release=_RELEASE)


def make_component() -> dict[Path, str]:
    """Return the text of each file of the component that follows from the sidecar's chart."""
    rendered = render_redirected()
    (deployment,), (config,) = of_kind(rendered, "Deployment"), of_kind(rendered, "ConfigMap")
    pod = deployment["spec"]["template"]["spec"]
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "any"},
        "spec": {"template": {"spec": {name: pod[name] for name in ("initContainers", "volumes")}}},
    }
    files = {COMPONENT / "sidecar.yaml": _MADE_COMPONENT + yaml.safe_dump(patch, sort_keys=False, width=120)}
    return files | {COMPONENT / name: text for name, text in config["data"].items()}


def make_base() -> dict[Path, str]:
    """Return the text of each file of the base that follows from the chart."""
    rendered = render_for_kustomize()
    (config,) = (document for document in rendered if document["kind"] == "ConfigMap")
    others = [document for document in rendered if document is not config]
    return {
        BASE / "gateway.yaml": _MADE + yaml.safe_dump_all(others, sort_keys=False, width=120),
        BASE / "config.yaml": config["data"]["config.yaml"],
    }


if __name__ == "__main__":
    for path, text in (make_base() | make_component()).items():
        path.write_text(text, encoding="utf-8")
