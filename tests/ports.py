"""Ports for tests that have to name one before anything listens there. Opens and closes sockets, holds locks on files.

Invariant: no port is given twice, neither by one test process nor by several.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Below what kernels give to connections and to port 0 (32768 on Linux, 49152 elsewhere, RFC 6335 §6), since several test
# processes ask for those all the time and one of them would get the port in the meantime. Above usual services.
_PORTS: Final = range(20_000, 32_000)
# A process has one block after another to itself, by a lock that ends with the process.
_BLOCK: Final = 100
_LOCKS: Final = Path(tempfile.gettempdir()) / f"apim-auth-proxy-test-ports-{os.getuid()}"


def _our_ports() -> Iterator[int]:
    """Yields each port of blocks that no other process has."""
    _LOCKS.mkdir(exist_ok=True)
    starts = list(_PORTS[::_BLOCK])
    random.SystemRandom().shuffle(starts)  # not `random` itself, which Hypothesis seeds alike in every process
    for start in starts:
        lock = os.open(_LOCKS / str(start), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            yield from range(start, start + _BLOCK)


_ours: Final = _our_ports()


def free_port() -> int:
    """Returns a port of 127.0.0.1 that was free just now, and that nobody gets who does not ask for it."""
    for port in _ours:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise RuntimeError("Test processes have taken every port there is for tests.")
