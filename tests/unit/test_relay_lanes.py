"""Turns go round between those who ask, whoever asks most gives way, and the newest has its chance (G9)."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import Overloaded
from proxy.policy.access import PasswordClaim
from proxy.relay.lanes import Lane


class Checks:
    """Checks that end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.turns = asyncio.Semaphore(0)

    async def check(self, claim: PasswordClaim) -> bool:
        self.begun.append(claim.password)
        await self.turns.acquire()
        return claim.password.startswith(b"right")


def refuse() -> Overloaded:
    return Overloaded("too many", retry_after_s=1)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_turns_go_round_and_the_busiest_gives_way() -> None:
    async def work() -> None:
        checks = Checks()
        lane = Lane(checks.check, at_a_time=1, limit=6, refuse=refuse)

        def ask(who: str, password: bytes) -> asyncio.Task[bool]:
            return asyncio.create_task(lane.ask(who, PasswordClaim(None, password)))

        first = ask("flood", b"wrong 0")
        await settle()
        flood = [ask("flood", b"wrong %d" % number) for number in range(1, 20)]
        await settle()
        one = ask("one", b"right")
        await settle()
        refused = [asked for asked in flood if asked.done()]
        assert len(refused) == len(flood) - 5
        assert all(isinstance(asked.exception(), Overloaded) for asked in refused)
        assert not flood[-1].done() or flood[-2] in refused
        for _ in range(3):
            checks.turns.release()
            await settle()
        assert one.done(), "its turn comes second, however many of the other wait"
        assert await one
        assert not await first
        for _ in range(10):
            checks.turns.release()
        assert await asyncio.gather(*(asked for asked in flood if asked not in refused)) == [False] * 5
        assert checks.begun[0] == b"wrong 0"
        again = ask("one", b"right again")
        await settle()
        assert await again, "a lane that was empty begins again"

    asyncio.run(work())


def test_the_newest_never_gives_way() -> None:
    async def work() -> None:
        checks = Checks()
        lane = Lane(checks.check, at_a_time=1, limit=2, refuse=refuse)
        asked = []
        for number in range(50):
            asked.append(asyncio.create_task(lane.ask("one", PasswordClaim(None, b"%d" % number))))
            await settle()
            assert not asked[-1].done()
        lane.close()
        await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(work())


def test_a_fault_is_told_to_who_waits_and_the_lane_goes_on() -> None:
    async def work() -> None:
        async def check(claim: PasswordClaim) -> bool:
            if claim.password == b"broken":
                raise RuntimeError
            return True

        lane = Lane(check, at_a_time=1, limit=2, refuse=refuse)
        with pytest.raises(RuntimeError):
            await lane.ask("one", PasswordClaim(None, b"broken"))
        assert await lane.ask("one", PasswordClaim(None, b"right"))

    asyncio.run(work())
