"""What a log says when the product, and not one of its neighbours, is at fault: in this process, and in the output of a program."""

from __future__ import annotations

import contextlib
import logging
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# The top of a task names the exception's type only, because its text could hold a secret.
_SIGNS: Final = re.compile(
    r"Traceback \(most recent call last\)|never retrieved|never awaited|[Tt]he proxy made a mistake"
    r"| failed: \w*(?:Error|Exception)\b"
)


def find_own_faults(lines: Iterable[str]) -> list[str]:
    """Returns the lines of a log that tell of a fault of the product's own."""
    return [line for line in lines if _SIGNS.search(line)]


# The loggers that the product's own code writes to: its own, the event loop's and aiohttp's. Neighbours of a test have others.
_OURS: Final = ("proxy", "asyncio", "aiohttp")
# What asyncio.start_server says when the task of one of its connections is cancelled. The product never calls that; tests do.
_STREAM_SERVER: Final = "StreamReaderProtocol.connection_made.<locals>.callback"


class _Collecting(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._formatter = logging.Formatter("%(name)s: %(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] not in _OURS:
            return
        text = self._formatter.format(record)
        if _STREAM_SERVER in text:
            return
        if find_own_faults([text]):
            self.found.append(text)


@contextlib.contextmanager
def listening_for_own_faults() -> Iterator[list[str]]:
    """Yields a list that grows by what this process logs of its own faults."""
    handler = _Collecting()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield handler.found
    finally:
        root.removeHandler(handler)
