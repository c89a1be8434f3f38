"""Takes the pictures of the page: a sandbox whose tokens live seconds, real proxies, traffic, headless Chromium.

Run as `python -m tests.screenshots`; writes docs/images. Needs Chromium and six minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
import trustme
from aiohttp import web

from proxy.sandbox import Sandbox, SandboxSettings
from proxy.sandbox.faults import TokenEndpointFault, TokenFault
from tests.end_to_end.chromium import PROGRAM, Tab, browser_tab
from tests.end_to_end.programs import ROOT, Configuration, Place, ProxyProgram, configuration
from tests.png_palette import reduce_colours

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

IMAGES: Final = ROOT / "docs" / "images"
TRAFFIC_S: Final = 150.0
# Until tokens that live fifty seconds have gone, and the page has said so for a while.
OUTAGE_S: Final = 75.0
FIFTY_S: Final = 60.0
SCENES: Final = ("page", "page-outage", "page-fifty")
# Name, width, height at most: a phone as high as a person scrolls without thinking.
SIZES: Final = (("desktop", 1280, 2_600), ("phone", 390, 1_300))
SCHEMES: Final = ("light", "dark")
LIMIT_BYTES: Final = 200_000
# The traffic's clients, by the addresses that they come from.
CLIENTS: Final = {"billing": "127.0.0.2", "nightly-batch": "127.0.0.3"}
SERVICES: Final = 50

# What callers of such an API ask for, how often, and for how long the API thinks.
REQUESTS: Final = (
    (60, "GET", "/orders/{number}"),
    (25, "GET", "/orders?page={number}"),
    (12, "POST", "/orders"),
    (6, "GET", "/slow/0.12"),
    (1, "GET", "/slow/0.6"),
)


def settings_for(place: Place) -> Configuration:
    """Two APIs, and two clients that may use them."""
    gateway = place.alias_host
    settings = configuration(place, route={"hosts": [gateway]})
    routes = settings["routes"]
    assert isinstance(routes, list)
    routes.append(routes[0] | {"hosts": [place.api_authority], "scope": "api://orders-v1/.default"})
    settings["listeners"] = [{"address": "127.0.0.1:0"}]
    settings["clients"] = [
        {"name": name, "networks": [f"{address}/32"], "routes": [gateway] if name == "billing" else []}
        for name, address in CLIENTS.items()
    ]
    return settings


def fifty_settings(place: Place, api_port: int, ca_file: Path) -> Configuration:
    """Fifty APIs of five teams; one of them is down."""
    settings = configuration(place)
    credentials, routes = settings["credentials"], settings["routes"]
    assert isinstance(credentials, dict)
    assert isinstance(routes, list)
    teams = ("orders", "billing", "shipping", "returns", "partners")
    settings["credentials"] = {f"{team}-client": credentials["orders-client"] for team in teams}
    settings["routes"] = [
        {
            "hosts": [f"service-{number:02d}.contoso.example"],
            "credential": f"{teams[number % len(teams)]}-client",
            "scope": place.scope,
            "dial": f"127.0.0.1:{1 if number == 23 else api_port}",
            "ca_file": str(ca_file),
        }
        for number in range(SERVICES)
    ]
    settings["listeners"] = [{"address": "127.0.0.1:0"}]
    return settings


@asynccontextmanager
async def fifty_apis(directory: Path) -> AsyncIterator[tuple[int, Path]]:
    """The APIs behind fifty names, each as fast and as sound as its number says; port and CA."""
    authority = trustme.CA()
    ca_file = directory / "fifty.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("*.contoso.example").configure_cert(context)
    dice = random.Random(11)

    async def answer(request: web.Request) -> web.Response:
        number = int(request.host[len("service-") :][:2])
        await asyncio.sleep(0.002 + 0.004 * (number % 7) + (0.3 if number == 31 else 0))
        if number in (7, 19, 42) and dice.random() < 0.2:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.Response(status=500 if number in (12, 19) and dice.random() < 0.15 else 200, text="{}")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        address: tuple[str, int] = runner.addresses[0][:2]
        yield address[1], ca_file
    finally:
        await runner.cleanup()


@asynccontextmanager
async def traffic(
    proxy: str, choose: Callable[[random.Random, str], tuple[str, str]], rate: float
) -> AsyncIterator[None]:
    """Requests at a rate that goes up and down, from both clients.

    Args:
        proxy: URL.
        choose: returns method and URL of a client's request.
        rate: a second, where it is lowest.
    """
    dice = random.Random(7)  # the same pictures each time, as far as that goes

    async def send(client: str, session: aiohttp.ClientSession) -> None:
        method, url = choose(dice, client)
        with contextlib.suppress(aiohttp.ClientError):  # the proxy ends before the last request does
            content = b"{}" if method == "POST" else None
            async with session.request(method, url, proxy=proxy, data=content) as response:
                await response.read()

    async def go_on() -> None:
        async with contextlib.AsyncExitStack() as stack:
            sessions = {
                name: await stack.enter_async_context(
                    aiohttp.ClientSession(trust_env=False, connector=aiohttp.TCPConnector(local_addr=(address, 0)))
                )
                for name, address in CLIENTS.items()
            }
            started = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                while True:
                    tasks.create_task(send(*dice.choices(list(sessions.items()), (4, 1))[0]))
                    wave = abs((time.monotonic() - started) % 40 - 20) / 20
                    await asyncio.sleep(1 / (rate * (1 + 0.9 * wave) + dice.uniform(-2, 2)))

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def take(scene: str, url: str) -> None:
    """Takes the page in every size and scheme."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, width, height in SIZES:
        async with browser_tab() as tab:
            await tab.open(url, width=width, height=900)
            await tab.until("document.querySelectorAll('#exchanges .exchange').length > 20")
            await tab.until("document.querySelectorAll('#rate-chart rect').length > 20")
            await tell_story(tab, scene)
            whole = await tab.evaluate("document.documentElement.scrollHeight")
            overflow = await tab.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0, f"the page is {overflow} px too wide at {width}"
            for scheme in SCHEMES:
                await tab.prefer(scheme)
                picture = await asyncio.to_thread(reduce_colours, await tab.screenshot(width, min(height, whole)))
                assert tab.complaints == []
                file = IMAGES / f"{scene}-{name}-{scheme}.png"
                file.write_bytes(picture)
                assert len(picture) < LIMIT_BYTES, f"{file.name} has {len(picture)} bytes"
                sys.stdout.write(f"{file.relative_to(ROOT)} {len(picture)} bytes\n")


