from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from proxy import errors
from proxy.errors import ProxyError
from proxy.identity.credential import CredentialStatistics
from proxy.identity.source import SourceStatistics
from proxy.identity.sources import IdentityStatistics
from proxy.operations.history import History, estimate_quantile
from proxy.operations.metrics import CertificateExpiry, credential_certificates
from proxy.operations.overview import Overview, RouteSummary, describe_overview
from proxy.operations.own_errors import ErrorCount, ErrorTally, describe_failure
from proxy.operations.snapshot import HistogramSnapshot, WorkerSnapshot
from proxy.relay.counters import LATENCY_BOUNDS_S
from proxy.relay.record import ExchangeRecord

AT = 1_792_836_303.0
SOURCE = SourceStatistics(
    credential="orders-client",
    target="api://orders/.default",
    obtained=True,
    usable=True,
    age_s=100.0,
    expires_in_s=3_500.0,
    flights=1,
    rejections=0,
    failures=0,
    failure_code="",
    refresh_in_s=1_610.0,
)
REFUSED = ExchangeRecord(
    ended_at=AT,
    client="127.0.0.1",
    mode="forward",
    method=b"GET",
    authority="contoso.azure-api.net:443",
    target=b"/orders",
    status=502,
    received_bytes=0,
    sent_bytes=0,
    duration_s=0.0,
    upstream_s=None,
    route="contoso.azure-api.net",
    token_age_s=None,
    reused=False,
    outcome="proxy_configuration_error",
    code="AADSTS700027",
)


def histogram(*counts: tuple[float, int]) -> HistogramSnapshot:
    """Counts by upper bound."""
    buckets = [0] * (len(LATENCY_BOUNDS_S) + 1)
    for bound, count in counts:
        buckets[LATENCY_BOUNDS_S.index(bound) if bound in LATENCY_BOUNDS_S else -1] = count
    return HistogramSnapshot(tuple(buckets))


def describe(**parts: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "at": AT,
        "started_at": AT - 60,
        "ready": True,
        "missing": (),
        "workers": 1,
        "total": WorkerSnapshot(),
        "identity": IdentityStatistics({}, ()),
        "certificates": (),
        "routes": (),
        "samples": (),
        "errors": (),
    }
    described = describe_overview(Overview(**{**whole, **parts}))
    parsed = json.loads(json.dumps(described, allow_nan=False))
    assert isinstance(parsed, dict)
    return parsed


@pytest.mark.parametrize(
    ("counts", "quantile", "expected"),
    [
        ([], 0.5, None),
        ([(0.01, 10)], 0.5, 0.0075),
        ([(0.01, 10)], 1.0, 0.01),
        ([(0.001, 4)], 0.5, 0.0005),
        ([(0.01, 90), (0.1, 10)], 0.95, 0.075),
        ([(0.01, 50), (1.0, 50)], 0.5, 0.01),
        ([("over", 1)], 0.99, 30.0),
    ],
)
def test_quantiles_are_estimated_as_prometheus_does(
    counts: list[tuple[float, int]], quantile: float, expected: float | None
) -> None:
    assert estimate_quantile(histogram(*counts), quantile) == (None if expected is None else pytest.approx(expected))


def test_a_sample_is_what_came_between_two_looks() -> None:
    history = History()
    history.add(WorkerSnapshot(exchanges={"a": {200: 10, 500: 1}}, duration=histogram((1.0, 11))), AT, 50.0)
    assert not list(history.samples)
    later = WorkerSnapshot(
        exchanges={"a": {200: 14, 204: 2, 500: 1}, "": {0: 1}}, duration=histogram((1.0, 11), (0.01, 7))
    )
    history.add(later, AT + 2, 52.0)
    history.add(later, AT + 4, 54.5)
    busy, idle = history.samples
    assert (busy.at, busy.seconds, busy.classes) == (AT + 2, 2.0, {"2xx": 6, "aborted": 1})
    assert busy.p50_s is not None
    assert 0.005 <= busy.p50_s <= 0.01
    assert (idle.seconds, idle.classes, idle.p50_s) == (2.5, {}, None)


