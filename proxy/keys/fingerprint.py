"""What changes when a file is replaced or rewritten. Looks at files, and opens none."""

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
