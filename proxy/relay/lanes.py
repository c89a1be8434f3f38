"""Password checks that wait for their turn, fair between those who ask. Does no I/O itself.

A check is slow on purpose, so whoever sends many of them must not be in the way of others: turns go round between those who ask,
however much each of them has waiting, and where there is too much, whoever has most gives way.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.errors import ProxyError
    from proxy.policy.access import PasswordClaim


class Lane:
    """A queue of checks, with a bound.

    Args:
        check: computes one.
        at_a_time: how many at once.
        limit: how many may wait.
        refuse: makes the error for those that have to give way.
        pause: waits between two checks; None: it does not.
    """

    def __init__(
        self,
        check: Callable[[PasswordClaim], Awaitable[bool]],
        *,
        at_a_time: int,
        limit: int,
        refuse: Callable[[], ProxyError],
        pause: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._check = check
        self._at_a_time = at_a_time
        self._limit = limit
        self._refuse = refuse
        self._pause = pause
        self._waiting: OrderedDict[str, list[tuple[PasswordClaim, asyncio.Future[bool]]]] = OrderedDict()
        self._size = 0
        self._busy = 0
        self._workers: set[asyncio.Task[None]] = set()

    async def ask(self, who: str, claim: PasswordClaim) -> bool:
        """Return whether a password is right, once it is its turn.

        Raises:
            ProxyError: made by `refuse`: it had to give way.
        """
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, []).append((claim, turn))
        self._size += 1
        if self._size > self._limit:
            self._turn_away()
        if self._busy < self._at_a_time:
            self._busy += 1
            worker = asyncio.get_running_loop().create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return await turn

    def close(self) -> None:
        """End the checks; whoever waits is cancelled."""
        for worker in self._workers:
            worker.cancel()
        for waiting in self._waiting.values():
            for _, turn in waiting:
                turn.cancel()
        self._waiting.clear()

    async def _work(self) -> None:
        try:
            while self._waiting:
                claim, turn = self._take()
                if turn.done():
                    continue
                try:
                    right = await self._check(claim)
                except asyncio.CancelledError:
                    turn.cancel()
                    raise
                except Exception as error:  # noqa: BLE001  # told to who waits, where the top of a task is
                    if not turn.done():
                        turn.set_exception(error)
                else:
                    if not turn.done():
                        turn.set_result(right)
                if self._pause is not None:
                    await self._pause()
        finally:
            self._busy -= 1

    def _take(self) -> tuple[PasswordClaim, asyncio.Future[bool]]:
        """Take one check of whoever has waited longest for a turn; any of theirs, so that no order helps to guess."""
        who, waiting = next(iter(self._waiting.items()))
        self._size -= 1
        taken = waiting.pop(random.randrange(len(waiting)))  # noqa: S311  # fairness, not secrecy
        if waiting:
            self._waiting.move_to_end(who)
        else:
            del self._waiting[who]
        return taken

    def _turn_away(self) -> None:
        """Refuses one check of whoever has most waiting, and never the newest, which has had no chance yet."""
        waiting = max(self._waiting.values(), key=len)
        if len(waiting) > 1:
            _, turn = waiting.pop(random.randrange(len(waiting) - 1))  # noqa: S311  # fairness, not secrecy
        else:  # everybody has one: the oldest gives way
            who, [(_, turn)] = self._waiting.popitem(last=False)
            del who
        self._size -= 1
        if not turn.done():
            turn.set_exception(self._refuse())
