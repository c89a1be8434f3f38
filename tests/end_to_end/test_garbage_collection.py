"""The garbage collector leaves alone what the proxy made before it was ready: it would hold the event loop up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.programs import ProxyProgram, configuration, environment

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.programs import Place

# Modules and settings alone are twice as many.
_MANY = 20_000
# One write a process: `print` may write the line and its end apart, and another process's line then comes between them.
_TELL = """
import atexit, gc, os
atexit.register(lambda: os.write(1, f"frozen: {gc.get_freeze_count()}, collecting: {gc.isenabled()}\\n".encode()))
"""


@pytest.mark.parametrize(("workers", "processes"), [(1, 1), (2, 4)])
def test_what_was_made_before_ready_is_frozen(
    place: Place, tmp_path: Path, evidence: Path, workers: int, processes: int
) -> None:
    """G5: a collection that walks through modules and settings takes tens of milliseconds.

    What relay processes are forked from collects nothing: it would write to pages, and so copy them.
    """
    (tmp_path / "sitecustomize.py").write_text(_TELL, encoding="utf-8")
    with ProxyProgram(
        configuration(place) | {"workers": workers},
        tmp_path / "proxy",
        evidence,
        f"frozen-{workers}",
        environ=environment(PYTHONPATH=str(tmp_path)),
    ) as proxy:
        pass
    told = re.findall(r"frozen: (\d+), collecting: (\w+)", "\n".join(proxy.lines))
    assert len(told) == processes
    assert all(int(frozen) > _MANY for frozen, _ in told), told
    assert [collecting for _, collecting in told].count("False") == (workers > 1), told
