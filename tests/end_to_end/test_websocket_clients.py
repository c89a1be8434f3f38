"""WebSocket clients talk through the proxy: the opening handshake gets the token, what follows passes untouched."""

from __future__ import annotations

import functools
import random
import ssl
from typing import TYPE_CHECKING

import aiohttp
import pytest
from websockets.asyncio.client import connect

from tests.end_to_end.programs import PATIENCE_S

if TYPE_CHECKING:
    from tests.end_to_end.programs import Place, ProxyProgram

patient_connect = functools.partial(connect, open_timeout=PATIENCE_S, close_timeout=PATIENCE_S)
BINARY = random.Random(5).randbytes(500_000)


def trusting(proxy: ProxyProgram) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=proxy.ca_file)


@pytest.mark.asyncio
@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_websockets_reaches_the_api_through_a_tunnel(scheme: str, proxy: ProxyProgram, place: Place) -> None:
    """The websockets package uses CONNECT for both schemes."""
    tls = trusting(proxy) if scheme == "wss" else None
    uri = f"{scheme}://{place.api_authority}/websocket"
    async with patient_connect(uri, proxy=proxy.forward, ssl=tls, max_size=None) as socket:
        for message in ("text", "", BINARY, "\N{SNOWMAN}"):
            await socket.send(message)
            assert await socket.recv() == message
        pong = await socket.ping()
        await pong
    assert socket.close_code == 1000

    logged = proxy.wait_for_exchange(path="/websocket", status=101, mode="connect")
    assert (logged["outcome"], logged["method"]) == ("ok", "GET")


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ["http URL", "https URL", "reverse"])
async def test_aiohttp_reaches_the_api(way: str, proxy: ProxyProgram, place: Place) -> None:
    url, through, tls = {
        "http URL": (f"http://{place.api_authority}", proxy.forward, False),
        "https URL": (place.api_url, proxy.forward, True),
        "reverse": (proxy.reverse, None, False),
    }[way]
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/websocket", proxy=through, ssl=trusting(proxy) if tls else True) as socket,
    ):
        for message in (b"\x00", BINARY, b""):
            await socket.send_bytes(message)
            assert await socket.receive_bytes() == message


@pytest.mark.asyncio
async def test_many_sockets_at_a_time_do_not_mix(proxy: ProxyProgram, place: Place) -> None:
    uri = f"ws://{place.api_authority}/websocket"
    sockets = [await patient_connect(uri, proxy=proxy.forward) for _ in range(20)]
    try:
        for number, socket in enumerate(sockets):
            await socket.send(f"for {number}")
        assert [await socket.recv() for socket in reversed(sockets)] == [
            f"for {number}" for number in range(19, -1, -1)
        ]
    finally:
        for socket in sockets:
            await socket.close()
