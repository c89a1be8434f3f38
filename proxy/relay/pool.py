"""Connections to one upstream: kept alive, bounded in number, handed out one exchange at a time. Does I/O through the dialer."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final, cast

from proxy.dialing.distrust import explain_distrust
from proxy.dialing.handshake import judge_handshake
from proxy.dialing.resolver import Attempt, describe_name_timeout
from proxy.errors import Overloaded, UpstreamClosed, UpstreamTimeout, UpstreamUnreachable, UpstreamUntrusted
from proxy.relay.secure import SecureTransport
from proxy.relay.upstream import Owner, UpstreamConnection

if TYPE_CHECKING:
    from proxy.dialing.dialer import Permit
    from proxy.policy.authority import Authority
    from proxy.relay.shared import Opening, Shared
    from proxy.relay.sides import UpstreamSide

# How soon a TLS session that an upstream does not accept is replaced. Servers mostly honour one for hours.
_SESSION_S: Final = 600.0
# `ProxyError.code` where an upstream does not speak HTTP/2, and was to.
WITHOUT_HTTP2: Final = "upstream_without_http2"


class UpstreamPool(Owner):
    """All connections to one upstream.

    Args:
        relay: the process-wide state.
        dial: where to connect.
        server_name: the name that the upstream's certificate must carry; None for plain TCP.
        context: the TLS client context; None for plain TCP.
        permit: asked for each address before it is dialled; None where the configuration names the upstream.
        dns_only: the name in `dial` is looked up by DNS alone.

    Attributes:
        dial: where connections lead.
        idle: connections that wait for an exchange, the most recently used last.
        size: connections open or being opened.
        http2: where exchanges go instead that HTTP/2 can carry; None: nowhere.
        may_lack_http1: see `Owner`.
    """

    def __init__(
        self,
        relay: Shared,
        dial: Authority,
        server_name: str | None,
        context: ssl.SSLContext | None,
        permit: Permit | None = None,
        *,
        dns_only: bool = False,
    ) -> None:
        self.relay = relay
        self.idle: list[UpstreamConnection] = []
        self.size = 0
        self.http2: UpstreamPool | None = None
        self.may_lack_http1 = context is not None
        self.dial = dial
        self._server_name = server_name
        self._context = context
        self._permit = permit
        self._dns_only = dns_only
        self._waiters: deque[asyncio.Future[UpstreamConnection]] = deque()
        self._session: ssl.SSLSession | None = None
        self._session_due = -inf

    @property
    def is_unused(self) -> bool:
        """Whether no connection is open, or being opened."""
        return self.size == 0

    def over_http2(self) -> UpstreamPool | None:
        """Return the connections to the same upstream that speak HTTP/2; None where that is switched off."""
        return None

    def take(self) -> UpstreamSide | None:
        """Return a kept-alive connection, or None. Never waits."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            del self.relay.idle[connection]
            if not connection.transport.is_closing():
                return connection
        http2 = self.http2
        return None if http2 is None else http2.take()

    async def acquire(
        self,
        attempt: Attempt | None = None,
        *,
        new: bool = False,
        http1: bool = False,  # noqa: ARG002  # there is nothing else here
    ) -> UpstreamSide:
        """Return a connection for one exchange: kept alive, newly opened, or given back by another exchange.

        Args:
            attempt: is told how far this comes, where anybody wants to know.
            new: open one in any case.
            http1: the exchange needs HTTP/1.1.

        Raises:
            UpstreamError: it cannot be opened, is not trusted, or takes too long.
            DestinationRefused, LoopDetected: it may not be opened.
            Overloaded: the limit of connections is reached and none came back in time.
        """
        if not new:
            kept = self.take()
            if kept is not None:
                return kept
        return await self._await_turn(attempt or Attempt(), first=False)

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection that is fit for another exchange."""
        connection.release_response()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        relay = self.relay
        connection.deadline = relay.now + relay.timeouts.upstream_idle_s
        self.idle.append(connection)
        relay.idle[connection] = None
        if len(relay.idle) > relay.limits.idle_upstream_connections:
            longest_idle, _ = relay.idle.popitem(last=False)
            longest_idle.evict()

    def forget(self, connection: UpstreamConnection) -> None:
        """Take note that a connection is closed, and keep its TLS session for the next one's handshake (RFC 8446 §2.2)."""
        self.size -= 1
        if isinstance(connection.transport, SecureTransport):
            self._keep_session(connection.transport.tls)
        if connection in self.relay.idle:
            del self.relay.idle[connection]
            self.idle.remove(connection)
        self.relay.upstreams.discard(connection)
        self._invite()

    def drop(self, connection: UpstreamConnection) -> None:
        """See `Owner`."""
        self.idle.remove(connection)

    def close_idle(self) -> None:
        """Close the connections that wait for an exchange."""
        while self.idle:
            connection = self.idle.pop()
            del self.relay.idle[connection]
            connection.transport.close()

    def _keep_session(self, tls: ssl.SSLObject) -> None:
        """Read a TLS session where the one in hand was not accepted, not often, and in all a bounded number of times.

        CPython loses 7 KB each time that `SSLObject.session` is read; what is read once can be used for many connections.
        Names below a wildcard have a pool each, and clients may make up as many as they like. Without a session a handshake
        is a full one, and all is well otherwise.
        """
        if not tls.session_reused and self.relay.now >= self._session_due and self.relay.session_reads:
            self.relay.session_reads -= 1
            session = tls.session
            if session is not None:
                self._session = session
                self._session_due = self.relay.now + _SESSION_S

    def _invite(self) -> None:
        """Give free places to those who wait, in the order in which they came; each is taken from this moment on."""
        while self._waiters and self.size < self.relay.limits.upstream_connections:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self.size += 1
                waiter.set_exception(_PlaceGiven())

    async def _await_turn(self, attempt: Attempt, *, first: bool) -> UpstreamConnection:
        """Return a connection as soon as it is this caller's turn: behind all who wait already, or `first` of them."""
        if self.size < self.relay.limits.upstream_connections:
            self.size += 1
            return await self._open(attempt)
        waiter: asyncio.Future[UpstreamConnection] = asyncio.get_running_loop().create_future()
        if first:
            self._waiters.appendleft(waiter)
        else:
            self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self.relay.timeouts.connect_s):
                connection = await waiter
        except TimeoutError:
            self._leave(waiter)
            raise Overloaded(
                f"All {self.relay.limits.upstream_connections} connections to {self.dial} are in use "
                "(limits.upstream_connections).",
                retry_after_s=1,
            ) from None
        except _PlaceGiven:
            return await self._open(attempt)
        except asyncio.CancelledError:
            self._leave(waiter)
            raise
        # It may have been closed between being handed over and being taken.
        return await self._await_turn(attempt, first=True) if connection.transport.is_closing() else connection

    def _leave(self, waiter: asyncio.Future[UpstreamConnection]) -> None:
        """End a wait, and hand on what reached it in the very turn of the loop in which it was given up."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        elif waiter.done() and not waiter.cancelled():
            if waiter.exception() is None:
                self.release(waiter.result())
            else:
                self._give_up()

    async def _open(self, attempt: Attempt) -> UpstreamConnection:
        """Open a connection in a place that has been counted already."""
        connection = UpstreamConnection(self)
        await self._establish(connection, attempt)
        return connection

    async def _establish(self, connection: Opening, attempt: Attempt) -> None:
        """Connect in a place that has been counted, and count the connection as open; or give up the place."""
        try:
            async with asyncio.timeout(self.relay.timeouts.connect_s):
                await self._connect(connection, attempt)
        except TimeoutError:
            self._give_up()
            late = describe_name_timeout(attempt, self.relay.timeouts.connect_s, "timeouts.connect_s")
            if late is not None:
                raise late from None
            way = self.relay.dialer.describe_way(
                self.dial.host, self.dial.port, self._server_name, is_plain=self._context is None
            )
            raise UpstreamTimeout(
                f"{self.dial}{way} did not complete a connection within {self.relay.timeouts.connect_s:g} s "
                "(timeouts.connect_s)."
            ) from None
        except BaseException:
            self._give_up()
            raise
        if connection.transport.is_closing():
            self._give_up()
            raise UpstreamClosed(f"{self.dial} closed the connection as soon as it was open.")
        connection.opened = True
        self.relay.upstreams.add(connection)
        self.relay.counters.upstream_connections += 1

    def _give_up(self) -> None:
        self.size -= 1
        self._invite()

    async def _connect(self, connection: Opening, attempt: Attempt) -> None:
        loop = asyncio.get_running_loop()
        connected = await self.relay.dialer.connect(
            self.dial.host,
            self.dial.port,
            self._permit,
            name=self._server_name,
            is_plain=self._context is None,
            dns_only=self._dns_only,
            attempt=attempt,
        )
        established: asyncio.Future[None] = loop.create_future()

        def succeed() -> None:
            if not established.done():
                established.set_result(None)

        def fail(error: Exception) -> None:
            if not established.done():
                established.set_exception(error)

        connection.on_connected = succeed
        above = cast("asyncio.Protocol", connection)
        bottom = above
        secure: SecureTransport | None = None
        if self._context is not None:
            bottom = secure = SecureTransport(self._context, above, fail, server_hostname=self._server_name)
            if self._session is not None:
                secure.tls.session = self._session
        try:
            transport, _ = await loop.create_connection(lambda: bottom, sock=connected)
        except BaseException:
            connected.close()
            raise
        try:
            await established
        except ssl.SSLCertVerificationError as error:
            distrust = explain_distrust(error.verify_code)
            raise UpstreamUntrusted(
                f"The certificate that {self.dial} presented for {self._server_name} {distrust.what}. No request was sent. "
                f"{distrust.advice}"
            ) from None
        except ssl.SSLError as error:
            failure = judge_handshake(error, secure.tls if secure is not None else None)
            raise UpstreamUnreachable(failure.describe(self.dial), code=failure.code) from None
        except OSError:
            raise UpstreamUnreachable(f"{self.dial} closed the connection during the TLS handshake.") from None
        except BaseException:
            transport.abort()
            raise


class _PlaceGiven(Exception):  # noqa: N818  # a signal to one waiter, never an error
    """A connection has closed, and its place belongs to a waiter, who opens another in it."""
