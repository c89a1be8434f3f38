from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.config.settings import LimitSettings, TimeoutSettings
from proxy.identity.credential import CredentialStatistics
from proxy.identity.source import SourceStatistics
from proxy.identity.sources import IdentityStatistics
from proxy.operations.access_log import AccessLogStatistics
from proxy.operations.loop_lag import LoopLag
from proxy.operations.metrics import (
    CertificateExpiry,
    MetricsCollector,
    format_metrics,
    status_class,
)
from proxy.operations.snapshot import (
    HistogramSnapshot,
    WorkerSnapshot,
    format_snapshot,
    parse_snapshot,
    sum_snapshots,
    take_snapshot,
)
from proxy.relay.counters import HTTP_1_0, HTTP_1_1, HTTP_2, LATENCY_BOUNDS_S, NO_HTTP, Counters
from proxy.relay.state import Relay

if TYPE_CHECKING:
    import ssl

ENDS = datetime(2027, 1, 1, tzinfo=UTC)


def identity_statistics() -> IdentityStatistics:
    return IdentityStatistics(
        credentials={
            "orders-client": CredentialStatistics(
                requests={("ok", ""): 3, ("rejected", "AADSTS700027"): 2},
                clock_skew_s=-1.5,
                clock_correction_s=0.0,
                proof_in_use="certificate 0A",
                expirations={"certificate 0A": ENDS},
            )
        },
        sources=(
            SourceStatistics(
                credential="orders-client",
                target="api://orders/.default",
                obtained=True,
                usable=True,
                age_s=12.5,
                expires_in_s=3_586.5,
                flights=5,
                rejections=1,
                failures=0,
                failure_code="",
            ),
            SourceStatistics(
                credential="orders-client",
                target="api://other/.default",
                obtained=False,
                usable=False,
                age_s=None,
                expires_in_s=None,
                flights=4,
                rejections=0,
                failures=4,
                failure_code="AADSTS700027",
            ),
        ),
    )


def relay() -> Relay:
    def no_context(host: str) -> ssl.SSLContext:
        raise AssertionError(host)

    return Relay(LimitSettings(), TimeoutSettings(), no_context, None)


def busy_relay() -> Relay:
    busy = relay()
    counters = busy.counters
    counters.exchanges = {
        ("contoso.azure-api.net", 200): 5,
        ("contoso.azure-api.net", 204): 1,
        ("contoso.azure-api.net", 404): 2,
        ("contoso.azure-api.net", 0): 1,
        ("-", 200): 4,
        ("", 400): 3,
        ("", 999): 1,
    }
    for _ in range(3):
        counters.count_versions(HTTP_1_1, HTTP_2)
    counters.count_versions(HTTP_1_0, NO_HTTP)
    counters.count_error("http_request_error")
    counters.count_abort("client")
    counters.received_bytes, counters.sent_bytes = 10, 20
    counters.client_connections, counters.upstream_connections = 7, 6
    counters.reused, counters.retries, counters.replays = 5, 4, 3
    counters.tunnels, counters.upgrades, counters.intercepts = 2, 1, 8
    for value in (0.0005, 0.003, 0.003, 100.0):
        counters.duration.observe(value)
    counters.upstream_wait.observe(0.002)
    counters.token_wait.observe(0.2)
    return busy