async def tell_story(tab: Tab, scene: str) -> None:
    """Opens a request that took its time, where all is well."""
    if scene == "page":
        rows = "[...document.querySelectorAll('#exchanges .exchange')]"
        await tab.until(f"{rows}.some(row => row.textContent.includes('/slow'))")
        await tab.evaluate(
            f"{rows}.find(row => row.textContent.includes('/slow')).click();"
            "document.querySelector('#exchanges').scrollTop = document.querySelector('.story').parentElement.offsetTop"
            " - document.querySelector('#exchanges').offsetTop - 60"
        )


def admin_url(proxy: ProxyProgram) -> str:
    return next(line for line in proxy.lines if "health and metrics on" in line).rpartition(" ")[2] + "/"


async def take_two_apis(sandbox: Sandbox, place: Place, directory: Path) -> None:
    """All is well; then the identity platform is away, and one of the APIs fails."""
    fails = False

    def choose(dice: random.Random, client: str) -> tuple[str, str]:
        _, method, path = dice.choices(REQUESTS, [weight for weight, _, _ in REQUESTS])[0]
        host = place.alias_host if client == "billing" else dice.choice((place.alias_host, place.api_authority))
        if dice.random() < (0.3 if fails else 0.004):
            path = "/status/503" if fails else "/status/404"
        return method, f"http://{host}{path.format(number=dice.randrange(1_000, 9_999))}"

    arguments = (settings_for(place), directory / "proxy", directory / "output", "proxy")
    with await asyncio.to_thread(ProxyProgram, *arguments) as proxy:
        async with traffic(proxy.forward, choose, 12):
            await asyncio.sleep(TRAFFIC_S)
            await take("page", admin_url(proxy))
            fails = True
            await asyncio.sleep(20)
            sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SERVER_ERROR_EMPTY)
            await asyncio.sleep(OUTAGE_S)
            await take("page-outage", admin_url(proxy))
        await asyncio.to_thread(proxy.stop)
    sandbox.faults.token_endpoint = None


async def take_fifty_apis(place: Place, directory: Path) -> None:
    """Fifty routes, of which most are well."""

    def choose(dice: random.Random, _: str) -> tuple[str, str]:
        return (
            "GET",
            f"http://service-{int(SERVICES * dice.random() ** 1.5):02d}.contoso.example/things/{dice.randrange(999)}",
        )

    async with fifty_apis(directory) as (port, ca_file):
        arguments = (fifty_settings(place, port, ca_file), directory / "fifty", directory / "output", "fifty")
        with await asyncio.to_thread(ProxyProgram, *arguments) as proxy:
            async with traffic(proxy.forward, choose, 30):
                await asyncio.sleep(FIFTY_S)
                await take("page-fifty", admin_url(proxy))
            await asyncio.to_thread(proxy.stop)


async def main() -> None:
    """Starts everything, takes the pictures, ends everything."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with Sandbox(SandboxSettings()) as sandbox:
            sandbox.write_directory(directory / "sandbox")
            place = Place.read(directory / "sandbox")
            (directory / "output").mkdir()
            sandbox.faults.token_lifetime_s = 50
            await take_two_apis(sandbox, place, directory)
            sandbox.faults.token_lifetime_s = None
            await take_fifty_apis(place, directory)


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("Chromium is not installed.")
    asyncio.run(main())
