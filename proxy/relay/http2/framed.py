"""What both ends of HTTP/2 do with their transport: feed the core, and write what it has. Does I/O."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.relay.http2.connection import Connection

# One read can bring 29,000 frames that carry nothing. What is behind so many waits for a later turn of the event loop, so that
# others have theirs; bulk has far fewer in a read.
_FRAMES_AT_ONCE: Final = 256


class FramedConnection(asyncio.Protocol):
    """A connection whose bytes are frames.

    Attributes:
        core: the protocol; set by who inherits this.
        transport: plain or TLS.
    """

    __slots__ = ("_is_behind", "_is_deaf", "_is_flushing", "core", "transport")

    core: Connection
    transport: asyncio.Transport

    def __init__(self) -> None:
        self._is_flushing = False
        # Why nothing is read: frames wait to be looked at; the other side does not take what is written.
        self._is_behind = False
        self._is_deaf = False

    def receive(self, data: bytes) -> bool:
        """Take frames, and write what they make the core say; return whether the connection goes on."""
        self._is_flushing = True
        try:
            self.core.receive(data, monotonic(), _FRAMES_AT_ONCE)
        finally:
            self._is_flushing = False
            self.flush()
        if self.core.is_behind and not self._is_behind:
            self._is_behind = True
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._catch_up)
        return self.core.fault is None

    def _catch_up(self) -> None:
        self._is_behind = False
        if not self.transport.is_closing():
            self.data_received(b"")
            self._read_on()

    def catch_up(self) -> None:
        """Take all frames that have come: nothing follows."""
        while self.core.is_behind:
            self.core.receive(b"", monotonic(), _FRAMES_AT_ONCE)

    def stop_reading(self) -> None:
        """Read nothing while the other side does not take what is written."""
        self._is_deaf = True
        self.transport.pause_reading()

    def go_on_reading(self) -> None:
        """Read on."""
        if self._is_deaf:
            self._is_deaf = False
            self._read_on()

    def _read_on(self) -> None:
        if not (self._is_behind or self._is_deaf or self.transport.is_closing()):
            self.transport.resume_reading()

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
