"""A headless Chromium, driven over its DevTools protocol: just what a test of a page needs."""

from __future__ import annotations

import asyncio
import atexit
import base64
import functools
import itertools
import json
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.end_to_end.programs import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Tab:
    """One tab.

    Attributes:
        complaints: what the browser wrote to the console as a warning or an error, and exceptions nobody caught.
        requested: every URL it asked for.
    """

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self._connection = connection
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        await self._connection.send_json({"id": number, "method": method, "params": parameters})
        return await asyncio.wait_for(answer, PATIENCE_S)

    async def open(self, url: str, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        await self.prefer(scheme)
        await self.call("Page.navigate", url=url)

    async def prefer(self, scheme: str) -> None:
        """Has the browser's user prefer ``light`` or ``dark``."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def evaluate(self, expression: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str, *, within_s: float = PATIENCE_S) -> Any:
        """Returns what the expression gives once that is true."""
        for _ in range(int(within_s / 0.1)):
            value = await self.evaluate(expression)
            if value:
                return value
            await asyncio.sleep(0.1)
        raise AssertionError(f"never true: {expression}; {await self.evaluate('document.body?.innerText')}")

    async def press(self, key: str, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            code = {"Tab": 9, "Enter": 13, " ": 32}.get(key, 0)
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **typed)

    async def screenshot(self, width: int, height: int) -> bytes:
        """Returns the page's upper left corner as PNG."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.wait({self._reader})
        await self._connection.close()

    async def _read(self) -> None:
        async for message in self._connection:
            event = json.loads(message.data)
            if "id" in event:
                answer = self._answers.pop(event["id"])
                if "error" in event:
                    answer.set_exception(RuntimeError(str(event["error"])))
                else:
                    answer.set_result(event["result"])
            else:
                self._note(event["method"], event["params"])

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("warning", "error"):
            self.complaints.append(str(parameters["entry"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("warning", "error"):
            self.complaints.append(str(parameters["args"]))
        elif method == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])


# The shell holds the other end of a pipe: whatever way this process ends, the browser and its profile go with it.
_KEEPER = """
profile=$1; shift
setsid "$@" --user-data-dir="$profile" about:blank >/dev/null 2>&1 </dev/null &
read -r _
kill -s KILL -- "-$!" 2>/dev/null
wait
exec rm -rf "$profile"
"""


@functools.cache
def _browser() -> Path:
    """Starts the browser of this process: a second of its time, which each test would need anew. Returns its profile."""
    assert PROGRAM is not None
    profile = Path(tempfile.mkdtemp(prefix="apim-auth-proxy-chromium-"))
    # Root has no sandbox of its own to give; containers have a small /dev/shm.
    keeper = subprocess.Popen(
        [
            "sh", "-c", _KEEPER, "sh", str(profile), PROGRAM,
            "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--no-proxy-server", "--remote-debugging-port=0",
        ],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    atexit.register(_end, keeper)
    return profile


def _end(keeper: subprocess.Popen[bytes]) -> None:
    assert keeper.stdin is not None
    keeper.stdin.close()
    keeper.wait(PATIENCE_S)


@asynccontextmanager
async def browser_tab() -> AsyncIterator[Tab]:
    """A tab with cookies, cache and storage of its own, as of a browser that was just started; they end with it."""
    address = await _debugging_address(_browser() / "DevToolsActivePort")
    async with aiohttp.ClientSession(trust_env=False) as session:
        browser = Tab(await session.ws_connect(address))
        try:
            context = (await browser.call("Target.createBrowserContext", disposeOnDetach=True))["browserContextId"]
            made = await browser.call("Target.createTarget", url="about:blank", browserContextId=context)
            page = f"{address.partition('/devtools/')[0]}/devtools/page/{made['targetId']}"
            tab = Tab(await session.ws_connect(page, max_msg_size=64 << 20))
            try:
                yield tab
            finally:
                await tab.close()
                with suppress(RuntimeError):
                    await browser.call("Target.disposeBrowserContext", browserContextId=context)
        finally:
            await browser.close()


async def _debugging_address(file: Path) -> str:
    """Returns the browser's own endpoint, which it writes down once it listens."""
    for _ in range(int(PATIENCE_S / 0.1)):
        if file.exists() and len(written := file.read_text().split("\n")) > 1:  # noqa: ASYNC240 -- a few bytes
            return f"ws://127.0.0.1:{written[0]}{written[1]}"
        await asyncio.sleep(0.1)
    raise AssertionError("Chromium did not start")
