"""Check a new connection on a listener with TLS or on a Unix socket, before its first request is read. Does I/O.

A client that does not pass takes one seat until `timeouts.head_s`, and no request of it is read.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from proxy.errors import ClientRefused, MalformedRequest, ProxyError, ProxyUsageError
from proxy.policy.access import certificate_names
from proxy.relay.answers import format_answer
from proxy.relay.arrival import TLS_HANDSHAKE, Arrival
from proxy.relay.asked import describe_raw
from proxy.relay.client import ClientConnection
from proxy.relay.diagnosis import refuse_other_protocol
from proxy.relay.handshakes import name_cause
from proxy.relay.seats import descriptor_of, peer_user
from proxy.relay.secure import SecureTransport

if TYPE_CHECKING:
    import asyncio

    from proxy.relay.entry import Entry
    from proxy.relay.seats import Seat
    from proxy.relay.state import Relay


@dataclass(frozen=True, slots=True)
class Guard:
    """What a listener asks of those who connect.

    Attributes:
        context: ends the clients' TLS; None: they speak plain HTTP.
        users: numeric Unix users who may connect; empty: whoever can.
        client_cas: the certificates of `client_ca`, as they stand in the file; empty: clients need none.
    """

    context: ssl.SSLContext | None = None
    users: frozenset[int] = frozenset()
    client_cas: frozenset[bytes] = frozenset()

    def still_takes(self, seat: Seat) -> bool:
        """Whether who has come in already, by this guard or an earlier one, has shown all that this one asks.

        A certificate counts as long as every CA is still there that it could have been verified by.
        """
        earlier = seat.guard or Guard()
        if (self.context is None) != (earlier.context is None):
            return False
        if bool(self.client_cas) != bool(earlier.client_cas) or not earlier.client_cas <= self.client_cas:
            return False
        return not self.users or seat.user in self.users


class Doorway(Arrival):
    """A new connection on a listener, until its TLS handshake is complete or its Unix user is accepted."""

    __slots__ = ("_guard",)

    def __init__(self, relay: Relay, entry: Entry, guard: Guard) -> None:
        super().__init__(relay, entry, "unix", None, inf)
        self._guard = guard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look at who connects; called again when the TLS handshake is complete."""
        if isinstance(transport, SecureTransport):
            if self.seat is not None:
                self.seat.certificate_names = certificate_names(transport.tls.getpeercert())
            self._open(transport)
            return
        self._transport = transport  # type: ignore[assignment]  # stream transports only
        relay = self._relay
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else "unix"
        self._peer = address
        seat = self.seat = relay.seats.take(address)
        seat.entry, seat.guard = self._entry, self._guard
        relay.tunnel_ends.add(self)
        self.deadline = relay.now + relay.timeouts.head_s
        try:
            relay.seats.check(address, descriptor_of(transport))
            if address == "unix":
                self._check_user(seat)
        except ProxyError as error:
            self._refuse(error)
            return
        if self._guard.context is None:
            self._open(self._transport)

    def data_received(self, data: bytes) -> None:
        """Begin the TLS handshake."""
        if self._transport.is_closing() or self._guard.context is None:
            return
        if data[0] != TLS_HANDSHAKE:
            usual = ProxyUsageError("This port takes TLS only. Use https:// in the proxy's own URL.")
            other = refuse_other_protocol(data)
            self._refuse(other if other is not None and other.code == "proxy_protocol" else usual, data)
            return
        secure = SecureTransport(self._guard.context, self, self._on_failed_handshake, server_side=True)
        self._begin_tls(secure, data)

    def _check_user(self, seat: Seat) -> None:
        connected = self._transport.get_extra_info("socket")
        user = seat.user = peer_user(connected) if connected is not None else None
        if user is not None:
            self._peer = f"unix:{user}"
        if self._guard.users and user not in self._guard.users:
            raise ClientRefused(
                f"The user {'unknown' if user is None else user} is not among the listener's `users`.",
                code="user_not_allowed",
            )

    def _open(self, transport: asyncio.Transport) -> None:
        connection = ClientConnection(self._relay, self._entry, self.seat)
        self._give_way(connection, transport)
        connection.peer = self._peer

    def _refuse(self, error: ProxyError, raw: bytes = b"") -> None:
        """Say why, if the client can read it: without a complete TLS handshake it cannot.

        Args:
            error: why.
            raw: what the client has sent.
        """
        asked = describe_raw(raw)
        self._record(error.proxy_status, error.code, asked, status=error.status)
        if self._guard.context is None or isinstance(error, ProxyUsageError | MalformedRequest):
            self._transport.write(format_answer(error, with_content=asked[0] != b"HEAD", close=True))
            self._transport.close()
        else:
            self._transport.abort()

    def _on_failed_handshake(self, error: Exception) -> None:
        self._leave()
        reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
        code = name_cause(error)
        if code == "TLS_HANDSHAKE_FAILED" and "CERTIFICATE" in reason:
            code = "NO_CLIENT_CERTIFICATE"
        self._record("tls_alert_received", code)
