"""What the demo plays on: a sandbox in this process, the proxy as the program it is, and a directory for their files.

Does I/O (files, sockets, a process). Everything is on loopback, on free ports, and gone afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from proxy.hardening import own_program
from proxy.interception.store import trusted_pem
from proxy.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from proxy.sandbox import TokenRequest

PROXY_CA: Final = "proxy-ca.pem"
"""The file with the interception CA, for clients that use https URLs."""

_START_S: Final = 30.0
_STOP_S: Final = 15.0
_LINES_KEPT: Final = 8
# The demo leaves nothing in flight; whatever is, it does not wait half a minute for.
_DRAIN: Final = "timeouts:\n  drain_s: 3\n"
_LISTENING: Final = re.compile(r"listening on (\S+) \(forward\)")


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


class ProxyProcess:
    """`apim-auth-proxy run`, as a process of its own.

    Attributes:
        url: of its forward listener, once it is ready.
    """

    def __init__(self, config: Path) -> None:
        self._config = config
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self.url = ""

    @property
    def last_lines(self) -> Sequence[str]:
        """What it said last."""
        return tuple(self._lines)

    async def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            DemoError: it does not come up.
        """
        self._process = await asyncio.create_subprocess_exec(
            *(*own_program("proxy"), "run", "--config", str(self._config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        self._reading = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(_START_S):
                await self._ready.wait()
        except TimeoutError:
            raise DemoError(f"The proxy was not ready within {_START_S:g} s.") from None
        if not self.url:
            raise DemoError("The proxy ended as it started.")

    async def stop(self) -> int | None:
        """End it, by force where it does not by itself; return its exit code, None by force."""
        process = self._process
        if process is None:
            return None
        exit_code: int | None = None
        try:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(_STOP_S):
                exit_code = await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
        if self._reading is not None:
            await self._reading
        self._process = None
        return exit_code

    async def _read(self) -> None:
        assert self._process is not None  # noqa: S101  # started before
        assert self._process.stderr is not None  # noqa: S101  # asked for
        address = ""
        async for raw in self._process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            self._lines.append(line)
            found = _LISTENING.search(line)
            if found is not None:
                address = found[1]
            if line.endswith("apim-auth-proxy: ready"):
                self.url = f"http://{address}"
                self._ready.set()
        self._ready.set()  # it has ended: nobody need wait any longer


class Stage:
    """Everything on one machine; use as an async context manager.

    Attributes:
        directory: of all files, gone afterwards.
        sandbox: identity platform, gateway and API.
        proxy: the proxy.
    """

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self.sandbox = Sandbox()

    async def __aenter__(self) -> Self:
        try:
            self.directory = Path(
                self._stack.enter_context(tempfile.TemporaryDirectory(prefix="apim-auth-proxy-demo-"))
            )
            await self._stack.enter_async_context(self.sandbox)
            # Port 0: whatever is in use on this machine, the proxy finds free ones.
            self.sandbox.write_directory(self.directory, proxy_address="127.0.0.1:0", admin_address="127.0.0.1:0")
            self.config.write_text(self.config.read_text(encoding="utf-8") + _DRAIN, encoding="utf-8")
            self.proxy = ProxyProcess(self.config)
            self._stack.push_async_callback(self.proxy.stop)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def config(self) -> Path:
        """The proxy's configuration, as the sandbox wrote it."""
        return self.directory / "config.yaml"

    @property
    def api_authority(self) -> str:
        """Host and port of the API."""
        return self.sandbox.api_url.removeprefix("https://")

    def export_ca(self) -> None:
        """Write the CA that clients with https URLs are to trust, as `ca export` prints it."""
        (self.directory / PROXY_CA).write_bytes(trusted_pem(self.directory / "state"))

    async def wait_for_token(self) -> TokenRequest:
        """Return the first token request, answered.

        Raises:
            DemoError: there is none, or it was refused.
        """
        try:
            async with asyncio.timeout(_START_S):
                # Polled: the record has no event, and is there at once.
                while not self.sandbox.token_requests or self.sandbox.token_requests[0].status is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise DemoError("The proxy has not asked for a token.") from None
        first = self.sandbox.token_requests[0]
        if first.outcome != "issued":
            raise DemoError(f"The identity platform refused the proxy: {first.outcome}.")
        return first
