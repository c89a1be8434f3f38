"""A fault of the relay's own is seen by every test, whatever the client was answered."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from tests.own_faults import listening_for_own_faults
from tests.wire.rig import settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.wire.rig import Rig, Wire


class _Faulty(asyncio.Protocol):
    def data_received(self, data: bytes) -> None:  # noqa: ARG002  # asyncio's signature
        raise TypeError("Exchange object expected; got None")


async def _fail_in_a_protocol(rig: Rig) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Faulty, "127.0.0.1", 0)
    transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
    transport.write(b"x")
    await settle(50)
    transport.close()
    server.close()
    assert rig.relay is not None


async def _fail_in_a_task(rig: Rig) -> None:
    async def fail() -> None:
        raise TypeError("nobody looks")

    task = asyncio.get_running_loop().create_task(fail())
    await settle()
    del task
    gc.collect()
    assert rig.relay is not None


@pytest.mark.logs_own_fault
@pytest.mark.parametrize("fail", [_fail_in_a_protocol, _fail_in_a_task])
def test_a_fault_of_our_own_is_found_in_the_log(wire: Wire, fail: Callable[[Rig], object]) -> None:
    """G8: what the rig's fixture listens with hears an event handler that raised, and a task whose exception nobody took."""
    with listening_for_own_faults() as found:
        wire.run(fail)  # type: ignore[arg-type]  # coroutine functions, both
    assert found
