"""Every command and every key there is. Imports the commands; does no other I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from proxy.cli import group
from proxy.config.descriptions import make_schema, properties

if TYPE_CHECKING:
    from collections.abc import Iterator


def list_commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, as it is typed: ``ca trust``."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", command.commands[inner]) for inner in command.commands)
        elif command is not None:
            yield name, command


def list_keys() -> list[str]:
    """Return the path of every key."""
    return [path for path, _, _ in properties(make_schema())]
