"""The secret of a token endpoint, where `exec` finds it: a file of mode 0600 in the state directory. Reads and writes files.

It is made at each start and kept through reloads. Whoever can read it is the proxy's own user, or root, and can read more than it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

_UNSAFE: Final = re.compile(r"[^0-9A-Za-z.]+")


@dataclass(frozen=True, slots=True)
class IdentityHeader:
    """What a program needs to ask a token endpoint.

    Attributes:
        endpoint: the URL, for IDENTITY_ENDPOINT.
        secret: for IDENTITY_HEADER.
    """

    endpoint: str
    secret: str = field(repr=False)


def header_file(state_directory: Path, address: str) -> Path:
    """Return where the secret of a listener is kept.

    Args:
        state_directory: the configuration's.
        address: the listener's, as configured.
    """
    return state_directory / f"identity-header-{_UNSAFE.sub('_', address)}.json"


def write_header(file: Path, header: IdentityHeader) -> None:
    """Write it, readable by its owner alone, whole from the first moment.

    Raises:
        ConfigurationError: it cannot be written.
    """
    new = file.with_name(f"{file.name}.new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            json.dump({"endpoint": header.endpoint, "secret": header.secret}, stream)
        new.replace(file)
    except OSError as error:
        raise ConfigurationError(
            f"The token endpoint's secret cannot be written to {file} ({error.strerror}), and `exec --token-endpoint` would not "
            "find it. Let the proxy's user write to state_directory."
        ) from None


def read_header(file: Path) -> IdentityHeader | None:
    """Return what the running proxy wrote; None where there is none.

    Raises:
        ConfigurationError: it may not be read, or is no such file.
    """
    try:
        found = json.loads(file.read_text(encoding="ascii"))
        return IdentityHeader(str(found["endpoint"]), str(found["secret"]))
    except FileNotFoundError:
        return None
    except PermissionError:
        raise ConfigurationError(
            f"{file} is for the user that runs the proxy, and for root. Run `exec` as one of them; it may drop to another user in "
            "its command: exec --token-endpoint -- setpriv --reuid=orders --clear-groups PROGRAM."
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{file} cannot be read. Start the proxy anew.") from None


def remove_header(file: Path) -> None:
    """Remove it, as when the proxy ends."""
    with contextlib.suppress(OSError):
        file.unlink()
