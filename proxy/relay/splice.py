"""Blind bytes between two connections: a tunnel after CONNECT, or what follows a 101 response. Does I/O.

Nothing is read into memory beyond what the slower side's write buffer holds: when it is full, the other side is not read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.relay.abort import abort_visibly

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.relay import Relay


class Side(asyncio.Protocol):
    """One end of a splice: reads from its own transport, writes to the other's.

    Attributes:
        transport: its own.
        other: the other end.
        passed_bytes: read here and written there.
        ended: whether its peer has ended sending.
    """

    __slots__ = ("ended", "other", "passed_bytes", "splice", "transport")

    other: Side

    def __init__(self, splice: Splice, transport: asyncio.Transport) -> None:
        self.splice = splice
        self.transport = transport
        self.passed_bytes = 0
        self.ended = False

    def data_received(self, data: bytes) -> None:
        """Passes bytes on."""
        self.passed_bytes += len(data)
        self.splice.touch()
        self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Passes a half-close on; once both sides have ended, closes."""
        self.ended = True
        if self.other.ended:
            self.splice.close()
            return False
        if not self.other.transport.can_write_eof():
            self.splice.close()
            return False
        self.other.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the other side the way this one ended: closed with closed, cut with cut."""
        if exc is None:
            self.splice.close()
        else:
            self.splice.abort()

    def pause_writing(self) -> None:
        """Back-pressure: stop reading what would be written here."""
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Ends back-pressure."""
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()


class Splice:
    """Two transports joined.

    Args:
        relay: the process-wide state.
        client, upstream: connected transports, plain or TLS.
        on_end: called once with the bytes that went up and the bytes that came down.
    """

    __slots__ = ("_closed", "_on_end", "_relay", "client", "deadline", "upstream")

    def __init__(
        self,
        relay: Relay,
        client: asyncio.Transport,
        upstream: asyncio.Transport,
        on_end: Callable[[int, int], None],
    ) -> None:
        self._relay = relay
        self._on_end = on_end
        self._closed = False
        self.client = Side(self, client)
        self.upstream = Side(self, upstream)
        self.client.other, self.upstream.other = self.upstream, self.client
        client.set_protocol(self.client)
        upstream.set_protocol(self.upstream)
        relay.splices.add(self)
        self.deadline = 0.0
        self.touch()
        for transport in (client, upstream):
            transport.resume_reading()

    def touch(self) -> None:
        """Takes note that bytes moved."""
        self.deadline = self._relay.now + self._relay.timeouts.tunnel_idle_s

    def on_deadline(self) -> None:
        """Ends a tunnel that nobody uses."""
        self.close()

    def close(self) -> None:
        """Flushes and closes both sides."""
        self.client.transport.close()
        self.upstream.transport.close()
        self._finish()

    def abort(self) -> None:
        """Cuts both sides."""
        abort_visibly(self.client.transport)
        abort_visibly(self.upstream.transport)
        self._finish()

    def _finish(self) -> None:
        if not self._closed:
            self._closed = True
            self._relay.splices.discard(self)
            self._on_end(self.client.passed_bytes, self.upstream.passed_bytes)
