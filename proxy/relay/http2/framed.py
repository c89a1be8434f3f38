"""What both ends of HTTP/2 do with their transport: feed the core, and write what it has. Does I/O."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.relay.http2.connection import Connection


class FramedConnection(asyncio.Protocol):
    """A connection whose bytes are frames.

    Attributes:
        core: the protocol; set by who inherits this.
        transport: plain or TLS.
    """

    __slots__ = ("_is_flushing", "core", "transport")

    core: Connection
    transport: asyncio.Transport

    def __init__(self) -> None:
        self._is_flushing = False

    def receive(self, data: bytes) -> bool:
        """Take frames, and write what they make the core say; return whether the connection goes on."""
        self._is_flushing = True
        try:
            self.core.receive(data, monotonic())
        finally:
            self._is_flushing = False
            self.flush()
        return self.core.fault is None

    def flush(self) -> None:
        """Write what there is to be written, as far as the transport takes it."""
        self._is_flushing = False
        while not self.transport.is_closing():
            data = self.core.take()
            if not data:
                return
            self.transport.write(data)

    def flush_soon(self) -> None:
        """Write at the end of this turn of the event loop: once, whatever it brings."""
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def abort(self) -> None:
        """Cut the connection."""
        self.transport.abort()
