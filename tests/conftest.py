"""What holds for every test: reproducible property tests, no fault of our own in a log, and in CI nothing skipped."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.own_faults import listening_for_own_faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _pytest.terminal import TerminalReporter

IS_CI = os.environ.get("CI") == "true"

# A shell ignores SIGINT for what it runs in the background, as a test runner may be; every command started here would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A shared machine stalls now and then; a stall is no fault of an example, nor of what draws it. CI gives the same verdict on
# the same code, and does not depend on a database of earlier failures.
_SLOW = [HealthCheck.too_slow]
settings.register_profile("local", deadline=None, suppress_health_check=_SLOW)
settings.register_profile("ci", deadline=None, suppress_health_check=_SLOW, derandomize=True, print_blob=True)
settings.load_profile("ci" if IS_CI else "local")


@pytest.fixture(autouse=True)
def _no_own_fault_is_logged(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test in which this process logs a traceback or an exception that nobody took, unless it is marked to expect one.

    A fault behind an answer is invisible on the wire: the client has its response, and only the log tells.
    """
    with listening_for_own_faults() as found:
        yield
    if request.node.get_closest_marker("logs_own_fault") is None:
        assert not found, "\n".join(found)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test proves nothing, so in CI it counts as a failure: .ci/install-test-tools brings what tests run."""
    reporter: TerminalReporter | None = session.config.pluginmanager.get_plugin("terminalreporter")
    if IS_CI and reporter is not None and reporter.stats.get("skipped") and session.exitstatus == pytest.ExitCode.OK:
        reporter.ensure_newline()
        reporter.write_line("In CI no test may be skipped; the reasons are below.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
