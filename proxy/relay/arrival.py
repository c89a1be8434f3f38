"""A connection before its first request: what new connections on listeners and intercepted tunnels have in common. Does I/O."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from proxy.relay.recording import refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.client import ClientConnection
    from proxy.relay.entry import Entry
    from proxy.relay.seats import Seat
    from proxy.relay.secure import SecureTransport
    from proxy.relay.state import Relay

TLS_HANDSHAKE: Final = 0x16  # RFC 8446 §5.1: ContentType handshake


class Arrival(asyncio.Protocol):
    """Holds a connection in `Relay.tunnel_ends` until a `ClientConnection` takes its place, or it is refused or lost.

    Attributes:
        deadline: monotonic seconds by which the connection must have got to requests.
        seat: of the connection that the client opened; None until it is open.
    """

    __slots__ = ("_entry", "_peer", "_relay", "_transport", "deadline", "seat")

    _transport: asyncio.Transport

    def __init__(self, relay: Relay, entry: Entry, peer: str, seat: Seat | None, deadline: float) -> None:
        self._relay = relay
        self._entry = entry
        self._peer = peer
        self.seat = seat
        self.deadline = deadline

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Let go: the client went away."""
        self._leave()

    def pause_writing(self) -> None:
        """Do nothing: only a short answer of the proxy's own is ever written here."""

    def resume_writing(self) -> None:
        """Do nothing."""

    def redirect(self, change: Callable[[Entry], Entry]) -> None:
        """Replace the entry by the one that a new configuration has for it."""
        self._entry = change(self._entry)

    def dismiss(self) -> None:
        """End a connection that its listener would not accept any more."""
        self.abort()

    def abort(self) -> None:
        """Cut the connection."""
        self._relay.tunnel_ends.discard(self)
        self._transport.abort()

    def on_deadline(self) -> None:
        """Give up on a connection that does not get to a request."""
        self.abort()

    def _begin_tls(self, secure: SecureTransport, data: bytes) -> None:
        """Put TLS between the transport and this protocol; `data` is what the client has sent of its handshake."""
        self._transport.set_protocol(secure)
        secure.connection_made(self._transport)
        secure.data_received(data)

    def _give_way(self, connection: ClientConnection, transport: asyncio.Transport) -> None:
        """Let requests come: put the client connection in this one's place."""
        self._relay.tunnel_ends.discard(self)
        transport.set_protocol(connection)
        connection.connection_made(transport)

    def _leave(self) -> None:
        self._relay.tunnel_ends.discard(self)
        if self.seat is not None:
            self.seat.leave()

    def _record(
        self,
        outcome: str,
        code: str,
        asked: tuple[bytes, str, bytes] = (b"", "", b""),
        *,
        status: int = 0,
        route: str = "",
        client_name: str = "",
    ) -> None:
        """Count and record that the connection ends here; `asked` is method, authority and path as far as they are known."""
        relay = self._relay
        relay.counters.count_error(outcome)
        if relay.observe is not None:
            method, authority, target = asked
            relay.observe(
                refused(
                    ended_at=relay.wall_offset + time.monotonic(),
                    client=self._peer,
                    mode=self._entry.mode,
                    method=method,
                    authority=authority,
                    target=target,
                    status=status,
                    outcome=outcome,
                    code=code,
                    route=route,
                    client_name=client_name,
                )
            )
