"""`init --transparent`: rules for nftables that lead connections to this machine's transparent listener, and the way back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click

from proxy.cli.terminal import say, write_json
from proxy.client_setup.redirection import WAY_BACK, Redirection, format_rules
from proxy.config.addresses import parse_listen_address
from proxy.config.loading import load_settings
from proxy.config.settings import ListenerMode
from proxy.errors import ConfigurationError

try:
    import pwd
except ImportError:  # Windows has no such users
    pwd = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path

_PORT: Final = 8085


def print_rules(
    config_file: Path, listen: str | None, proxy_user: str | None, inside: str | None, *, as_json: bool
) -> None:
    """Print the rules for this machine to stdout, and to stderr what to do with them.

    Args:
        config_file: tells the listener's port, where it is there.
        listen: the transparent listener's address, in place of that.
        proxy_user: whom the proxy runs as, by name or number.
        inside: the interface that other machines' connections come in by, for a gateway.
        as_json: print one object instead.
    """
    port = _find_port(config_file) if listen is None else _parse_port(listen)
    user = None if inside is not None else _settle_user(proxy_user)
    if inside is not None and (not inside.isprintable() or not 0 < len(inside) < 16 or set(inside) & set(' "/\\')):
        raise click.UsageError("--inside is the name of a network interface, as `ip link` shows it, such as eth1.")
    rules = format_rules(Redirection(port, user, inside))
    if as_json:
        write_json({"rules": rules, "port": port, "user": user, "inside": inside, "way_back": WAY_BACK})
        return
    click.echo(rules, nl=False)
    again = "apim-auth-proxy init --transparent " + (f"--inside {inside}" if inside else f"--proxy-user {user}")
    say(f"To apply these rules until the next boot: {again} | sudo nft --file -")
    say(f"The way back: sudo {WAY_BACK}")
    say(
        "Then run `apim-auth-proxy check` as the proxy's user: it finds out whether the proxy's own connections are left alone."
    )


def _find_port(config_file: Path) -> int:
    """Return the port of the first transparent listener, or what the documents use."""
    if not config_file.exists():
        return _PORT
    try:
        settings = load_settings(config_file, os.environ, check_files=False)
    except ConfigurationError:
        raise click.ClickException(
            f"{config_file} cannot be used: run apim-auth-proxy check. Or give the listener's address with --listen."
        ) from None
    for listener in settings.listeners:
        if listener.mode is ListenerMode.TRANSPARENT:
            return _fixed(parse_listen_address(listener.address).port)
    raise click.ClickException(
        f"{config_file} has no transparent listener. Add `- address: 127.0.0.1:{_PORT}` with `mode: transparent` to listeners, "
        "or give its address with --listen."
    )


def _parse_port(listen: str) -> int:
    try:
        return _fixed(parse_listen_address(listen).port)
    except ConfigurationError as error:
        raise click.UsageError(f"--listen: {error.detail}.") from None


def _fixed(port: int) -> int:
    if port == 0:
        raise click.UsageError(
            "Rules need a port that stays the same; the transparent listener has port 0 or is a socket."
        )
    return port


def _settle_user(given: str | None) -> str:
    """Return the user whose connections are left alone, by name or number."""
    if pwd is None:
        raise click.ClickException("Only Linux redirects connections to a listener.")
    if given is None:
        if os.geteuid() == 0:
            raise click.UsageError(
                "Which user does the proxy run as? Give --proxy-user, such as apim-auth-proxy for the systemd unit, or 65532 for "
                "the container image. It must be a user of its own: what it sends is not redirected."
            )
        return str(os.geteuid())
    if given.isascii() and given.isdigit():
        return str(int(given))
    try:
        return str(pwd.getpwnam(given).pw_uid)
    except KeyError:
        raise click.UsageError(f"This machine has no user {given}. Give --proxy-user as a name or a number.") from None
