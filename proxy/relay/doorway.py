"""What a connection passes before its first request, on a listener with TLS or on a Unix socket. Does I/O.

Whoever does not get through costs one seat until `timeouts.head_s`, and no request of theirs is read.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

from proxy.errors import ClientRefused, MalformedRequest, ProxyError, ProxyUsageError
from proxy.policy.access import certificate_names
from proxy.relay.answers import format_answer
from proxy.relay.asked import describe_raw
from proxy.relay.client import ClientConnection
from proxy.relay.diagnosis import refuse_other_protocol
from proxy.relay.handshakes import name_cause
from proxy.relay.recording import refused
from proxy.relay.seats import descriptor_of, peer_user
from proxy.relay.secure import SecureTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.entry import Entry
    from proxy.relay.seats import Seat
    from proxy.relay.state import Relay

_TLS_HANDSHAKE: Final = 0x16  # RFC 8446 §5.1: ContentType handshake


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


class Doorway(asyncio.Protocol):
    """A connection until it is clear that requests may come on it; then a `ClientConnection` takes its place.

    Attributes:
        deadline: monotonic seconds by which the TLS handshake must be complete.
    """

    __slots__ = ("_entry", "_guard", "_peer", "_relay", "_seat", "_transport", "deadline")

    _transport: asyncio.Transport
    _seat: Seat

    def __init__(self, relay: Relay, entry: Entry, guard: Guard) -> None:
        self._relay = relay
        self._entry = entry
        self._guard = guard
        self._peer = "unix"
        self.deadline = inf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look at who connects; called again when the TLS handshake is complete."""
        if isinstance(transport, SecureTransport):
            self._seat.certificate_names = certificate_names(transport.tls.getpeercert())
            self._open(transport)
            return
        self._transport = transport  # type: ignore[assignment]  # stream transports only
        relay = self._relay
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else "unix"
        self._peer = address
        self._seat = relay.seats.take(address)
        self._seat.entry, self._seat.guard = self._entry, self._guard
        relay.tunnel_ends.add(self)
        self.deadline = relay.now + relay.timeouts.head_s
        try:
            relay.seats.check(address, descriptor_of(transport))
            if address == "unix":
                self._check_user()
        except ProxyError as error:
            self._refuse(error)
            return
        if self._guard.context is None:
            self._open(self._transport)

    def data_received(self, data: bytes) -> None:
        """Begins the TLS handshake."""
        if self._transport.is_closing() or self._guard.context is None:
            return
        if data[0] != _TLS_HANDSHAKE:
            usual = ProxyUsageError("This port takes TLS only. Use https:// in the proxy's own URL.")
            other = refuse_other_protocol(data)
            self._refuse(other if other is not None and other.code == "proxy_protocol" else usual, data)
            return
        secure = SecureTransport(self._guard.context, self, self._on_failed_handshake, server_side=True)
        self._transport.set_protocol(secure)
        secure.connection_made(self._transport)
        secure.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Let go: the client went away."""
        self._leave()

    def pause_writing(self) -> None:
        """Nothing is written here but a refusal."""

    def resume_writing(self) -> None:
        """Nothing to resume."""

    @property
    def seat(self) -> Seat | None:
        """Of the connection."""
        return self._seat

    def redirect(self, change: Callable[[Entry], Entry]) -> None:
        """Leads to where the listener leads now."""
        self._entry = change(self._entry)

    def dismiss(self) -> None:
        """End a connection that its listener would not take any more."""
        self.abort()

    def abort(self) -> None:
        """Cuts the connection."""
        self._relay.tunnel_ends.discard(self)
        self._transport.abort()

    def on_deadline(self) -> None:
        """Give up on a handshake that does not get on."""
        self.abort()

    def _check_user(self) -> None:
        connected = self._transport.get_extra_info("socket")
        user = self._seat.user = peer_user(connected) if connected is not None else None
        if user is not None:
            self._peer = f"unix:{user}"
        if self._guard.users and user not in self._guard.users:
            raise ClientRefused(
                f"The user {'unknown' if user is None else user} is not among the listener's `users`.",
                code="user_not_allowed",
            )

    def _open(self, transport: asyncio.Transport) -> None:
        self._relay.tunnel_ends.discard(self)
        connection = ClientConnection(self._relay, self._entry, self._seat)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        connection.peer = self._peer

    def _refuse(self, error: ProxyError, raw: bytes = b"") -> None:
        """Says why, where the client can read it: inside TLS that was never established it cannot.

        Args:
            error: why.
            raw: what the client has sent.
        """
        asked = describe_raw(raw)
        self._record(error.status, error.proxy_status, error.code, asked)
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
        self._record(0, "tls_alert_received", code)

    def _leave(self) -> None:
        self._relay.tunnel_ends.discard(self)
        self._seat.leave()

    def _record(self, status: int, outcome: str, code: str, asked: tuple[bytes, str, bytes] = (b"", "", b"")) -> None:
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
                )
            )
