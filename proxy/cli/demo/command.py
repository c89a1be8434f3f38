"""The command `demo`. Does I/O through the stage."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import click

from proxy.cli.demo.narrator import Narrator
from proxy.cli.demo.scenes import Play, picture
from proxy.cli.demo.stage import DemoError, Stage
from proxy.cli.terminal import silence_logging, symbols
from proxy.errors import ProxyError
from proxy.sandbox import SandboxError


@click.command()
@click.option(
    "--client",
    type=click.Choice(["auto", "curl", "python"]),
    default="auto",
    show_default=True,
    help="The program that calls the API. auto uses curl if it is installed.",
)
def demo(client: str) -> None:
    """Run the whole flow on this machine and explain each step. Takes a few seconds and needs no cloud account.

    Starts an identity platform, API Management with an API, the proxy, and a client that cannot do OAuth, all on free loopback
    ports. Exits with 0 only if every step succeeded.
    """
    silence_logging()
    try:
        exit_code = asyncio.run(_play(client))
    except asyncio.CancelledError:
        raise click.ClickException("Stopped before the end.") from None
    sys.exit(exit_code)


async def _play(client: str) -> int:
    task = asyncio.current_task()
    with contextlib.suppress(NotImplementedError):  # Windows: there the process is simply ended
        # Like Ctrl-C, so that nothing is left behind: neither the proxy nor the directory.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: task.cancel() if task else None)
    narrator = Narrator(sys.stdout)
    narrator.title("apim-auth-proxy demo: from a certificate to an API call, all on this machine")
    narrator.picture(picture(arrows=symbols(sys.stdout).tick != "ok"))
    try:
        async with Stage() as stage:
            try:
                await Play(stage, narrator, client).perform()
            except (DemoError, ProxyError, SandboxError) as error:
                narrator.failed(str(error))
                if stage.proxy.last_lines:
                    narrator.tell("What the proxy said last:")
                    narrator.plain(stage.proxy.last_lines)
                return 1
    except SandboxError as error:
        narrator.failed(str(error))
        return 1
    narrator.heading("Every step held.")
    narrator.tell(
        "To try it yourself, run `apim-auth-proxy init --sandbox` in an empty directory. For your own API, run "
        "`apim-auth-proxy init` in another."
    )
    return 0
