"""`run`: serve until told to stop. Does I/O."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import click
from msgspec.structs import replace

from proxy import event_loop
from proxy.cli.options import ConfiguredCommand, takes_configuration
from proxy.cli.service_manager import notify, notify_reloading, take_sockets, watchdog_interval_s
from proxy.config.loading import load_settings
from proxy.errors import AddressTaken, ConfigurationError
from proxy.hardening import harden_process, own_program, raise_file_limit
from proxy.keys.fingerprint import FileWatch
from proxy.server import Server
from proxy.tasks import log_fault

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from proxy.config.settings import Settings
    from proxy.config.source import Source

# Between two looks at the file; a mounted one that is replaced takes longer to arrive.
_LOOK_S: Final = 1.0


@click.command(cls=ConfiguredCommand)
@takes_configuration()
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Number of relay processes. Overrides `workers` in the configuration.",
)
def run(config: Source, workers: int | None) -> None:
    """Run the proxy until SIGTERM or SIGINT. Requests in flight finish first; a second signal cuts them off.

    When the configuration file changes, or on SIGHUP, the proxy reloads it: new listeners open before old ones close, tokens
    are kept, and a configuration with an error changes nothing. What came from standard input, options or
    variables stays the same.
    """
    gc.disable()  # until it serves: what is made from here to there stays
    harden_process()
    raise_file_limit()

    def load() -> Settings:
        settings = load_settings(config, os.environ)
        return settings if workers is None else replace(settings, workers=workers)

    # Before the file is read: what is written while we start is a change, too.
    watch = FileWatch(config.files)
    settings = load()
    try:
        event_loop.run(_serve(settings, load, config, watch, take_sockets(os.environ, len(settings.listeners))))
    except AddressTaken as taken:
        raise _name_neighbour(taken) from None


def _name_neighbour(taken: AddressTaken) -> AddressTaken:
    """Return the error with the proxy that listens there, if it is one of ours."""
    command = [*own_program("proxy.cli.neighbour"), taken.address]
    neighbour = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603  # our own program
    if not neighbour:
        return taken
    return AddressTaken(
        f"A proxy is already running and listens on {taken.address}: {neighbour}. Use that one, stop it first, or give this one "
        "other addresses. If you changed the configuration file, no restart is needed: the running proxy reloads it.",
        taken.address,
    )


async def _serve(
    settings: Settings,
    load: Callable[[], Settings],
    config: Source,
    watch: FileWatch,
    inherited: Sequence[socket.socket],
) -> None:
    stop, hang_up = asyncio.Event(), asyncio.Event()
    server = Server(settings, on_quit=stop.set)
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            server.cut()  # whoever asks twice does not want to wait
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, on_signal)
        except NotImplementedError:  # Windows' loops
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, hang_up.set)
    tasks = []
    try:
        await server.start(inherited)
        _say_addresses(server)
        if server.admin_address is not None:
            _say(f"health and metrics on http://{_join(*server.admin_address)}")
        # The collector never has to walk through all of that: each time would hold the event loop up for tens of milliseconds.
        gc.freeze()
        gc.enable()
        _say("ready")
        notify("READY=1")
        tasks = [
            asyncio.create_task(_follow(server, load, config, watch, hang_up), name="configuration file"),
            asyncio.create_task(_feed_watchdog(), name="watchdog"),
        ]
        await stop.wait()
        server.begin_drain()
        _say("draining; a second signal cuts what is left")
        notify("STOPPING=1")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.stop()


async def _follow(
    server: Server, load: Callable[[], Settings], config: Source, watch: FileWatch, hang_up: asyncio.Event
) -> None:
    """Reload on a signal, and when the file has changed and then stayed the same from one look to the next."""
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hang_up.wait(), _LOOK_S)
        changed = watch.look()
        if not changed and not hang_up.is_set():
            continue
        hang_up.clear()
        watch.take()
        notify_reloading()
        addresses = list(server.addresses)
        try:
            await server.reload(load)
        except ConfigurationError as error:
            _say(f"the new configuration is not used, the old one stays:\n{error}")
        except Exception as error:  # noqa: BLE001  # or no later change would be looked at
            log_fault("switching to the new configuration", error)
        else:
            if server.addresses != addresses:
                _say_addresses(server)
            _say("reloaded" if config.files else f"reloaded; of {config.title} only a new start takes up others")
        notify("READY=1")


async def _feed_watchdog() -> None:
    interval_s = watchdog_interval_s(os.environ)
    while interval_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)


def _say_addresses(server: Server) -> None:
    for listener, (host, port) in zip(server.settings.listeners, server.addresses, strict=True):
        _say(f"listening on {_join(host, port)} ({listener.mode})")


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _say(text: str) -> None:
    click.echo(f"apim-auth-proxy: {text}", err=True)
    sys.stderr.flush()
