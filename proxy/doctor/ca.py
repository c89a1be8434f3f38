"""Whether the interception CA is there, fits the routes and lasts. Reads the state directory and leaves nothing in it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.doctor.findings import days_left, error, ok, warning
from proxy.errors import ConfigurationError
from proxy.interception.organisation import load_organisation_ca
from proxy.interception.store import load
from proxy.interception.succession import decide_preparation, decide_take_over

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from proxy.config.settings import Settings
    from proxy.doctor.findings import Finding
    from proxy.interception.succession import Succession

_SUBJECT: Final = "interception CA"
# Every client has to be told of a new one, which takes longer than uploading a certificate in one place.
_WARN_DAYS: Final = 60
_EXPORT: Final = "`apim-auth-proxy ca export --config FILE`"


def check_interception(settings: Settings, hosts: Sequence[str], now: datetime) -> Iterator[Finding]:
    """Yield what there is to say about what signs inside of tunnels: the organisation's own CA where there is one, else ours."""
    if settings.interception.ca_certificate is None:
        yield from check_ca(settings.state_directory, hosts, now)
        return
    try:
        own = load_organisation_ca(settings.interception, hosts)
    except ConfigurationError as problem:
        yield error(_SUBJECT, problem.detail)
        return
    if own is None:
        return
    days = days_left(own.not_after, now)
    yield ok(
        _SUBJECT,
        f"Your organisation's, SHA-256 fingerprint {own.fingerprint}; it may sign for the routed hosts.",
        fingerprint=own.fingerprint,
        file=str(settings.interception.ca_certificate),
    )
    if not own.is_bounded:
        yield warning(
            _SUBJECT,
            "It has no name constraints, so anyone who steals its key can pose as any host to everyone who trusts your root.",
            "Have one issued with critical nameConstraints that permit only the routed hosts.",
        )
    date_problem = own.date_problem(now)
    if date_problem is not None:
        yield error(_SUBJECT, date_problem)
    elif days <= _WARN_DAYS:
        yield warning(
            _SUBJECT,
            f"It, or a CA above it, ends on {own.not_after:%Y-%m-%d}, in {days} days.",
            "Have it renewed and replace the file; a running proxy takes that up, and clients need nothing.",
            days_left=days,
        )


def check_ca(state_directory: Path, hosts: Sequence[str], now: datetime) -> Iterator[Finding]:
    """Yield what there is to say about the interception CA.

    Args:
        state_directory: where it lives.
        hosts: the routed hosts, without ports.
        now: aware.
    """
    try:
        found = load(state_directory)
        due = decide_preparation(found, hosts, now) if found is not None else None
    except ConfigurationError as problem:
        yield error(_SUBJECT, problem.detail)
        return
    if found is None:
        yield _judge_place(state_directory)
        return
    yield ok(
        _SUBJECT,
        f"SHA-256 fingerprint {found.current.fingerprint}, {state_directory / 'ca.pem'}.",
        fingerprint=found.current.fingerprint,
        file=str(state_directory / "ca.pem"),
    )
    days = days_left(found.not_after, now)
    if decide_take_over(found, now):
        yield warning(
            _SUBJECT,
            f"It ends on {found.not_after:%Y-%m-%d}, so another one takes over when the proxy starts.",
            f"Start it, then have clients that use https URLs trust the new one: {_EXPORT}.",
            days_left=days,
        )
        return
    if found.prepared:
        yield _judge_rotation(found, hosts, days)
    if due is not None:
        yield warning(
            _SUBJECT,
            f"The proxy adds another one when it starts or reloads: {due}.",
            f"Start it, then have clients that use https URLs trust it, too: {_EXPORT}.",
            days_left=days,
        )
    elif not found.prepared and days <= _WARN_DAYS:
        yield warning(
            _SUBJECT,
            f"It ends on {found.not_after:%Y-%m-%d}, in {days} days.",
            "Begin to replace it: `apim-auth-proxy ca rotate --config FILE` makes the next one, and clients trust both meanwhile.",
            days_left=days,
        )
    elif not found.prepared:
        yield ok(
            _SUBJECT,
            f"It may sign for the routed hosts, until {found.not_after:%Y-%m-%d}, {days} days from now.",
            days_left=days,
        )


def _judge_rotation(found: Succession, hosts: Sequence[str], days: int) -> Finding:
    waiting = found.not_yet_trusted(hosts)
    needed = f" It signs for {', '.join(waiting)} already, which the one in use may not." if waiting else ""
    return warning(
        _SUBJECT,
        f"A rotation is under way: the next CA is prepared, SHA-256 fingerprint {found.newest.fingerprint}.{needed}",
        f"Have clients that use https URLs trust it, too: {_EXPORT}. Once they do: `apim-auth-proxy ca rotate --cut-over`.",
        days_left=days,
        next_fingerprint=found.newest.fingerprint,
    )


def _can_make_directory(place: Path) -> bool:
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return False
    # Root has access to places where nobody can make anything, such as /proc.
    try:
        Path(tempfile.mkdtemp(dir=place)).rmdir()
    except OSError:
        return False
    return True


def _judge_place(state_directory: Path) -> Finding:
    nearest = state_directory
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not _can_make_directory(nearest):
        return error(
            _SUBJECT,
            f"There is none yet, and this user cannot make one in {state_directory}: {nearest} is not a directory it can write to.",
            "Let state_directory name a directory that the proxy's user can write to.",
        )
    return ok(
        _SUBJECT,
        f"There is none yet; the first start makes it in {state_directory}, as does `apim-auth-proxy ca show --config FILE`.",
    )
