"""aiohttp's HTTP server with the proxy's own limits, deadlines and refusals. Does I/O; imports aiohttp: import it late.

Invariants: every connection has a seat from its first moment to its last; one that sends no whole request in time is closed;
what is malformed gets an answer in our words.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from aiohttp import web

from proxy.errors import ClientRefused, MalformedRequest, ProxyError
from proxy.policy.access import certificate_names
from proxy.relay.seats import descriptor_of, peer_user
from proxy.token_service.answers import refuse_gateway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.config.settings import LimitSettings, TimeoutSettings
    from proxy.relay.listener_policy import ListenerPolicy
    from proxy.relay.seats import Seat, Seats
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
        seats: counts connections, those of other listeners too.
        guard: what the listener asks of who connects; None: nothing.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        limits: LimitSettings,
        timeouts: TimeoutSettings,
        seats: Seats,
        guard: ListenerPolicy | None,
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
        self._seats = seats
        self._guard = guard
        self._taken: dict[web.RequestHandler, Seat] = {}
        self._refusals: dict[web.RequestHandler, ProxyError] = {}
        self._deadlines: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Give a new connection its seat, and note why it gets no more than that."""
        super().connection_made(handler, transport)
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) and peer else "unix"
        seat = self._taken[handler] = self._seats.take(address)
        seat.certificate_names = certificate_names(transport.get_extra_info("peercert"))
        descriptor = descriptor_of(transport)
        if self._seats.is_flooded(descriptor):
            transport.abort()
            return
        try:
            self._seats.check(address, descriptor)
            if address == "unix":
                self._check_user(seat, transport)
        except ProxyError as error:
            self._refusals[handler] = error
        self._set_deadline(handler, self._timeouts.head_s)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Free the seat."""
        super().connection_lost(handler, exc)
        seat = self._taken.pop(handler, None)
        if seat is not None:
            seat.leave()
        self._refusals.pop(handler, None)
        deadline = self._deadlines.pop(handler, None)
        if deadline is not None:
            deadline.cancel()

    def seat_of(self, request: web.BaseRequest) -> Seat | None:
        """Return the seat of a request's connection; None where that has gone meanwhile."""
        return self._taken.get(request.protocol)

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
        if request.protocol in self._taken:
            self._set_deadline(request.protocol, self._timeouts.client_idle_s + self._timeouts.head_s)

    def _set_deadline(self, handler: web.RequestHandler, after_s: float) -> None:
        earlier = self._deadlines.get(handler)
        if earlier is not None:
            earlier.cancel()
        self._deadlines[handler] = asyncio.get_running_loop().call_later(after_s, handler.force_close)

    def _check_user(self, seat: Seat, transport: asyncio.Transport) -> None:
        connected = transport.get_extra_info("socket")
        user = seat.user = peer_user(connected) if connected is not None else None
        if self._guard is not None and self._guard.users and user not in self._guard.users:
            raise ClientRefused(
                f"The user {'unknown' if user is None else user} is not among the listener's `users`.",
                code="user_not_allowed",
            )


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
