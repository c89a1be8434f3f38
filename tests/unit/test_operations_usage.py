"""How long routes take, whose fault failures are, who uses which identity, and the lives of tokens: counted, bounded, forgotten."""

from __future__ import annotations

import dataclasses

import pytest

from proxy import errors
from proxy.identity.source import SourceStatistics
from proxy.operations.causes import Cause, all_kinds, blame
from proxy.operations.route_window import RouteWindow
from proxy.operations.snapshot import WorkerSnapshot
from proxy.operations.token_history import TokenHistory
from proxy.operations.usage import Usage, UsageTally
from proxy.relay.record import ExchangeRecord

AT = 1_792_836_303.0
GOOD = ExchangeRecord(
    AT, "127.0.0.1", "forward", b"GET", "api:443", b"/", 200, 0, 9, 0.02, 0.015, "api", 1.0, True, "ok", "", "billing",
    "orders-client",
)  # fmt: skip
SOURCE = SourceStatistics("orders-client", "s", True, True, 100.0, 3_500.0, 1, 0, 0, "", refresh_in_s=1_700.0)


@pytest.mark.parametrize(
    ("status", "outcome", "code", "cause"),
    [
        (200, "ok", "", None),
        (304, "ok", "", None),
        (401, "ok", "", Cause.GATEWAY),
        (403, "ok", "", Cause.GATEWAY),
        (429, "ok", "", Cause.GATEWAY),
        (404, "ok", "", Cause.API),
        (500, "ok", "", Cause.API),
        (503, "ok", "", Cause.API),
        (502, "proxy_configuration_error", "AADSTS700027", Cause.IDENTITY),
        (503, "proxy_internal_response", "timeout", Cause.IDENTITY),
        (502, "destination_unavailable", "name_not_resolved", Cause.GATEWAY),
        (504, "http_response_timeout", "", Cause.GATEWAY),
        (503, "connection_limit_reached", "", Cause.PROXY),
        (500, "proxy_internal_error", "", Cause.PROXY),
        (403, "http_request_denied", "host_refused", Cause.CLIENT),
        (421, "http_request_error", "", Cause.CLIENT),
        (0, "tls_alert_received", "CLIENT_DISTRUSTS_CA", Cause.CLIENT),
        (200, "aborted_client", "", Cause.CLIENT),
        (200, "aborted_upstream", "", Cause.GATEWAY),
        (500, "never_heard_of", "", Cause.PROXY),
    ],
)
def test_a_failure_is_somebodys_fault(status: int, outcome: str, code: str, cause: Cause | None) -> None:
    assert blame(GOOD._replace(status=status, outcome=outcome, code=code)) == cause


def test_every_error_of_the_tree_is_blamed_on_its_branch() -> None:
    branches = {errors.ClientError: "client", errors.IdentityError: "identity", errors.UpstreamError: "gateway"}
    for branch, cause in branches.items():
        for kind in all_kinds(branch):
            assert blame(GOOD._replace(status=kind.status, outcome=kind.proxy_status, code=kind.default_code)) == cause


def test_clients_are_counted_with_the_identities_they_used() -> None:
    tally = UsageTally()
    tally.add([GOOD, GOOD._replace(status=500), GOOD._replace(client_name="", client="10.0.0.9", route="other")])
    billing, stranger = tally.snapshot().clients
    assert (billing.name, billing.is_configured, billing.count, billing.failed) == ("billing", True, 2, 1)
    assert (billing.identities, billing.routes) == ({"orders-client": 2}, {"api": 2})
    assert (stranger.name, stranger.is_configured, stranger.routes) == ("10.0.0.9", False, {"other": 1})


def test_what_is_remembered_of_clients_is_bounded() -> None:
    tally = UsageTally()
    for number in range(500):
        stranger = GOOD._replace(client_name="", client=f"10.0.{number // 250}.{number % 250}", ended_at=AT + number)
        tally.add([GOOD, stranger])
    uses = tally.snapshot().clients
    assert len(uses) == 200
    assert {use.name: use.count for use in uses}["billing"] == 500, "who goes on coming is not forgotten"


def test_of_many_exchanges_in_a_second_a_share_stands_for_all() -> None:
    tally = UsageTally()
    for _ in range(100):
        tally.add([GOOD] * 64)
    tally.add([GOOD._replace(status=502, outcome="destination_unavailable")] * 64)
    usage = tally.snapshot()
    assert sum(usage.durations["api"]) == pytest.approx(6_400, rel=0.05)
    assert usage.failures == {("api", 502, Cause.GATEWAY): 64}, "failures are all counted"


def test_failures_are_whose_they_are_however_early_one_looks() -> None:
    """The relay counts an exchange before its record is seen: an answer of our own must not pass for the API's meanwhile."""
    tally, window = UsageTally(), RouteWindow()
    look(tally, {200: 1}, window, 0.0)
    look(tally, {200: 1, 502: 3}, window, 2.0)
    assert (window.activity()["api"].count, window.activity()["api"].failures) == (3, {})
    tally.add([GOOD._replace(status=502, outcome="destination_unavailable")] * 3)
    look(tally, {200: 1, 502: 3}, window, 4.0)
    assert window.activity()["api"].failures == {Cause.GATEWAY: 3}


