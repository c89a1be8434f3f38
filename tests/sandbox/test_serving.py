"""What the sandbox's command logs of faults in the event loop."""

from __future__ import annotations

import asyncio
import socket

import pytest

from proxy.sandbox.serving import report_fault


@pytest.mark.logs_own_fault
def test_a_client_that_leaves_in_mid_answer_is_no_fault_and_all_else_is(caplog: pytest.LogCaptureFixture) -> None:
    """CPython tells a transport of its end twice now and then; a traceback in the log would look like a fault of the sandbox."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(report_fault)
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            for _ in range(2):
                loop.call_soon(transport._call_connection_lost, BrokenPipeError())  # type: ignore[attr-defined]  # what CPython does
            loop.call_soon(int, "no number")
            for _ in range(3):
                await asyncio.sleep(0)

    asyncio.run(work())
    told = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    assert len(told) == 1
    assert "built-in" in told[0] or "int" in told[0]
