"""The ways of an exchange: without a proxy, through ours, and what plays an exchange over one of them. Does I/O over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.fidelity.steps import HELD_S, NotReached, holds, reach_upstream
from tests.fidelity.transcript import Message, Transcript, read_message, read_responses
from tests.wire.corpus import Case
from tests.wire.messages import Head, Incomplete
from tests.wire.rig import AUTHORIZATION, HOST, Mode, Peer, Rig, Upstream, address_form, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.fidelity.steps import Play

# In which a proxy notices that connections have ended.
_SETTLE_S: Final = 0.03
_TICK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Way:
    """One way from a client to an upstream.

    Attributes:
        upstream: where it ends.
        connect: opens a client's connection to its beginning.
        form: a request in origin-form, as a client sends it on this way.
        authority: what stands for `HOST` on this way; taken back where transcripts are read.
        reset: ends all connections.
    """

    upstream: Upstream
    connect: Callable[[], Awaitable[Peer]]
    form: Callable[[bytes], bytes]
    reset: Callable[[], Awaitable[None]]
    authority: bytes = HOST.encode()

    def restore(self, raw: bytes) -> bytes:
        """Received bytes, with the authority that all ways have in common."""
        return raw.replace(self.authority, HOST.encode())


def open_direct_way(upstream: Upstream) -> Way:
    """The way without a proxy."""
    return open_way(upstream, upstream.port, absolute=False, settle_s=0.0)


def open_way(
    upstream: Upstream, port: int, *, absolute: bool, authority: bytes = HOST.encode(), settle_s: float = _SETTLE_S
) -> Way:
    """A way whose beginning is a port on loopback, and whose end is a plain upstream."""

    clients: list[Peer] = []

    async def connect() -> Peer:
        _, client = await asyncio.get_running_loop().create_connection(Peer, "127.0.0.1", port)
        clients.append(client)
        return client

    async def reset() -> None:
        for client in clients:
            client.transport.abort()
        clients.clear()
        upstream.forget()
        await settle()
        await asyncio.sleep(settle_s)

    def form(request: bytes) -> bytes:
        addressed = address_form(request, "forward") if absolute else request
        return re.sub(re.escape(HOST.encode()), authority, addressed)

    return Way(upstream, connect, form, reset, authority)


def open_own_way(rig: Rig, mode: Mode) -> Way:
    """The way through the relay of a rig, to its upstream."""
    return Way(rig.upstream, lambda: rig.client(mode), lambda request: address_form(request, mode), rig.reset)


@contextlib.asynccontextmanager
async def ticking(rig: Rig) -> AsyncIterator[None]:
    """For a while, time passes for a rig's relay as it does for a server's."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            rig.relay.tick(time.monotonic())

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()


async def play(way: Way, exchange: Case | Play) -> Transcript:
    """Plays one exchange, from a clean start."""
    await way.reset()
    if isinstance(exchange, Case):
        return await _play_case(way, exchange)
    try:
        return Transcript(facts=await exchange(way))
    except NotReached as outcome:
        return Transcript(facts={"the proxy": str(outcome)})


async def _play_case(way: Way, case: Case) -> Transcript:
    client = await way.connect()
    has_content = not case.request.lstrip(b"\r\n").startswith(b"HEAD ")

    def read_client(peer: Peer) -> tuple[tuple[Head, ...], Message | None]:
        return read_responses(way.restore(bytes(peer.received)), ended=peer.ended, has_content=has_content)

    def has_arrived(peer: Peer) -> bool:
        message = read_client(peer)[1]
        return peer.lost or peer.ended or (message is not None and message.is_complete)

    client.send(way.form(case.request))
    request = None
    try:
        upstream = await reach_upstream(way, client)
        await holds(upstream, lambda peer: peer.lost or _read_request(way, peer) is not None)
        request = _read_request(way, upstream)
    except NotReached:
        pass
    else:
        upstream.send(case.response)
        if case.upstream_closes:
            upstream.close()
    await holds(client, has_arrived, HELD_S)
    interim, response = read_client(client)
    client.transport.abort()
    return Transcript(request, interim, response)


def _read_request(way: Way, peer: Peer) -> Message | None:
    """The request, once it has arrived whole, less the access token's field."""
    try:
        message = read_message(way.restore(bytes(peer.received)).lstrip(b"\r\n"), ended=peer.ended, is_request=True)
    except Incomplete:
        return None
    fields = tuple(line for line in message.head.fields if line != AUTHORIZATION)
    head = Head(message.head.start, fields)
    return Message(head, message.content, message.trailers, message.is_extended) if message.is_complete else None
