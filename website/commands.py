"""The page of every command, from the command line itself. Imports the commands; does no other I/O."""

from __future__ import annotations

import inspect
from typing import Final

import click

from proxy.cli.options import ConfiguredCommand
from proxy.config.one_route import ROUTE_OPTIONS
from website.listing import list_commands
from website.since import UNRELEASED, since

_INTRODUCTION: Final = """\
# Commands

Every command, with every argument and option. `apim-auth-proxy COMMAND --help` prints the same text in your terminal.

Results go to stdout and messages to stderr, so you can pipe the output of any command. Commands whose output a program may
read have `--json`. For the codes that commands exit with, see [exit codes](exit-codes.md).
"""
_WITHOUT_FILE: Final = """\

## Options instead of a file

`run`, `check`, `explain`, `token`, `env`, `exec`, `wait` and `ca` accept these options in place of `--config`. Each option is also
an environment variable. Use them for [a configuration of one route](../operating.md#without-a-file).

| option | variable | meaning |
|---|---|---|
"""


def format_commands() -> str:
    """Return the page."""
    parts = [_INTRODUCTION, *(_format(name, command) for name, command in list_commands()), _WITHOUT_FILE]
    for option in ROUTE_OPTIONS:
        flag = "none: other users can see options" if option.is_secret else f"`{option.option}`"
        parts.append(_row(flag, f"`{option.variable}`", _prose(option.text)))
    return "".join(parts)


def _format(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join(["apim-auth-proxy", name, *command.collect_usage_pieces(context)])
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    takes_route = isinstance(command, ConfiguredCommand)
    skipped = {"--help", *(option.option for option in ROUTE_OPTIONS if takes_route)}
    rows = [
        _row(
            f"`{'`, `'.join([*parameter.opts, *parameter.secondary_opts])}`{_value(parameter)}",
            _explain(parameter) + _news(f"{name} {parameter.opts[0]}", name),
        )
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden and not skipped & {*parameter.opts}
    ]
    table = "\n| option | meaning |\n|---|---|\n" + "".join(rows) if rows else ""
    more = "\nIt also accepts the [options instead of a file](#options-instead-of-a-file).\n" if takes_route else ""
    first = f"New in {UNRELEASED}.\n\n" if since(name) == UNRELEASED else f"Since {since(name)}.\n\n"
    return f"\n## `{name}`\n\n{first}```text\n{usage}\n```\n\n{_paragraphs(text)}\n{table}{more}"


def _paragraphs(text: str) -> str:
    """Set off lines that are indented or keep their breaks, as click's help has them, as code."""
    blocks = []
    for block in text.split("\n\n"):
        example, is_example, call = block.partition("Example: ")
        blocks.append(f"{_prose(example)}Example:\n\n```text\n{call}\n```" if is_example else _prose(block))
    return "\n\n".join(blocks)


def _prose(text: str) -> str:
    """Keep what looks like markup from being markup."""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("|", "\\|")


def _value(option: click.Option) -> str:
    if option.is_flag or option.count:
        return ""
    return f" {option.make_metavar(click.Context(click.Command('')))}".replace("|", "\\|")


def _explain(option: click.Option) -> str:
    record = option.get_help_record(click.Context(click.Command("")))
    return _prose(record[1] if record is not None else "")


def _news(option: str, command: str) -> str:
    """Say since when there is an option, where it is newer than its command."""
    return "" if since(option) == since(command) else f" *New in {since(option)}.*"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |\n"
