"""What is wrong comes first: one sentence each, with the next step, and nothing where all is well."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.identity.credential import Target
from proxy.identity.sharing.shared_token import SharingStatistics
from proxy.identity.sources import Failing, IdentityStatistics
from proxy.operations.access_log import AccessLogStatistics
from proxy.operations.causes import Cause
from proxy.operations.metrics import CertificateExpiry
from proxy.operations.overview import Overview, RouteSummary
from proxy.operations.own_errors import ErrorTally
from proxy.operations.problems import describe_problems, list_problems
from proxy.operations.route_window import RouteActivity
from proxy.operations.snapshot import WorkerSnapshot
from tests.unit.test_operations_overview import AT, REFUSED, SOURCE, counted

DAY_S = 86_400
FAILING = Failing(
    "orders-client", Target(scope="s"), 120.0, "Entra ID refused the assertion. Its text says no more.", "AADSTS700027"
)
ROUTES = tuple(RouteSummary(f"{name}.example", (f"{name}.example",), "orders-client", "s") for name in "abcde")


def overview(**parts: Any) -> Overview:
    usual: dict[str, Any] = {
        "at": AT, "started_at": AT - 60, "ready": True, "missing": (), "workers": 1, "total": WorkerSnapshot(),
        "identity": IdentityStatistics({}, (SOURCE,)), "certificates": (), "routes": ROUTES, "samples": (), "errors": (),
    }  # fmt: skip
    return Overview(**usual | parts)


def only(**parts: Any) -> Any:
    (problem,) = list_problems(overview(**parts))
    assert problem.what.endswith(".")
    assert problem.step
    return problem


def test_where_all_is_well_nothing_is_said() -> None:
    far = CertificateExpiry("interception_ca", "", "", AT + 400 * DAY_S)
    old = counted(REFUSED._replace(ended_at=AT - 301))
    busy = {"a.example": RouteActivity(100, {Cause.API: 4}, {404: 40, 500: 4}, 0.1, 0.2, 0.1)}
    assert not list(list_problems(overview(certificates=[far], errors=old, activity=busy)))


def test_a_token_that_is_missing_says_whose_requests_fail_and_why() -> None:
    problem = only(identity=IdentityStatistics({}, (), (FAILING,)), routes=ROUTES[:2])
    assert problem.severity == "bad"
    assert problem.what.startswith(
        "Requests to a.example and b.example fail, because orders-client has no access token: "
    )
    assert problem.explain == "AADSTS700027"
    assert "az ad app credential" in problem.step
    assert problem.since_at == AT - 120
    assert problem.by == Cause.IDENTITY


def test_many_hosts_are_named_by_the_first() -> None:
    problem = only(identity=IdentityStatistics({}, (), (FAILING,)))
    assert problem.what.startswith("Requests to a.example, b.example and 3 other hosts fail")


def test_an_outage_is_one_problem_however_many_tokens_are_missing() -> None:
    reason = "The identity platform did not answer within 10 seconds."
    failing = [Failing(name, Target(scope="s"), for_s, reason, "timeout") for name, for_s in (("a", 9.0), ("b", 90.0))]
    routes = [RouteSummary(f"{name}.example", (f"{name}.example",), name, "s") for name in "ab"]
    problem = only(identity=IdentityStatistics({}, (), (*failing,)), routes=routes)
    assert problem.what == (
        "Requests to a.example and b.example fail, because a and b have no access token: the identity platform did not answer"
        " within 10 seconds."
    )
    assert (problem.since_at, problem.detail) == (AT - 90, "")


def test_many_routes_that_fail_alike_are_one_problem() -> None:
    many = {f"{name}.example": RouteActivity(1_000, {}, {429: 300}, 0.1, 0.2, 0.1) for name in "abcde"}
    problem = only(activity=many)
    assert problem.what == (
        "The gateway refused 1,500 of 5,000 requests to a.example, b.example and 3 other routes in the last five minutes:"
        " 1,500 with 429."
    )


def test_routes_that_fail_alike_are_problems_of_their_own() -> None:
    """Or the page would show one of them."""
    few = {f"service-{number}": RouteActivity(100, {}, {429: 30}, 0.1, 0.2, 0.1) for number in range(3)}
    found: Any = describe_problems(overview(activity=few))
    assert len({one["key"] for one in found}) == 3


def test_a_code_that_nothing_is_known_of_leads_to_the_check() -> None:
    problem = only(identity=IdentityStatistics({}, (), (FAILING._replace(code="", reason="It has expired."),)))
    assert problem.what.endswith("has no access token: it has expired.")
    assert "check --online" in problem.step


def test_what_the_readiness_says_of_a_token_is_not_said_twice() -> None:
    missing = [f"no valid access token for a.example since noon: {FAILING.reason}"]
    only(identity=IdentityStatistics({}, (), (FAILING,)), missing=missing, ready=False)


@pytest.mark.parametrize(("ready", "severity"), [(True, "warn"), (False, "bad")])
def test_whatever_else_the_readiness_says_is_a_problem(ready: bool, severity: str) -> None:
    problem = only(missing=["The interception CA ended on 2026-01-01."], ready=ready)
    assert (problem.severity, problem.what) == (severity, "The interception CA ended on 2026-01-01.")


def test_a_drain_is_no_fault() -> None:
    assert only(missing=["draining"], ready=False).severity == "warn"


def test_a_token_that_cannot_be_renewed_says_until_when_it_is_good() -> None:
    stale = SOURCE.__class__("orders-client", "s", True, True, 100.0, 500.0, 4, 0, 3, "timeout", refresh_in_s=-10.0)
    problem = only(identity=IdentityStatistics({}, (stale,)))
    assert (problem.severity, problem.explain, problem.until_at) == ("warn", "timeout", AT + 500)


@pytest.mark.parametrize(
    ("kind", "days", "severity", "words"),
    [
        ("credential", 29, "warn", "credential orders-client ends in 29 days."),
        ("credential", 1.5, "bad", "ends within two days."),
        ("interception_ca", 3, "bad", "The interception CA ends in 3 days."),
        ("client_certificate", -1, "bad", "has ended."),
        ("listener", 12, "warn", "The certificate of listener orders-client ends in 12 days."),
    ],
)
def test_a_certificate_that_ends_says_what_to_do(kind: str, days: float, severity: str, words: str) -> None:
    problem = only(certificates=[CertificateExpiry(kind, "orders-client", "", AT + days * DAY_S)])
    assert problem.severity == severity
    assert problem.what.endswith(words)


def test_an_error_of_our_own_is_a_problem_for_five_minutes() -> None:
    unreachable = REFUSED._replace(outcome="destination_unavailable", code="name_not_resolved")
    problem = only(errors=counted(unreachable, unreachable))
    assert problem.what == "The upstream cannot be reached (502) for contoso.azure-api.net, 2 times since the start."
    assert (problem.severity, problem.explain, problem.by) == ("warn", "name_not_resolved", Cause.GATEWAY)
    refused = REFUSED._replace(status=403, outcome="http_request_denied", code="host_refused")
    assert only(errors=counted(refused)).severity == "note"


@pytest.mark.parametrize(
    ("statuses", "words", "code", "by"),
    [
        (
            {401: 30, 429: 4},
            "The gateway refused 34 of 100 requests to a.example {}: 30 with 401, 4 with 429.",
            "401",
            "gateway",
        ),
        ({500: 2, 503: 9}, "The API failed 11 of 100 requests to a.example {}: 2 with 500, 9 with 503.", "", "api"),
    ],
)
def test_a_route_that_fails_says_who_failed_it(statuses: dict[int, int], words: str, code: str, by: str) -> None:
    problem = only(activity={"a.example": RouteActivity(100, {}, statuses, 0.1, 0.2, 0.1)})
    assert (problem.what, problem.explain, problem.by) == (words.format("in the last five minutes"), code, by)


def test_lost_lines_and_a_lost_token_cache_are_told() -> None:
    total = WorkerSnapshot(access_log=AccessLogStatistics(9, 2, 1))
    assert only(total=total).what.startswith("3 lines of the access log were lost")
    sharing = SharingStatistics(False, AT - 9, "does not answer", {})
    problem = only(identity=IdentityStatistics({}, (SOURCE,), (), sharing))
    assert problem.what == "Each replica asks for tokens of its own: the token cache does not answer."


def test_the_worst_comes_first_and_there_are_not_too_many() -> None:
    tally = ErrorTally()
    for number in range(40):
        tally.add([REFUSED._replace(outcome="destination_unavailable", code=f"code_{number}")])
    ends = [CertificateExpiry("listener", "a", "", AT + DAY_S)]
    found: Any = describe_problems(overview(errors=tally.counts(), certificates=ends))
    assert [one["severity"] for one in found] == ["bad"] + ["warn"] * 19
    assert len({one["key"] for one in found}) == 20
