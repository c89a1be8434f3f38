"""A port for a test that has to name one before anything listens there. Opens and closes a socket."""

from __future__ import annotations

import random
import socket
from typing import Final

# Below what kernels give to connections and to port 0 (32768 on Linux, 49152 elsewhere, RFC 6335 §6), since several test
# processes ask for those all the time and one of them would get the port in the meantime. Above usual services.
_PORTS: Final = range(20_000, 32_000)


def free_port() -> int:
    """Returns a port of 127.0.0.1 that was free just now, and that nobody gets who does not ask for it."""
    chance = random.SystemRandom()  # not `random` itself, which Hypothesis seeds alike in every process
    while True:
        port = chance.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
