"""A web page of another site cannot use a reverse listener, unless the configuration says so; others can."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from tests.end_to_end.chromium import PROGRAM, browser_tab
from tests.security.boundary import HOST, light_hash, running, status

if TYPE_CHECKING:
    from pathlib import Path

    from tests.security.boundary import Boundary
    from tests.wire.rig import Trust

REVERSE: dict[str, Any] = {"address": "127.0.0.1:0", "mode": "reverse", "upstream": f"https://{HOST}"}
LOOPBACK: dict[str, Any] = {"name": "here", "networks": ["127.0.0.0/8"]}
BATCH: dict[str, Any] = {"name": "batch", "password_hash": light_hash("correct horse")}
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket")
FOREIGN = "Sec-Fetch-Site: cross-site"


def request(*fields: str) -> bytes:
    return "\r\n".join(["GET / HTTP/1.1", "Host: localhost", *fields, "", ""]).encode()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param((), 200, id="no browser"),
        pytest.param((FOREIGN,), 403, id="cross-site"),
        pytest.param(("sec-fetch-site: none", FOREIGN), 403, id="cross-site among others"),
        pytest.param(("Sec-Fetch-Site: same-origin",), 200, id="same-origin"),
        pytest.param(("Sec-Fetch-Site: same-site", "Origin: http://localhost:3000"), 200, id="same-site"),
        pytest.param(("Sec-Fetch-Site: none",), 200, id="typed in"),
        pytest.param((FOREIGN, *WEBSOCKET), 403, id="websocket, cross-site"),
        pytest.param(("Origin: https://evil.example", *WEBSOCKET), 403, id="websocket, another origin"),
        pytest.param(("Origin: null", *WEBSOCKET), 403, id="websocket, no origin"),
        pytest.param(("Origin: http://a b", *WEBSOCKET), 403, id="websocket, malformed origin"),
        pytest.param(("Origin: https://localhost.evil.example", *WEBSOCKET), 403, id="websocket, like its own"),
        pytest.param(("Origin: http://localhost:8081", *WEBSOCKET), 200, id="websocket, its own origin"),
        pytest.param((f"Origin: https://{HOST}", *WEBSOCKET), 200, id="websocket, the API's origin"),
        pytest.param(("Origin: https://evil.example",), 403, id="no verdict, another origin"),
    ],
)
async def test_what_a_browser_marks_as_cross_site_is_refused(
    tmp_path: Path, trust: Trust, fields: tuple[str, ...], expected: int
) -> None:
    async with running(tmp_path, trust, listeners=[REVERSE]) as boundary:
        assert status(await boundary.ask(request(*fields))) == expected
        assert boundary.upstream.opened == (expected == 200)
        assert boundary.records[0].code == ("" if expected == 200 else "cross_site")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("listener", "clients", "expected"),
    [
        pytest.param({}, [LOOPBACK], 403, id="known by its address, as the page's browser is"),
        pytest.param({}, [BATCH, LOOPBACK], 403, id="one without a password"),
        pytest.param({"allow_cross_site": True}, [], 200, id="allowed"),
        pytest.param({"allow_cross_site": True}, [LOOPBACK], 200, id="allowed, with clients"),
    ],
)
async def test_only_the_key_lets_other_sites_in(
    tmp_path: Path, trust: Trust, listener: dict[str, Any], clients: list[dict[str, Any]], expected: int
) -> None:
    async with running(tmp_path, trust, listeners=[REVERSE | listener], clients=clients) as boundary:
        assert status(await boundary.ask(request(FOREIGN))) == expected


@pytest.mark.asyncio
async def test_a_client_with_a_password_is_no_page(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, listeners=[REVERSE], clients=[BATCH]) as boundary:
        assert status(await boundary.ask(request(FOREIGN))) == 407
        known = "Proxy-Authorization: Basic YmF0Y2g6Y29ycmVjdCBob3JzZQ=="
        assert status(await boundary.ask(request(FOREIGN, known))) == 200


SEND = """Promise.all([
  fetch('%(url)s/fetched', {mode: 'no-cors', method: 'POST', body: 'x'}).catch(() => 0),
  new Promise(done => { const image = new Image(); image.onerror = image.onload = done; image.src = '%(url)s/image'; }),
  new Promise(done => { const socket = new WebSocket('%(socket)s/socket'); socket.onclose = socket.onerror = done; }),
]).then(() => true)"""


async def visit(boundary: Boundary, host: str) -> None:
    """Has a page under `127.0.0.1` send requests to a listener under `host`, by every means that needs no permission."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>page</title>", content_type="text/html")

    application = web.Application()
    application.router.add_get("/", page)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()

    async def serve() -> None:
        while True:
            boundary.serve()
            await asyncio.sleep(0.01)

    serving = asyncio.create_task(serve())
    try:
        async with browser_tab() as tab:
            await tab.open(f"http://127.0.0.1:{runner.addresses[0][1]}/")
            await tab.until("document.title === 'page'")
            at = f"{host}:{boundary.server.addresses[0][1]}"
            assert await tab.evaluate(SEND % {"url": f"http://{at}", "socket": f"ws://{at}"})
    finally:
        serving.cancel()
        await runner.cleanup()


@pytest.mark.asyncio
@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("allowed", [False, True], ids=["refused", "allowed"])
async def test_a_page_of_another_site_in_a_real_browser(tmp_path: Path, trust: Trust, allowed: bool) -> None:
    async with running(tmp_path, trust, listeners=[REVERSE | {"allow_cross_site": allowed}]) as boundary:
        await visit(boundary, "localhost")
        seen = {record.target: record.code for record in boundary.records}
        assert seen == dict.fromkeys((b"/fetched", b"/image", b"/socket"), "" if allowed else "cross_site")
        assert bool(boundary.upstream.opened) == allowed


@pytest.mark.asyncio
@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
async def test_a_page_of_the_same_site_in_a_real_browser(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, listeners=[REVERSE]) as boundary:
        await visit(boundary, "127.0.0.1")
        assert {record.code for record in boundary.records} == {""}
