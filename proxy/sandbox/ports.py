"""Ports of loopback: ones to listen on, and ones that are still there at the next start. Opens sockets."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket

from proxy.sandbox.settings import SandboxError

BACKLOG = 1_024
# Below those that kernels give to connections and to port 0 (32768 on Linux, 49152 elsewhere, RFC 6335 §6).
_LASTING = range(12_000, 20_000)


def lasting_ports(count: int) -> list[int]:
    """Return ports for a sandbox that is to have them again at its next start, when any other might be a connection's."""
    found: list[int] = []
    with contextlib.ExitStack() as sockets:
        for port in secrets.SystemRandom().sample(_LASTING, len(_LASTING)):
            if len(found) == count:
                break
            with contextlib.suppress(SandboxError):
                sockets.enter_context(bind(port))
                found.append(port)
    return found


def bind(port: int) -> socket.socket:
    """Return a socket that has a port and does not listen: connections are refused, and nobody else gets it.

    Raises:
        SandboxError: it is taken.
    """
    bound = socket.socket()
    try:
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
    except OSError as error:
        bound.close()
        raise _taken(port, error) from error
    return bound


def listen(port: int) -> socket.socket:
    """Return a socket that listens on a port; 0 is any free one.

    Raises:
        SandboxError: it is taken.
    """
    bound = bind(port)
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise _taken(port, error) from error
    return bound


def _taken(port: int, error: OSError) -> SandboxError:
    return SandboxError(f"Port {port} on 127.0.0.1 cannot be listened on ({error.strerror}).")
