"""`completion`: the script by which a shell completes commands, options, files, codes and hosts. Reads a configuration."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from proxy.cli.options import CONFIG_HERE
from proxy.config.one_route import CONFIG_VARIABLE
from proxy.config.source import STANDARD_INPUT, FileSource
from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.config.settings import Settings

PROGRAM: Final = "apim-auth-proxy"
_VARIABLE: Final = "_APIM_AUTH_PROXY_COMPLETE"
_SHELLS: Final = ("bash", "zsh", "fish")
# A directory of programs may hold thousands; whoever wants one types a letter more.
_MOST: Final = 200


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS), metavar=f"[{'|'.join(_SHELLS)}]")
def completion(shell: str) -> None:
    """Print the script that completes commands and options in a shell.

    \b
    bash  eval "$(apim-auth-proxy completion bash)"         in ~/.bashrc
    zsh   eval "$(apim-auth-proxy completion zsh)"          in ~/.zshrc, after compinit
    fish  apim-auth-proxy completion fish > ~/.config/fish/completions/apim-auth-proxy.fish
    """  # noqa: D301  # it is click's mark for lines that stay as they are
    kind = get_completion_class(shell)
    context = click.get_current_context().find_root()
    if kind is None:  # click has had all three since 8.0
        raise click.ClickException(f"This installation has no completion for {shell}.")
    sys.stdout.write(kind(context.command, {}, PROGRAM, _VARIABLE).source())


def complete_code(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the codes that begin so, each with the beginning of its cause."""
    from proxy.explanations.codes import CODES  # noqa: PLC0415  # for completion only
    from proxy.explanations.statuses import STATUSES  # noqa: PLC0415  # likewise
    from proxy.identity.aadsts import explain, known_codes  # noqa: PLC0415  # likewise

    causes = {
        name: each.cause
        for each in map(explain, known_codes())
        if each is not None
        for name in (each.name, str(each.code))
    }
    causes |= {code: entry.cause for code, entry in (CODES | STATUSES).items() if not code.endswith("_NNN")}
    # Who types a number gets a number.
    return [
        CompletionItem(name, help=cause.partition(".")[0])
        for name, cause in causes.items()
        if incomplete[:1].isdecimal() == name[:1].isdecimal() and name.upper().startswith(incomplete.upper())
    ]


def complete_host(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the routed hosts that begin so; of a wildcard there is none to name."""
    settings = _settings(context)
    hosts = [host for route in settings.routes for host in route.hosts] if settings is not None else []
    return _beginning(incomplete, (host for host in hosts if not host.startswith("*")))


def complete_credential(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of credentials that begin so."""
    settings = _settings(context)
    return _beginning(incomplete, settings.credentials if settings is not None else ())


def complete_program(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the programs that begin so for the first word of a command line, and files for what follows."""
    if context.params.get("command") or os.sep in incomplete:
        return [CompletionItem(incomplete, type="file")]
    found: set[str] = set()
    for place in filter(None, os.environ.get("PATH", "").split(os.pathsep)):
        try:
            names = [entry.name for entry in os.scandir(place) if entry.name.startswith(incomplete)]
        except OSError:
            continue
        found.update(name for name in names[:_MOST] if shutil.which(name, path=place))
    return [CompletionItem(name) for name in sorted(found)[:_MOST]]


def _settings(context: click.Context) -> Settings | None:
    """Return the configuration in a file that is meant so far; None where there is none that can be used."""
    named = context.params.get("config") or os.environ.get(CONFIG_VARIABLE) or str(CONFIG_HERE)
    if named == STANDARD_INPUT:
        return None
    from proxy.config.loading import load_settings  # noqa: PLC0415  # for completion only

    try:
        return load_settings(FileSource(Path(named).expanduser()), os.environ, check_files=False)
    except (ConfigurationError, RuntimeError):  # RuntimeError: ~ stands for nothing
        return None


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
