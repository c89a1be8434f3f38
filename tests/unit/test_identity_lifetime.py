"""Arithmetic on a token's life."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import IdentityPlatformUnavailable
from proxy.identity.access_token import create_access_token
from proxy.identity.cache import TokenCache
from proxy.identity.lifetime import backoff_s, flight_margin_s, refresh_after_s, throttled_wait_s
from proxy.identity.token_response import ClientThrottled


@pytest.mark.parametrize(
    ("life_s", "margin_s"),
    [(1, 0.1), (8, 0.8), (50, 5), (300, 5), (3599, 5), (86_399, 5)],
)
def test_the_flight_margin_is_five_seconds_or_a_tenth_of_the_life(life_s: float, margin_s: float) -> None:
    assert flight_margin_s(life_s) == pytest.approx(margin_s)


@pytest.mark.parametrize(
    ("life_s", "refresh_in_s", "expected"),
    [
        pytest.param(8, None, 6, id="short_at_three_quarters"),
        pytest.param(300, None, 225, id="five_minutes"),
        pytest.param(1_500, None, 1_200, id="five_minutes_ahead"),
        pytest.param(1_800, None, 900, id="long_at_half"),
        pytest.param(3_599, None, 1_799.5, id="entra_default"),
        pytest.param(86_399, None, 43_199.5, id="a_day"),
        pytest.param(86_399, 43_200, 43_200, id="platform_suggests"),
        pytest.param(3_599, 3_000, 3_000, id="suggestion_later_than_half"),
        pytest.param(3_599, 1, 30, id="suggestion_too_early"),
        pytest.param(8, 4, 6, id="early_suggestion_for_a_short_life"),
        pytest.param(3_599, 3_599, 1_799.5, id="suggestion_after_the_end"),
    ],
)
def test_a_token_is_stale_at_the_planned_moment(life_s: float, refresh_in_s: float | None, expected: float) -> None:
    assert refresh_after_s(life_s, refresh_in_s, 0) == pytest.approx(expected)


def test_jitter_makes_the_refresh_earlier_by_a_tenth_at_most() -> None:
    assert refresh_after_s(3_600, None, 1) == pytest.approx(1_620)


@given(
    life_s=st.floats(0.5, 100_800),
    refresh_in_s=st.none() | st.floats(0.001, 200_000),
    jitter=st.floats(0, 1),
)
def test_the_moments_of_a_token_are_always_in_order(life_s: float, refresh_in_s: float | None, jitter: float) -> None:
    token = create_access_token(
        "t", requested_at_mono=1_000, expires_in_s=life_s, refresh_in_s=refresh_in_s, jitter=jitter
    )

    assert 1_000 < token.refresh_at_mono < token.usable_until_mono < token.expires_at_mono


@pytest.mark.parametrize(
    ("failures", "refused", "expected"),
    [
        *[(1, False, 1), (2, False, 2), (3, False, 4), (5, False, 16), (6, False, 30), (5_000, False, 30)],
        *[(1, True, 5), (2, True, 10), (3, True, 20), (4, True, 30)],
    ],
)
def test_waits_double_up_to_half_a_minute(failures: int, refused: bool, expected: float) -> None:
    assert backoff_s(failures, 0, refused=refused) == pytest.approx(expected)
    assert backoff_s(failures, 1, refused=refused) == pytest.approx(expected * 0.75)


@pytest.mark.parametrize(
    ("failures", "latest_s"), [(1, 120), (2, 180), (3, 300), (4, 540), (5, 1_020), (6, 1_980), (5_000, 1_980)]
)
def test_replicas_that_were_throttled_together_come_back_ever_more_spread(failures: int, latest_s: float) -> None:
    assert throttled_wait_s(60, failures, 0, left_s=math.inf) == pytest.approx(60)
    assert throttled_wait_s(60, failures, 1, left_s=math.inf) == pytest.approx(latest_s)


def test_nobody_waits_past_half_of_what_is_left_of_a_token_but_as_long_as_it_was_told() -> None:
    assert throttled_wait_s(60, 5, 1, left_s=600) == pytest.approx(300)
    assert throttled_wait_s(60, 5, 1, left_s=100) == pytest.approx(60)
    assert throttled_wait_s(3_600, 5, 1, left_s=math.inf) == pytest.approx(3_600)


def test_a_token_does_not_show_itself() -> None:
    token = create_access_token("secret-token", requested_at_mono=0, expires_in_s=60, refresh_in_s=None, jitter=0)

    assert "secret-token" not in repr(token)
    assert token.field_line == b"Authorization: Bearer secret-token\r\n"


def test_an_outage_before_makes_the_first_429_no_longer_wait() -> None:
    cache = TokenCache()
    for kind in (IdentityPlatformUnavailable,) * 9 + (ClientThrottled,):
        cache.begin()
        cache.fail(kind("no", retry_after_s=60), 0.0, 1.0)
    assert cache.attempt_after_mono == pytest.approx(120)
    cache.begin()
    cache.fail(ClientThrottled("no", retry_after_s=60), 0.0, 1.0)
    assert cache.attempt_after_mono == pytest.approx(180)
