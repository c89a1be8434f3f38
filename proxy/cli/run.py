"""`run`: serve until told to stop. Does I/O."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxy import event_loop
from proxy.config.loading import load_settings
from proxy.hardening import harden_process, raise_file_limit
from proxy.server import Server

if TYPE_CHECKING:
    from proxy.config.settings import Settings


@click.command()
@click.option(
    "--config", "config", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The configuration file."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Relay processes, in place of the configuration's `workers`.",
)
def run(config: Path, workers: int | None) -> None:
    """Serve until SIGTERM or SIGINT, let exchanges in flight finish, then exit with 0. A second signal cuts them."""
    harden_process()
    raise_file_limit()
    settings = load_settings(config, os.environ)
    if workers is not None:
        settings = settings.model_copy(update={"workers": workers})
    event_loop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    server = Server(settings)
    stop = asyncio.Event()
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
    try:
        await server.start()
        for listener, (host, port) in zip(settings.listeners, server.addresses, strict=True):
            _say(f"listening on {_join(host, port)} ({listener.mode})")
        if server.admin_address is not None:
            _say(f"health and metrics on http://{_join(*server.admin_address)}")
        _say("ready")
        await stop.wait()
        _say("draining; a second signal cuts what is left")
    finally:
        await server.stop()


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _say(text: str) -> None:
    click.echo(f"apim-auth-proxy: {text}", err=True)
    sys.stderr.flush()
