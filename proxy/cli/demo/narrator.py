"""The demo's text: 80 columns, steps numbered, what held and what did not. Writes to one stream."""

from __future__ import annotations

import shlex
import textwrap
from typing import TYPE_CHECKING, Final, TextIO

from proxy.cli.terminal import paint, symbols

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_COLUMNS: Final = 80
_INDENT: Final = "   "


class Narrator:
    """Tells what happens.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._symbols = symbols(stream)
        self._scene = 0

    def title(self, text: str) -> None:
        """Begin."""
        self._write(paint(text, self._stream, bold=True))
        self._write(self._symbols.rule * _COLUMNS)

    def picture(self, lines: str) -> None:
        """Show a drawing as it is."""
        self._write("")
        for line in lines.splitlines():
            self._write(_INDENT + line)

    def scene(self, title: str) -> None:
        """Begin the next step."""
        self._scene += 1
        self._write("")
        self._write(paint(f"{self._scene}  {title}", self._stream, bold=True))

    def heading(self, title: str) -> None:
        """Begin a part that is no step."""
        self._write("")
        self._write(paint(title, self._stream, bold=True))

    def tell(self, text: str) -> None:
        """Write a paragraph."""
        for line in textwrap.wrap(text, _COLUMNS - len(_INDENT), break_long_words=False, break_on_hyphens=False):
            self._write(_INDENT + line)

    def command(self, words: Sequence[str]) -> None:
        """Show a command as one would type it; its first words may set variables."""
        quoted = [_quote(word) for word in words]
        lines, first = [""], "$ "
        for word in quoted:
            if lines[-1] and len(_INDENT) + 4 + len(lines[-1]) + len(word) + 3 > _COLUMNS:
                lines.append("")
            lines[-1] += f" {word}" if lines[-1] else word
        self._write("")
        for index, line in enumerate(lines):
            tail = " \\" if index < len(lines) - 1 else ""
            self._write(_INDENT + paint(f"{first if index == 0 else '    '}{line}{tail}", self._stream, fg="cyan"))

    def response(self, status: int, content: str) -> None:
        """Show a response: its status code, and the beginning of its content."""
        colour = "green" if 200 <= status < 300 else "red"
        lines = textwrap.wrap(content, _COLUMNS - len(_INDENT) - 5, break_on_hyphens=False) or [""]
        self._write(f"{_INDENT}{paint(str(status), self._stream, fg=colour, bold=True)}  {lines[0]}")
        for line in lines[1:4]:
            self._write(f"{_INDENT}     {line}")

    def rows(self, rows: Iterable[tuple[str, str]], title: str = "") -> None:
        """Show labels and values, aligned, under a title if there is one."""
        shown = list(rows)
        longest = max((len(label) for label, _ in shown), default=0)
        self._write("")
        if title:
            self._write(f"{_INDENT}{title}")
        for label, value in shown:
            lines = _fold(value, _COLUMNS - len(_INDENT) - longest - 4)
            for index, line in enumerate(lines):
                name = f"{label if index == 0 else '':<{longest}}"
                self._write(f"{_INDENT}  {paint(name, self._stream, dim=True)}  {line}")

    def held(self, text: str) -> None:
        """Say that something is as it should be."""
        self._mark(self._symbols.tick, "green", text)

    def failed(self, text: str) -> None:
        """Say that something is not as it should be."""
        self._mark(self._symbols.cross, "red", text)

    def plain(self, lines: Iterable[str]) -> None:
        """Show lines as they are."""
        for line in lines:
            self._write(f"{_INDENT}  {line}")

    def _mark(self, mark: str, colour: str, text: str) -> None:
        margin = len(_INDENT) + len(mark) + 1
        lines = textwrap.wrap(text, _COLUMNS - margin, break_long_words=False, break_on_hyphens=False) or [""]
        self._write(f"{_INDENT}{paint(mark, self._stream, fg=colour, bold=True)} {lines[0]}")
        for line in lines[1:]:
            self._write(" " * margin + line)

    def _write(self, line: str) -> None:
        print(line.rstrip(), file=self._stream, flush=True)


def _quote(word: str) -> str:
    """Return a word as one types it: variables are set and named outside single quotes."""
    name, equals, value = word.partition("=")
    if equals and name.replace("_", "").isalpha() and shlex.quote(value) == value:
        return word
    return f'"{word}"' if "$" in word else shlex.quote(word)


def _fold(text: str, columns: int) -> list[str]:
    """Return the text in lines; what has no blanks, such as a URL, breaks after a slash."""
    lines = []
    for line in textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False) or [""]:
        rest = line
        while len(rest) > columns and (cut := rest.rfind("/", 0, columns) + 1):
            lines.append(rest[:cut])
            rest = rest[cut:]
        lines.append(rest)
    return lines
