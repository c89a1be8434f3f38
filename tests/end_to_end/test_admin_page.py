"""The page in a real headless Chromium: it shows what happens, on a desktop and a phone, light and dark, by keyboard alone."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from proxy.operations.overview import RouteSummary
from proxy.relay.record import TraceNote
from tests.end_to_end.chromium import PROGRAM, browser_tab
from tests.end_to_end.npm_packages import install_packages
from tests.end_to_end.page_scenes import HOST, SCENES, TIMEOUT, Scene, healthy, served, watched
from tests.ports import free_port

if TYPE_CHECKING:
    from tests.end_to_end.chromium import Tab

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")

NOW: Final = "document.querySelector('#tokens .now')"
POSITION: Final = f"parseFloat({NOW}?.style.left)"
HOSTILE: Final = b"/<img/src=x/onerror=document.title='owned'>"
# Name, width, height.
SIZES: Final = (("phone", 390, 844), ("desktop", 1280, 900))
STORY: Final = "document.querySelector('#exchanges .story')"


def text_of(selector: str) -> str:
    """An expression for what an element says."""
    return f"document.querySelector({selector!r}).innerText"


@pytest.mark.asyncio
async def test_what_is_wrong_comes_first_with_the_next_step_and_the_code() -> None:
    """F7, A4: also while other routes are served. Nobody is told of what is well."""
    scene = Scene()
    async with watched(scene) as tab:
        assert await tab.until(f"{text_of('#verdict')}.startsWith('Nothing is wrong.')")
        first = "document.querySelector('main > section').id"
        assert await tab.evaluate(first) == "verdict"

        scene.obtained_at, scene.failing = None, "AADSTS700027"
        await tab.until("document.querySelectorAll('#problems li').length === 1")
        said = await tab.evaluate(text_of("#problems li"))
        assert f"Requests to {HOST} fail, because orders-client has no access token: " in said
        assert "Next:" in said
        assert "az ad app credential" in said
        assert "identity platform" in said
        assert "apim-auth-proxy explain AADSTS700027" in said
        assert await tab.evaluate("document.querySelector('#ready').textContent") == "ready"
        # Whoever cannot see the page is told as well.
        assert "has no access token" in await tab.evaluate(text_of("#announcement[role=status]"))

        scene.ready, scene.reasons = False, ["no relay process is running; the log says why", TIMEOUT]
        await tab.until("document.querySelector('#ready').className === 'pill bad'")
        said = await tab.evaluate(text_of("#verdict"))
        assert "2 things are wrong" in said
        assert "no relay process is running" in said


@pytest.mark.asyncio
async def test_the_page_shows_what_happens() -> None:
    scene = Scene()
    async with watched(scene) as tab:
        for number in range(20):
            scene.exchange(b"/orders/%d" % number)
        scene.exchange(b"/refused", 502, "proxy_configuration_error", "AADSTS700027")
        await tab.until("document.querySelector('#exchanges').textContent.includes('/orders/19')")
        await tab.until("document.querySelectorAll('#rate-chart rect').length >= 2")
        await tab.until("document.querySelectorAll('#latency-chart polyline').length >= 3")
        await tab.until("document.querySelector('#routes td').innerText === '21'")
        await tab.evaluate("document.querySelector('#routes summary').click()")
        assert "2xx 20" in await tab.evaluate("document.querySelector('#routes').innerText")
        # Whose fault it was comes with the record, a moment after the count.
        await tab.until("document.querySelector('#routes').innerText.includes('identity platform 1')")
        certificates = await tab.evaluate("document.querySelector('#certificates').innerText")
        assert "300 days left" in certificates
        assert "Interception CA" in certificates
        assert "Listener 10.0.0.1:8443" in certificates
        await tab.evaluate("document.querySelector('#errors summary').click()")
        errors = await tab.evaluate("document.querySelector('#errors').innerText")
        assert "502 The identity platform refused the proxy's credential" in errors
        assert "az ad app credential" in errors
        assert await tab.evaluate("document.querySelector('#open').textContent") == "3 in · 0 out"


@pytest.mark.asyncio
async def test_what_a_client_asks_for_stays_text() -> None:
    scene = Scene()
    scene.exchange(HOSTILE, 502, "<b>bold</b>", "<i>")
    async with watched(scene) as tab:
        await tab.until(f"document.querySelector('#exchanges').innerText.includes({HOSTILE.decode()!r})")
        await tab.until("document.querySelector('#errors').textContent.includes('<b>bold</b>')")
        assert (
            await tab.evaluate("document.querySelectorAll('main img, main i:not(.lane i, .life i, .track i)').length")
            == 0
        )
        bold = await tab.evaluate("[...document.querySelectorAll('main b')].map(one => one.textContent)")
        assert set(bold) <= {"Next: "}
        assert await tab.evaluate("document.title") == "apim-auth-proxy"


@pytest.mark.asyncio
async def test_a_tokens_timeline_moves_through_its_refresh() -> None:
    """A life of 200 seconds: refreshed after about 140; here it is renewed late, so that the states are seen to turn."""
    scene = Scene(life_s=200.0)
    pill = "document.querySelector('#tokens .pill').textContent"
    async with watched(scene) as tab:
        early = await tab.until(POSITION)
        assert await tab.evaluate(pill) == "fresh"
        label = await tab.evaluate("document.querySelector('#tokens .lane[role=img]').ariaLabel")
        assert all(name in label for name in ("Obtained", "Refresh", "Usable until"))
        await tab.until(f"{POSITION} > {early}")
        assert scene.obtained_at is not None
        scene.obtained_at -= 150
        await tab.until(f"{pill} === 'refresh due'")
        scene.failing = "timeout"
        await tab.until(f"{pill} === 'cannot be renewed'")
        await tab.until(f"{text_of('#problems')}.includes('requests go on with what is at hand')")
        scene.obtained_at, scene.failing = time.time(), ""
        await tab.until(f"{pill} === 'fresh'")
        # The one before it stays on the line.
        await tab.until("document.querySelectorAll('#tokens .lane .past').length >= 1")
        scene.obtained_at, scene.failing = None, "timeout"
        await tab.until(f"{pill} === 'no token'")
        await tab.until("document.querySelectorAll('#tokens .lane .gap').length === 1")


@pytest.mark.asyncio
async def test_a_request_tells_its_own_story() -> None:
    """With each step's time where tracing notes them, and whose fault it was where it failed."""
    scene = Scene()
    async with watched(scene) as tab:
        scene.exchange(
            b"/slow", trace=TraceNote(b"", b"", (0.005, 0.08), 0.1, 1, "orders-client", (0.0, 0.004)), duration_s=0.5
        )
        scene.exchange(b"/refused", 502, "proxy_configuration_error", "AADSTS700027")
        scene.exchange(b"/plain", duration_s=0.25, versions=("2", "1.1"))

        async def tell(path: str) -> str:
            row = f"[...document.querySelectorAll('#exchanges button')].find(one => one.textContent.includes({path!r}))"
            await tab.until(f"{row} !== undefined")
            await tab.evaluate(f"{row}.click()")
            said = await tab.evaluate(f"{STORY}.innerText.replaceAll('\\n', ' ').replaceAll('\\t', ' ')")
            await tab.evaluate(f"{row}.click()")
            assert isinstance(said, str)
            return said

        said = await tell("/slow")
        for step in (
            "Name 4.0 ms looked up",
            "Token 80 ms waited for",
            "Connection, TLS 15 ms",
            "Upstream 400 ms",
            "Content 0.0 ms",
        ):
            assert step in said
        assert "Identity orders-client" in said
        said = await tell("/refused")
        assert "The identity platform refused the proxy's credential." in said
        assert "az ad app credential" in said
        assert "HTTP/1.1 from the client" in said
        assert "to the upstream" not in said
        assert "apim-auth-proxy explain AADSTS700027" in said
        said = await tell("/plain")
        assert "Token \N{EN DASH} at hand" in said
        assert "Connection, TLS \N{EN DASH} kept from an earlier request" in said
        assert "Upstream 200 ms" in said
        assert "Everything else 50 ms" in said
        assert "tracing.endpoint" in said
        assert "HTTP/2 from the client, HTTP/1.1 to the upstream" in said


