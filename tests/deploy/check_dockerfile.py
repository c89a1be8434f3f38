"""The Dockerfile, as hadolint reads it; what it is told to leave out stands there with a reason."""

from __future__ import annotations

import subprocess

from tests.deploy.gateways import find
from tests.deploy.programs import ROOT


def test_hadolint_has_nothing_to_object_to() -> None:
    done = subprocess.run([find("hadolint"), "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_hadolint_objects_to_what_is_wrong() -> None:
    wrong = "FROM debian\nRUN apt-get install curl\n"
    done = subprocess.run([find("hadolint"), "--no-color", "-"], input=wrong, capture_output=True, text=True)
    assert done.returncode == 1
    assert "DL3006" in done.stdout
