"""Whether a file was replaced or rewritten. Looks at files, and opens none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Fingerprint = tuple[tuple[int, int, int] | None, ...]


def read_fingerprint(files: Iterable[Path]) -> Fingerprint:
    """Return what changes when a file is replaced or rewritten: modification time, inode and size; None if it is gone.

    Links are followed, so that a mounted secret whose link is switched has changed.
    """
    fingerprint: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            fingerprint.append(None)
        else:
            fingerprint.append((status.st_mtime_ns, status.st_ino, status.st_size))
    return tuple(fingerprint)


class FileWatch:
    """Notices that files have changed, once they stay the same from one look to the next: what is being written is left alone.

    Args:
        files: looked at. Make the watch before reading them, so that what is written meanwhile is a change.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = tuple(files)
        self._in_use = self._seen = read_fingerprint(self._files)

    def look(self) -> bool:
        """Return whether they have changed and settled."""
        found = read_fingerprint(self._files)
        settled, self._seen = found == self._seen, found
        return settled and found != self._in_use

    def take(self) -> None:
        """Note that they are in use as they were at the last look."""
        self._in_use = self._seen
