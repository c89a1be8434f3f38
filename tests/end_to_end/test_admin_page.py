"""The page in a real headless Chromium: it shows what happens, on a desktop and a phone, light and dark, by keyboard alone."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from proxy.config.settings import AccessLogSettings
from proxy.identity.credential import CredentialStatistics
from proxy.identity.lifetime import refresh_after_s
from proxy.identity.source import SourceStatistics
from proxy.identity.sources import IdentityStatistics
from proxy.operations.access_log import AccessLog
from proxy.operations.admin import AdminSite
from proxy.operations.metrics import CertificateExpiry, MetricsCollector
from proxy.operations.overview import RouteSummary
from proxy.operations.page import Page, PageSources
from proxy.operations.snapshot import HistogramSnapshot, WorkerSnapshot
from proxy.relay.counters import Histogram
from proxy.relay.record import ExchangeRecord
from tests.end_to_end.chromium import PROGRAM, Tab, browser_tab
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")

BAR = "document.querySelector('#tokens .bar')"
WIDTH = f"parseFloat({BAR}.firstChild.style.width)"
HOSTILE = b"/<img/src=x/onerror=document.title='owned'>"


@dataclass
class Proxy:
    """What the page looks at; the tests move it."""

    log: AccessLog = field(default_factory=lambda: AccessLog(AccessLogSettings(enabled=False)))
    statuses: dict[int, int] = field(default_factory=dict)
    durations: Histogram = field(default_factory=Histogram)
    obtained_at: float = field(default_factory=time.time)
    life_s: float = 20.0
    ready: bool = True
    reasons: list[str] = field(default_factory=list)

    def exchange(self, target: bytes, status: int = 200, outcome: str = "ok", code: str = "") -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.durations.observe(0.012)
        self.log.observe(
            ExchangeRecord(
                time.time(), "127.0.0.1", "forward", b"GET", "contoso.azure-api.net:443", target, status, 0, 9, 0.012, 0.01,
                "contoso.azure-api.net", 1.0, True, outcome, code,
            )
        )  # fmt: skip

    def readiness(self) -> tuple[bool, list[str]]:
        return self.ready, self.reasons

    def workers(self) -> list[WorkerSnapshot]:
        duration = HistogramSnapshot(tuple(self.durations.buckets), self.durations.total)
        exchanges = {"contoso.azure-api.net": dict(self.statuses)}
        return [WorkerSnapshot(exchanges=exchanges, duration=duration, open_client_connections=3)]

    def identity(self) -> IdentityStatistics:
        age_s = time.time() - self.obtained_at
        ends = datetime.now(UTC) + timedelta(days=12, hours=1)
        credential = CredentialStatistics({("ok", ""): 1}, 0.0, 0.0, "certificate 0A", {"certificate 0A": ends})
        source = SourceStatistics(
            "orders-client", "api://orders/.default", True, True, age_s, self.life_s - age_s, 1, 0, 0, "",
            refresh_in_s=refresh_after_s(self.life_s, None, 0.5) - age_s,
        )  # fmt: skip
        return IdentityStatistics({"orders-client": credential}, (source,))


@asynccontextmanager
async def watched(proxy: Proxy, **look: object) -> AsyncIterator[Tab]:
    """The page, open in a tab, connected; at the end it must have had nothing to complain about."""
    sources = PageSources(
        readiness=proxy.readiness,
        workers=proxy.workers,
        identity=proxy.identity,
        certificates=lambda: [CertificateExpiry("interception_ca", "", "", time.time() + 86_400 * 400)],
        routes=lambda: [RouteSummary("contoso.azure-api.net", ("contoso.azure-api.net",), "orders-client", "api://x")],
        tail=proxy.log.tail,
        errors=proxy.log.errors,
    )
    collector = MetricsCollector(proxy.workers, proxy.identity)
    site = AdminSite("127.0.0.1", 0, sources.readiness, collector, page=Page(sources))
    host, port = await site.start()
    try:
        async with browser_tab() as tab:
            await tab.open(f"http://{host}:{port}/", **look)  # type: ignore[arg-type]  # widths and a scheme
            await tab.until("document.querySelector('#ready')?.textContent === 'ready'")
            yield tab
            assert tab.complaints == []
            assert {url.partition(f"//{host}:{port}/")[0] for url in tab.requested} == {"http:"}
    finally:
        await site.close()
        proxy.log.close()


@pytest.mark.asyncio
async def test_the_first_line_says_which_token_is_missing_since_when_and_why() -> None:
    """F7, A4: whether the proxy is ready all the same or not."""
    proxy = Proxy()
    async with watched(proxy) as tab:
        proxy.reasons = ["no valid access token for orders.example since 2026-06-01 12:00:00 UTC: It has expired."]
        await tab.until(f"document.querySelector('#ready').textContent === 'ready: {proxy.reasons[0]}'")
        assert await tab.evaluate("document.querySelector('#ready').className") == "pill "
        proxy.ready = False
        await tab.until(f"document.querySelector('#ready').textContent === 'not ready: {proxy.reasons[0]}'")
        assert await tab.evaluate("document.querySelector('#ready').className") == "pill bad"


@pytest.mark.asyncio
async def test_the_page_shows_what_happens() -> None:
    proxy = Proxy()
    async with watched(proxy) as tab:
        for number in range(20):
            proxy.exchange(b"/orders/%d" % number)
        proxy.exchange(b"/refused", 502, "proxy_configuration_error", "AADSTS700027")
        await tab.until("document.querySelector('#exchanges').textContent.includes('/orders/19')")
        await tab.until("document.querySelectorAll('#rate-chart rect').length >= 2")
        await tab.until("document.querySelectorAll('#latency-chart polyline').length >= 3")
        assert "2xx 20" in await tab.evaluate("document.querySelector('#routes').innerText")
        assert "12 days left" in await tab.evaluate("document.querySelector('#certificates').innerText")
        assert "Interception CA" in await tab.evaluate("document.querySelector('#certificates').innerText")
        errors = await tab.evaluate("document.querySelector('#errors').innerText")
        assert "502 The identity platform refused the proxy's credential" in errors
        assert "az ad app credential" in errors
        assert await tab.evaluate("document.querySelector('#open').textContent") == "3 in · 0 out"


@pytest.mark.asyncio
async def test_what_a_client_asks_for_stays_text() -> None:
    proxy = Proxy()
    proxy.exchange(HOSTILE, 502, "<b>bold</b>", "<i>")
    async with watched(proxy) as tab:
        await tab.until(f"document.querySelector('#exchanges').innerText.includes({HOSTILE.decode()!r})")
        await tab.until("document.querySelector('#errors').innerText.includes('<b>bold</b>')")
        assert await tab.evaluate("document.querySelectorAll('main img, main b:not(.bar b)').length") == 0
        assert await tab.evaluate("document.title") == "apim-auth-proxy"


@pytest.mark.asyncio
async def test_a_tokens_bar_moves_through_refresh_and_begins_again() -> None:
    """A life of 200 seconds: refreshed after about 140; here it is renewed late, so that the bar is seen to turn."""
    proxy = Proxy(life_s=200.0)
    bar, width = BAR, WIDTH
    async with watched(proxy) as tab:
        early = await tab.until(width)
        assert "refresh in about" in await tab.evaluate(f"{bar}.ariaLabel")
        await tab.until(f"{width} > {early}")
        proxy.obtained_at -= 150
        await tab.until(f"{bar}.classList.contains('stale')")
        assert "refresh due" in await tab.evaluate(f"{bar}.ariaLabel")
        proxy.obtained_at = time.time()
        await tab.until(f"!{bar}.classList.contains('stale') && {width} < 30")


@pytest.mark.asyncio
async def test_the_keyboard_is_enough() -> None:
    proxy = Proxy()
    proxy.exchange(b"/first")
    async with watched(proxy) as tab:
        await tab.until("document.querySelector('#exchanges').textContent.includes('/first')")
        focus = "document.activeElement.id || document.activeElement.className"
        order = []
        for _ in range(5):
            await tab.press("Tab")
            order.append(await tab.evaluate(focus))
        assert order == ["skip", "pause", "failures-only", "filter", "exchanges"]
        assert await tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"

        await tab.evaluate("document.querySelector('#pause').focus()")
        await tab.press(" ", " ")
        assert await tab.evaluate("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
        proxy.exchange(b"/while-paused")
        # The figures come after the exchanges that they count.
        await tab.until("document.querySelector('#routes').innerText.includes('2xx 2')")
        assert "/while-paused" not in await tab.evaluate("document.querySelector('#exchanges').textContent")
        await tab.press("Enter", "\r")
        await tab.until("document.querySelector('#exchanges').textContent.includes('/while-paused')")

        await tab.evaluate("document.querySelector('#filter').focus()")
        for letter in "first":
            await tab.press(letter, letter)
        await tab.until("!document.querySelector('#exchanges').textContent.includes('/while-paused')")
        assert "/first" in await tab.evaluate("document.querySelector('#exchanges').textContent")


@pytest.mark.asyncio
async def test_failures_can_be_seen_alone() -> None:
    proxy = Proxy()
    proxy.exchange(b"/good")
    proxy.exchange(b"/bad", 404)
    async with watched(proxy) as tab:
        await tab.until("document.querySelector('#exchanges').textContent.includes('/good')")
        await tab.evaluate("document.querySelector('#failures-only').click()")
        shown = await tab.evaluate("document.querySelector('#exchanges').textContent")
        assert "/bad" in shown
        assert "/good" not in shown


@pytest.mark.asyncio
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_shows_it_all_without_scrolling_sideways(scheme: str) -> None:
    proxy = Proxy()
    proxy.exchange(b"/" + b"a-very-long-path-without-a-break" * 10)
    async with watched(proxy, width=360, height=740, scheme=scheme) as tab:
        await tab.until("document.querySelector('#exchanges').textContent.includes('very-long')")
        assert await tab.evaluate("document.documentElement.scrollWidth") == 360
        assert await tab.evaluate("document.querySelector('#exchanges').scrollWidth <= 360")
        ground = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(","))
        assert (brightness > 600) is (scheme == "light")


@pytest.mark.asyncio
async def test_a_proxy_that_has_gone_is_said_and_noticed_when_it_is_back() -> None:
    proxy = Proxy()
    sources = PageSources(
        readiness=lambda: (True, ()),
        workers=proxy.workers,
        identity=proxy.identity,
        certificates=list,
        routes=list,
        tail=proxy.log.tail,
        errors=proxy.log.errors,
    )
    collector = MetricsCollector(proxy.workers, proxy.identity)
    # Not port 0, which somebody else might get in between.
    first = AdminSite("127.0.0.1", free_port(), sources.readiness, collector, page=Page(sources))
    host, port = await first.start()
    second = AdminSite(host, port, sources.readiness, collector, page=Page(sources))
    try:
        async with browser_tab() as tab:
            await tab.open(f"http://{host}:{port}/")
            await tab.until("document.querySelector('#ready')?.textContent === 'ready'")
            assert await tab.evaluate("document.querySelector('#lost').hidden")
            await first.close()
            await tab.until("!document.querySelector('#lost').hidden")
            await second.start()
            await tab.until("document.querySelector('#lost').hidden")
    finally:
        await first.close()
        await second.close()
        proxy.log.close()
