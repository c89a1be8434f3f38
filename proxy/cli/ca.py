"""`ca show`, `ca export`, `ca rotate`: the CA that clients must trust for https URLs. Reads and writes the state directory."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from proxy.cli.options import ConfiguredCommand, json_option, takes_configuration
from proxy.cli.terminal import say, write_json, write_rows
from proxy.config.loading import load_settings
from proxy.config.routed_hosts import routed_hosts
from proxy.config.state_directory import require_default_state_directory
from proxy.doctor.findings import days_left
from proxy.interception.organisation import OrganisationCA, load_organisation_ca
from proxy.interception.store import cut_over, drop, load, load_or_create, rotate
from proxy.interception.succession import decide_preparation, decide_take_over

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.source import Source
    from proxy.interception.succession import Succession


@click.group()
def ca() -> None:
    """Show, export, install or rotate the CA that clients must trust for https URLs.

    Clients that use http URLs need no CA: the proxy forwards their requests over TLS all the same.
    """


@dataclass(frozen=True, slots=True)
class OpenedCA:
    """The CA that a command is about.

    Attributes:
        directory: where it lives.
        found: what is there.
        hosts: what has to be signed for: the routed hosts, or without a configuration what the newest CA may sign for.
        due: what the proxy does about it when it next starts, a clause; None for nothing.
    """

    directory: Path
    found: Succession
    hosts: tuple[str, ...]
    due: str | None


@ca.command(cls=ConfiguredCommand, short_help="Show the CA, and what it may sign for.")
@takes_configuration(required=False)
@json_option
def show(config: Source | None, as_json: bool) -> None:
    """Show what the CA may sign for, its fingerprint, when it expires, why it was issued, and how far a rotation is.

    With a configuration, the CA is created if there is none. Without one, the command reads the default state directory.
    """
    now = datetime.now(UTC)
    opened = open_ca(config, now)
    if isinstance(opened, OrganisationCA):
        facts = _describe_own(opened, now)
        if as_json:
            write_json(facts)
        else:
            write_rows([(name.replace("_", " "), str(value)) for name, value in facts.items()])
        return
    if as_json:
        write_json(_describe(opened, now))
    else:
        write_rows(_list_facts(opened, now))
    _say_due(opened)


@ca.command(cls=ConfiguredCommand, short_help="Print the certificates that clients have to trust.")
@takes_configuration(required=False)
def export(config: Source | None) -> None:
    """Write the certificates that clients have to trust to stdout, as PEM. Never writes a key.

    With a configuration, the CA is created if there is none, so that clients can trust it before the first run. During a
    rotation there are several certificates.
    """
    opened = open_ca(config, datetime.now(UTC))
    if isinstance(opened, OrganisationCA):
        sys.stdout.write(opened.trusted_pem().decode("ascii"))
        if opened.root is None:
            say(
                "Note: interception.ca_certificate does not hold the root, so this is the topmost CA that it holds. Clients that "
                "trust your organisation's root need nothing; of the others, not every one takes anything but a root."
            )
        return
    sys.stdout.write(opened.found.trusted_pem().decode("ascii"))
    _say_due(opened)


@ca.command(name="rotate", cls=ConfiguredCommand, short_help="Replace the CA without a failed request.")
@takes_configuration(required=False)
@click.option("--cut-over", "wants_cut_over", is_flag=True, help="Second step: start signing with the new CA.")
@click.option("--now", "at_once", is_flag=True, help="With --cut-over: even if few clients trust the new CA yet.")
@click.option("--drop-old", "wants_drop", is_flag=True, help="Third step, if it is urgent: stop exporting the old CA.")
@json_option
def rotate_command(config: Source | None, wants_cut_over: bool, at_once: bool, wants_drop: bool, as_json: bool) -> None:
    """Replace the CA without a failed request: create the new one, let clients trust both, then sign with the new one.

    1. Run it without options. It creates the new CA; from then on `ca export`, `env`, `exec` and the file ca.pem contain both.
    Install them in every client that uses https URLs.

    2. A week later, run it with --cut-over. The proxy signs with the new CA, and the old key is deleted. A running proxy picks
    this up by itself.

    3. The old certificate is exported for one more week and then dropped. --drop-old drops it at once.

    If the key has leaked, use --cut-over --now --drop-old.
    """
    if at_once and not wants_cut_over:
        raise click.UsageError("--now goes with --cut-over.")
    now = datetime.now(UTC)
    opened = open_ca(config, now)
    if isinstance(opened, OrganisationCA):
        raise click.ClickException(
            "`ca rotate` does not apply: the configuration names your organisation's CA (interception.ca_certificate), and clients "
            f"trust its root. It ends on {opened.not_after:%Y-%m-%d}. Have it renewed and replace the file; a running proxy takes "
            "that up within seconds, and clients need nothing."
        )
    directory, found = opened.directory, opened.found
    if wants_cut_over:
        found = _cut_over(opened, now, at_once=at_once)
    if wants_drop:
        found = drop(directory)
    if not wants_cut_over and not wants_drop:
        found = rotate(directory, opened.hosts, now)
    if as_json:
        write_json(_describe(OpenedCA(directory, found, opened.hosts, None), now))
        return
    write_rows(_list_facts(OpenedCA(directory, found, opened.hosts, None), now))
    say(_next_step(directory, found))


def _cut_over(opened: OpenedCA, now: datetime, *, at_once: bool) -> Succession:
    found = opened.found
    if at_once and not found.prepared:
        found = rotate(opened.directory, opened.hosts, now)
    earliest = found.cut_over_from
    if earliest is None:
        raise click.ClickException(
            "No CA is prepared. Run `ca rotate` first, hand the export to the clients, then cut over; or add --now to have "
            "those fail that do not trust the new one yet."
        )
    if missing := found.newest.constraints.missing(opened.hosts):
        raise click.ClickException(
            f"The prepared CA may not sign for {', '.join(missing)}, routed since. Run `ca rotate` first, without --cut-over."
        )
    if now < earliest and not at_once:
        raise click.ClickException(
            f"The next CA was prepared on {found.newest.made_at:%Y-%m-%d}, and clients have until {earliest:%Y-%m-%d} to trust it. "
            "If all that use https URLs trust it already, add --now."
        )
    return cut_over(opened.directory, now)


def _next_step(directory: Path, found: Succession) -> str:
    if found.cut_over_from is not None:
        return (
            f"Now hand {directory / 'ca.pem'}, as `ca export` prints it, to every client that uses https URLs: it holds the CA in "
            "use and the next one. What is started through `env` or `exec` needs only a new start. From "
            f"{found.cut_over_from:%Y-%m-%d} on: `apim-auth-proxy ca rotate --cut-over`."
        )
    if found.previous:
        return (
            "The new CA signs from now on; a running proxy takes it up within seconds. Clients are told to trust the one before "
            f"until {max(one.until for one in found.previous):%Y-%m-%d}; --drop-old ends that now. Then remove it from the clients."
        )
    return "Only the current CA is exported from now on. Remove the previous one from the clients."


def _state(found: Succession) -> str:
    if found.prepared:
        return "prepared"
    return "taken over" if found.previous else "in use"


def _describe(opened: OpenedCA, now: datetime) -> dict[str, object]:
    found, current = opened.found, opened.found.current
    return {
        "file": str(opened.directory / "ca.pem"),
        "state": _state(found),
        "subject": current.anchor.subject.rfc4514_string(),
        "sha256": current.fingerprint,
        "not_after": current.not_after.isoformat(),
        "days_left": days_left(current.not_after, now),
        "may_sign_for": list(current.constraints.listed()),
        "reason": current.reason,
        "replaces": current.replaces or None,
        "due": opened.due,
        "next_sha256": found.newest.fingerprint if found.prepared else None,
        "next_reason": found.newest.reason if found.prepared else None,
        "next_only": list(found.not_yet_trusted(opened.hosts)),
        "cut_over_from": found.cut_over_from.isoformat() if found.cut_over_from is not None else None,
        "previous": [{"sha256": one.fingerprint, "until": one.until.isoformat()} for one in found.previous],
    }


def _list_facts(opened: OpenedCA, now: datetime) -> list[tuple[str, str]]:
    found, current = opened.found, opened.found.current
    rows = [
        ("file", str(opened.directory / "ca.pem")),
        ("state", _STATES[_state(found)]),
        ("subject", current.anchor.subject.rfc4514_string()),
        ("SHA-256 fingerprint", current.fingerprint),
        ("valid until", f"{current.not_after:%Y-%m-%d} ({days_left(current.not_after, now)} days left)"),
        (
            "may sign for",
            f"{', '.join(current.constraints.listed())}, and names below them; a verifier refuses all others",
        ),
        ("issued", current.reason),
        ("replaces", current.replaces),
    ]
    for prepared in found.prepared:
        rows += [("next", f"{prepared.fingerprint}, valid until {prepared.not_after:%Y-%m-%d}"), ("", prepared.reason)]
    rows.append(("signed by the next", ", ".join(found.not_yet_trusted(opened.hosts))))
    rows += [("before", f"{one.fingerprint}, to be trusted until {one.until:%Y-%m-%d}") for one in found.previous]
    return rows


_STATES = {
    "in use": "in use, no rotation under way",
    "prepared": "rotation: the next CA is prepared; clients are to trust both until `ca rotate --cut-over`",
    "taken over": "rotation: the new CA has taken over; clients are to trust the one before for a few days more",
}


def _describe_own(own: OrganisationCA, now: datetime) -> dict[str, object]:
    return {
        "state": "your organisation's CA (interception.ca_certificate)",
        "subject": own.issuer.subject.rfc4514_string(),
        "sha256": own.fingerprint,
        "issued_by": own.issuer.issuer.rfc4514_string(),
        "not_after": own.not_after.isoformat(),
        "days_left": days_left(own.not_after, now),
        "bounded_by_name_constraints": own.is_bounded,
    }


def open_ca(config: Source | None, now: datetime) -> OpenedCA | OrganisationCA:
    """Return the CA that a configuration has, made where there is none yet; without one, that in the default directory.

    Raises:
        ConfigurationError: the configuration, or a file, cannot be used.
        click.ClickException: there is none yet, and no configuration to make it for.
    """
    if config is None:
        directory = require_default_state_directory(os.environ)
        found = load(directory)
        if found is None:
            raise click.ClickException(
                f"There is no interception CA in {directory} yet. Name the configuration with --config to make one, "
                "or the one whose state_directory you mean."
            )
        say(
            f"Note: there is no configuration here, so this is about the CA in {directory}, the default state directory."
        )
        return OpenedCA(directory, found, found.newest.constraints.listed(), None)
    settings = load_settings(config, os.environ)
    hosts = tuple(routed_hosts(settings))
    own = load_organisation_ca(settings.interception, hosts)
    if own is not None:
        return own
    directory = settings.state_directory
    found = load(directory)
    if found is None:
        found = load_or_create(directory, hosts, now)
    due = decide_preparation(found, hosts, now)
    if decide_take_over(found, now):
        due = f"the one in use ends on {found.not_after:%Y-%m-%d}, and another takes over"
    return OpenedCA(directory, found, hosts, due)


def _say_due(opened: OpenedCA) -> None:
    if opened.due is not None:
        say(f"Warning: the proxy changes this when it next starts or reloads: {opened.due}. Start it, then look again.")
