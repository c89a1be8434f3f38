"""Takes the README's pictures of the page: a sandbox whose tokens live seconds, a real proxy, mixed traffic, headless Chromium.

Run as `python -m tests.screenshots`; writes docs/images. Needs Chromium and four minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import aiohttp

from proxy.sandbox import Sandbox, SandboxSettings
from tests.end_to_end.chromium import PROGRAM, browser_tab
from tests.end_to_end.programs import ROOT, Configuration, Place, ProxyProgram, configuration
from tests.png_palette import reduce_colours

IMAGES: Final = ROOT / "docs" / "images"
TRAFFIC_S: Final = 150.0
# Name, width, height; the desktop is as high as the page, a phone as high as a person scrolls without thinking.
SIZES: Final = (("desktop", 1280, 0), ("phone", 390, 1_300))
SCHEMES: Final = ("light", "dark")
LIMIT_BYTES: Final = 200_000

# What callers of such an API ask for, how often, and for how long the API thinks.
REQUESTS: Final = (
    (60, "GET", "/orders/{number}"),
    (25, "GET", "/orders?page={number}"),
    (12, "POST", "/orders"),
    (6, "GET", "/slow/0.12"),
    (4, "GET", "/status/404"),
    (2, "GET", "/status/503"),
    (1, "GET", "/slow/0.6"),
)


def settings_for(place: Place) -> Configuration:
    """Two APIs that work, and one whose application nobody has registered."""
    gateway = place.alias_host
    settings = configuration(place, route={"hosts": [gateway]})
    credentials, routes = settings["credentials"], settings["routes"]
    assert isinstance(credentials, dict)
    assert isinstance(routes, list)
    orders = credentials["orders-client"]
    credentials["billing-client"] = orders | {"client_id": "99999999-9999-4999-9999-999999999999", "lazy": True}
    routes.append(routes[0] | {"hosts": [place.api_authority], "scope": "api://orders-v1/.default"})
    routes.append(routes[0] | {"hosts": ["billing.contoso.example"], "credential": "billing-client"})
    settings["listeners"] = [{"address": "127.0.0.1:0"}]
    return settings


async def make_traffic(proxy: str, place: Place, ends_at: float) -> None:
    """Sends requests at a rate that goes up and down, until a moment of the monotonic clock."""
    dice = random.Random(7)  # the same pictures each time, as far as that goes
    weights = [weight for weight, _, _ in REQUESTS]
    async with aiohttp.ClientSession(trust_env=False) as session:
        running: set[asyncio.Task[None]] = set()

        async def send(method: str, url: str) -> None:
            content = b"{}" if method == "POST" else None
            with contextlib.suppress(aiohttp.ClientError):  # the proxy ends before the last request does
                async with session.request(method, url, proxy=proxy, data=content) as response:
                    await response.read()

        started = time.monotonic()
        while (now := time.monotonic()) < ends_at:
            _, method, path = dice.choices(REQUESTS, weights)[0]
            host = dice.choices((place.alias_host, place.api_authority), (4, 1))[0]
            url = f"http://{host}{path.format(number=dice.randrange(1_000, 9_999))}"
            if dice.random() < 0.004:
                url = dice.choice(("http://billing.contoso.example/invoices", "http://unknown.contoso.example/"))
            task = asyncio.create_task(send(method, url))
            running.add(task)
            task.add_done_callback(running.discard)
            rate = 12 + 10 * abs((now - started) % 40 - 20) / 20 + dice.uniform(-3, 3)
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*running, return_exceptions=True)


async def take(url: str) -> list[Path]:
    """Takes the page in every size and scheme."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    taken = []
    for name, width, height in SIZES:
        for scheme in SCHEMES:
            async with browser_tab() as tab:
                await tab.open(url, width=width, height=height or 900, scheme=scheme)
                await tab.until("document.querySelector('#ready')?.textContent === 'ready'")
                await tab.until("document.querySelectorAll('#exchanges .exchange').length > 20")
                await tab.until("document.querySelectorAll('#rate-chart rect').length > 20")
                whole = await tab.evaluate("document.documentElement.scrollHeight")
                overflow = await tab.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert overflow <= 0, f"the page is {overflow} px too wide at {width}"
                picture = await tab.screenshot(width, height or whole)
                assert tab.complaints == []
            file = IMAGES / f"page-{name}-{scheme}.png"
            picture = await asyncio.to_thread(reduce_colours, picture)
            file.write_bytes(picture)
            assert len(picture) < LIMIT_BYTES, f"{file.name} has {len(picture)} bytes"
            taken.append(file)
    return taken


async def main() -> None:
    """Starts everything, takes the pictures, ends everything."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with Sandbox(SandboxSettings()) as sandbox:
            sandbox.write_directory(directory / "sandbox")
            sandbox.faults.token_lifetime_s = 50
            place = Place.read(directory / "sandbox")
            (directory / "output").mkdir()
            arguments = (settings_for(place), directory / "proxy", directory / "output", "proxy")
            with await asyncio.to_thread(ProxyProgram, *arguments) as proxy:
                ends_at = time.monotonic() + TRAFFIC_S
                traffic = asyncio.create_task(make_traffic(proxy.forward, place, ends_at + 120))
                await asyncio.sleep(TRAFFIC_S)
                admin = next(line for line in proxy.lines if "health and metrics on" in line).rpartition(" ")[2]
                for file in await take(f"{admin}/"):
                    sys.stdout.write(f"{file.relative_to(ROOT)} {file.stat().st_size} bytes\n")
                traffic.cancel()
                await asyncio.gather(traffic, return_exceptions=True)
                await asyncio.to_thread(proxy.stop)


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("Chromium is not installed.")
    asyncio.run(main())
