"""The connections of one identity listener: counted and judged as on every listener, answered by its handout. Does I/O.

Invariants: every connection is counted from its first moment to its last; one that its listener refuses gets no answer but why.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.errors import ClientRefused, MalformedRequest, ProxyError
from proxy.http_server import HttpServer
from proxy.policy.access import certificate_names
from proxy.relay.accepted_connection import descriptor_of, peer_user
from proxy.relay.listener_policy import DISMISSED, ListenerPolicy
from proxy.token_service.answers import refuse_gateway

if TYPE_CHECKING:
    from proxy.config.settings import LimitSettings, TimeoutSettings
    from proxy.http_server import Connection, Request, Response
    from proxy.relay.accepted_connection import AcceptedConnection, AcceptedConnections, Socket
    from proxy.relay.secure import SecureTransport
    from proxy.token_service.handout import Handout


class Connections(HttpServer):
    """The connections of one listener.

    Args:
        handout: answers.
        limits, timeouts: the configuration's.
        accepted_connections: counts them, those of other listeners too.
        policy: what the listener asks of who connects; None: nothing.
    """

    def __init__(
        self,
        handout: Handout,
        *,
        limits: LimitSettings,
        timeouts: TimeoutSettings,
        accepted_connections: AcceptedConnections,
        policy: ListenerPolicy | None,
    ) -> None:
        self._policy = policy or ListenerPolicy()
        super().__init__(
            "An identity listener",
            limits,
            head_s=timeouts.head_s,
            idle_s=timeouts.client_idle_s,
            context=self._policy.context,
        )
        self._handout = handout
        self._accepted_connections = accepted_connections
        self._accepted: dict[Connection, AcceptedConnection] = {}
        self._refusals: dict[Connection, ProxyError] = {}

    async def respond(self, request: Request) -> Response:
        """See `HttpServer`."""
        accepted = self._accepted.get(request.connection)
        if accepted is None:
            raise ConnectionResetError
        answer = None
        while answer is None:
            refusal = self._refusals.get(request.connection)
            answer = await self._handout.answer(request, accepted, refusal)
        return answer if refusal is None else replace(answer, closes=True)

    def go_over(
        self, handout: Handout, limits: LimitSettings, timeouts: TimeoutSettings, policy: ListenerPolicy | None
    ) -> None:
        """Answer by another configuration from now on, also on connections that are open, where it would still take them."""
        if handout is self._handout:
            return
        self._handout.is_retired = True
        earlier, self._policy = self._policy, policy or ListenerPolicy()
        self._handout = handout
        self.limits, self.head_s, self.idle_s = limits, timeouts.head_s, timeouts.client_idle_s
        self.context = self._policy.context
        for connection, accepted in list(self._accepted.items()):
            if not self._policy.still_takes(earlier, accepted.user):
                self._refusals[connection] = ClientRefused(DISMISSED, code="listener_changed")
                connection.end()

    def refuse(self, error: ProxyError) -> Response:
        """See `HttpServer`. With 400 whatever is wrong, as the admin site."""
        return refuse_gateway(MalformedRequest(error.detail))

    def on_connected(self, connection: Connection) -> None:
        """Count a connection, and note why it is refused all the same; cut it without a word where there are far too many."""
        transport = connection.transport
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) and peer else "unix"
        accepted = self._accepted[connection] = self._accepted_connections.add(address)
        descriptor = descriptor_of(transport)
        if self._accepted_connections.is_flooded(descriptor):
            self.on_lost(connection)
            connection.abort()
            return
        try:
            self._accepted_connections.check(address, descriptor)
            if address == "unix":
                self._check_user(accepted, transport.get_extra_info("socket"))
        except ProxyError as error:
            self._refusals[connection] = error

    def on_secured(self, connection: Connection, transport: SecureTransport) -> None:
        """Note what the certificate says."""
        self._accepted[connection].certificate_names = certificate_names(transport.tls.getpeercert())

    def on_lost(self, connection: Connection) -> None:
        """Count the connection no more."""
        accepted = self._accepted.pop(connection, None)
        if accepted is not None:
            accepted.leave()
        self._refusals.pop(connection, None)

    def _check_user(self, accepted: AcceptedConnection, connected: Socket | None) -> None:
        user = accepted.user = peer_user(connected) if connected is not None else None
        if self._policy.users and user not in self._policy.users:
            raise ClientRefused(
                f"The user {'unknown' if user is None else user} is not among the listener's `users`.",
                code="user_not_allowed",
            )
