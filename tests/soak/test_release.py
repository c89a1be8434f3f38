"""A closed TLS connection gives back its memory at once, not whenever the garbage collector next runs."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from proxy.relay.secure import SecureTransport
from tests.wire.rig import HOST, Rig, Trust, eventually, settle

if TYPE_CHECKING:
    from collections.abc import Iterator

GET = f"GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def living() -> int:
    return sum(isinstance(one, SecureTransport) for one in gc.get_objects())


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("cut", [False, True], ids=["closed", "cut"])
def test_a_closed_tls_connection_is_freed_without_the_garbage_collector(cut: bool) -> None:
    """OpenSSL's buffers are large, and the collector counts objects only: it would let hundreds of them pile up."""

    async def work() -> int:
        rig = Rig(Trust.create())
        await rig.start()
        before = living()
        client = await rig.client("connect")
        client.send(GET)
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await client.read_until(b"ok")
        assert living() == before + 2
        for peer in (client, upstream):
            peer.cut() if cut else peer.close()
            del peer
        # The loss of a connection is told some turns of the loop later.
        await eventually(lambda: not (rig.relay.clients or rig.relay.upstreams))
        await settle()
        left = living() - before
        await rig.stop()
        return left

    assert asyncio.run(asyncio.wait_for(work(), 120)) == 0
