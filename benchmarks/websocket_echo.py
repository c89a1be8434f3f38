"""A WebSocket server that echoes the load's frames, behind the nginx upstream. Does I/O.

It understands what `client.py` sends and no more: binary frames of one length, masked with zero.

Usage: python -m benchmarks.websocket_echo PORT
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import sys
from typing import Final

import uvloop

from benchmarks.client import ECHOED, FRAME

_KEY: Final = re.compile(rb"\r\nsec-websocket-key: *(\S+)", re.IGNORECASE)
_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3


class Echo(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._received = b""
        self._upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # TCP only

    def data_received(self, data: bytes) -> None:
        """Answers the opening handshake, then each whole frame."""
        self._received += data
        if not self._upgraded:
            if b"\r\n\r\n" not in self._received:
                return
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            key = _KEY.search(head)
            if key is None:
                self._transport.close()
                return
            accept = base64.b64encode(hashlib.sha1(key[1] + _MAGIC, usedforsecurity=False).digest())
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
            )
            self._upgraded = True
        whole = len(self._received) // len(FRAME)
        if whole:
            self._received = self._received[whole * len(FRAME) :]
            self._transport.write(ECHOED * whole)


async def _serve(port: int) -> None:
    await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
