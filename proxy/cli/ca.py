"""`ca show`, `ca export`: the CA that clients must trust for https URLs. Reads the state directory; makes a first CA."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxy.cli.options import json_option, optional_config_option
from proxy.cli.terminal import say, write_json, write_rows
from proxy.config.loading import load_settings
from proxy.doctor.credentials import days_left
from proxy.errors import ConfigurationError
from proxy.interception.authority import decide_reissue
from proxy.interception.store import load, load_next, load_or_create, trusted_pem
from proxy.server import routed_hosts

if TYPE_CHECKING:
    from proxy.interception.authority import InterceptionCA


@click.group()
def ca() -> None:
    """Show or export the CA that clients must trust for https URLs.

    A client that uses http URLs needs no CA: the proxy sends such requests on over TLS all the same.
    """


@ca.command()
@optional_config_option
@json_option
def show(config: Path | None, as_json: bool) -> None:
    """Show what the CA may sign for, its fingerprint, how long it lasts and why it was issued.

    With --config, a first CA is made where there is none. Without, the default state directory is looked into.
    """
    now = datetime.now(UTC)
    directory, current, outdated = _open(config, now)
    prepared = load_next(directory)
    constraints = current.constraints
    may_sign_for = [*sorted(constraints.domains), *sorted(map(str, constraints.addresses))]
    if as_json:
        write_json(
            {
                "file": str(directory / "ca.pem"),
                "subject": current.anchor.subject.rfc4514_string(),
                "sha256": current.fingerprint,
                "not_after": current.not_after.isoformat(),
                "days_left": days_left(current.not_after, now),
                "may_sign_for": may_sign_for,
                "reason": current.reason,
                "replaces": current.replaces or None,
                "outdated": outdated,
                "next_sha256": prepared.fingerprint if prepared is not None else None,
            }
        )
    else:
        write_rows(
            [
                ("file", str(directory / "ca.pem")),
                ("subject", current.anchor.subject.rfc4514_string()),
                ("SHA-256 fingerprint", current.fingerprint),
                ("valid until", f"{current.not_after:%Y-%m-%d} ({days_left(current.not_after, now)} days left)"),
                ("may sign for", f"{', '.join(may_sign_for)}, and names below them; a verifier refuses all others"),
                ("issued", current.reason),
                ("replaces", current.replaces),
                ("next, prepared", prepared.fingerprint if prepared is not None else ""),
            ]
        )
    _say_outdated(outdated)


@ca.command()
@optional_config_option
def export(config: Path | None) -> None:
    """Write the certificates that clients are to trust to stdout, as PEM; never a key.

    With --config, a first CA is made where there is none, so that it can be trusted before the first run.
    """
    directory, _, outdated = _open(config, datetime.now(UTC))
    sys.stdout.write(trusted_pem(directory).decode("ascii"))
    _say_outdated(outdated)


def _open(config: Path | None, now: datetime) -> tuple[Path, InterceptionCA, str | None]:
    """Return the state directory, the CA in it, and why the next start issues another one, if it does."""
    if config is None:
        directory = default_state_directory()
        found = load(directory)
        if found is None:
            raise click.ClickException(
                f"There is no interception CA in {directory} yet. Name the configuration with --config to make one, "
                "or the one whose state_directory you mean."
            )
        return directory, found, None
    settings = load_settings(config, os.environ)
    hosts = routed_hosts(settings)
    found = load(settings.state_directory)
    if found is None:
        found = load_or_create(settings.state_directory, hosts, now)
    return settings.state_directory, found, decide_reissue(found, hosts, now)


def default_state_directory() -> Path:
    """Return where the CA lives if no configuration says so, as `proxy.config.loading` has it.

    Raises:
        ConfigurationError: the environment does not say.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):  # the XDG base directory specification has relative paths ignored
        home = os.environ.get("HOME")
        if not home:
            raise ConfigurationError(
                "Neither XDG_STATE_HOME nor HOME is set, so there is no default state directory. Name the configuration."
            )
        base = f"{home}/.local/state"
    return Path(base) / "apim-auth-proxy"


def _say_outdated(outdated: str | None) -> None:
    if outdated is not None:
        say(f"Warning: the proxy issues another CA when it next starts: {outdated}. Start it, then look again.")
