"""A few seconds of the soak, so that it cannot rot: all its traffic, without the time that memory needs to show a trend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 6


@pytest.mark.timeout(300)
def test_no_response_crosses_to_another_request_while_connections_are_cut_and_reused() -> None:
    arguments = ["--minutes", str(SECONDS / 60), "--clients", "20", "--seed", "7", "--no-memory"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No response crossed to another request" in done.stdout
