"""Cutting a connection so that the peer cannot take the cut for a proper end. Does I/O."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


def reset_connection(transport: asyncio.Transport) -> None:
    """Close with RST instead of FIN.

    A response that is delimited by the connection's end (RFC 9112 §6.3) would look complete after a FIN.
    """
    connected = transport.get_extra_info("socket")
    # Also where it is closing already: without, what the kernel has would go out, and then a FIN.
    if connected is not None and connected.fileno() >= 0:
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    transport.abort()
