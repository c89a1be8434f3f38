"""`env`: the variables that make programs use the proxy and trust its CA. Writes the merged bundle, prints the variables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from proxy.cli.client_environment import prepare, proxy_url_option
from proxy.cli.options import ConfiguredCommand, json_option, takes_configuration
from proxy.cli.recognition import describe_stranger, listens
from proxy.cli.terminal import say, write_json
from proxy.client_setup.shells import Shell, format_variables

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
    help="Who reads them; what is meant for sh is good for bash, zsh and fish.",
)
@proxy_url_option
@json_option
def env(config: Source | None, shell: str, proxy_url: str | None, as_json: bool) -> None:
    """Print the variables that make programs use the proxy and trust its CA.

    Use it as: eval "$(apim-auth-proxy env)". In fish the same; in PowerShell: apim-auth-proxy env --shell powershell |
    Out-String | Invoke-Expression.

    Without a configuration, they are for a proxy at 127.0.0.1:8080 with the CA in the default state directory. A file with
    the system's roots and the proxy's CA is written into the state directory, because some programs replace their roots by
    what such a variable names.
    """
    environment = prepare(config, proxy_url)
    if config is None:
        _warn_of_stranger(environment)
    if as_json:
        write_json({variable.name: variable.value for variable in environment.variables})
    else:
        sys.stdout.write(format_variables(environment.variables, Shell(shell)))


def _warn_of_stranger(environment: ClientEnvironment) -> None:
    """Compare the CA with what the proxy shows, where neither comes from a configuration."""
    address = environment.address
    if address is None or not listens(address):
        return
    stranger = describe_stranger(address, environment.hosts, environment.trusted, are_routed=False)
    if stranger is not None:
        say(f"Warning: what listens at {environment.proxy_url} is {stranger}. Programs will not trust it with this CA.")