def samples(content: bytes) -> dict[str, float]:
    """Metrics as `name{label="value"}`, labels in their order."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(content.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def collect(*workers: WorkerSnapshot) -> tuple[bytes, dict[str, float]]:
    collector = MetricsCollector(
        lambda: workers,
        identity_statistics,
        lambda: [CertificateExpiry("interception_ca", "", "", ENDS.timestamp() + 1)],
    )
    content, _ = format_metrics(collector.collect(), "")
    return content, samples(content)


def test_every_count_is_exported() -> None:
    snapshot = take_snapshot(
        busy_relay(),
        access_log=AccessLogStatistics(observed=11, dropped=12, lost=13),
        loop_lag=LoopLag().histogram,
        events_dropped=14,
    )
    _, found = collect(snapshot)
    expected = {
        'exchanges_total{route="contoso.azure-api.net",status_class="2xx"}': 6,
        'exchanges_total{route="contoso.azure-api.net",status_class="4xx"}': 2,
        'exchanges_total{route="contoso.azure-api.net",status_class="aborted"}': 1,
        'exchanges_total{route="-",status_class="2xx"}': 4,
        'exchanges_total{route="-",status_class="4xx"}': 3,
        'exchanges_total{route="-",status_class="other"}': 1,
        'exchange_http_versions_total{http_version="1.1",upstream_http_version="2"}': 3,
        'exchange_http_versions_total{http_version="1.0",upstream_http_version="-"}': 1,
        'errors_total{error="http_request_error"}': 1,
        'aborts_total{side="client"}': 1,
        "received_bytes_total": 10,
        "sent_bytes_total": 20,
        "client_connections_accepted_total": 7,
        "upstream_connections_opened_total": 6,
        "upstream_connections_reused_total": 5,
        "exchange_retries_total": 4,
        "exchange_replays_total": 3,
        "tunnels_opened_total": 2,
        "upgrades_total": 1,
        "tls_intercepts_total": 8,
        "client_connections_open": 0,
        "upstream_connections_open": 0,
        "tunnels_open": 0,
        "access_log_exchanges_total": 11,
        "access_log_dropped_total": 12,
        "access_log_lost_total": 13,
        "event_log_dropped_total": 14,
        "upstream_response_seconds_count": 1,
        "token_wait_seconds_count": 1,
        "event_loop_lag_seconds_count": 0,
        'token_requests_total{code="",credential="orders-client",outcome="ok"}': 3,
        'token_requests_total{code="AADSTS700027",credential="orders-client",outcome="rejected"}': 2,
        'clock_skew_seconds{credential="orders-client"}': -1.5,
        'clock_correction_seconds{credential="orders-client"}': 0,
        'token_usable{credential="orders-client",scope="api://orders/.default"}': 1,
        'token_usable{credential="orders-client",scope="api://other/.default"}': 0,
        'token_age_seconds{credential="orders-client",scope="api://orders/.default"}': 12.5,
        'token_expires_in_seconds{credential="orders-client",scope="api://orders/.default"}': 3_586.5,
        'token_failures_in_a_row{credential="orders-client",scope="api://other/.default"}': 4,
        'token_rejections_total{credential="orders-client",scope="api://orders/.default"}': 1,
        'certificate_expiry_timestamp_seconds{kind="credential",name="orders-client",proof="certificate 0A"}': (
            ENDS.timestamp()
        ),
        'certificate_expiry_timestamp_seconds{kind="interception_ca",name="",proof=""}': ENDS.timestamp() + 1,
    }
    for name, value in expected.items():
        assert found[f"apim_auth_proxy_{name}"] == value, name


def test_histograms_are_cumulated() -> None:
    _, found = collect(take_snapshot(busy_relay()))
    prefix = "apim_auth_proxy_exchange_duration_seconds"
    assert found[f'{prefix}_bucket{{le="0.001"}}'] == 1
    assert found[f'{prefix}_bucket{{le="0.0025"}}'] == 1
    assert found[f'{prefix}_bucket{{le="0.005"}}'] == 3
    assert found[f'{prefix}_bucket{{le="30.0"}}'] == 3
    assert found[f'{prefix}_bucket{{le="+Inf"}}'] == 4
    assert found[f"{prefix}_count"] == 4
    assert found[f"{prefix}_sum"] == pytest.approx(100.0065)


def test_workers_are_summed() -> None:
    busy = take_snapshot(busy_relay(), access_log=AccessLogStatistics(1, 2, 3), events_dropped=4)
    other = WorkerSnapshot(exchanges={"contoso.azure-api.net": {200: 10}, "x": {500: 1}}, errors={"dns_error": 2})
    _, found = collect(busy, other)
    assert found['apim_auth_proxy_exchanges_total{route="contoso.azure-api.net",status_class="2xx"}'] == 16
    assert found['apim_auth_proxy_exchanges_total{route="x",status_class="5xx"}'] == 1
    assert found['apim_auth_proxy_errors_total{error="dns_error"}'] == 2
    assert found['apim_auth_proxy_errors_total{error="http_request_error"}'] == 1
    _, doubled = collect(busy, busy)
    _, single = collect(busy)
    names = [name for name in single if "_total" in name or "_bucket" in name or "_count" in name]
    identity_names = ("token_re", "token_rejections", "process_", "python_")
    for name in names:
        if not name.removeprefix("apim_auth_proxy_").startswith(identity_names):
            assert doubled[name] == 2 * single[name], name


def test_a_snapshot_survives_the_way_to_another_process() -> None:
    snapshot = take_snapshot(busy_relay(), access_log=AccessLogStatistics(1, 2, 3), loop_lag=LoopLag().histogram)
    assert parse_snapshot(format_snapshot(snapshot)) == snapshot


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="another shape"),
        pytest.param(b'{"sent_bytes":-1}', id="negative"),
        pytest.param(b'{"duration":{"buckets":[1,2],"total_s":0}}', id="other buckets"),
        pytest.param(b'{"errors":{"x":"y"}}', id="text for a number"),
    ],
)
def test_what_is_no_snapshot_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no snapshot"):
        parse_snapshot(content)


def test_an_ended_worker_goes_on_counting_but_holds_nothing_open() -> None:
    running = WorkerSnapshot(
        sent_bytes=5, open_client_connections=3, open_upstream_connections=2, open_tunnels=1, upgrades=1
    )
    ended = running.retired()
    assert ended == WorkerSnapshot(sent_bytes=5, upgrades=1)
    assert sum_snapshots([ended, running]).open_client_connections == 3


def test_upstream_connections_that_wait_are_told_from_the_others() -> None:
    @dataclass(eq=False)
    class Connection:
        is_idle: bool

    @dataclass
    class Open:
        upstreams: list[Connection]
        counters: Counters = field(default_factory=Counters)
        clients: tuple[()] = ()
        arrivals: tuple[()] = ()
        splices: tuple[()] = ()

    waiting, other = Connection(is_idle=True), Connection(is_idle=False)
    snapshot = take_snapshot(Open([waiting, other, other, waiting]))
    assert (snapshot.open_upstream_connections, snapshot.idle_upstream_connections) == (4, 2)
    assert sum_snapshots([snapshot, snapshot.retired()]).idle_upstream_connections == 2


def test_the_difference_of_two_snapshots_is_what_came_between() -> None:
    earlier, later = HistogramSnapshot(), take_snapshot(busy_relay()).duration
    assert (later - earlier) == later
    assert (later - later).count == 0


@pytest.mark.parametrize(
    ("status", "expected"),
    [(0, "aborted"), (101, "1xx"), (200, "2xx"), (599, "5xx"), (99, "other"), (600, "other"), (999, "other")],
)
def test_statuses_fall_into_few_classes(status: int, expected: str) -> None:
    assert status_class(status) == expected


def test_what_is_watched_is_read_anew_each_time() -> None:
    busy = busy_relay()
    lag = LoopLag()
    lag.histogram.observe(LATENCY_BOUNDS_S[0])
    collector = MetricsCollector(
        lambda: [take_snapshot(busy, loop_lag=lag.histogram, events_dropped=3)], identity_statistics
    )
    found = samples(format_metrics(collector.collect(), "")[0])
    assert found["apim_auth_proxy_event_loop_lag_seconds_count"] == 1
    assert found["apim_auth_proxy_event_log_dropped_total"] == 3
    busy.counters.sent_bytes += 1
    assert samples(format_metrics(collector.collect(), "")[0])["apim_auth_proxy_sent_bytes_total"] == 21


def test_what_is_running_is_told_and_so_is_its_process() -> None:
    content, found = collect()
    assert b'apim_auth_proxy_build_info{python="3.' in content
    if Path("/proc/self/stat").exists():
        assert found["process_open_fds"] > 0


def test_openmetrics_is_spoken_where_it_is_asked_for() -> None:
    collector = MetricsCollector(tuple, identity_statistics)
    content, media_type = format_metrics(collector.collect(), "application/openmetrics-text; version=1.0.0")
    assert media_type.startswith("application/openmetrics-text")
    assert content.endswith(b"# EOF\n")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed")
def test_promtool_finds_nothing_to_say() -> None:
    content, _ = collect(take_snapshot(busy_relay()))
    checked = subprocess.run(["promtool", "check", "metrics"], input=content, capture_output=True, timeout=120)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
