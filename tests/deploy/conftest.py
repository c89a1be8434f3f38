"""What the tests of deploy/ share: a sandbox whose identity platform, gateway and API the deployed proxy calls."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.deploy.programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Run the sandbox, and give what it says about itself, with its directory as `directory`."""
    directory = tmp_path / "sandbox"
    command = [sys.executable, "-m", "proxy", "sandbox", "--directory", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "sandbox ready"
            yield json.loads((directory / "sandbox.json").read_text()) | {"directory": directory}
        finally:
            process.terminate()
