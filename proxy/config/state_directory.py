"""Where the proxy keeps what it keeps, if no configuration says so. Does no I/O."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping


def default_state_directory(environ: Mapping[str, str]) -> Path | None:
    """Return ``$XDG_STATE_HOME/apim-auth-proxy``, or the same below ``~/.local/state``; None where the environment does not say.

    Source: the XDG base directory specification, which has relative paths ignored.
    """
    base = environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        home = environ.get("HOME")
        if not home:
            return None
        base = f"{home}/.local/state"
    return Path(base) / "apim-auth-proxy"


def require_default_state_directory(environ: Mapping[str, str]) -> Path:
    """Return the same.

    Raises:
        ConfigurationError: the environment does not say.
    """
    directory = default_state_directory(environ)
    if directory is None:
        raise ConfigurationError(
            "Neither XDG_STATE_HOME nor HOME is set, so there is no default state directory. Name the configuration."
        )
    return directory
