"""WebSocket clients talk through the proxy: the opening handshake gets the token, what follows passes untouched."""

from __future__ import annotations

import asyncio
import functools
import random
import socket
import ssl
from typing import TYPE_CHECKING

import aiohttp
import pytest
from websockets.asyncio.client import connect

from tests.end_to_end.programs import PATIENCE_S

if TYPE_CHECKING:
    from aiohttp.connector import AddrInfoType

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
    async with patient_connect(uri, proxy=proxy.forward, ssl=tls, max_size=None) as websocket:
        for message in ("text", "", BINARY, "\N{SNOWMAN}"):
            await websocket.send(message)
            assert await websocket.recv() == message
        pong = await websocket.ping()
        await pong
    assert websocket.close_code == 1000

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
    made: list[socket.socket] = []

    def make_socket(address: AddrInfoType) -> socket.socket:
        family, kind, protocol, *_ = address
        made.append(socket.socket(family, kind, protocol))
        return made[-1]

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=make_socket)) as session,
        session.ws_connect(f"{url}/websocket", proxy=through, ssl=trusting(proxy) if tls else True) as websocket,
    ):
        for message in (b"\x00", BINARY, b""):
            await websocket.send_bytes(message)
            assert await websocket.receive_bytes() == message
    # aiohttp does not wait for the end of TLS, in which the proxy takes part.
    async with asyncio.timeout(2 * PATIENCE_S):
        while any(each.fileno() != -1 for each in made):  # noqa: ASYNC110  # a socket says nothing when it is closed
            await asyncio.sleep(0.01)
    assert made


@pytest.mark.asyncio
async def test_many_sockets_at_a_time_do_not_mix(proxy: ProxyProgram, place: Place) -> None:
    uri = f"ws://{place.api_authority}/websocket"
    sockets = [await patient_connect(uri, proxy=proxy.forward) for _ in range(20)]
    try:
        for number, websocket in enumerate(sockets):
            await websocket.send(f"for {number}")
        assert [await websocket.recv() for websocket in reversed(sockets)] == [
            f"for {number}" for number in range(19, -1, -1)
        ]
    finally:
        for websocket in sockets:
            await websocket.close()