def test_a_worker_that_was_forgotten_makes_no_negative_sample() -> None:
    history = History()
    history.add(WorkerSnapshot(exchanges={"a": {200: 10}}, duration=histogram((1.0, 10))), AT, 1.0)
    history.add(WorkerSnapshot(exchanges={"a": {200: 3}}, duration=histogram((1.0, 3))), AT + 2, 3.0)
    assert history.samples[0].classes == {}
    assert history.samples[0].p99_s is None


def test_five_minutes_are_kept() -> None:
    history = History()
    for number in range(500):
        history.add(WorkerSnapshot(), AT + 2 * number, 2.0 * number)
    assert len(history.samples) == 150
    assert history.samples[-1].at == AT + 2 * 499


def test_a_token_shows_its_times_and_never_itself() -> None:
    (token,) = describe(identity=IdentityStatistics({}, (SOURCE,)))["tokens"]
    assert (token["age_s"], token["expires_in_s"], token["usable"]) == (100, 3500, True)
    assert token["refresh_in_s"] == 1610
    assert set(token) == {
        "credential", "target", "usable", "age_s", "refresh_in_s", "expires_in_s", "failures", "rejections", "code",
        "cause", "fix", "detail", "without_s", "retry_in_s", "usable_for_s", "proof", "lives", "outages",
    }  # fmt: skip
    assert token["usable_for_s"] == 3495, "less the flight margin"


def test_a_token_that_cannot_be_had_is_explained() -> None:
    failing = SourceStatistics("orders-client", "s", False, False, None, None, 3, 0, 3, "AADSTS700027")
    (token,) = describe(identity=IdentityStatistics({}, (failing,)))["tokens"]
    assert (token["age_s"], token["refresh_in_s"], token["failures"]) == (None, None, 3)
    assert "certificate" in token["cause"]
    assert "az ad app credential" in token["fix"]


def test_certificates_count_their_days() -> None:
    statistics = CredentialStatistics({}, None, 0.0, "", {"certificate 0A": datetime.fromtimestamp(AT + 864_000, UTC)})
    certificates = [
        *credential_certificates(IdentityStatistics({"orders-client": statistics}, ())),
        CertificateExpiry("interception_ca", "", "", AT - 43_200),
    ]
    described = describe(certificates=certificates)["certificates"]
    assert [(one["kind"], one["name"], one["proof"], one["days_left"]) for one in described] == [
        ("credential", "orders-client", "certificate 0A", 10),
        ("interception_ca", "", "", -0.5),
    ]


def test_routes_show_their_counts_and_what_no_route_names_comes_after() -> None:
    routes = [RouteSummary("a", ("a", "*.b"), "orders-client", "s"), RouteSummary("c", ("c",), "other", "t")]
    total = WorkerSnapshot(exchanges={"a": {200: 2, 201: 1, 404: 1}, "-": {403: 5}, "": {400: 1}})
    described = describe(routes=routes, total=total)["routes"]
    assert [(one["hosts"], one["counts"]) for one in described] == [
        (["a", "*.b"], {"2xx": 3, "4xx": 1}),
        (["c"], {}),
        ([], {"4xx": 6}),
    ]


def counted(*records: ExchangeRecord) -> list[ErrorCount]:
    tally = ErrorTally()
    tally.add(records)
    return tally.counts()


def test_errors_of_one_kind_are_one_entry_with_its_explanation() -> None:
    found = counted(
        REFUSED,
        REFUSED._replace(ended_at=AT + 1, outcome="connection_limit_reached", status=503, code=""),
        REFUSED._replace(ended_at=AT + 2, target=b"/newest\x1b"),
    )
    first, second = describe(errors=found)["errors"]
    assert (first["count"], first["at"]) == (2, AT + 2)
    assert first["what"] == "contoso.azure-api.net:443/newest\\x1B"
    assert first["title"] == "The identity platform refused the proxy's credential"
    assert "certificate" in first["cause"]
    assert (second["count"], second["title"]) == (1, "The proxy is at its limit")
    assert "raise the limit" in second["fix"]


def test_counts_only_grow_whatever_else_comes() -> None:
    """F8: they came from a ring of 50, and fell while one looked."""
    tally = ErrorTally()
    tally.add([REFUSED] * 3)
    tally.add([REFUSED._replace(status=403, outcome="http_request_denied", code="host_refused")] * 200)
    tally.add([REFUSED._replace(status=200, outcome="ok", code="")] * 200)
    tally.add([REFUSED])
    assert [(one.newest.status, one.count) for one in tally.counts()] == [(403, 200), (502, 4)]


