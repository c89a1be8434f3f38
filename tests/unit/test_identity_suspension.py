"""A machine that slept is noticed by the clock that counted it."""

from __future__ import annotations

import asyncio

import pytest

from proxy.identity.access_token import create_access_token
from proxy.identity.cache import Pause, TokenCache
from proxy.identity.credential import IssuedToken, Target
from proxy.identity.source import TokenSource
from proxy.identity.sources import TokenSources
from proxy.identity.suspension import slept_s, watch_suspension


@pytest.mark.asyncio
async def test_each_sleep_is_told_once() -> None:
    readings = iter([5.0, 5.0, 5.1, 65.1, 65.1, 65.15, 95.0])
    told: list[float] = []

    def read() -> float:
        try:
            return next(readings)
        except StopIteration:
            raise asyncio.CancelledError from None

    with pytest.raises(asyncio.CancelledError):
        await watch_suspension(told.append, read=read, interval_s=0)

    assert told == pytest.approx([60.1, 29.9])


def test_the_time_slept_is_known_to_be_none_or_some() -> None:
    assert max(slept_s() for _ in range(3)) >= -0.01  # two clocks are read, and a machine may stall in between


@pytest.mark.asyncio
async def test_a_token_that_was_asked_for_before_a_sleep_is_as_old_as_that() -> None:
    """Else one that arrives when the lid is opened looks new, and is sent after its end."""

    class Requester:
        def __init__(self) -> None:
            self.answers: list[asyncio.Future[IssuedToken]] = []

        async def request_token(self, _target: Target, _claims: str | None) -> IssuedToken:
            self.answers.append(asyncio.get_running_loop().create_future())
            return await self.answers[-1]

    requester, now = Requester(), 100.0
    source = TokenSource(requester, Target(scope="api://orders/.default"), credential_name="a", clock=lambda: now)
    waiting = asyncio.create_task(source.acquire())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.wake(3_000.0)
    requester.answers[0].set_result(IssuedToken("token", now, 3_600.0, None))
    assert (await waiting).expires_at_mono == pytest.approx(now + 600)

    source.renew()
    await asyncio.sleep(0)
    requester.answers[1].set_result(IssuedToken("another", now, 3_600.0, None))
    for _ in range(5):
        await asyncio.sleep(0)
    assert source.peek(now).expires_at_mono == pytest.approx(now + 3_600)  # type: ignore[union-attr]  # there is one
    await source.close()


def test_a_token_that_was_sent_before_a_sleep_and_refused_after_it_is_not_sent_again() -> None:
    """It is aged by a copy; the refusal is of the one that the request has in hand."""
    cache = TokenCache(Pause(), Pause())
    token = create_access_token("token", requested_at_mono=0.0, expires_in_s=3_600.0, refresh_in_s=None, jitter=0.0)
    assert cache.succeed(token)
    cache.age(600.0)
    assert cache.reject(token, 100.0, None, certain=True)
    assert cache.usable(100.0) is None


@pytest.mark.asyncio
async def test_tokens_of_the_machines_own_identity_are_aged_too() -> None:
    """Those that open key vaults are no route's, and are kept apart from the others."""
    now = 100.0
    sources = TokenSources({}, clock=lambda: now)
    source = sources._vaults.machine.tokens(None, "https://vault.azure.net", "managed_identity_client_id")
    token = create_access_token("token", requested_at_mono=now, expires_in_s=3_600.0, refresh_in_s=None, jitter=0.0)
    assert source._cache.succeed(token)
    sources._wake(4_000.0)
    assert source.peek(now) is None
    await sources.close()
