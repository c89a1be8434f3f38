"""`client add`: an entry for `clients` with a password's hash. Reads stdin at most; writes to stdout and stderr."""

from __future__ import annotations

import json
import secrets
import sys
from typing import Any, Final

import click

from proxy.cli.options import json_option
from proxy.cli.terminal import say, write_json
from proxy.config.validation import judge
from proxy.config.values import ClientName, NetworkText
from proxy.policy.passwords import SALT_BYTES, hash_password

# 144 bits: no program guesses it, whatever the hash costs.
_PASSWORD_BYTES: Final = 18
# Shorter ones can be guessed from a stolen hash; NIST SP 800-63B §3.1.1.2 asks for as many where a password stands alone.
_SHORTEST: Final = 15
_LONGEST_BYTES: Final = 512


@click.group()
def client() -> None:
    """Manage the clients that can use the proxy."""


@client.command(short_help="Print an entry for `clients` with a password.")
@click.argument("name")
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="CIDR",
    help="Network that the client connects from. May be repeated.",
)
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin instead of generating one.")
@json_option
def add(name: str, networks: tuple[str, ...], password_stdin: bool, as_json: bool) -> None:
    """Print an entry for `clients` in the configuration, with a password hash.

    The entry goes to stdout. A generated password goes to stderr, once; it is stored nowhere.
    """
    _check(ClientName, name, "NAME")
    for network in networks:
        _check(NetworkText, network, "--network")
    password = _read_password() if password_stdin else secrets.token_urlsafe(_PASSWORD_BYTES)
    hashed = hash_password(password.encode(), secrets.token_bytes(SALT_BYTES))
    if as_json:
        entry = {"name": name, "networks": list(networks), "password_hash": str(hashed)}
        write_json(entry if password_stdin else {**entry, "password": password})
        return
    lines = [f"  - name: {json.dumps(name)}"]
    if networks:
        lines.append(f"    networks: {json.dumps(networks)}")
    lines.append(f"    password_hash: {hashed}")
    click.echo("\n".join(lines))
    if not password_stdin:
        say(f"The password of {name}, which is not shown again: {password}")
    say("Put the lines above under `clients:` in the configuration.")
    say(f"The client then uses the proxy as http://{name}:PASSWORD@HOST:PORT; with `tls` on the listener, as https://.")


def _read_password() -> str:
    password = sys.stdin.readline(_LONGEST_BYTES + 2).rstrip("\r\n")
    if len(password) < _SHORTEST:
        raise click.UsageError(
            f"The password has {len(password)} characters. Use {_SHORTEST} or more, or leave out --password-stdin to get one."
        )
    if len(password.encode()) > _LONGEST_BYTES or not password.isprintable():
        raise click.UsageError("The password is too long, or has a control character that no client could send.")
    return password


def _check(kind: Any, value: str, option: str) -> None:  # noqa: ANN401  # an annotated type is no class
    try:
        judge(kind, value)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
