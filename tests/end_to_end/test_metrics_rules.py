"""Alert rules and dashboard fit the metrics: promtool reads them, and a real Prometheus gets answers from a real proxy."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.end_to_end.programs import ROOT, Program
from tests.end_to_end.test_metrics import documented

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Place, ProxyProgram

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
    names = re.findall(r"\b(?:apim_auth_proxy|process)_[a-z_]+", expression)
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


@pytest.fixture
def prometheus(proxy: ProxyProgram, tmp_path: Path) -> Iterator[str]:
    """A real Prometheus with our rules that reads the session's proxy every half second; its URL."""
    admin = next(line for line in proxy.lines if "health and metrics on" in line).rpartition("http://")[2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    job = {"job_name": "apim-auth-proxy", "static_configs": [{"targets": [admin]}]}
    settings = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [job],
    }
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    storage = f"--storage.tsdb.path={tmp_path / 'data'}"
    arguments = ["prometheus", f"--config.file={file}", storage, f"--web.listen-address={address}"]
    with Program(arguments, tmp_path, "prometheus") as program:
        program.wait_for_line("Server is ready")
        yield f"http://{address}"


def ask(url: str, path: str, **parameters: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as response:
        answer = json.load(response)
    assert answer["status"] == "success"
    return answer["data"]


@NEEDS_PROMETHEUS
def test_a_real_prometheus_has_data_for_the_dashboard_and_judges_every_alert(
    prometheus: str, proxy: ProxyProgram, place: Place, curl: Curl
) -> None:
    through = ("--proxy", proxy.forward, f"http://{place.api_authority}/orders")
    give_up_at = time.monotonic() + 30
    scrapes = 0
    while scrapes < 6:
        assert time.monotonic() < give_up_at, "Prometheus does not read the proxy"
        assert curl(*through).status == 200
        time.sleep(0.2)
        counted = ask(prometheus, "query", query='count_over_time(up{job="apim-auth-proxy"}[1m])')["result"]
        scrapes = int(counted[0]["value"][1]) if counted else 0

    expressions = dashboard_expressions()
    empty = [expression for expression in expressions if not ask(prometheus, "query", query=expression)["result"]]
    # A proxy that has given no such answer has no such series, and one that just started has not started again.
    assert [
        one for one in empty if "errors_total" not in one and "aborts_total" not in one and "changes" not in one
    ] == []
    traffic = next(one for one in expressions if one.startswith("sum(rate(apim_auth_proxy_exchanges_total{"))
    assert float(ask(prometheus, "query", query=traffic)["result"][0]["value"][1]) > 0

    rules = [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(alert_expressions())
    assert {rule["health"] for rule in rules} == {"ok"}
    # Others' tests use the same proxy and may have earned it more than this.
    assert "ApimAuthProxyDown" not in {rule["name"] for rule in rules if rule["state"] != "inactive"}
