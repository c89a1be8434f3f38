"""A connection before its first request: new on a listener, or what a client sends into an intercepted tunnel. Does I/O.

The first byte and the TLS handshake tell what follows, and `Arrival._open` puts the connection that reads requests in this one's
place. A client that does not get there counts as one connection until `timeouts.head_s`, and no request of it is read.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from math import inf
from typing import TYPE_CHECKING, Final

from proxy.errors import ClientRefused, MalformedRequest, ProxyError, ProxyUsageError
from proxy.policy.access import certificate_names
from proxy.relay.accepted_connection import descriptor_of, peer_user
from proxy.relay.answers import format_answer
from proxy.relay.asked import describe_raw
from proxy.relay.client import ClientConnection
from proxy.relay.destination_rule import FixedRule
from proxy.relay.diagnosis import refuse_other_protocol
from proxy.relay.handshakes import name_cause
from proxy.relay.recording import refused
from proxy.relay.secure import SecureTransport
from proxy.relay.versions import has_agreed_on_http2, make_http2_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.accepted_connection import AcceptedConnection
    from proxy.relay.destination_rule import DestinationRule
    from proxy.relay.gate import RoutedTunnel
    from proxy.relay.listener_policy import ListenerPolicy
    from proxy.relay.sender import Sender
    from proxy.relay.sides import Pipe
    from proxy.relay.state import ContextFetcher, Relay

TLS_HANDSHAKE: Final = 0x16  # RFC 8446 §5.1: ContentType handshake


def accept(relay: Relay, rule: DestinationRule, policy: ListenerPolicy | None = None) -> asyncio.Protocol:
    """Return the protocol of a new connection on a listener.

    Args:
        relay: the process-wide state.
        rule: how requests on the listener name their destination.
        policy: what the listener asks of who connects; None: nothing, and nothing can be told.
    """
    if policy is None:
        return ClientConnection(relay, rule, intercept=intercept)
    return ListenerArrival(relay, rule, policy)


def intercept(relay: Relay, pipe: Pipe, sender: Sender, tunnel: RoutedTunnel) -> None:
    """Take over a connection whose CONNECT has been answered: its tunnel ends here."""
    TunnelArrival(relay, pipe, sender, tunnel).take_over(pipe.early)


class Arrival(asyncio.Protocol):
    """Holds a connection in `Relay.arrivals` until one that reads requests takes its place, or it is refused or lost.

    Attributes:
        deadline: monotonic seconds by which the connection must have got to requests.
        accepted: the connection that the client opened; None until it is open.
    """

    __slots__ = ("_peer", "_relay", "_rule", "_transport", "accepted", "deadline")

    _transport: asyncio.Transport

    def __init__(
        self, relay: Relay, rule: DestinationRule, peer: str, accepted: AcceptedConnection | None, deadline: float
    ) -> None:
        self._relay = relay
        self._rule = rule
        self._peer = peer
        self.accepted = accepted
        self.deadline = deadline

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Let go: the client went away."""
        self._leave()

    def pause_writing(self) -> None:
        """Do nothing: only a short answer of the proxy's own is ever written here."""

    def resume_writing(self) -> None:
        """Do nothing."""

    def redirect(self, change: Callable[[DestinationRule], DestinationRule]) -> None:
        """Replace the rule by the one that a new configuration has for it."""
        self._rule = change(self._rule)

    def dismiss(self) -> None:
        """End a connection that its listener would not accept any more."""
        self.abort()

    def abort(self) -> None:
        """Cut the connection."""
        self._relay.arrivals.discard(self)
        self._transport.abort()

    def on_deadline(self) -> None:
        """Give up on a connection that does not get to a request."""
        self.abort()

    def _begin_tls(self, secure: SecureTransport, data: bytes) -> None:
        """Put TLS between the transport and this protocol; `data` is what the client has sent of its handshake."""
        self._transport.set_protocol(secure)
        secure.connection_made(self._transport)
        secure.data_received(data)

    def _open(self, transport: asyncio.Transport, data: bytes = b"") -> None:
        """Let requests come, over the version of HTTP that TLS has agreed on.

        Args:
            transport: plain, or TLS whose handshake is complete.
            data: what has been read of the first request.
        """
        if has_agreed_on_http2(transport):
            self._open_http2(transport)
            return
        self._relay.arrivals.discard(self)
        connection = ClientConnection(self._relay, self._rule, self.accepted, intercept=intercept)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        connection.peer = self._peer
        if data:
            connection.data_received(data)

    def _open_http2(self, transport: asyncio.Transport) -> None:
        if not self._rule.takes_http2:
            self._leave()
            self._record("tls_alert_received", "HTTP_2_ONLY")
            transport.abort()
            return
        self._relay.arrivals.discard(self)
        connection = make_http2_client(self._relay, self._rule, self.accepted, self._peer)
        transport.set_protocol(connection)
        connection.connection_made(transport)

    def _leave(self) -> None:
        self._relay.arrivals.discard(self)
        if self.accepted is not None:
            self.accepted.leave()

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
                    mode=self._rule.mode,
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


