"""Variables as shells and other readers of such files want them, each value quoted. Pure: does no I/O."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.client_setup.variables import Variable


class Shell(StrEnum):
    """Who reads the variables."""

    SH = "sh"
    FISH = "fish"
    POWERSHELL = "powershell"
    DOTENV = "dotenv"


def format_variables(variables: Iterable[Variable], shell: Shell) -> str:
    """Return statements that set the variables, one a line; what is meant for `sh` is good for fish, too."""
    return "".join(f"{_format(variable.name, variable.value, shell)}\n" for variable in variables)


def _format(name: str, value: str, shell: Shell) -> str:
    match shell:
        case Shell.SH:
            return f"export {name}={quote_sh(value)}"
        case Shell.FISH:
            return f"set -gx {name} {quote_fish(value)}"
        case Shell.POWERSHELL:
            # Braces, because a name may be of lower case letters and underscores.
            return f"${{env:{name}}} = {quote_powershell(value)}"
        case Shell.DOTENV:
            return f"{name}={_quote_dotenv(value)}"


def quote_sh(value: str) -> str:
    """Return a word of a POSIX shell: nothing is special in single quotes but the quote itself."""
    return "'" + value.replace("'", "'\\''") + "'"


def quote_powershell(value: str) -> str:
    """Return a string of PowerShell: within single quotes, only a quote is special, and is doubled (about_Quoting_Rules)."""
    doubled = value.replace("'", "''")
    return f"'{doubled}'"


def quote_fish(value: str) -> str:
    """Return a word of fish, which knows two escapes in single quotes."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _quote_dotenv(value: str) -> str:
    # `docker --env-file` takes quotes literally, others cut at blanks: quoted only where that is a must.
    if not any(character in value for character in " #'\"\\$"):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'
