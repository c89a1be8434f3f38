"""One end of the socket pair between control and a relay process. Does I/O."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from proxy.workers.messages import BrokenFrames, FrameReader, Message, format_frame

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

logger = logging.getLogger("proxy.workers")

# Two of the largest frames; what is usual is a few hundred bytes. A process that leaves this much unread does not read at all.
_UNREAD_BYTES: Final = 8_388_608

_Incoming = TypeVar("_Incoming")


class Channel(asyncio.Protocol, Generic[_Incoming]):
    """Sends messages, and hands over those that arrive.

    Args:
        decoder: of the other side's messages.
        on_message: called with each.
        on_closed: called once when the other side is gone, or has sent what it never would.
    """

    def __init__(
        self,
        decoder: msgspec.json.Decoder[_Incoming],
        on_message: Callable[[_Incoming], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._decoder = decoder
        self._on_message = on_message
        self._on_closed = on_closed
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None

    async def open(self, end: socket.socket) -> None:
        """Take over one end of a socket pair."""
        await asyncio.get_running_loop().create_connection(lambda: self, sock=end)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Is ready to send."""
        self._transport = transport  # type: ignore[assignment]  # a socket pair gives a full transport

    def data_received(self, data: bytes) -> None:
        """Take frames."""
        try:
            for frame in self._frames.feed(data):
                self._on_message(self._decoder.decode(frame))
        except (BrokenFrames, msgspec.DecodeError):
            logger.error("a message between the proxy's processes could not be read; the process is replaced")  # noqa: TRY400
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Take note that the other side is gone."""
        self._transport = None
        self._on_closed()

    def send(self, message: Message) -> bool:
        """Send a message; one to a process that is gone is dropped.

        Returns:
            False where the other process is so far behind with reading that the message was not taken.
        """
        if self._transport is not None:
            if self._transport.get_write_buffer_size() > _UNREAD_BYTES:
                return False
            self._transport.write(format_frame(message))
        return True

    def close(self) -> None:
        """Close this end."""
        if self._transport is not None:
            self._transport.close()
