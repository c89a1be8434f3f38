"""`sandbox`: a local identity platform, API Management gateway and API. Does I/O through `proxy.sandbox`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from proxy.sandbox import SandboxError, serve


@click.command()
@click.option(
    "--directory",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to write the files that a proxy or MSAL needs. Created if missing, reused if not.",
)
def sandbox(directory: Path) -> None:
    """Run a local identity platform, API Management gateway and API until stopped.

    Prints `sandbox ready` once they accept connections. DIR then contains config.yaml, clientapp.pem, ca.pem and
    sandbox.json.
    """
    try:
        asyncio.run(serve(directory))
    except SandboxError as error:
        raise click.ClickException(str(error)) from None
