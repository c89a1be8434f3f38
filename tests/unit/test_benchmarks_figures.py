"""A benchmark says of a target what its rounds say, and no more."""

from __future__ import annotations

import pytest

from benchmarks.figures import Result, Round, Target, Verdict, judge, subtract, sum_up


def result(rival: str, figure: float) -> Result:
    return sum_up(rival, [Round(figure)])


def test_one_wild_round_moves_the_spread_and_not_the_figure() -> None:
    summed = sum_up("nginx", [Round(10.0, per_s=5.0), Round(900.0, per_s=1.0), Round(11.0, per_s=7.0)])

    assert (summed.figure, summed.low, summed.high, summed.rounds) == (11.0, 10.0, 900.0, 3)
    assert summed.per_s == 5.0


def test_what_no_round_measured_stays_unknown() -> None:
    assert sum_up("ours", [Round(1.0)]).p99_us is None


def test_a_baseline_is_taken_off_everybody_and_then_gone() -> None:
    less = subtract([result("direct", 50.0), result("nginx", 120.0), result("ours", 190.0)], "direct")

    assert [(one.rival, one.figure, one.low, one.high) for one in less] == [
        ("nginx", 70.0, 70.0, 70.0),
        ("ours", 140.0, 140.0, 140.0),
    ]


def test_without_its_baseline_nothing_is_compared() -> None:
    assert subtract([result("nginx", 120.0), result("ours", 190.0)], "direct") == []


@pytest.mark.parametrize(
    ("target", "reached", "is_met"),
    [
        pytest.param(Target(2.0, "nginx"), 2.0, True, id="at the limit"),
        pytest.param(Target(1.99, "nginx"), 2.0, False, id="past the limit"),
        pytest.param(Target(60.0), 40.0, True, id="no rival: the figure itself"),
        pytest.param(Target(39.9), 40.0, False, id="no rival: past the limit"),
        pytest.param(Target(2.0, "nginx", at_least=True), 2.0, True, id="at least, reached"),
        pytest.param(Target(2.1, "nginx", at_least=True), 2.0, False, id="at least, not reached"),
    ],
)
def test_a_target_is_met_up_to_its_limit(target: Target, reached: float, is_met: bool) -> None:
    verdicts = judge([result("nginx", 20.0), result("ours", 40.0)], [target])

    assert verdicts == [Verdict(target, reached)]
    assert verdicts[0].is_met is is_met


@pytest.mark.parametrize(
    "results",
    [
        pytest.param([result("ours", 40.0)], id="the rival took no part"),
        pytest.param([result("nginx", 20.0)], id="we took no part"),
        pytest.param(
            [result("nginx", 0.0), result("ours", 40.0)], id="the rival's figure is below what can be measured"
        ),
    ],
)
def test_nothing_is_claimed_about_what_was_not_measured(results: list[Result]) -> None:
    assert judge(results, [Target(2.0, "nginx")]) == []
