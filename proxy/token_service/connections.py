"""aiohttp's HTTP server with the proxy's own limits, deadlines and refusals. Does I/O; imports aiohttp: import it late.

Invariants: every connection is counted from its first moment to its last; one that sends no whole request in time is closed;
what is malformed gets an answer in our words.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from aiohttp import web

from proxy.errors import ClientRefused, MalformedRequest, ProxyError
from proxy.policy.access import certificate_names
from proxy.relay.accepted_connection import descriptor_of, peer_user
from proxy.relay.secure import SecureTransport
from proxy.token_service.answers import refuse_gateway

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from proxy.config.settings import LimitSettings, TimeoutSettings
    from proxy.relay.accepted_connection import AcceptedConnection, AcceptedConnections
    from proxy.relay.listener_policy import ListenerPolicy
    from proxy.token_service.answers import Answer

logger = logging.getLogger("proxy.token_service")

# No content is read; what of it comes all the same is dropped for this long, so that the client reads the answer.
_LINGER_S: Final = 2.0


def to_response(answer: Answer, *, close: bool) -> web.Response:
    """Return an answer as aiohttp sends it.

    Args:
        answer: what to say.
        close: whether the connection ends with it.
    """
    response = web.Response(status=answer.status, headers=dict(answer.fields), body=answer.content)
    if close:
        response.force_close()
    return response


class Connections(web.Server):
    """The connections of one listener.

    Args:
        handler: answers a request.
        limits, timeouts: the configuration's.
        accepted_connections: counts them, those of other listeners too.
        policy: what the listener asks of who connects; None: nothing.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        limits: LimitSettings,
        timeouts: TimeoutSettings,
        accepted_connections: AcceptedConnections,
        policy: ListenerPolicy | None,
    ) -> None:
        super().__init__(
            handler,
            access_log=None,
            keepalive_timeout=timeouts.client_idle_s,
            max_line_size=limits.target_bytes,
            max_field_size=limits.head_bytes,
            max_headers=limits.field_count,
            lingering_time=_LINGER_S,
            logger=logger,
        )
        self._timeouts = timeouts
        self._accepted_connections = accepted_connections
        self._policy = policy
        self._accepted: dict[web.RequestHandler, AcceptedConnection] = {}
        # Of connections whose TLS handshake has begun, with what ends it, until aiohttp is told of them.
        self._shaking: dict[web.RequestHandler, tuple[AcceptedConnection, asyncio.TimerHandle]] = {}
        self._refusals: dict[web.RequestHandler, ProxyError] = {}
        self._deadlines: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)

    def accept(self, context: ssl.SSLContext | None) -> asyncio.BaseProtocol:
        """Return the protocol of a connection that has just been accepted.

        Args:
            context: of the listener; None: no TLS.
        """
        return self() if context is None else _Handshake(self, context, self._timeouts.head_s)

    def count(self, transport: asyncio.BaseTransport) -> AcceptedConnection | None:
        """Count a connection; None: there are far too many, so it is cut without a word."""
        peer = transport.get_extra_info("peername")
        accepted = self._accepted_connections.add(str(peer[0]) if isinstance(peer, tuple) and peer else "unix")
        if not self._accepted_connections.is_flooded(descriptor_of(transport)):
            return accepted
        accepted.leave()
        return None

    def begin_tls(self, accepted: AcceptedConnection, deadline: asyncio.TimerHandle) -> web.RequestHandler:
        """Return the protocol of a connection that has been counted before its TLS handshake."""
        handler = self()
        self._shaking[handler] = accepted, deadline
        return handler

    def give_up(self, handler: web.RequestHandler) -> None:
        """Forget a connection whose handshake has failed."""
        accepted, deadline = self._shaking.pop(handler)
        accepted.leave()
        deadline.cancel()

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count a new connection, and note why it is refused all the same."""
        super().connection_made(handler, transport)
        if isinstance(transport, SecureTransport):
            accepted, deadline = self._shaking.pop(handler)
            deadline.cancel()
            accepted.certificate_names = certificate_names(transport.tls.getpeercert())
        else:
            taken = self.count(transport)
            if taken is None:
                transport.abort()
                return
            accepted = taken
        self._accepted[handler] = accepted
        try:
            self._accepted_connections.check(accepted.address, descriptor_of(transport))
            if accepted.address == "unix":
                self._check_user(accepted, transport)
        except ProxyError as error:
            self._refusals[handler] = error
        self._set_deadline(handler, self._timeouts.head_s)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Count the connection no more."""
        super().connection_lost(handler, exc)
        accepted = self._accepted.pop(handler, None)
        if accepted is not None:
            accepted.leave()
        self._refusals.pop(handler, None)
        deadline = self._deadlines.pop(handler, None)
        if deadline is not None:
            deadline.cancel()

    def accepted_connection_of(self, request: web.BaseRequest) -> AcceptedConnection | None:
        """Return the connection that a request came by; None where that has gone meanwhile."""
        return self._accepted.get(request.protocol)

    def refusal_of(self, request: web.BaseRequest) -> ProxyError | None:
        """Return why nothing on a connection is answered otherwise."""
        return self._refusals.get(request.protocol)

    def begin(self, request: web.BaseRequest) -> None:
        """Take note that a whole head has come."""
        deadline = self._deadlines.pop(request.protocol, None)
        if deadline is not None:
            deadline.cancel()

    def end(self, request: web.BaseRequest) -> None:
        """Take note that the request is answered: the next one may take its time."""
        if request.protocol in self._accepted:
            self._set_deadline(request.protocol, self._timeouts.client_idle_s + self._timeouts.head_s)

    def _set_deadline(self, handler: web.RequestHandler, after_s: float) -> None:
        earlier = self._deadlines.get(handler)
        if earlier is not None:
            earlier.cancel()
        self._deadlines[handler] = asyncio.get_running_loop().call_later(after_s, handler.force_close)

    def _check_user(self, accepted: AcceptedConnection, transport: asyncio.Transport) -> None:
        connected = transport.get_extra_info("socket")
        user = accepted.user = peer_user(connected) if connected is not None else None
        if self._policy is not None and self._policy.users and user not in self._policy.users:
            raise ClientRefused(
                f"The user {'unknown' if user is None else user} is not among the listener's `users`.",
                code="user_not_allowed",
            )


