"""What signs leaves for a configuration, opened, and the files to watch for another. Does I/O, blocking and short."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.interception.organisation import OrganisationCA, load_organisation_ca
from proxy.interception.store import load_or_create, state_files
from proxy.keys.fingerprint import FileWatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from proxy.config.settings import Settings
    from proxy.interception.signing import Authority


def open_authority(settings: Settings, hosts: Sequence[str], now: datetime) -> Authority:
    """Return what signs, making a CA where there is none, and seeing to what is due.

    Args:
        settings: the configuration: its own intermediate CA counts, if it names one, else what is in the state directory.
        hosts: the routed hosts, without ports.
        now: aware.

    Raises:
        ConfigurationError: it cannot be used.
    """
    own = load_organisation_ca(settings.interception, hosts)
    return own if own is not None else load_or_create(settings.state_directory, hosts, now)


def find_date_problem(authority: Authority, now: datetime) -> str | None:
    """Return why clients refuse what it signs at that moment, where that is due to dates: no fault of the configuration."""
    if isinstance(authority, OrganisationCA):
        return authority.date_problem(now)
    if now < authority.not_after:
        return None
    return (
        f"The interception CA ended on {authority.not_after:%Y-%m-%d}, so clients refuse what it signs; see that the proxy can"
        " write to state_directory, restart it so that another one takes over, and let clients trust that."
    )


def authority_files(settings: Settings) -> list[Path]:
    """Return the files that say what signs."""
    own = settings.interception
    if own.ca_certificate is not None:
        return [file for file in (own.ca_certificate, own.ca_private_key, own.ca_password_file) if file is not None]
    return state_files(settings.state_directory)


class AuthorityWatch:
    """Notices that another CA is to sign, because its files have changed, or that it is time to see what is due.

    Args:
        files: as `authority_files` lists them.
        now_mono: the monotonic clock.
    """

    def __init__(self, files: Sequence[Path], now_mono: float) -> None:
        self._files = FileWatch(files)
        self._looked_at_mono = now_mono

    def is_due(self, now_mono: float) -> bool:
        """Return whether to open the authority again: once for each change that has settled, and once an hour."""
        if not self._files.look() and now_mono - self._looked_at_mono < 3_600:
            return False
        self._files.take()
        self._looked_at_mono = now_mono
        return True
