"""The state machines of exchanges and of draining, played by the fuzzer: any bytes choose rules and what these get. No I/O.

Hypothesis plays them at random, a hundred times a run. The fuzzer drives them towards new code.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from hypothesis.stateful import get_state_machine_test

import proxy.relay.sides

if TYPE_CHECKING:
    from collections.abc import Callable

# Compiled traits cannot be implemented by the interpreted classes that the machines put at both ends.
_IS_COMPILED: Final = not str(proxy.relay.sides.__file__).endswith(".py")


@cache
def _players() -> tuple[Callable[[bytes], object], Callable[[bytes], object]]:
    from tests.property.test_draining import Draining  # not importable where the relay is compiled
    from tests.property.test_exchange import Exchanges  # as above

    exchanges, drains = get_state_machine_test(Exchanges), get_state_machine_test(Draining)
    return exchanges.hypothesis.fuzz_one_input, drains.hypothesis.fuzz_one_input  # type: ignore[attr-defined]  # as documented


def exchange_events(data: bytes) -> None:
    """Whatever happens at both sides of exchanges, each ends once, and nothing crosses or stays counted."""
    if not _IS_COMPILED:
        _players()[0](data)


def draining_events(data: bytes) -> None:
    """Whatever happens around a drain or a reload, each request ends once, and no connection stays."""
    if not _IS_COMPILED:
        _players()[1](data)
