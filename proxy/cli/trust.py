"""`ca trust`: how to trust the interception CA on each platform, or doing it. With --install, writes to the system's store."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificates

from proxy.cli.ca import ca, open_ca
from proxy.cli.options import ConfiguredCommand, json_option, takes_configuration
from proxy.cli.terminal import say, write_json
from proxy.client_setup.trust_stores import (
    INSTALLABLE,
    Platform,
    detect_platform,
    format_instructions,
    install,
)
from proxy.errors import ConfigurationError
from proxy.interception.organisation import OrganisationCA

if TYPE_CHECKING:
    from proxy.config.source import Source

_OWN_FILE = Path("organisation-ca.pem")

__all__ = ["ca"]


@ca.command(cls=ConfiguredCommand, short_help="Say how to trust the CA, or install it.")
@takes_configuration(required=False)
@click.option(
    "--platform", type=click.Choice([each.value for each in Platform]), help="Show only this platform. Default: all."
)
@click.option(
    "--install",
    "wants_install",
    is_flag=True,
    help="Install it, as root, on Debian, Red Hat, Alpine and related systems.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("/"),
    metavar="DIR",
    help="With --install: root directory of another system, such as an image being built.",
)
@json_option
def trust(config: Source | None, platform: str | None, wants_install: bool, root: Path, as_json: bool) -> None:
    """Say how to trust the CA on each platform, or install it with --install.

    A machine that trusts the CA trusts it for the routed hosts only, because of its name constraints. Programs started with
    `exec`, or in a shell set up with `env`, need none of this.
    """
    opened = open_ca(config, datetime.now(UTC))
    is_own = isinstance(opened, OrganisationCA)
    anchors = opened.trusted_pem() if isinstance(opened, OrganisationCA) else opened.found.trusted_pem()
    # Not the file of the configuration itself, which may hold the key.
    file = _OWN_FILE if isinstance(opened, OrganisationCA) else opened.directory / "ca.pem"
    fingerprints = [one.fingerprint(SHA256()).hex(":").upper() for one in load_pem_x509_certificates(anchors)]
    if wants_install:
        wanted = Platform(platform) if platform else _detect(root)
        if wanted not in INSTALLABLE:
            raise click.UsageError(
                "--install works on Debian, Red Hat, Alpine and related systems; on others, follow the instructions."
            )
        target = install(wanted, anchors, root)
        if as_json:
            write_json({"installed": str(target), "platform": wanted.value, "sha256": fingerprints[0]})
        else:
            say(f"Installed: {target}, SHA-256 {' and '.join(fingerprints)}")
        return
    shown = [Platform(platform)] if platform else list(Platform)
    instructions = {each.value: format_instructions(each, str(file)) for each in shown}
    if as_json:
        write_json(
            {name: {"for": title, "commands": text.splitlines()} for name, (title, text) in instructions.items()}
        )
        return
    for title, text in instructions.values():
        click.echo(f"# {title}\n{text}\n")
    if is_own:
        say(
            f"First: apim-auth-proxy ca export --config FILE > {shlex.quote(str(file))}. A machine that trusts your organisation's "
            "root needs none of it."
        )
    if len(fingerprints) > 1:
        say(
            f"There is a rotation under way: {file} holds {len(fingerprints)} certificates. What takes one certificate a file, "
            "such as keytool, needs each in a file of its own."
        )
    say(
        f"The CA is {file}, SHA-256 {' and '.join(fingerprints)}. Without any of this: `apim-auth-proxy exec -- PROGRAM`."
    )


def _detect(root: Path) -> Platform:
    try:
        found = detect_platform((root / "etc/os-release").read_text(encoding="utf-8"))
    except OSError:
        found = None
    if found is None:
        raise ConfigurationError(
            "--install does not know this system. Name a related one with --platform, or install the CA by hand."
        )
    return found