class ListenerArrival(Arrival):
    """A new connection on a listener, until its TLS handshake is complete or its Unix user is accepted."""

    __slots__ = ("_policy",)

    def __init__(self, relay: Relay, rule: DestinationRule, policy: ListenerPolicy) -> None:
        super().__init__(relay, rule, "unix", None, inf)
        self._policy = policy

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look at who connects; called again when the TLS handshake is complete."""
        if isinstance(transport, SecureTransport):
            if self.accepted is not None:
                self.accepted.certificate_names = certificate_names(transport.tls.getpeercert())
            self._open(transport)
            return
        self._transport = transport  # type: ignore[assignment]  # stream transports only
        relay = self._relay
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else "unix"
        self._peer = address
        accepted = self.accepted = relay.accepted_connections.add(address)
        accepted.rule, accepted.policy = self._rule, self._policy
        relay.arrivals.add(self)
        self.deadline = relay.now + relay.timeouts.head_s
        try:
            relay.accepted_connections.check(address, descriptor_of(transport))
            if address == "unix":
                self._check_user(accepted)
        except ProxyError as error:
            self._refuse(error)
            return
        if self._policy.context is None:
            self._open(self._transport)

    def data_received(self, data: bytes) -> None:
        """Begin the TLS handshake."""
        if self._transport.is_closing() or self._policy.context is None:
            return
        if data[0] != TLS_HANDSHAKE:
            usual = ProxyUsageError("This port takes TLS only. Use https:// in the proxy's own URL.")
            other = refuse_other_protocol(data)
            self._refuse(other if other is not None and other.code == "proxy_protocol" else usual, data)
            return
        secure = SecureTransport(self._policy.context, self, self._on_failed_handshake, server_side=True)
        self._begin_tls(secure, data)

    def _check_user(self, accepted: AcceptedConnection) -> None:
        connected = self._transport.get_extra_info("socket")
        user = accepted.user = peer_user(connected) if connected is not None else None
        if user is not None:
            self._peer = f"unix:{user}"
        if self._policy.users and user not in self._policy.users:
            raise ClientRefused(
                f"The user {'unknown' if user is None else user} is not among the listener's `users`.",
                code="user_not_allowed",
            )

    def _refuse(self, error: ProxyError, raw: bytes = b"") -> None:
        """Say why, if the client can read it: without a complete TLS handshake it cannot.

        Args:
            error: why.
            raw: what the client has sent.
        """
        asked = describe_raw(raw)
        self._record(error.proxy_status, error.code, asked, status=error.status)
        if self._policy.context is None or isinstance(error, ProxyUsageError | MalformedRequest):
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


class InterceptedArrival(Arrival):
    """A connection whose TLS ends here, with a leaf certificate of the CA for the host that it is for."""

    __slots__ = ("_fetched", "_fetched_rsa", "_host")

    def __init__(
        self, relay: Relay, rule: DestinationRule, peer: str, accepted: AcceptedConnection | None, deadline: float
    ) -> None:
        super().__init__(relay, rule, peer, accepted, deadline)
        self._host = ""
        self._fetched = False
        self._fetched_rsa = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let requests come: the TLS handshake is complete."""
        if isinstance(transport, SecureTransport):
            self._open(transport)

    def _record_failure(self, outcome: str, code: str) -> None:
        """Count and record that no request came."""
        raise NotImplementedError

    def _start_handshake(self, host: str, data: bytes) -> None:
        """Begin the TLS handshake; `data` is what the client has sent of it."""
        self._host = host
        relay = self._relay
        context = relay.server_context(host)
        if context is None:
            self._fetch_context(data)
            return
        secure = SecureTransport(context, self, self._on_failed_handshake, server_side=True)
        secure.on_no_match = self._fetch_rsa
        if isinstance(self._rule, FixedRule):
            self._rule.tls = secure.tls
        relay.arrivals.add(self)
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
        self._relay.arrivals.add(self)
        transport.pause_reading()

        def go_on() -> None:
            if not transport.is_closing():
                transport.resume_reading()
                self._start_handshake(self._host, data)

        fetch(self._host, go_on, rsa=rsa)

    def _on_failed_handshake(self, error: Exception) -> None:
        self._leave()
        self._record_failure("tls_alert_received", name_cause(error))


class TunnelArrival(InterceptedArrival):
    """The inside of a tunnel to a routed host: its first byte tells whether TLS or plain HTTP follows.

    Some clients send plain HTTP through a tunnel as well. Anything else is refused.
    """

    __slots__ = ("_authority", "_client_name", "_route")

    def __init__(self, relay: Relay, pipe: Pipe, sender: Sender, tunnel: RoutedTunnel) -> None:
        rule = FixedRule(tunnel.destination, tunnel.authority, "connect", takes_http2=tunnel.takes_http2)
        super().__init__(relay, rule, sender.peer, sender.accepted, relay.now + relay.timeouts.head_s)
        self._transport = pipe.transport
        self._authority = tunnel.authority
        self._route = tunnel.destination.route
        self._client_name = sender.name

    def take_over(self, data: bytes) -> None:
        """Put itself in the place of the client connection; `data` is what has been read behind CONNECT."""
        self._relay.arrivals.add(self)
        self._transport.set_protocol(self)
        if data:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        """Take the first bytes."""
        self._relay.arrivals.discard(self)
        if data[0] == TLS_HANDSHAKE and self._authority.port != 80:
            self._start_handshake(self._authority.host, data)
        elif 0x41 <= data[0] <= 0x7A:
            self._open(self._transport, data)
        elif data[0] == TLS_HANDSHAKE:
            self._refuse(
                f"Inside the tunnel to {self._authority} came TLS, and port 80 is for plain HTTP.", "TLS_ON_PORT_80"
            )
        else:
            self._refuse(f"Inside the tunnel to {self._authority} came neither TLS nor HTTP.", "NEITHER_TLS_NOR_HTTP")

    def _refuse(self, detail: str, code: str) -> None:
        error = MalformedRequest(detail)
        self._transport.write(format_answer(error, with_content=True, close=True))
        self._record_failure(error.proxy_status, code)
        self._transport.close()

    def _record_failure(self, outcome: str, code: str) -> None:
        asked = (b"CONNECT", str(self._authority), b"")
        self._record(outcome, code, asked, route=self._route, client_name=self._client_name)
