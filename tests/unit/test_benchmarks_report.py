"""A benchmark's report shows misses as clearly as hits, and what was not measured at all."""

from __future__ import annotations

import pytest

from benchmarks.cells import CELLS
from benchmarks.figures import Round, judge, sum_up
from benchmarks.report import Row, format_figure, format_ratio, format_results, format_row, format_summary
from benchmarks.wrk import WrkRequest, format_script


def row(ours: float) -> Row:
    cell = next(cell for cell in CELLS if cell.name == "tls-get")
    results = [sum_up("nginx", [Round(20.0, busy=0.5)]), sum_up("ours", [Round(ours)])]
    return Row(cell, results, judge(results, cell.targets))


@pytest.mark.parametrize(("ours", "verdict"), [(44.0, "met"), (45.0, "**not met**")])
def test_markdown_says_whether_a_target_is_met(ours: float, verdict: str) -> None:
    lines = format_results([row(ours)], ["a machine"], []).splitlines()

    assert [line for line in lines if "nginx | " in line and line.endswith(f"| {verdict} |")]


def test_the_terminal_says_whether_a_target_is_met() -> None:
    assert "NOT MET" in format_row(row(45.0))
    assert "NOT MET" not in format_row(row(44.0))
    assert "not met" in format_summary([row(45.0)])


def test_markdown_names_what_was_not_measured() -> None:
    assert "- tls-get: squid takes no part." in format_results(
        [row(44.0)], [], ["tls-get: squid takes no part.\nlong log"]
    )


def test_every_cell_has_one_name_and_its_targets_compare_with_who_takes_part() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    for cell in CELLS:
        assert cell.subject in cell.rivals
        assert {target.rival for target in cell.targets} <= {*cell.rivals, None}


@pytest.mark.parametrize(
    ("value", "text"), [(0.256, "0.26"), (12.34, "12.3"), (1234.5, "1,234"), (-3.0, "-3.00"), (-250.0, "-250")]
)
def test_figures_have_the_digits_that_mean_something(value: float, text: str) -> None:
    assert format_figure(value) == text


@pytest.mark.parametrize(("value", "text"), [(2.2, "2.2"), (0.45, "0.45"), (1 / 40, "1/40"), (1_000.0, "1,000")])
def test_ratios_read_as_the_targets_are_put(value: float, text: str) -> None:
    assert format_ratio(value) == text


def test_a_post_carries_its_content_and_a_get_none() -> None:
    assert 'string.rep("x", 16)' in format_script(WrkRequest("http://a.example/x", "a.example", 16))
    assert "wrk.body" not in format_script(WrkRequest("http://a.example/x", "a.example"))
