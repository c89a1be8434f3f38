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
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"
    CMD = "cmd"
    DOTENV = "dotenv"


def format_variables(variables: Iterable[Variable], shell: Shell) -> str:
    """Return statements that set the variables, one a line; what is meant for `sh` is good for fish, too."""
    return "".join(f"{_format(variable.name, variable.value, shell)}\n" for variable in variables)


def _format(name: str, value: str, shell: Shell) -> str:
    match shell:
        case Shell.SH | Shell.BASH | Shell.ZSH:
            return f"export {name}={quote_sh(value)}"
        case Shell.FISH:
            return f"set -gx {name} {quote_fish(value)}"
        case Shell.POWERSHELL:
            # Braces, because a name may be of lower case letters and underscores.
            return f"${{env:{name}}} = {quote_powershell(value)}"
        case Shell.CMD:
            # In a file of commands a percent sign is doubled; the last quotation mark of the line ends the value.
            doubled = value.replace("%", "%%")
            return f'set "{name}={doubled}"'
        case Shell.DOTENV:
            # `docker run --env-file` takes all behind the first = as it stands, quotes included.
            return f"{name}={value}"


def format_removal(names: Iterable[str], shell: Shell) -> str:
    """Return statements that unset variables, one a line; a file of variables has none for that."""
    return "".join(f"{_format_unset(name, shell)}\n" for name in names)


def _format_unset(name: str, shell: Shell) -> str:
    match shell:
        case Shell.FISH:
            return f"set -e {name}"
        case Shell.POWERSHELL:
            return f"Remove-Item -ErrorAction Ignore 'Env:{name}'"
        case Shell.CMD:
            return f'set "{name}="'
        case _:
            return f"unset {name}"


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
