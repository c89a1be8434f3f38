"""What is wrong with a configuration, where it is written, and how a list of it reads. Does no I/O."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

KeyPath: TypeAlias = tuple[str | int, ...]
"""The way from the top of the document to a value: keys of mappings and indices of lists."""
Finding: TypeAlias = tuple[KeyPath, str]
"""A fault before its line is known: where, and the message."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing the operator has to change.

    Attributes:
        path: where in the document, as ``routes[0].scope``; empty for the document as a whole. Without a document, the option.
        line: where in the file, from 1; 0 where the file could not be read, or there is none.
        message: what is wrong and what to do, one sentence or two, without the value where that may be a secret.
    """

    path: str
    line: int
    message: str


class ConfigurationFaults(ConfigurationError):  # noqa: N818 - it is a list of them
    """A configuration that cannot be used; ``str()`` gives one line a fault, as compilers write them.

    Attributes:
        faults: all that is wrong, in the order of the file.
    """

    def __init__(self, name: str, faults: Iterable[Fault]) -> None:
        # One option may stand for two keys.
        self.faults = sorted(dict.fromkeys(faults), key=lambda fault: fault.line)
        super().__init__("\n".join(_format_fault(name, fault) for fault in self.faults))


def format_key_path(path: KeyPath) -> str:
    """Return the path as people write it: ``credentials.orders.tenant_id``, ``routes[0].hosts[1]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            # As ASCII, so that no key breaks the line or the terminal.
            text += f"[{part!a}]"
    return text


def suggest(word: str, known: Iterable[str]) -> str:
    """Return what is to be said of a word that none of the known ones is: the nearest, or the list of them."""
    choices = sorted(known)
    nearest = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if nearest:
        return f"did you mean '{nearest[0]}'?"
    return f"there are: {', '.join(choices)}" if choices else "there are none"


def as_sentence(text: str) -> str:
    """Return the text with one mark at its end."""
    return text if text.endswith((".", "?", "!", "…")) else f"{text}."


def _format_fault(name: str, fault: Fault) -> str:
    file = name + (f":{fault.line}" if fault.line else "")
    return ": ".join(part for part in (file, fault.path, fault.message) if part)
