"""Alert rules and dashboard fit the metrics: promtool reads them, and a real Prometheus gets answers from a real proxy."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.end_to_end.programs import ROOT
from tests.end_to_end.test_metrics import documented

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


ALERTS: Final = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "apim-auth-proxy.json"
NEEDS_PROMETHEUS: Final = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None,
    reason="promtool and prometheus (Debian's package prometheus) are not installed",
)
# What Grafana puts into an expression before it asks.
VARIABLES: Final = {"$__rate_interval": "1m", "$__interval": "15s", "$instance": ".*"}


def alert_expressions() -> list[str]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def dashboard_expressions() -> list[str]:
    """Every expression of the dashboard, its variables filled in."""
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = list(_find_expressions(board))
    for name, value in VARIABLES.items():
        found = [expression.replace(name, value) for expression in found]
    assert not any("$" in expression for expression in found)
    return found


def _find_expressions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("expr"), str):
            yield value["expr"]
        for inner in value.values():
            yield from _find_expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _find_expressions(inner)


def metrics_in(expression: str) -> set[str]:
    """The metrics an expression names, histograms without the suffix of their series."""
    names = re.findall(r"\b(?:apim_auth_proxy|process)_[a-z0-9_]+", expression)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


@pytest.mark.parametrize("expressions", [alert_expressions(), dashboard_expressions()], ids=["alerts", "dashboard"])
def test_each_expression_names_metrics_that_there_are(expressions: list[str]) -> None:
    assert len(expressions) > 10
    known = documented().keys()
    for expression in expressions:
        assert metrics_in(expression) <= known, expression
        assert metrics_in(expression) or expression.startswith("up{"), expression


def test_the_dashboard_shows_every_metric_but_a_few() -> None:
    """Those few say nothing over time that another one does not."""
    shown = {name for expression in dashboard_expressions() for name in metrics_in(expression)}
    assert documented().keys() - shown == {
        "apim_auth_proxy_access_log_exchanges_total",
        "apim_auth_proxy_certificate_start_timestamp_seconds",
        "apim_auth_proxy_trace_spans_exported_total",
        "process_virtual_memory_bytes",
    }


def test_the_dashboard_asks_the_data_source_that_is_chosen() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "instance"}
    asked = {panel["datasource"]["uid"] for panel in board["panels"] if panel["type"] != "row"}
    assert asked == {"${datasource}"}
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(numbers) == len(set(numbers))


@NEEDS_PROMETHEUS
def test_the_alert_rules_are_right_and_do_what_they_say() -> None:
    for verb, file in (("check", ALERTS), ("test", ALERTS.with_name("alerts.test.yml"))):
        done = subprocess.run(["promtool", verb, "rules", file], capture_output=True, timeout=60, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@NEEDS_PROMETHEUS
def test_every_expression_of_the_dashboard_parses(tmp_path: Path) -> None:
    rules = [{"record": f"board:{index}", "expr": expr} for index, expr in enumerate(dashboard_expressions())]
    file = tmp_path / "board.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, timeout=60, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
