"""Connections of HTTP/2 to one upstream: few, each shared by many exchanges. Does I/O through the dialer."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from proxy.dialing.handshake import NO_VERSION
from proxy.dialing.resolver import Attempt
from proxy.errors import Overloaded, ProxyError, UpstreamUnreachable
from proxy.relay.http2.upstream import Http2UpstreamConnection, UpstreamStream
from proxy.relay.pool import UpstreamPool
from proxy.tasks import guard

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from proxy.policy.authority import Authority
    from proxy.relay.shared import Shared


def _ignore() -> None:
    """Do nothing."""


class Http2Pool(UpstreamPool):
    """All connections of HTTP/2 to one upstream.

    One connection is opened at a time, for all who wait; another where the upstream allows no more streams on those there are.

    Args:
        relay, dial, server_name, dns_only: see `UpstreamPool`.
        make_context: reads files, and returns the TLS context, which offers `h2`, perhaps among others.
        on_http1_required: called where the upstream says that it wants HTTP/1.1 instead (RFC 9113 §7).
        adopt: takes a connection on which the upstream has chosen another version; None: it is closed.
    """

    def __init__(
        self,
        relay: Shared,
        dial: Authority,
        server_name: str,
        make_context: Callable[[], ssl.SSLContext],
        on_http1_required: Callable[[], None] = _ignore,
        adopt: Callable[[asyncio.Transport], None] | None = None,
        *,
        dns_only: bool = False,
    ) -> None:
        UpstreamPool.__init__(self, relay, dial, server_name, None, dns_only=dns_only)
        self._make_context = make_context
        self._adopt = adopt
        self.on_http1_required = on_http1_required
        self._connections: list[Http2UpstreamConnection] = []
        self._queue: deque[asyncio.Future[UpstreamStream]] = deque()
        self._opening: asyncio.Task[None] | None = None

    def take(self) -> UpstreamStream | None:
        """Return a stream of a connection that has room, or None. Never waits."""
        for connection in self._connections:
            stream = connection.take()
            if stream is not None:
                return stream
        return None

    async def acquire(
        self,
        attempt: Attempt | None = None,
        *,
        new: bool = False,  # noqa: ARG002  # see below
        http1: bool = False,  # noqa: ARG002  # nobody asks here who needs it
    ) -> UpstreamStream:
        """Return a stream for one exchange; see `UpstreamPool`.

        Args:
            attempt: is told how far this comes, where this caller is the one who opens a connection.
            new: takes no part here: what was not processed can be repeated on any connection that still takes requests.
            http1: takes no part either.
        """
        taken = None if self._queue else self.take()
        if taken is not None:
            return taken
        waiter: asyncio.Future[UpstreamStream] = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        self._open_another(attempt or Attempt())
        try:
            async with asyncio.timeout(self.relay.timeouts.connect_s * 2):
                taken = await waiter
                return taken
        except TimeoutError:
            raise Overloaded(
                f"{self.dial} allows no more requests at a time (RFC 9113 §5.1.2), and none ended in time.",
                retry_after_s=1,
            ) from None
        finally:
            self._leave_queue(waiter, is_taken=taken is not None)

    def _leave_queue(self, waiter: asyncio.Future[UpstreamStream], *, is_taken: bool) -> None:
        """End a wait, and hand on what reached it in the very turn of the loop in which it was given up."""
        if waiter in self._queue:
            self._queue.remove(waiter)
        elif not is_taken and waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            waiter.result().return_unused()

    def on_room(self) -> None:
        """Give streams to those who wait, in the order in which they came."""
        while self._queue:
            if self._queue[0].done():
                self._queue.popleft()
                continue
            stream = self.take()
            if stream is None:
                break
            self._queue.popleft().set_result(stream)
        if self._queue:
            self._open_another(Attempt())

    def _open_another(self, attempt: Attempt) -> None:
        """Open a connection, unless one is on its way, or has just come and allows nothing at all."""
        if self._opening is not None or self.size >= self.relay.limits.upstream_connections:
            return
        if any(not one.served and not one.core.is_leaving for one in self._connections):
            return
        self.size += 1
        self._opening = asyncio.get_running_loop().create_task(
            guard(lambda: self._add(attempt), self._on_failed, f"a connection to {self.dial}")
        )

    async def _add(self, attempt: Attempt) -> None:
        if self._context is None:
            try:
                self._context = await asyncio.get_running_loop().run_in_executor(None, self._make_context)
            except BaseException:
                self._give_up()
                raise
        connection = Http2UpstreamConnection(self)
        try:
            await self._establish(connection, attempt)
        except UpstreamUnreachable as error:
            raise (self._describe_lack() if error.code == NO_VERSION else error) from None
        self._opening = None
        if not connection.is_agreed:
            self._hand_on(connection)
            self._fail_queue(self._describe_lack())
            return
        self._connections.append(connection)
        connection.deadline = self.relay.now + self.relay.timeouts.upstream_idle_s
        self.note_idle(connection)
        self.on_room()

    def _hand_on(self, connection: Http2UpstreamConnection) -> None:
        """Give a connection to whoever speaks the version that the upstream has chosen."""
        if self._adopt is None:
            connection.abort()
            return
        connection.opened = False
        self.relay.upstreams.discard(connection)
        self._give_up()
        self._adopt(connection.transport)

    def _describe_lack(self) -> UpstreamUnreachable:
        return UpstreamUnreachable(
            f"{self.dial} does not speak HTTP/2, which this request needs, as every call of gRPC does. Ask the API's operator to "
            "switch HTTP/2 on.",
            code="upstream_without_http2",
        )

    def _on_failed(self, error: ProxyError) -> None:
        self._opening = None
        self._fail_queue(error)

    def _fail_queue(self, error: ProxyError) -> None:
        queue, self._queue = self._queue, deque()
        for waiter in queue:
            if not waiter.done():
                waiter.set_exception(error)

    def note_idle(self, connection: Http2UpstreamConnection) -> None:
        """Count a connection among those on which nothing is under way, and close the one that has been idle for longest."""
        idle = self.relay.idle
        idle[connection] = None
        if len(idle) > self.relay.limits.idle_upstream_connections:
            longest_idle, _ = idle.popitem(last=False)
            longest_idle.evict()

    def note_busy(self, connection: Http2UpstreamConnection) -> None:
        """Count a connection among the idle ones no more."""
        self.relay.idle.pop(connection, None)

    def retire(self, connection: Http2UpstreamConnection) -> None:
        """Send nothing more on a connection."""
        if connection in self._connections:
            self._connections.remove(connection)

    def forget_connection(self, connection: Http2UpstreamConnection) -> None:
        """Take note that a connection is closed."""
        self.retire(connection)
        self.note_busy(connection)
        self.size -= 1
        self.relay.upstreams.discard(connection)
        self.on_room()

    def close_idle(self) -> None:
        """Close the connections on which nothing is under way."""
        for connection in list(self._connections):
            if connection.is_idle:
                self.note_busy(connection)
                connection.close()
