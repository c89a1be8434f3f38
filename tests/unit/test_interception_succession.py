"""When the next CA is due, which one signs, and what clients are told to trust: decided from values and a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from proxy.errors import ConfigurationError
from proxy.interception.authority import InterceptionCA, issue
from proxy.interception.names import parse_name
from proxy.interception.succession import (
    DROP_AFTER,
    PREPARE_BEFORE,
    TAKE_OVER_BEFORE,
    Succession,
    decide_preparation,
    decide_take_over,
    drop_previous,
    format_previous,
    parse_previous,
    take_over,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOSTS = ["contoso.azure-api.net", "*.apis.contoso.com", "10.1.2.3"]
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def ca() -> InterceptionCA:
    return issue(HOSTS, NOW, reason="created")


@pytest.fixture(scope="module")
def wider() -> InterceptionCA:
    return issue([*HOSTS, "fabrikam.azure-api.net"], NOW, reason="prepared")


def test_nothing_is_due_while_the_ca_serves(ca: InterceptionCA) -> None:
    assert decide_preparation(Succession(ca), HOSTS, NOW) is None
    assert not decide_take_over(Succession(ca), NOW)


def test_fewer_routes_and_routes_below_the_old_ones_are_no_reason(ca: InterceptionCA) -> None:
    assert decide_preparation(Succession(ca), ["contoso.azure-api.net"], NOW) is None
    assert decide_preparation(Succession(ca), ["v2.contoso.azure-api.net", "x.apis.contoso.com"], NOW) is None


def test_a_new_route_is_a_reason_that_names_it(ca: InterceptionCA, wider: InterceptionCA) -> None:
    hosts = [*HOSTS, "fabrikam.azure-api.net"]
    assert decide_preparation(Succession(ca), hosts, NOW) == (
        "prepared because route fabrikam.azure-api.net was added: clients must trust it to use what was added"
    )
    assert "routes a.example, 10.1.2.4 were added" in str(
        decide_preparation(Succession(ca), [*HOSTS, "a.example", "10.1.2.4"], NOW)
    )
    assert decide_preparation(Succession(ca, (wider,)), hosts, NOW) is None


@pytest.mark.parametrize("late", [False, True], ids=["just-before", "at"])
def test_the_end_of_its_life_is_a_reason_in_time(ca: InterceptionCA, wider: InterceptionCA, late: bool) -> None:
    before = timedelta(0) if late else SECOND
    reason = decide_preparation(Succession(ca), HOSTS, ca.not_after - PREPARE_BEFORE - before)
    assert (reason is not None) is late
    assert decide_take_over(Succession(ca), ca.not_after - TAKE_OVER_BEFORE - before) is late
    assert decide_preparation(Succession(ca, (wider,)), HOSTS, ca.not_after - PREPARE_BEFORE) is None


def test_a_host_is_signed_for_by_the_ca_that_clients_have_trusted_longest(
    ca: InterceptionCA, wider: InterceptionCA
) -> None:
    both = Succession(ca, (wider,))
    assert both.choose(parse_name("contoso.azure-api.net"), NOW).issuer in ca.issuers
    assert both.choose(parse_name("fabrikam.azure-api.net"), NOW).issuer in wider.issuers
    assert both.choose(parse_name("nobody.example"), NOW).issuer in ca.issuers
    assert both.choose(parse_name("10.1.2.3"), NOW).issuer in ca.issuers


def test_a_ca_that_has_ended_signs_nothing(ca: InterceptionCA) -> None:
    later = issue(HOSTS, NOW + timedelta(days=700), reason="prepared")
    assert Succession(ca, (later,)).choose(parse_name(HOSTS[0]), ca.not_after).issuer in later.issuers


def test_what_is_relieved_stays_trusted_for_the_life_of_a_leaf(ca: InterceptionCA, wider: InterceptionCA) -> None:
    middle = issue(HOSTS, NOW, reason="prepared")
    after = take_over(Succession(ca, (middle, wider)), wider, NOW)
    assert after.current is wider
    assert after.trusted() == [wider.anchor, ca.anchor, middle.anchor]
    assert drop_previous(after, NOW + DROP_AFTER - SECOND) == after
    assert drop_previous(after, NOW + DROP_AFTER).trusted() == [wider.anchor]


def test_the_list_of_what_was_relieved_reads_back(ca: InterceptionCA, wider: InterceptionCA) -> None:
    previous = take_over(Succession(ca, (issue(HOSTS, NOW, reason="prepared"),)), wider, NOW).previous
    assert parse_previous(format_previous(previous)) == previous
    assert parse_previous(b"") == ()
    with pytest.raises(ConfigurationError):
        parse_previous(format_previous(previous).replace(b"MII", b"!!!"))
