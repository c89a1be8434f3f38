"""What all connections of one relay process share: limits, counters, what is open, and the clock that enforces deadlines. Does I/O.

There is no timer per request. Each connection sets its deadline, and all deadlines are checked twice a second, so every timeout
may be up to half a second late. This module knows no connection by its class, only by what it does: `Watched`.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Protocol

from proxy.dialing.dialer import Dialer
from proxy.relay.counters import Counters
from proxy.tasks import log_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxy.config.settings import LimitSettings, TimeoutSettings

_TICK_S: Final = 0.5
# CPython leaks 7 KB each time `SSLObject.session` is read: this bounds the loss to 4 MB, whatever names clients ask for.
SESSION_READS: Final = 512


class Watched(Protocol):
    """Anything with a deadline."""

    deadline: float

    def on_deadline(self) -> None:
        """Act on a deadline that has passed; called at every tick until it lies ahead again."""

    def abort(self) -> None:
        """Cut it at once."""


class Incoming(Watched, Protocol):
    """A connection that a client has opened, or what runs inside one of its tunnels."""

    @property
    def accepted(self) -> Any | None:  # noqa: ANN401  # its class is above
        """The connection that the client opened; None until it is open."""
        ...

    def redirect(self, change: Callable[[Any], Any]) -> None:
        """Replace the rule by the one that a new configuration has for it."""

    def dismiss(self) -> None:
        """End a connection that its listener would not accept any more: at once, or after the exchange under way."""


class ReadsRequests(Incoming, Protocol):
    """A client's connection on which requests come."""

    def close_if_idle(self) -> None:
        """Close the connection if no exchange is under way."""


class Upstream(Watched, Protocol):
    """A connection to an upstream."""

    @property
    def is_idle(self) -> bool:
        """Whether it waits for an exchange."""
        ...


class Opening(Upstream, Protocol):
    """A connection to an upstream that is being opened; it is an asyncio.Protocol.

    Attributes:
        transport: plain or TLS, once it is open.
        opened: whether it was counted as open, so that its end must be counted too.
        on_connected: to be called once when the connection is ready to be written to.
    """

    transport: asyncio.Transport
    opened: bool
    on_connected: Callable[[], object] | None


class Idle(Upstream, Protocol):
    """A connection to an upstream that can be closed to make room for another."""

    def evict(self) -> None:
        """Leave the pool, and close."""


class Shared:
    """What all connections of one relay process share.

    Args:
        limits, timeouts: the configuration's.

    Attributes:
        clients, arrivals, upstreams, splices: what is open.
        idle: the idle upstream connections of all pools, longest idle first.
        streams: how many requests of clients over HTTP/2 are under way.
        now: monotonic seconds, up to half a second old.
        wall_offset: what to add to monotonic seconds to get Unix seconds.
        ending: whether responses tell clients that the connection ends with them.
        draining: whether each connection ends after its current exchange, told or not.
        session_reads: how many TLS sessions may still be read from upstream connections; see `UpstreamPool`.
    """

    def __init__(self, limits: LimitSettings, timeouts: TimeoutSettings) -> None:
        self.limits = limits
        self.timeouts = timeouts
        self.counters = Counters()
        self.dialer = Dialer()
        self.clients: set[Any] = set()  # each a `ReadsRequests`
        self.arrivals: set[Any] = set()  # each an `Incoming`
        self.upstreams: set[Any] = set()  # each an `Upstream`
        self.idle: OrderedDict[Idle, None] = OrderedDict()
        self.splices: set[Any] = set()  # each a `Watched`
        self.streams = 0
        self.ending = False
        self.draining = False
        self.session_reads = SESSION_READS
        self.now = time.monotonic()
        self.wall_offset = time.time() - self.now

    async def watch(self) -> None:
        """Run the clock until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick(time.monotonic())

    def tick(self, now: float) -> None:
        """Call `on_deadline` of everything that is overdue."""
        self.now = now
        self.wall_offset = time.time() - time.monotonic()
        for watched in (self.clients, self.arrivals, self.upstreams, self.splices):
            for overdue in _overdue(watched, now):
                try:
                    overdue.on_deadline()
                except Exception as error:  # noqa: BLE001  # a fault in one must not keep the others from being called
                    log_fault("giving up on a connection", error)
                    overdue.abort()

    def abort(self) -> None:
        """Cut every connection."""
        everything: tuple[Iterable[Watched], ...] = (self.splices, self.clients, self.arrivals, self.upstreams)
        for watched in everything:
            for one in list(watched):
                one.abort()


def _overdue(watched: Iterable[Watched], now: float) -> list[Watched]:
    return [one for one in watched if one.deadline < now]
