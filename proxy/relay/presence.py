"""Tells a client that has only ended sending from one that has gone: both look like FIN. Does I/O.

A program that is killed while it waits sends FIN, and so does one that half-closes and goes on reading (RFC 9112 §9.6). They
differ once something is sent to them: the kernel of the one that has gone answers with a reset, which leaves its mark on the
socket. An HTTP/1.1 client must cope with an interim response at any time before the final one (RFC 9110 §15.2), so one of
those is the question.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

# 100, because clients that know any interim response know this one.
QUESTION: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# Where no question can be asked, the kernel asks: a socket that its program has left dies after a minute on Linux.
_KEEP_ALIVE_S: Final = 10


def watch_presence(transport: asyncio.Transport) -> None:
    """Has the kernel probe the peer of a connection from which FIN has come."""
    connected = transport.get_extra_info("socket")
    if connected is None:
        return
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
            option = getattr(socket, name, None)
            if option is not None:
                connected.setsockopt(socket.IPPROTO_TCP, option, _KEEP_ALIVE_S)


def is_gone(transport: asyncio.Transport) -> bool:
    """Whether a reset has come; an event loop that no longer reads a socket does not see it."""
    connected = transport.get_extra_info("socket")
    if connected is None:
        return False
    try:
        error: int = connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except OSError:
        return True
    return error != 0
