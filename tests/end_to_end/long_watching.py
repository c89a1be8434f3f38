"""What is watched, over longer than a test should take: a token's whole life, a real Prometheus, collectors that come and go.

Not collected with the others; run it by `make test-watching`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.end_to_end.chromium import PROGRAM, browser_tab
from tests.end_to_end.programs import PATIENCE_S, Program, configuration
from tests.end_to_end.test_admin_page import POSITION
from tests.end_to_end.test_metrics_rules import ALERTS, NEEDS_PROMETHEUS, alert_expressions, dashboard_expressions
from tests.end_to_end.test_tracing import CLIENT, SERVER, collector
from tests.end_to_end.test_workers import relay_processes, wait_until
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxy.sandbox import Sandbox
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Place, ProxyProgram


@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
@pytest.mark.asyncio
async def test_a_real_token_of_a_minute_is_seen_through_its_refresh(
    sandbox: Sandbox, own_place: Place, start_proxy: StartProxy
) -> None:
    """The real proxy and the sandbox: now moves to about three quarters of its life, and then there is an earlier token."""
    sandbox.faults.token_lifetime_s = 60
    proxy = await asyncio.to_thread(start_proxy, configuration(own_place))
    admin = next(line for line in proxy.lines if "health and metrics on" in line).rpartition(" ")[2]
    earlier = "document.querySelectorAll('#tokens .lane .past').length"
    async with browser_tab() as tab:
        await tab.open(f"{admin}/")
        await tab.until(f"{POSITION} > 0")
        seen = [float(await tab.evaluate(POSITION))]
        give_up_at = time.monotonic() + 75
        while not await tab.evaluate(earlier):
            assert time.monotonic() < give_up_at, f"the token was never seen to be renewed: {seen}"
            await asyncio.sleep(0.5)
            seen.append(float(await tab.evaluate(POSITION)))
            assert await tab.evaluate("document.querySelector('#tokens .pill').textContent") in ("fresh", "refresh due")
        assert max(seen) > 60
        label = await tab.evaluate("document.querySelector('#tokens .lane').ariaLabel")
        assert all(moment in label for moment in ("Obtained", "Refresh", "Usable until"))
        assert tab.complaints == []
    assert sandbox.token_request_count == 2


@pytest.fixture
def prometheus(proxy: ProxyProgram, tmp_path: Path) -> Iterator[str]:
    """A real Prometheus with our rules that reads the session's proxy every half second; its URL."""
    admin = next(line for line in proxy.lines if "health and metrics on" in line).rpartition("http://")[2]
    address = f"127.0.0.1:{free_port()}"
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
    with opener.open(f"{url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=PATIENCE_S) as response:
        answer = json.load(response)
    assert answer["status"] == "success"
    return answer["data"]


@NEEDS_PROMETHEUS
def test_a_real_prometheus_has_data_for_the_dashboard_and_judges_every_alert(
    prometheus: str, proxy: ProxyProgram, place: Place, curl: Curl
) -> None:
    through = ("--proxy", proxy.forward, f"http://{place.api_authority}/orders")
    give_up_at = time.monotonic() + 2 * PATIENCE_S
    scrapes = 0
    while scrapes < 6:
        assert time.monotonic() < give_up_at, "Prometheus does not read the proxy"
        assert curl(*through).status == 200
        time.sleep(0.2)
        counted = ask(prometheus, "query", query='count_over_time(up{job="apim-auth-proxy"}[1m])')["result"]
        scrapes = int(counted[0]["value"][1]) if counted else 0

    expressions = dashboard_expressions()
    empty = [expression for expression in expressions if not ask(prometheus, "query", query=expression)["result"]]
    # A proxy that has given no such answer, of which no credential fails, or that is not configured for it, has no such series, and
    # one that just started has not started again.
    absent = (
        *("errors_total", "aborts_total", "changes", "credential_failing_seconds", "http2_faults_total"),
        *("identity_answers_total", "token_file_", "token_cache_"),
    )
    assert [one for one in empty if not any(name in one for name in absent)] == []
    traffic = next(one for one in expressions if one.startswith("sum(rate(apim_auth_proxy_exchanges_total{"))
    assert float(ask(prometheus, "query", query=traffic)["result"][0]["value"][1]) > 0

    def judged() -> list[dict[str, Any]]:
        return [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]

    assert len(judged()) == len(alert_expressions())
    wait_until(lambda: {rule["health"] for rule in judged()} == {"ok"}, "a rule cannot be judged")
    # Others' tests use the same proxy and may have earned it more than this; a scrape may have been late.
    wait_until(
        lambda: "ApimAuthProxyDown" not in {rule["name"] for rule in judged() if rule["state"] != "inactive"},
        "a proxy that answers is said to be down",
    )


def test_a_relay_process_that_died_is_counted(place: Place, start_proxy: StartProxy) -> None:
    proxy = start_proxy(configuration(place) | {"workers": 2})
    assert b"apim_auth_proxy_worker_restarts_total 0.0" in proxy.ask_admin("/metrics")
    os.kill(relay_processes(proxy)[0], signal.SIGKILL)
    wait_until(lambda: b"apim_auth_proxy_worker_restarts_total 1.0" in proxy.ask_admin("/metrics"), "not counted")


@pytest.mark.asyncio
async def test_relay_processes_send_spans_too(own_place: Place, start_proxy: StartProxy, curl: Curl) -> None:
    async with collector() as taking:
        settings = configuration(own_place) | {"tracing": {"endpoint": taking.endpoint}, "workers": 2}
        proxy = await asyncio.to_thread(start_proxy, settings)
        url = f"http://{own_place.api_authority}/orders"
        assert (await asyncio.to_thread(curl, "--proxy", proxy.forward, url)).status == 200
        assert {SERVER, CLIENT} <= {span.kind for span in await taking.wait_for(2)}


@pytest.mark.asyncio
async def test_a_collector_that_is_away_is_told_once_and_disturbs_nothing(
    own_place: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    async with collector() as taking:
        taking.status = 400  # refused for good: nothing to try again
        proxy = await asyncio.to_thread(
            start_proxy, configuration(own_place) | {"tracing": {"endpoint": taking.endpoint}}
        )
        for count in (1, 2):
            answer = await asyncio.to_thread(curl, "--proxy", proxy.forward, f"http://{own_place.api_authority}/orders")
            assert answer.status == 200
            await taking.wait_for_refusals(count)
        said = "The OTLP collector does not take spans"
        await asyncio.to_thread(proxy.wait_for, lambda lines: any(said in line for line in lines))
        give_up_at = time.monotonic() + PATIENCE_S
        while b"apim_auth_proxy_trace_spans_lost_total 0.0" in (
            metrics := await asyncio.to_thread(proxy.ask_admin, "/metrics")
        ):
            assert time.monotonic() < give_up_at, "lost spans are not counted"
            await asyncio.sleep(0.1)
        assert b"apim_auth_proxy_trace_spans_exported_total 0.0" in metrics

        taking.status = 200
        await asyncio.to_thread(curl, "--proxy", proxy.forward, f"http://{own_place.api_authority}/orders")
        await taking.wait_for(2)
        await asyncio.to_thread(proxy.wait_for, lambda lines: any("takes spans again" in line for line in lines))
        assert sum(said in line for line in proxy.lines) == 1
        assert not [line for line in proxy.lines if "Traceback" in line or "opentelemetry" in line]
