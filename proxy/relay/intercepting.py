"""The client's TLS ended here, as its host: in a tunnel to a routed host, and on redirected connections. Does I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.relay.arrival import Arrival
from proxy.relay.entry import FixedEntry
from proxy.relay.handshakes import name_cause
from proxy.relay.secure import SecureTransport

if TYPE_CHECKING:
    import asyncio

    from proxy.relay.client import ClientConnection
    from proxy.relay.entry import Entry
    from proxy.relay.seats import Seat
    from proxy.relay.state import ContextFetcher, Relay


class Interception(Arrival):
    """A connection whose TLS ends here, with a leaf certificate of the CA for the host that it is for."""

    __slots__ = ("_fetched", "_fetched_rsa", "_host")

    def __init__(self, relay: Relay, entry: Entry, peer: str, seat: Seat | None, deadline: float) -> None:
        super().__init__(relay, entry, peer, seat, deadline)
        self._host = ""
        self._fetched = False
        self._fetched_rsa = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let requests come: the TLS handshake is complete."""
        if isinstance(transport, SecureTransport):
            self._give_way(self._make_client(), transport)

    def _make_client(self) -> ClientConnection:
        """Return what takes this one's place."""
        raise NotImplementedError

    def _record_failure(self, outcome: str, code: str) -> None:
        """Count and record that no request came."""
        raise NotImplementedError

    def _intercept(self, host: str, data: bytes) -> None:
        """Begin the TLS handshake; `data` is what the client has sent of it."""
        self._host = host
        relay = self._relay
        context = relay.server_context(host)
        if context is None:
            self._fetch_context(data)
            return
        secure = SecureTransport(context, self, self._on_failed_handshake, server_side=True)
        secure.on_no_match = self._fetch_rsa
        if isinstance(self._entry, FixedEntry):
            self._entry.tls = secure.tls
        relay.tunnel_ends.add(self)
        self._begin_tls(secure, data)

    def _fetch_context(self, data: bytes) -> None:
        """Read nothing more until there is a leaf certificate, or it is clear that there will be none."""
        relay = self._relay
        if self._fetched or relay.fetch_context is None:
            self._record_failure("proxy_internal_error", "NO_CERTIFICATE")
            self._leave()
            self._transport.abort()
            return
        self._fetched = True
        self._await(relay.fetch_context, data, rsa=False)

    def _fetch_rsa(self, data: bytes) -> bool:
        """Begin the handshake again once there is an RSA certificate too; return False if that has been tried."""
        fetch = self._relay.fetch_context
        if self._fetched_rsa or fetch is None:
            return False
        self._fetched_rsa = True
        self._transport.set_protocol(self)
        self._await(fetch, data, rsa=True)
        return True

    def _await(self, fetch: ContextFetcher, data: bytes, *, rsa: bool) -> None:
        transport = self._transport
        self._relay.tunnel_ends.add(self)
        transport.pause_reading()

        def go_on() -> None:
            if not transport.is_closing():
                transport.resume_reading()
                self._intercept(self._host, data)

        fetch(self._host, go_on, rsa=rsa)

    def _on_failed_handshake(self, error: Exception) -> None:
        self._leave()
        self._record_failure("tls_alert_received", name_cause(error))