@pytest.mark.asyncio
async def test_a_story_that_is_read_stands_still() -> None:
    scene = Scene()
    scene.exchange(b"/first")
    async with watched(scene) as tab:
        await tab.until("document.querySelector('#exchanges button') !== null")
        await tab.evaluate("document.querySelector('#exchanges button').click()")
        scene.exchange(b"/meanwhile")
        await tab.until("document.querySelector('#routes td').innerText === '1'")
        assert "/meanwhile" not in await tab.evaluate("document.querySelector('#exchanges').textContent")
        await tab.evaluate("document.querySelector('#exchanges button').click()")
        await tab.until("document.querySelector('#exchanges').textContent.includes('/meanwhile')")


@pytest.mark.asyncio
async def test_the_keyboard_is_enough() -> None:
    scene = Scene(
        routes=[RouteSummary(f"{name}.example", (f"{name}.example",), "orders-client", "s") for name in "abcd"]
    )
    scene.exchange(b"/first", route="a.example")
    scene.exchange(b"/second", route="b.example")
    async with watched(scene) as tab:
        await tab.until("document.querySelectorAll('#exchanges button').length === 2")
        await tab.until("document.querySelectorAll('#routes tr').length === 4")
        focus = "document.activeElement.id || document.activeElement.className || document.activeElement.localName"
        order = []
        for _ in range(11):
            await tab.press("Tab")
            order.append(await tab.evaluate(focus))
        routes = ["routes-filter", "routes-sort", *["summary"] * 4]
        assert order == ["skip", *routes, "pause", "failures-only", "filter", "exchange"]
        assert await tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"

        # Among the requests the arrows lead, the first keys of the row stay in the focus, and Enter tells the story.
        await tab.press("ArrowDown")
        assert "/first" in await tab.evaluate("document.activeElement.textContent")
        await tab.press("Enter", "\r")
        assert await tab.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
        assert await tab.evaluate(f"document.activeElement.parentElement.contains({STORY})")
        await tab.press("Enter", "\r")
        assert await tab.evaluate(f"{STORY} === null")
        await tab.press("Home")
        assert "/second" in await tab.evaluate("document.activeElement.textContent")

        # What the figures make anew keeps the focus, and stays open.
        await tab.evaluate("document.querySelector('#routes summary').focus()")
        await tab.press("Enter", "\r")
        assert await tab.evaluate("document.activeElement.parentElement.open")
        scene.exchange(b"/third", route="a.example")
        await tab.until("[...document.querySelectorAll('#routes td')].some(one => one.innerText === '1')")
        assert (
            await tab.evaluate("document.activeElement.parentElement.open && document.activeElement.localName")
            == "summary"
        )

        await tab.evaluate("document.querySelector('#pause').focus()")
        await tab.press(" ", " ")
        assert await tab.evaluate("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
        scene.exchange(b"/while-paused", route="c.example")
        # The figures come after the exchanges that they count.
        await tab.until(
            "[...document.querySelectorAll('#routes td')].filter(one => one.innerText === '1').length === 2"
        )
        assert "/while-paused" not in await tab.evaluate("document.querySelector('#exchanges').textContent")
        await tab.press("Enter", "\r")
        await tab.until("document.querySelector('#exchanges').textContent.includes('/while-paused')")

        await tab.evaluate("document.querySelector('#filter').focus()")
        for letter in "first":
            await tab.press(letter, letter)
        shown = "[...document.querySelectorAll('#exchanges li:not([hidden])')].map(one => one.textContent)"
        await tab.until(f"{shown}.length === 1")
        assert "/first" in (await tab.evaluate(shown))[0]


@pytest.mark.asyncio
async def test_fifty_routes_can_be_read_found_and_sorted() -> None:
    async with watched(SCENES["fifty"]()) as tab:
        rows = "[...document.querySelectorAll('#routes tr')].map(row => row.innerText)"
        await tab.until(f"{rows}.length === 10 && {rows}[0].includes('gateway 2') && {rows}[0].includes('API 1')")
        first = (await tab.evaluate(rows))[0]
        assert first.startswith("service-00")
        assert "API 1" in first
        assert await tab.evaluate(text_of("#routes-all")) == "Show all 50 routes"
        await tab.evaluate("document.querySelector('#routes-all').click()")
        assert len(await tab.evaluate(rows)) == 50
        assert await tab.evaluate("document.querySelector('#routes-all').getAttribute('aria-expanded')") == "true"
        await tab.evaluate("document.querySelector('#routes-filter').focus()")
        for letter in "service-31":
            await tab.press(letter, letter)
        (only,) = await tab.evaluate(rows)
        assert only.startswith("service-31")
        await tab.evaluate(
            "document.querySelector('#routes-filter').value = '', document.querySelector('#routes-sort').value = 'name',"
            "document.querySelector('#routes-sort').dispatchEvent(new Event('change'))"
        )
        assert [row[:10] for row in await tab.evaluate(rows)] == [f"service-{number:02d}" for number in range(50)]


@pytest.mark.asyncio
async def test_the_page_says_who_uses_which_identity() -> None:
    async with watched(healthy()) as tab:
        rows = "[...document.querySelectorAll('#clients tr')].map(row => row.innerText.replaceAll('\\n', ' '))"
        await tab.until(f"{rows}.length === 3 && {rows}[0].includes('30')")
        billing, nightly, stranger = await tab.evaluate(rows)
        assert f"known by 10.1.0.0/16, password · may use {HOST}" in billing
        assert "orders-client" in billing
        assert "not a configured client" in stranger
        assert "none yet" in nightly


@pytest.mark.asyncio
async def test_failures_can_be_seen_alone() -> None:
    scene = Scene()
    scene.exchange(b"/good")
    scene.exchange(b"/bad", 404)
    async with watched(scene) as tab:
        await tab.until("document.querySelector('#exchanges').textContent.includes('/good')")
        await tab.evaluate("document.querySelector('#failures-only').click()")
        shown = await tab.evaluate("document.querySelector('#exchanges').innerText")
        assert "/bad" in shown
        assert "/good" not in shown


@pytest.mark.asyncio
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_shows_it_all_without_scrolling_sideways(scheme: str) -> None:
    scene = Scene()
    scene.exchange(b"/" + b"a-very-long-path-without-a-break" * 10)
    async with watched(scene, width=360, height=740, scheme=scheme) as tab:
        await tab.until("document.querySelector('#exchanges').textContent.includes('very-long')")
        assert await tab.evaluate("document.documentElement.scrollWidth") == 360
        assert await tab.evaluate("document.querySelector('#exchanges').scrollWidth <= 360")
        ground = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(","))
        assert (brightness > 600) is (scheme == "light")


