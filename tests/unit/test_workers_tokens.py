"""Tokens in a relay process: what it asks control for, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from proxy.identity.access_token import AccessToken, age_token, create_access_token
from proxy.identity.credential import Target
from proxy.workers.control import SharedSource
from proxy.workers.messages import Rejected, SourceKey, Token, Want
from proxy.workers.tokens import _ACQUITTED_S, RemoteSources

if TYPE_CHECKING:
    from proxy.identity.source import TokenSource
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
        assert source.report_refusal(refused, now)
        acquiring = asyncio.create_task(source.acquire())
        await asyncio.sleep(0)
        rejected, want = control.told
        assert isinstance(rejected, Rejected)
        assert isinstance(want, Want)
        sources.take_token(control.token())
        sources.answer(want.request)
        kept = await acquiring
        assert not source.report_refusal(kept, time.monotonic()), "the refusal is passed on"
        assert source.peek(now) is kept
        assert len(control.told) == 2
        assert source.report_refusal(kept, time.monotonic() + _ACQUITTED_S + 1), "later, control is asked again"
        control.serial += 1
        sources.take_token(control.token())
        successor = source.peek(now)
        assert successor is not None
        assert successor.value == "token-1"

    asyncio.run(work())


class SleepySource:
    """A token source on a machine that sleeps."""

    def __init__(self) -> None:
        self.token: AccessToken | None = create_access_token(
            "token", requested_at_mono=0.0, expires_in_s=3_600, refresh_in_s=None, jitter=0
        )

    def look(self, now_mono: float) -> AccessToken | None:
        token = self.token
        return token if token is not None and now_mono < token.usable_until_mono else None


def test_a_relay_process_uses_no_token_that_ended_while_the_machine_slept() -> None:
    """Control ages its own; a relay process goes by the moments that it was given."""
    source = SleepySource()
    shared = SharedSource(cast("TokenSource", source), 0)
    sources = RemoteSources(lambda _: True)
    sources.number([KEY])
    remote = sources.source_for("orders", Target(scope=KEY.scope))

    def share(now: float) -> bool:
        if not shared.look(now):
            return False
        assert shared.message is not None
        sources.take_token(shared.message)
        return True

    assert share(10.0)
    assert remote.peek(10.0) is not None
    assert source.token is not None
    source.token = age_token(source.token, 1_000.0)
    assert share(11.0)
    assert remote.peek(11.0) is not None
    source.token = age_token(source.token, 10_000.0)
    assert share(12.0)
    assert remote.peek(12.0) is None
    assert not share(13.0), "told once"
    source.token = create_access_token(
        "another", requested_at_mono=14.0, expires_in_s=3_600, refresh_in_s=None, jitter=0
    )
    assert share(14.0)
    assert remote.peek(14.0) is not None
