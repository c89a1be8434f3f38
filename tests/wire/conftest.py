"""One relay for all wire tests of an event loop: uvloop, which users run, and asyncio's own, which Windows users run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop

from tests.wire.rig import Rig, Trust, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


@pytest.fixture(scope="session")
def trust() -> Trust:
    return Trust.create()


@pytest.fixture(scope="module")
def uv_wire(trust: Trust) -> Iterator[Wire]:
    """On uvloop only: for what does not depend on the event loop."""
    yield from _wire(trust, "uvloop")


@pytest.fixture(scope="module", params=LOOPS)
def wire(trust: Trust, request: pytest.FixtureRequest) -> Iterator[Wire]:
    yield from _wire(trust, request.param)


def _wire(trust: Trust, loop: str) -> Iterator[Wire]:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        rig = Rig(trust)
        runner.run(rig.start())
        yield Wire(runner, rig)
        runner.run(rig.stop())