def test_the_kinds_of_errors_are_bounded() -> None:
    tally = ErrorTally()
    tally.add([REFUSED] * 2)
    for number in range(100):
        tally.add([REFUSED._replace(code=f"AADSTS{number}"), REFUSED])
    assert len(tally.counts()) == 50
    assert tally.counts()[-1].count == 102, "what goes on coming is not forgotten"


ANSWERS: Final = [
    (kind, code)
    for kind, code in {
        errors.ProxyUsageError: errors.ProxyUsageError("").code,
        errors.DestinationRefused: errors.DestinationRefused("").code,
        errors.ClientRefused: "unknown_client",
        errors.UpstreamProxyRefused: "upstream_proxy_403",
        errors.UpstreamUnreachable: "upstream_proxy_closed",
        errors.CredentialOutOfDate: "certificate_expired",
        errors.CredentialRejected: "invalid_client",
        errors.IdentityError: "signer_failed",
    }.items()
]


@pytest.mark.parametrize(("kind", "code"), ANSWERS, ids=lambda part: part if isinstance(part, str) else part.__name__)
def test_an_error_has_the_title_that_the_client_read_and_advice(kind: type[ProxyError], code: str) -> None:
    """F8: also where several share a status and a token."""
    record = REFUSED._replace(status=kind.status, outcome=kind.proxy_status, code=code)
    (entry,) = describe(errors=counted(record))["errors"]
    assert entry["title"] == kind.title
    assert entry["fix"]


def test_every_error_the_proxy_answers_with_has_a_title_and_advice() -> None:
    kinds, waiting = [], [ProxyError]
    while waiting:
        kind = waiting.pop()
        kinds.append(kind)
        waiting.extend(kind.__subclasses__())
    assert len(kinds) > 20
    for kind in kinds:
        record = REFUSED._replace(status=kind.status, outcome=kind.proxy_status, code=kind.default_code)
        (entry,) = describe(errors=counted(record))["errors"]
        assert entry["title"] in {one.title for one in kinds if one.status == kind.status}
        assert entry["fix"]


@pytest.mark.parametrize("code", ["CLIENT_DISTRUSTS_CA", "TLS_HANDSHAKE_FAILED", "NO_CLIENT_CERTIFICATE"])
def test_a_handshake_that_failed_is_told_in_words(code: str) -> None:
    """F8: it read "0 The proxy answered in its own name"."""
    (entry,) = describe(errors=counted(REFUSED._replace(status=0, outcome="tls_alert_received", code=code)))["errors"]
    assert "client" in entry["title"]
    assert "own name" not in entry["title"]
    assert entry["fix"]


def test_everything_is_named_for_the_page() -> None:
    total = WorkerSnapshot(exchanges={"a": {200: 2}}, errors={"x": 1}, open_client_connections=3, open_tunnels=1)
    described = describe(total=total, ready=False, missing=["no access token yet"], workers=4)
    assert (described["ready"], described["missing"], described["workers"]) == (False, ["no access token yet"], 4)
    assert described["open"] == {"clients": 3, "upstreams": 0, "tunnels": 1}
    assert described["totals"]["exchanges"] == 2


@pytest.mark.parametrize(
    ("status", "outcome", "code", "by", "explain"),
    [
        (502, "proxy_configuration_error", "AADSTS700027", "identity", "AADSTS700027"),
        (503, "connection_limit_reached", "", "proxy", "connection_limit_reached"),
        (429, "ok", "", "gateway", "429"),
        (418, "ok", "", "api", None),
        (200, "aborted_client", "", "client", "aborted_client"),
    ],
)
def test_a_failure_says_whose_it_is_and_what_explain_can_be_asked(
    status: int, outcome: str, code: str, by: str, explain: str | None
) -> None:
    described = describe_failure(REFUSED._replace(status=status, outcome=outcome, code=code))
    assert (described["by"], described["explain"]) == (by, explain)
    assert ("fix" in described) is (outcome in ("proxy_configuration_error", "connection_limit_reached"))


def test_what_did_not_fail_is_not_described() -> None:
    assert describe_failure(REFUSED._replace(status=204, outcome="ok", code="")) == {}
