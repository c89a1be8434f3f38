"""A parsed document: plain values, and where each is written. Does no I/O.

Apart from `proxy.config.document`, so that a command which reads no file does without PyYAML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from proxy.config.faults import Fault, KeyPath, format_key_path

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"


class DocumentError(Exception):
    """The text is not a document that can be looked into any further.

    Attributes:
        fault: the reason, with its line.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.fault = Fault("", line, message)


@dataclass(slots=True)
class Document:
    """A parsed document.

    Attributes:
        root: the values.
        lines: where each value is written, from 1; for an entry of a mapping the line of its key.
        faults: what is wrong with single entries, which `root` leaves out or has as None.
        spoiled: where `root` has None, or something incomplete, for such an entry.
    """

    root: dict[str, Value]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    spoiled: set[KeyPath] = field(default_factory=set)

    def fault(self, path: KeyPath, message: str) -> Fault:
        """Return a fault at a path, with the line of the nearest value around it that is written down."""
        nearest = path
        while nearest not in self.lines and nearest:
            nearest = nearest[:-1]
        return Fault(format_key_path(path), self.lines.get(nearest, 1), message)
