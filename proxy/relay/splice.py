"""Blind bytes between two connections: a tunnel after CONNECT, or what follows a 101 response. Does I/O.

Nothing is read into memory beyond what the slower side's write buffer holds: when it is full, the other side is not read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from proxy.relay.reset import reset_connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.shared import Shared
    from proxy.relay.sides import Pipe


# How long the last bytes may wait for a reader that takes nothing, as for any client of the relay.
_FLUSH_S: Final = 30.0


class Side(asyncio.Protocol):
    """One end of a splice: reads from its own transport, writes to the other's.

    Attributes:
        transport: its own.
        other: the other end.
        passed_bytes: read here and written there.
        ended: whether its peer has ended sending.
        is_held: whether it is not read, because the other end does not take what comes of it.
    """

    __slots__ = ("ended", "is_held", "other", "passed_bytes", "splice", "transport")

    other: Side

    def __init__(self, splice: Splice, transport: asyncio.Transport) -> None:
        self.splice = splice
        self.transport = transport
        self.passed_bytes = 0
        self.ended = False
        self.is_held = False

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        self.passed_bytes += len(data)
        self.splice.touch()
        self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Pass a half-close on; once both sides have ended, close."""
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
        """End the other side the way this one ended: closed with closed, cut with cut."""
        if exc is None:
            self.splice.close()
        else:
            self.splice.abort()

    def pause_writing(self) -> None:
        """Back-pressure: stop reading what would be written here."""
        self.other.is_held = True
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """End back-pressure."""
        self.other.is_held = False
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()


def join(relay: Shared, client: Pipe, upstream: Pipe, on_end: Callable[[int, int], None]) -> None:
    """Pass bytes between two sides until either ends.

    Args:
        relay: the process-wide state.
        client: what the client's side has handed over.
        upstream: what the upstream's side has.
        on_end: called once with the bytes that went up and the bytes that came down.
    """
    if upstream.early:
        client.transport.write(upstream.early)
    if client.early:
        upstream.transport.write(client.early)
    splice = Splice(relay, client, upstream, on_end)
    if client.has_ended:
        splice.client.eof_received()


class Splice:
    """Two pipes joined; see `join`."""

    __slots__ = ("_closed", "_is_cut", "_left_bytes", "_on_end", "_pipes", "_relay", "client", "deadline", "upstream")

    def __init__(self, relay: Shared, client: Pipe, upstream: Pipe, on_end: Callable[[int, int], None]) -> None:
        self._relay = relay
        self._on_end = on_end
        self._closed = False
        self._is_cut = False
        self._left_bytes = 0
        self._pipes = (upstream, client)
        self.client = Side(self, client.transport)
        self.upstream = Side(self, upstream.transport)
        self.client.other, self.upstream.other = self.upstream, self.client
        client.transport.set_protocol(self.client)
        upstream.transport.set_protocol(self.upstream)
        relay.splices.add(self)
        self.deadline = 0.0
        self.touch()
        client.transport.resume_reading()
        upstream.transport.resume_reading()

    def touch(self) -> None:
        """Take note that bytes moved."""
        self.deadline = self._relay.now + self._relay.timeouts.tunnel_idle_s

    def on_deadline(self) -> None:
        """End a tunnel that nobody uses; cut one whose bytes nobody takes, which would look complete after FIN."""
        is_stuck = (
            self._waiting_bytes >= self._left_bytes if self._closed else self.client.is_held or self.upstream.is_held
        )
        if is_stuck:
            self.abort()
        else:
            self.close()

    def close(self) -> None:
        """Flush and close both sides; stay watched until all has been taken."""
        if self._is_cut:
            return  # uvloop still counts what will not be written any more
        self.client.transport.close()
        self.upstream.transport.close()
        self._finish()
        self._left_bytes = self._waiting_bytes
        if self._left_bytes:
            self.deadline = self._relay.now + _FLUSH_S
            self._relay.splices.add(self)

    def abort(self) -> None:
        """Cut both sides."""
        self._is_cut = True
        reset_connection(self.client.transport)
        reset_connection(self.upstream.transport)
        self._finish()

    @property
    def _waiting_bytes(self) -> int:
        return self.client.transport.get_write_buffer_size() + self.upstream.transport.get_write_buffer_size()

    def _finish(self) -> None:
        self._relay.splices.discard(self)
        if not self._closed:
            self._closed = True
            for pipe in self._pipes:
                if pipe.on_end is not None:
                    pipe.on_end()
            self._on_end(self.client.passed_bytes, self.upstream.passed_bytes)
