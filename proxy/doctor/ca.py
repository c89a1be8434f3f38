"""Whether the interception CA is there, fits the routes and lasts. Reads the state directory and writes nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from proxy.doctor.credentials import days_left
from proxy.doctor.findings import error, ok, warning
from proxy.errors import ConfigurationError
from proxy.interception.authority import decide_reissue
from proxy.interception.store import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from proxy.doctor.findings import Finding

_SUBJECT: Final = "interception CA"
# Every client has to be told of a new one, which takes longer than uploading a certificate in one place.
_WARN_DAYS: Final = 60


def check_ca(state_directory: Path, hosts: Sequence[str], now: datetime) -> Iterator[Finding]:
    """Yield what there is to say about the interception CA.

    Args:
        state_directory: where it lives.
        hosts: the routed hosts, without ports.
        now: aware.
    """
    try:
        ca = load(state_directory)
        reason = decide_reissue(ca, hosts, now) if ca is not None else None
    except ConfigurationError as problem:
        yield error(_SUBJECT, problem.detail)
        return
    if ca is None:
        yield _judge_place(state_directory)
        return
    yield ok(
        _SUBJECT,
        f"SHA-256 fingerprint {ca.fingerprint}, {state_directory / 'ca.pem'}.",
        fingerprint=ca.fingerprint,
        file=str(state_directory / "ca.pem"),
    )
    days = days_left(ca.not_after, now)
    if reason is not None:
        yield warning(
            _SUBJECT,
            f"The proxy issues a new one when it starts: {reason}.",
            "Start it, then have clients that use https URLs trust the new one: `apim-auth-proxy ca export --config FILE`.",
            days_left=days,
        )
    elif days <= _WARN_DAYS:
        yield warning(
            _SUBJECT,
            f"It ends on {ca.not_after:%Y-%m-%d}, in {days} days; a new one is issued a week before.",
            "Plan how the clients that use https URLs come to trust the new one.",
            days_left=days,
        )
    else:
        yield ok(
            _SUBJECT,
            f"It may sign for the routed hosts, until {ca.not_after:%Y-%m-%d}, {days} days from now.",
            days_left=days,
        )


def _judge_place(state_directory: Path) -> Finding:
    nearest = state_directory
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return error(
            _SUBJECT,
            f"There is none yet, and this user cannot make one in {state_directory}: {nearest} is not a directory it may write to.",
            "Let state_directory name a directory that the proxy's user can write to.",
        )
    return ok(
        _SUBJECT,
        f"There is none yet; the first start makes it in {state_directory}, as does `apim-auth-proxy ca show --config FILE`.",
    )
