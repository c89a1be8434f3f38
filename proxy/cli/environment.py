"""`env`: the variables that make programs use the proxy and trust its CA. Writes the merged bundle, prints the variables."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import click

from proxy.cli.client_environment import prepare, proxy_url_option
from proxy.cli.options import ConfiguredCommand, json_option, takes_configuration
from proxy.cli.recognition import describe_stranger, listens
from proxy.cli.terminal import say, write_json
from proxy.client_setup.shells import Shell, format_removal, format_variables
from proxy.client_setup.variables import list_earlier, list_names

if TYPE_CHECKING:
    from proxy.cli.client_environment import ClientEnvironment
    from proxy.config.source import Source


@click.command(cls=ConfiguredCommand)
@takes_configuration(required=False)
@click.option(
    "--shell",
    type=click.Choice([shell.value for shell in Shell]),
    default=Shell.SH.value,
    show_default=True,
    help="The syntax to print. dotenv is for docker run --env-file.",
)
@proxy_url_option
@click.option(
    "--ca-directory",
    metavar="DIR",
    type=click.Path(path_type=PurePosixPath),
    help="Where programs in a container find the CA's files.",
)
@click.option("--unset", is_flag=True, help="Print what removes the variables again.")
@json_option
def env(
    config: Source | None,
    shell: str,
    proxy_url: str | None,
    ca_directory: PurePosixPath | None,
    unset: bool,
    as_json: bool,
) -> None:
    """Print environment variables that make programs use the proxy and trust its CA.

    \b
    bash, zsh, fish  eval "$(apim-auth-proxy env)"
    PowerShell       apim-auth-proxy env --shell powershell | Out-String | Invoke-Expression
    a container      apim-auth-proxy env --shell dotenv --proxy-url http://host.docker.internal:8080 \\
                     --ca-directory /proxy-ca > proxy.env

    To undo it, run the same line with --unset. For a container, stderr says which files to mount.

    Without a configuration, the variables are for a proxy at 127.0.0.1:8080 with its CA in the default state directory. The
    command writes one file there with the system's roots and the proxy's CA, because some programs replace their roots with
    the file that such a variable names.
    """  # noqa: D301  # it is click's mark for lines that stay as they are
    if unset:
        _unset(Shell(shell), as_json=as_json)
        return
    environment = prepare(config, proxy_url, ca_directory)
    if ca_directory is not None:
        mounts = [f"--volume {shlex.quote(f'{file}:{ca_directory / file.name}:ro')}" for file in environment.files]
        say(f"Mount these files, and nothing else of their directory: {' '.join(mounts)}")
    elif shell == Shell.DOTENV and not as_json:
        say(
            "Note: the addresses and paths are this machine's. For a container, add --proxy-url with an address that the "
            "container can reach, and --ca-directory."
        )
    if config is None:
        _warn_of_stranger(environment)
    if as_json:
        write_json({variable.name: variable.value for variable in environment.variables})
    else:
        sys.stdout.write(format_variables(environment.variables, Shell(shell)))


def _unset(shell: Shell, *, as_json: bool) -> None:
    """Print what removes the variables, and sets again what was the user's own in them."""
    earlier = list_earlier(os.environ)
    kept = {variable.name for variable in earlier}
    names = [name for name in list_names() if name not in kept]
    if as_json:
        write_json(dict.fromkeys(names) | {variable.name: variable.value for variable in earlier})
        return
    if shell is Shell.DOTENV:
        raise click.UsageError("A file of variables cannot unset any; leave it out.")
    sys.stdout.write(format_removal(names, shell) + format_variables(earlier, shell))


def _warn_of_stranger(environment: ClientEnvironment) -> None:
    """Compare the CA with what the proxy shows, where neither comes from a configuration."""
    address = environment.address
    if address is None or not listens(address):
        return
    stranger = describe_stranger(address, environment.hosts, environment.trusted, are_routed=False)
    if stranger is not None:
        say(f"Warning: what listens at {environment.proxy_url} is {stranger}. Programs will not trust it with this CA.")
