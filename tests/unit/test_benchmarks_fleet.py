"""The simulated fleet: a seed decides everything, and what the page says of sharing is so in small."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.fleet.model import PlatformSettings
from benchmarks.fleet.report import draw, format_report
from benchmarks.fleet.stories import STORIES, Outcome, Story, tell

PLATFORM = PlatformSettings()


def story(name: str, **changes: object) -> Story:
    return replace(next(one for one in STORIES if one.name == name), **changes)  # type: ignore[arg-type]  # a test's


def outcome(name: str, *, is_shared: bool, replicas: int = 20, platform: PlatformSettings = PLATFORM) -> Outcome:
    return tell(story(name), replicas, is_shared=is_shared, platform=platform)


def test_the_same_seed_tells_the_same_story() -> None:
    assert outcome("a deployment", is_shared=True) == outcome("a deployment", is_shared=True)


def test_a_fleet_that_shares_asks_about_as_often_as_one_replica() -> None:
    one = outcome("an ordinary day", is_shared=False, replicas=1)
    alone, shared = (outcome("an ordinary day", is_shared=is_shared) for is_shared in (False, True))
    assert alone.requests > 15 * one.requests
    assert shared.requests <= 2 * one.requests
    assert max(shared.without_longest_s, alone.without_longest_s) < 2


@pytest.mark.parametrize("is_shared", [False, True])
def test_nobody_who_had_a_token_is_without_one_in_a_short_outage(is_shared: bool) -> None:
    assert outcome("an outage", is_shared=is_shared).without_longest_s < 2


def test_pods_that_start_in_an_outage_have_the_others_token() -> None:
    assert outcome("pods that start in an outage", is_shared=False).without_longest_s > 300
    assert outcome("pods that start in an outage", is_shared=True).without_longest_s < 2


def test_without_the_store_a_fleet_is_as_it_was() -> None:
    away = outcome("Redis away, and a deployment", is_shared=True)
    assert away.without_longest_s < 5
    assert away.busiest_minute >= 20


def test_the_report_has_a_row_and_the_picture_a_line_for_each() -> None:
    outcomes = [outcome("a deployment", is_shared=is_shared) for is_shared in (False, True)]
    page, picture = format_report(outcomes, PLATFORM), draw(outcomes)
    assert page.count("\n| 20 | ") == 2
    assert picture.count("serie-") >= 2


def test_a_fleet_that_asks_for_more_than_the_limit_gets_below_it_although_refused_requests_count() -> None:
    """It asks for ten tokens in a minute, may ask for six, and is told to come back in a minute."""
    fleet = outcome("an ordinary day", is_shared=False, replicas=100, platform=PlatformSettings(limit=1))
    assert fleet.throttled > 100
    assert fleet.requests - fleet.throttled > 100
