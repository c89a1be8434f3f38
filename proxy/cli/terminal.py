"""How text reaches a person or a program: colour, symbols, width, JSON. Writes to stdout and stderr.

Colour only on a terminal that wants it (https://no-color.org); symbols outside ASCII only where the stream's encoding has them.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

_WIDEST = 100
"""Longer lines are hard to read, however wide the window is."""


@dataclass(frozen=True, slots=True)
class Symbols:
    """Signs for what went well and what did not, and for drawing."""

    tick: str
    cross: str
    arrow: str
    rule: str


_UNICODE = Symbols(tick="✔", cross="✘", arrow="→", rule="─")
_ASCII = Symbols(tick="ok", cross="FAILED", arrow="->", rule="-")


def symbols(stream: TextIO) -> Symbols:
    """Return the signs that a stream can show."""
    try:
        f"{_UNICODE.tick}{_UNICODE.cross}{_UNICODE.arrow}{_UNICODE.rule}".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _ASCII
    return _UNICODE


def wants_colour(stream: TextIO) -> bool:
    """Return whether colour belongs on a stream."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, stream: TextIO, *, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
    """Return the text with colour where that belongs on the stream."""
    if not wants_colour(stream):
        return text
    return click.style(text, fg=fg, bold=bold or None, dim=dim or None)


def width(stream: TextIO) -> int | None:
    """Return the columns of a terminal, no more than can be read; None for what is no terminal."""
    return min(shutil.get_terminal_size().columns, _WIDEST) if stream.isatty() else None


def hang(first: str, text: str, columns: int | None) -> str:
    """Return the text behind a first part, wrapped below itself; one line where there is no width."""
    if columns is None:
        return first + text
    lines = textwrap.wrap(text, max(columns - len(first), 30), break_on_hyphens=False, break_long_words=False) or [""]
    return first + ("\n" + " " * len(first)).join(lines)


def say(text: str) -> None:
    """Write talk to stderr."""
    click.echo(text, err=True)


def silence_logging() -> None:
    """Keep log records of the package off stderr, for commands whose output says the same in whole sentences."""
    logging.getLogger("proxy").addHandler(logging.NullHandler())


def write_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Write labels and values to stdout, aligned; rows without a value are left out."""
    shown = [(label, value) for label, value in rows if value]
    longest = max((len(label) for label, _ in shown), default=0)
    columns = width(sys.stdout)
    for label, value in shown:
        first = f"{label:<{longest}}  "
        click.echo(paint(first, sys.stdout, dim=True) + hang(first, value, columns)[len(first) :])


def write_json(value: object) -> None:
    """Write a value to stdout as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
