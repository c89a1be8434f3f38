"""A headless Chromium, driven over its DevTools protocol: just what a test of a page needs."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
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


@asynccontextmanager
async def browser_tab() -> AsyncIterator[Tab]:
    """A tab in a browser of its own, which ends with it."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Root has no sandbox of its own to give; containers have a small /dev/shm.
        process = await asyncio.create_subprocess_exec(
            PROGRAM, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--no-proxy-server",
            "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            port = await _debugging_port(Path(profile) / "DevToolsActivePort")
            async with aiohttp.ClientSession(trust_env=False) as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                    target = next(one for one in await response.json() if one["type"] == "page")
                connection = await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=64 << 20)
                tab = Tab(connection)
                try:
                    yield tab
                finally:
                    await tab.close()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _debugging_port(file: Path) -> int:
    for _ in range(int(PATIENCE_S / 0.1)):
        if file.exists() and "\n" in (written := file.read_text()):  # noqa: ASYNC240 -- a few bytes
            return int(written.split("\n", 1)[0])
        await asyncio.sleep(0.1)
    raise AssertionError("Chromium did not start")