@pytest.mark.asyncio
async def test_a_proxy_that_has_gone_is_said_and_noticed_when_it_is_back() -> None:
    scene = Scene()
    # Not port 0, which somebody else might get in between.
    first = scene.site(free_port())
    host, port = await first.start()
    second = scene.site(port)
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
        scene.log.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("name", SCENES)
async def test_axe_finds_nothing(name: str, pytestconfig: pytest.Config) -> None:
    """Roles, names, contrast, order of headings, targets: on a phone and a desktop, light and dark, with everything open."""
    packages = await asyncio.to_thread(install_packages, pytestconfig, ("axe-core@4.14.1",))
    axe = (packages / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    async with served(SCENES[name]()) as url, browser_tab() as tab:
        for _, width, height in SIZES:
            await tab.open(url, width=width, height=height)
            await tab.until("document.querySelectorAll('#exchanges button').length > 20")
            await tab.until("document.querySelectorAll('#routes td .counts, #routes td .none').length > 0")
            await tab.evaluate(
                "document.querySelectorAll('main details').forEach(one => { one.open = true });"
                "document.querySelectorAll('#exchanges li:nth-child(-n+3) > button').forEach(one => one.click())"
            )
            await tab.evaluate(axe)
            for scheme in ("light", "dark"):
                await tab.prefer(scheme)
                assert await find_violations(tab, colours_only=scheme == "dark") == [], f"{width} pixels, {scheme}"
                assert await tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


async def find_violations(tab: Tab, *, colours_only: bool) -> list[Any]:
    """What axe has to say against the page."""
    options = {"resultTypes": ["violations"]} | ({"runOnly": ["color-contrast"]} if colours_only else {})
    found = await tab.evaluate(f"axe.run({json.dumps(options)}).then(done => JSON.stringify(done.violations))")
    return [(one["id"], one["help"], [node["html"] for node in one["nodes"]][:3]) for one in json.loads(found)]
