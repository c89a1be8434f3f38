"""Run a sandbox until it is told to stop: what the command ``sandbox --directory DIR`` does.

Does I/O (signals, stdout, stderr, files, sockets). Prints exactly one line to stdout, when everything is ready; the
gateway's refusals and all other talk go to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from proxy.sandbox.directory import load_settings
from proxy.sandbox.ports import lasting_ports
from proxy.sandbox.server import Sandbox
from proxy.sandbox.settings import SandboxError, SandboxSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READY = "sandbox ready"

_log = logging.getLogger("proxy.sandbox")


async def serve(
    directory: Path,
    settings: SandboxSettings | None = None,
    *,
    proxy_address: str = "127.0.0.1:8080",
    admin_address: str = "127.0.0.1:9901",
) -> None:
    """Start a sandbox, write its directory, say so, and run until SIGTERM, SIGINT or cancellation.

    Keys, subscription key and ports of an earlier sandbox in the same directory are used again; a port that is taken
    by now is replaced by a free one.

    Args:
        directory: made if absent.
        settings: what the directory does not say; a port given here counts more than the directory's.
        proxy_address: the listener in the configuration it writes.
        admin_address: the admin address in the configuration it writes.

    Raises:
        SandboxError: the directory cannot be used, or a port given in `settings` is taken.
    """
    asked = SandboxSettings() if settings is None else settings
    with _talking():
        now = datetime.fromtimestamp(asked.clock(), UTC)
        loaded = _with_ports(await asyncio.to_thread(load_settings, directory, asked, now))
        sandbox = await _start(loaded, asked)
        try:
            await asyncio.to_thread(sandbox.write_directory, directory, proxy_address, admin_address)
            _log.info("identity platform %s, API %s, files in %s", sandbox.identity_url, sandbox.api_url, directory)
            stopped = asyncio.Event()
            asyncio.get_running_loop().set_exception_handler(report_fault)
            with _stop_signals(stopped):
                sys.stdout.write(f"{READY}\n")
                sys.stdout.flush()
                await stopped.wait()
        finally:
            await sandbox.close()


def report_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what goes wrong in a callback, but for a client that leaves in the middle of an answer.

    CPython 3.11 then may tell a transport of its end twice, and fails at the second time.
    """
    callback = getattr(context.get("handle"), "_callback", None)
    if getattr(callback, "__name__", "") != "_call_connection_lost":
        loop.default_exception_handler(context)


def _with_ports(loaded: SandboxSettings) -> SandboxSettings:
    """Return the settings with ports to keep, where the directory and its user name none."""
    identity_port, api_port, machine_port = lasting_ports(3)
    return replace(
        loaded,
        identity_port=loaded.identity_port or identity_port,
        api_port=loaded.api_port or api_port,
        machine_port=loaded.machine_port or machine_port,
    )


async def _start(loaded: SandboxSettings, asked: SandboxSettings) -> Sandbox:
    sandbox = Sandbox(loaded)
    try:
        await sandbox.start()
    except SandboxError as error:
        if _ports(loaded) == _ports(asked):
            raise
        _log.warning("%s Another one is used, so clients of the earlier sandbox have to read its files again.", error)
        identity_port, api_port, machine_port = _ports(asked)
        sandbox = Sandbox(replace(loaded, identity_port=identity_port, api_port=api_port, machine_port=machine_port))
        await sandbox.start()
    return sandbox


def _ports(settings: SandboxSettings) -> tuple[int, int, int]:
    return settings.identity_port, settings.api_port, settings.machine_port


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    level = _log.level
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)


@contextlib.contextmanager
def _stop_signals(stopped: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    wanted = (signal.SIGTERM, signal.SIGINT)
    with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C arrives as cancellation instead
        for number in wanted:
            loop.add_signal_handler(number, stopped.set)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in wanted:
                loop.remove_signal_handler(number)
