"""An event loop whose time passes only while everything waits, on one thread and with no file descriptor.

`time.monotonic` and `time.time` say the loop's time while `virtual_time` holds: compiled code looks them up at each call, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.simulation.network import Network

EPOCH: Final = 1_780_000_000.0
# What happens within this is one turn of the loop.
_RESOLUTION_S: Final = 1e-4
_EXECUTOR_S: Final = 0.001
_TURNS_WITHOUT_TIME: Final = 1_000_000


class StuckError(Exception):
    """Nothing will ever happen again, or the same over and over."""


class _Waiting:
    """Stands for the selector: where the loop would wait, its clock moves on."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise StuckError("everything waits, and no timer is set")
        if timeout > 0:
            if self._loop.on_waiting is not None:
                self._loop.on_waiting()
            self._loop.now += timeout
            self._turns = 0
        self._turns += 1
        if self._turns > _TURNS_WITHOUT_TIME:
            raise StuckError("the loop turns without end")
        return []

    def close(self) -> None:
        """Do nothing."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Leads what the product asks of a loop to a simulated network.

    Attributes:
        now: virtual seconds.
        network: what connections are made in.
        slept_s: for how long the machine has slept; its monotonic clock did not count that.
        wall_error_s: what the wall clock is ahead of the truth.
        on_waiting: called each time that everything waits, before time moves on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.slept_s = 0.0
        self.wall_error_s = 0.0
        self.network: Network | None = None
        self.on_waiting: Callable[[], None] | None = None
        self._selector = _Waiting(self)
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        return self.now

    def true_time(self) -> float:
        """Seconds as the rest of the world counts them."""
        return self.now + self.slept_s

    def wall_time(self) -> float:
        return EPOCH + self.now + self.slept_s + self.wall_error_s

    def run_in_executor(self, _executor: Any, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        done = self.create_future()

        def run() -> None:
            try:
                result = work(*arguments)
            except Exception as error:  # noqa: BLE001  # it belongs to who waits
                done.set_exception(error)
            else:
                done.set_result(result)

        self.call_later(_EXECUTOR_S, run)
        return done

    async def create_server(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]
        assert self.network is not None
        return self.network.listen(factory, host, port)

    async def create_connection(self, factory: Any, *_: Any, sock: Any = None, **__: Any) -> Any:  # type: ignore[override]
        protocol = factory()
        await sock.endpoint.attach(protocol)
        return sock.endpoint, protocol

    def _process_events(self, _events: Any) -> None:
        """Do nothing: there are none."""

    def _write_to_self(self) -> None:
        """Do nothing: there is one thread."""


@contextlib.contextmanager
def virtual_time(loop: VirtualLoop) -> Iterator[None]:
    with mock.patch.object(time, "monotonic", loop.time), mock.patch.object(time, "time", loop.wall_time):
        yield
