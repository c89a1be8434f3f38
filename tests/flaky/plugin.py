"""A plugin for pytest: plays the tests in an order drawn from a seed, ends at a deadline, and writes down how each one ended.

Modules are shuffled, and the tests within each: what a module shares is made once, and yet no test can lean on another's order.
"""

from __future__ import annotations

import json
import os
import random
import time
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from _pytest.reports import TestReport

# What the runner tells, in the environment: xdist, options and files of pytest's stay as they are.
SEED: Final = "FLAKY_SEED"
UNTIL: Final = "FLAKY_UNTIL"
RECORD: Final = "FLAKY_RECORD"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shuffle, last of all plugins."""
    drawn = random.Random(os.environ[SEED])
    modules: dict[str, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(str(item.path), []).append(item)
    order = list(modules.values())
    drawn.shuffle(order)
    for one in order:
        drawn.shuffle(one)
    items[:] = [item for one in order for item in one]


def pytest_runtest_logreport(report: TestReport) -> None:
    """Write how a test's phase ended; what failed with its reason."""
    if report.when != "call" and report.passed:
        return
    reason = str(report.longrepr) if report.failed else ""
    with open(os.environ[RECORD], "a", encoding="utf-8") as file:  # noqa: PTH123  # the shortest there is, 9,000 times
        file.write(json.dumps([report.nodeid, report.outcome, reason]) + "\n")


@pytest.hookimpl(trylast=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """End the run before a test that would begin after the deadline."""
    if time.time() > float(os.environ[UNTIL]):
        item.session.shouldstop = "the time is up"
