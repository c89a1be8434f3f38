"""Checkov, which knows what people regret in Kubernetes, finds nothing in the chart but what is meant so."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Final

import pytest
import yaml

from tests.deploy.check_chart import EVERYTHING, LEAST
from tests.deploy.programs import CHART, TOOLS, template

if TYPE_CHECKING:
    from pathlib import Path

MEANT: Final = {
    "CKV_K8S_11": "no CPU limit: throttling would delay every request, and the CPU request shares the node out",
    "CKV_K8S_15": "the image is pulled once a node, so that a registry that is down stops no pod; a tag is not moved",
    "CKV_K8S_35": "${NAME} in the configuration is taken from the environment; keys and certificates are files",
    "CKV_K8S_43": "a digest is the user's to give, in image.digest",
}


@pytest.mark.parametrize("values", [LEAST, EVERYTHING], ids=lambda path: path.stem)
def test_checkov_finds_nothing_but_what_is_meant(values: Path, tmp_path: Path) -> None:
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(template(CHART, values)))
    checkov = str(TOOLS / "checkov/bin/checkov")
    command = [checkov, "--framework", "kubernetes", "--skip-download", "--output", "json", "--file", str(file)]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path).stdout)
    assert report["summary"]["passed"] > 80
    found = {each["check_id"]: each["check_name"] for each in report["results"]["failed_checks"]}
    assert found.keys() <= MEANT.keys(), found
