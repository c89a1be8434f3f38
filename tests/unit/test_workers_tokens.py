"""Tokens in a relay process: what it asks control for, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from proxy.identity.credential import Target
from proxy.workers.messages import Rejected, SourceKey, Token, Want
from proxy.workers.tokens import _ACQUITTED_S, RemoteSources

if TYPE_CHECKING:
    from proxy.workers.messages import Message

KEY = SourceKey(number=0, credential="orders", scope="api://orders/.default")


class ControlProcess:
    """Has one token, and gives it again whatever is said of it."""

    def __init__(self) -> None:
        self.told: list[Message] = []
        self.serial = 0

    def take(self, message: Message) -> bool:
        self.told.append(message)
        return True

    def token(self) -> Token:
        now = time.monotonic()
        return Token(
            source=0,
            serial=self.serial,
            value=f"token-{self.serial}",
            obtained_at_mono=now,
            refresh_at_mono=now + 3_000,
            expires_at_mono=now + 3_600,
            usable_until_mono=now + 3_590,
        )


def test_a_token_that_control_keeps_is_not_complained_of_again_and_again() -> None:
    """Else each request that an API refuses would be sent twice with the same token, and all others would wait for control."""

    async def work() -> None:
        control = ControlProcess()
        sources = RemoteSources(control.take)
        sources.number([KEY])
        source = sources.source_for("orders", Target(scope=KEY.scope))
        sources.take_token(control.token())
        now = time.monotonic()
        refused = source.peek(now)
        assert refused is not None
        assert source.rejected(refused, now)
        acquiring = asyncio.create_task(source.acquire())
        await asyncio.sleep(0)
        rejected, want = control.told
        assert isinstance(rejected, Rejected)
        assert isinstance(want, Want)
        sources.take_token(control.token())
        sources.answer(want.request)
        kept = await acquiring
        assert not source.rejected(kept, time.monotonic()), "the refusal is passed on"
        assert source.peek(now) is kept
        assert len(control.told) == 2
        assert source.rejected(kept, time.monotonic() + _ACQUITTED_S + 1), "later, control is asked again"
        control.serial += 1
        sources.take_token(control.token())
        successor = source.peek(now)
        assert successor is not None
        assert successor.value == "token-1"

    asyncio.run(work())
