"""What waits between the proxy's processes is bounded, whoever stops reading (A11)."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

import pytest

from proxy.errors import IdentityPlatformUnavailable
from proxy.identity.credential import Target
from proxy.workers.channel import _UNREAD_BYTES, Channel
from proxy.workers.messages import TO_RELAY, Answered, Figures, SourceKey, Stale, Token, ToRelay, Want
from proxy.workers.tokens import RemoteSources

if TYPE_CHECKING:
    from proxy.workers.messages import Message

TARGET = Target(scope="s", resource=None)


@pytest.mark.asyncio
async def test_a_channel_takes_no_more_once_nobody_reads_and_goes_on_once_somebody_does() -> None:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    channel: Channel[ToRelay] = Channel(TO_RELAY, lambda _: None, lambda: None)
    await channel.open(ours)
    message = Figures(snapshot="x" * 100_000)
    sent = 0
    while channel.send(message):
        sent += 1
        assert sent < 1_000
    transport = channel._transport
    assert transport is not None
    assert transport.get_write_buffer_size() <= _UNREAD_BYTES + 110_000
    loop = asyncio.get_running_loop()
    while transport.get_write_buffer_size():
        await loop.sock_recv(theirs, 1 << 20)
    assert channel.send(message)
    channel.close()
    theirs.close()


def token(serial: int) -> Token:
    now = time.monotonic()
    return Token(
        source=0,
        serial=serial,
        value="t",
        obtained_at_mono=now,
        refresh_at_mono=now - 1,
        expires_at_mono=now + 60,
        usable_until_mono=now + 60,
        proof="p",
    )


@pytest.mark.asyncio
async def test_control_is_asked_once_for_a_token_however_many_wait() -> None:
    sent: list[Message] = []

    def send(message: Message) -> bool:
        sent.append(message)
        return True

    sources = RemoteSources(send)
    sources.number([SourceKey(number=0, credential="c", scope="s", resource=None)])
    source = sources.source_for("c", TARGET)
    waiting = [asyncio.create_task(source.acquire()) for _ in range(1_000)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    assert [type(message) for message in sent] == [Want]
    assert isinstance(sent[0], Want)
    assert len(sources._waiting) == 1
    sources.take_token(token(1))
    sources.answer(Answered(request=sent[0].request).request)
    assert {(await one).value for one in waiting[1:]} == {"t"}
    assert not sources._waiting


@pytest.mark.asyncio
async def test_a_relay_process_that_control_does_not_hear_fails_its_requests_and_repeats_what_matters() -> None:
    takes = False
    sent: list[Message] = []

    def send(message: Message) -> bool:
        sent.append(message)
        return takes

    sources = RemoteSources(send)
    sources.number([SourceKey(number=0, credential="c", scope="s", resource=None)])
    source = sources.source_for("c", TARGET)
    for _ in range(2):
        with pytest.raises(IdentityPlatformUnavailable):
            await source.acquire()
    sources.take_token(token(1))
    takes = False
    assert source.peek(time.monotonic()) is not None
    takes = True
    assert source.peek(time.monotonic()) is not None
    assert source.peek(time.monotonic()) is not None
    assert [type(message) for message in sent] == [Want, Want, Stale, Stale]
