"""Makes the files of the Kustomize base from the chart. Runs helm; run by `make kustomize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import yaml

from tests.deploy.programs import CHART, DEPLOY, Document, documents, helm

if TYPE_CHECKING:
    from pathlib import Path

BASE: Final = DEPLOY / "kustomize"
_VALUES: Final = CHART.parents[2] / "tests/deploy/values/secret.yaml"
_MADE: Final = "# Made from deploy/helm/apim-auth-proxy by `make kustomize`. Change it in an overlay.\n"
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
    for path, text in make_base().items():
        path.write_text(text, encoding="utf-8")
