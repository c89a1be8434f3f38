"""Which release first had a key, a command or an option: website/since has the names of each release. Reads that directory.

`python -m website.since VERSION` writes the names that no release has yet, when one is made.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from website.listing import list_commands, list_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY: Final = Path(__file__).parent / "since"
UNRELEASED: Final = "the next release"


@cache
def releases() -> dict[str, str]:
    """Return the release of each name."""
    found: dict[str, str] = {}
    for file in sorted(DIRECTORY.glob("*.txt"), key=lambda file: [int(part) for part in file.stem.split(".")]):
        for name in file.read_text(encoding="utf-8").splitlines():
            found.setdefault(name, file.stem)
    return found


def since(name: str) -> str:
    """Return the first release that has a name."""
    return releases().get(name, UNRELEASED)


def list_names() -> Iterator[str]:
    """Yield the name of every key, command and option."""
    yield from list_keys()
    for name, command in list_commands():
        yield name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield from (f"{name} {option}" for option in (*parameter.opts, *parameter.secondary_opts))


def main(version: str) -> None:
    """Write the names that are new in a release."""
    new = [name for name in dict.fromkeys(list_names()) if name not in releases()]
    (DIRECTORY / f"{version}.txt").write_text("".join(f"{name}\n" for name in new), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
