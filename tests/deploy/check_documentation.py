"""The values that docs/kubernetes.md shows are ones that the charts take, and the names in it exist."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest
import yaml

from tests.deploy.check_chart import LEAST
from tests.deploy.programs import CHART, DEPLOY, ROOT, helm

if TYPE_CHECKING:
    from pathlib import Path

PAGE: Final = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```yaml {kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("shown", blocks("values"))
def test_the_chart_takes_the_values_shown(shown: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(shown)
    done = helm("template", "orders", CHART, "--namespace", "egress", "--values", LEAST, "--values", file)
    assert done.returncode == 0, done.stderr
    assert "name: orders-apim-auth-proxy\n" in done.stdout


def test_the_example_chart_has_the_values_shown() -> None:
    (shown,) = blocks("sidecar")
    assert yaml.safe_load(shown) == yaml.safe_load((ROOT / "tests/deploy/legacy-app/values.yaml").read_text())


def test_the_page_shows_the_includes_that_the_example_chart_has() -> None:
    include = r'include "apim-auth-proxy\.[^"]*" \.'
    example = (ROOT / "tests/deploy/legacy-app/templates/app.yaml").read_text()
    assert sorted(re.findall(include, PAGE)) == sorted(re.findall(include, example)) != []


def test_the_alerts_named_exist() -> None:
    rules = (DEPLOY / "prometheus/alerts.yml").read_text()
    named = re.findall(r"`(ApimAuthProxy\w+)`", PAGE)
    assert set(named) <= set(re.findall(r"alert: (\w+)", rules))
    assert len(set(named)) > 5