class _Handshake(asyncio.Protocol):
    """A connection until its TLS handshake is over.

    Args:
        connections: of the listener.
        context: its TLS.
        within_s: how long the handshake may take.
    """

    def __init__(self, connections: Connections, context: ssl.SSLContext, within_s: float) -> None:
        self._connections = connections
        self._context = context
        self._within_s = within_s
        self._accepted: AcceptedConnection | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and wait for the client's first bytes."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # stream transports only
        self._accepted = self._connections.count(transport)
        if self._accepted is None:
            self._transport.abort()
            return
        self._deadline = asyncio.get_running_loop().call_later(self._within_s, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Begin the handshake: from here on the handler has the connection counted."""
        if self._accepted is None or self._deadline is None:
            return
        handler = self._connections.begin_tls(self._accepted, self._deadline)
        self._accepted = self._deadline = None
        secure = SecureTransport(
            self._context, handler, lambda _error: self._connections.give_up(handler), server_side=True
        )
        self._transport.set_protocol(secure)
        secure.connection_made(self._transport)
        secure.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Count a connection no more whose client has sent nothing."""
        if self._deadline is not None:
            self._deadline.cancel()
        if self._accepted is not None:
            self._accepted.leave()


class _Connection(web.RequestHandler):
    """One connection: as aiohttp has it, but for what it says of a malformed request."""

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002  # aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Return the answer to what could not be read, or, with 500, to what we made a mistake with."""
        error = (
            MalformedRequest("The request is not sound HTTP/1.1, or larger than `limits` allows.")
            if status < 500
            else ProxyError("The proxy made a mistake with this request. Please report it, with the line of its log.")
        )
        return to_response(refuse_gateway(error), close=True)
