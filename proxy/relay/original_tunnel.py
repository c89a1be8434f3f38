"""A tunnel to where a redirected client was going, at the address it had found: blind, and never with a token. Does I/O."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from proxy.dialing.resolver import Attempt
from proxy.errors import DestinationRefused
from proxy.relay.counters import NO_HTTP
from proxy.relay.tunnel import dial, record_tunnel
from proxy.tasks import guard

if TYPE_CHECKING:
    from proxy.errors import ProxyError
    from proxy.policy.authority import Authority
    from proxy.relay.known_client import KnownClient
    from proxy.relay.state import Relay


class Redirected(Protocol):
    """A redirected connection, as its tunnel knows it."""

    @property
    def relay(self) -> Relay:
        """The process-wide state."""
        ...

    @property
    def peer(self) -> str:
        """The client's address."""
        ...

    def join(self, upstream: asyncio.Transport, data: bytes, tunnel: OriginalTunnel) -> None:
        """Pass bytes on from now on: the tunnel is open."""

    def fail(self, error: ProxyError) -> None:
        """Refuse, because the tunnel could not be opened; that has been recorded."""

    def abort(self) -> None:
        """Cut the connection."""


class OriginalTunnel:
    """The way to where a client was going, while it is opened and after.

    Args:
        connection: the client's.
        original: where it was going.
        known: the client, which has begun an exchange; None where nobody is told apart.
        early: what it has sent.
    """

    __slots__ = ("_attempt", "_connection", "_known", "_original", "_started", "_task", "early")

    def __init__(self, connection: Redirected, original: Authority, known: KnownClient | None, early: bytes) -> None:
        self._connection = connection
        self._original = original
        self._known = known
        self.early = early
        self._started = time.monotonic()
        self._attempt = Attempt()
        self._task: asyncio.Task[None] | None = asyncio.get_running_loop().create_task(
            guard(self._open, self._on_task_failed, f"a tunnel to {original}")
        )

    def cancel(self) -> None:
        """Give up: the client went away."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self._record(0, 0, 0, "aborted_client")

    def on_end(self, up: int, down: int) -> None:
        """Take note that the tunnel is closed."""
        self._record(200, up, down, "ok")

    async def _open(self) -> None:
        relay = self._connection.relay
        destinations = relay.destinations
        transport = await dial(relay, self._original, self._attempt)
        if relay.destinations is not destinations:
            transport.abort()
            raise DestinationRefused("The configuration changed while the connection was opened. Connect again.")
        self._task = None
        try:
            self._connection.join(transport, self.early, self)
        except BaseException:
            transport.abort()
            raise

    def _on_task_failed(self, error: ProxyError) -> None:
        if self._task is None:
            self._connection.abort()
            return
        self._task = None
        self._connection.relay.counters.count_error(error.proxy_status)
        self._record(error.status, 0, 0, error.proxy_status, error.code)
        self._connection.fail(error)

    def _record(self, status: int, up: int, down: int, outcome: str, code: str = "") -> None:
        record_tunnel(
            self._connection.relay,
            self._connection.peer,
            self._known,
            self._original,
            self._started,
            status=status,
            received_bytes=up,
            sent_bytes=down,
            outcome=outcome,
            code=code,
            name_s=None,
            version=NO_HTTP,
        )
