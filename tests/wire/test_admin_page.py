"""The page's files, state and events over real sockets; a browser looks at it in tests/end_to_end/test_admin_page.py."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from proxy.config.settings import AccessLogSettings
from proxy.identity.sources import IdentityStatistics
from proxy.operations.access_log import AccessLog
from proxy.operations.admin import AdminSite
from proxy.operations.metrics import MetricsCollector
from proxy.operations.page import Page, PageSources
from proxy.operations.snapshot import WorkerSnapshot
from proxy.relay.record import ExchangeRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def record(number: int) -> ExchangeRecord:
    return ExchangeRecord(
        1_792_836_303.25, "127.0.0.1", "forward", b"GET", "api:443", b"/%d" % number, 200, 0, 9, 0.01, 0.01, "api", 1.0, True,
        "ok", "",
    )  # fmt: skip


@asynccontextmanager
async def served(log: AccessLog) -> AsyncIterator[tuple[aiohttp.ClientSession, AdminSite]]:
    def identity() -> IdentityStatistics:
        return IdentityStatistics({}, ())

    def workers() -> list[WorkerSnapshot]:
        return [WorkerSnapshot(), WorkerSnapshot()]

    sources = PageSources(
        readiness=lambda: (False, ["no access token yet"]),
        workers=workers,
        identity=identity,
        certificates=list,
        routes=list,
        tail=log.tail,
        errors=log.errors,
    )
    site = AdminSite("127.0.0.1", 0, sources.readiness, MetricsCollector(workers, identity), page=Page(sources))
    host, port = await site.start()
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
            yield session, site
    finally:
        await site.close()
        log.close()


def memory() -> AccessLog:
    return AccessLog(AccessLogSettings(enabled=False))


async def next_event(stream: aiohttp.StreamReader, name: str) -> Any:
    """Returns the data of the next event of that name."""
    async with asyncio.timeout(30):
        while True:
            block = (await stream.readuntil(b"\n\n")).decode()
            if block.startswith(f"event: {name}\ndata: "):
                return json.loads(block.partition("data: ")[2])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "media_type", "mark"),
    [
        ("/", "text/html", b"<!doctype html>"),
        ("/page.css", "text/css", b":root"),
        ("/page.js", "text/javascript", b"EventSource"),
        ("/icon.svg", "image/svg+xml", b"<svg"),
    ],
)
async def test_its_files_come_from_the_package_under_a_strict_policy(path: str, media_type: str, mark: bytes) -> None:
    async with served(memory()) as (session, _), session.get(path) as response:
        assert response.status == 200
        assert response.content_type == media_type
        assert mark in await response.read()
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.asyncio
async def test_the_page_is_guarded_like_the_rest() -> None:
    async with served(memory()) as (session, _):
        for path in ("/", "/page.js", "/api/state", "/api/events"):
            async with session.get(path, headers={"Host": "rebound.example"}) as response:
                assert response.status == 421
            async with session.post(path) as response:
                assert response.status == 405


@pytest.mark.asyncio
async def test_nothing_outside_the_listed_files_is_served() -> None:
    async with served(memory()) as (session, _):
        for path in ("/index.html", "/static/page.js", "/page.py", "/..%2fpage.py", "/%2e%2e/admin.py"):
            async with session.get(path) as response:
                assert response.status == 404


@pytest.mark.asyncio
async def test_the_state_is_one_json_object() -> None:
    async with served(memory()) as (session, _), session.get("/api/state") as response:
        state = await response.json()
        assert (state["ready"], state["missing"], state["workers"]) == (False, ["no access token yet"], 2)
        assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.asyncio
async def test_events_begin_with_the_state_and_what_is_remembered_and_go_on() -> None:
    log = memory()
    log.observe(record(1))
    while not log.recent():  # noqa: ASYNC110 -- a thread's work
        await asyncio.sleep(0.01)
    async with served(log) as (session, _), session.get("/api/events") as response:
        assert response.content_type == "text/event-stream"
        assert [one["path"] for one in await next_event(response.content, "exchanges")] == ["/1"]
        assert (await next_event(response.content, "state"))["workers"] == 2
        log.observe(record(2))
        assert [one["path"] for one in await next_event(response.content, "exchanges")] == ["/2"]
        assert (await next_event(response.content, "state"))["version"]


@pytest.mark.asyncio
async def test_the_number_of_streams_is_bounded_and_places_come_back() -> None:
    async with served(memory()) as (session, _), AsyncExitStack() as streams:
        open_streams = [await streams.enter_async_context(session.get("/api/events")) for _ in range(16)]
        assert {response.status for response in open_streams} == {200}
        async with session.get("/api/events") as refused:
            assert refused.status == 503
        open_streams[0].close()
        for _ in range(300):
            async with session.get("/api/events") as again:
                if again.status == 200:
                    return
            await asyncio.sleep(0.1)
        pytest.fail("the place never came back")


@pytest.mark.asyncio
async def test_closing_the_site_ends_its_streams() -> None:
    async with served(memory()) as (session, site), session.get("/api/events") as response:
        await next_event(response.content, "state")
        async with asyncio.timeout(20):  # aiohttp by itself waits a minute for what is still being answered
            await site.close()
            await response.read()


@pytest.mark.asyncio
async def test_head_of_the_events_ends_at_once() -> None:
    async with served(memory()) as (session, _), asyncio.timeout(30), session.head("/api/events") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