def test_a_relay_process_tells_of_the_newest_which_stand_for_all() -> None:
    tally = UsageTally()
    tally.add([GOOD] * 100, stands_for=400)
    assert sum(tally.snapshot().durations["api"]) == 400


def look(tally: UsageTally, statuses: dict[int, int], window: RouteWindow, at_mono: float) -> None:
    window.add(WorkerSnapshot(exchanges={"api": statuses}), tally.snapshot(), at_mono)


def test_a_route_tells_the_last_five_minutes_with_causes_told_apart() -> None:
    tally, window = UsageTally(), RouteWindow()
    tally.add([GOOD] * 10)
    look(tally, {200: 10, 500: 3}, window, 100.0)
    assert window.activity() == {}, "what was before the first look is not of these minutes"

    tally.add([GOOD] * 20 + [GOOD._replace(status=502, outcome="destination_unavailable")] * 2)
    tally.add([GOOD._replace(status=502, outcome="proxy_configuration_error")])
    tally.add([GOOD._replace(status=status) for status in (401, 401, 401, 401, 404, 502, 502)])
    look(tally, {200: 30, 401: 4, 404: 1, 500: 3, 502: 5}, window, 104.0)
    activity = window.activity()["api"]
    assert activity.count == 30 + 4 + 1 + 5 - 10
    # Of five answers with 502 two were ours for the way to the gateway, one for want of a token, and two the API's.
    assert activity.failures == {Cause.GATEWAY: 2 + 4, Cause.IDENTITY: 1, Cause.API: 1 + 2}
    assert activity.statuses == {401: 4, 404: 1, 502: 2}
    assert activity.p50_s == pytest.approx(0.0175)


def test_what_is_older_than_five_minutes_is_over() -> None:
    tally, window = UsageTally(), RouteWindow()
    look(tally, {200: 0}, window, 0.0)
    tally.add([GOOD._replace(status=500)] * 5)
    for second in range(2, 400, 2):
        look(tally, {200: 5, 500: 5} | {204: second}, window, float(second))
    activity = window.activity()["api"]
    assert activity.failures == {}
    assert 295 <= activity.count <= 310
    assert len(window._kept) < 35


def test_exchanges_without_a_route_are_one() -> None:
    window = RouteWindow()
    window.add(WorkerSnapshot(), Usage(), 0.0)
    tally = UsageTally()
    tally.add([GOOD._replace(route="", status=403, outcome="http_request_denied")])
    tally.add([GOOD._replace(route="", status=400, outcome="http_request_error")])
    window.add(WorkerSnapshot(exchanges={"-": {403: 1}, "": {400: 1}}), tally.snapshot(), 2.0)
    assert set(window.activity()) == {"-"}
    assert (window.activity()["-"].count, window.activity()["-"].failures) == (2, {Cause.CLIENT: 2})


def test_a_tokens_lives_follow_each_other() -> None:
    history = TokenHistory()
    for second in (0, 2, 4):
        history.add([dataclasses.replace(SOURCE, age_s=100.0 + second, expires_in_s=3_500.0 - second)], AT + second)
    (only,) = history.find(SOURCE).tokens
    assert (only.obtained_at, only.expires_at, only.usable_until_at, only.replaced_at) == (
        AT - 100,
        AT + 3_500,
        AT + 3_495,
        None,
    )

    history.add([dataclasses.replace(SOURCE, age_s=1.0, expires_in_s=3_599.0)], AT + 6)
    before, now = history.find(SOURCE).tokens
    assert (before.replaced_at, now.obtained_at) == (AT + 5, AT + 5)


def test_a_time_without_a_token_has_a_beginning_and_an_end() -> None:
    history = TokenHistory()
    gone = dataclasses.replace(SOURCE, age_s=None, expires_in_s=None, refresh_in_s=None, usable=False, without_s=30.0)
    history.add([SOURCE], AT)
    history.add([gone], AT + 2)
    history.add([dataclasses.replace(gone, without_s=32.0)], AT + 4)
    line = history.find(SOURCE)
    assert [(one.since_at, one.until_at) for one in line.outages] == [(AT - 28, None)]
    assert line.tokens[-1].replaced_at == AT + 2
    history.add([dataclasses.replace(SOURCE, age_s=0.0)], AT + 6)
    assert [one.until_at for one in line.outages] == [AT + 6]


def test_lives_are_bounded_and_forgotten_with_their_source() -> None:
    history = TokenHistory()
    for number in range(50):
        history.add([dataclasses.replace(SOURCE, age_s=0.0)], AT + number * 10)
    assert len(history.find(SOURCE).tokens) == 4
    history.add([], AT + 1_000)
    assert not history.find(SOURCE).tokens
