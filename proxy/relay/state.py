"""The state that all connections of one relay process share, and the clock that enforces their deadlines. Does I/O.

There is no timer per request. Each connection sets its deadline, and all deadlines are checked twice a second, so every timeout
may be up to half a second late. At run time this module imports nothing that uses it: a connection is whatever `Watched` describes.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Protocol

from proxy.dialing.dialer import Dialer
from proxy.relay.counters import Counters
from proxy.relay.seats import Seats
from proxy.tasks import log_fault

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from proxy.config.settings import LimitSettings, TimeoutSettings
    from proxy.relay.admission import Admission
    from proxy.relay.arrival import Arrival
    from proxy.relay.destinations import Destinations
    from proxy.relay.entry import Entry
    from proxy.relay.record import Observer
    from proxy.relay.seats import Seat
    from proxy.relay.splice import Splice
    from proxy.relay.upstream import UpstreamConnection

_TICK_S: Final = 0.5
_DRAIN_POLL_S: Final = 0.05
# CPython leaks 7 KB each time `SSLObject.session` is read: this bounds the loss to 4 MB, whatever names clients ask for.
SESSION_READS: Final = 512


class ContextFetcher(Protocol):
    """Fetches the TLS server context that holds a routed host's certificate."""

    def __call__(self, host: str, on_arrival: Callable[[], None], /, *, rsa: bool = False) -> None:
        """See `Relay`."""


class Watched(Protocol):
    """Anything with a deadline."""

    deadline: float

    def on_deadline(self) -> None:
        """Act on a deadline that has passed; called at every tick until it lies ahead again."""

    def abort(self) -> None:
        """Cut it at once."""


class Upstream(Watched, Protocol):
    """A connection to an upstream, of whatever version."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way on it."""
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


class Client(Watched, Protocol):
    """A client's connection on which requests come, of whatever version.

    Attributes:
        seat: of the connection that the client opened; None until it is open.
    """

    seat: Seat | None

    def redirect(self, change: Callable[[Entry], Entry]) -> None:
        """Replace the entry by the one that a new configuration has for it."""

    def dismiss(self) -> None:
        """End the connection, whose listener would not accept it any more: at once, or after what is under way."""

    def close_if_idle(self) -> None:
        """Close the connection if nothing is under way, or once nothing is."""


class Relay:
    """The state of one relay process.

    Args:
        limits, timeouts: the configuration's.
        server_context: returns the TLS server context for an intercepted host; None if it has to be fetched first.
        observe: called with the record of each finished exchange; None if nothing needs them.
        fetch_context: fetches a TLS server context, or with `rsa` an RSA certificate for the one there is, then calls back.

    Attributes:
        destinations: where requests may go; replaced as a whole when the configuration changes.
        admission: who may use the proxy; None if everyone may; replaced as a whole when the configuration changes.
        clients, arrivals, upstreams, splices: what is open.
        idle: the idle upstream connections of all pools, longest idle first.
        streams: how many requests of clients over HTTP/2 are under way.
        seats: counts the accepted client connections, whatever runs on them.
        now: monotonic seconds, up to half a second old.
        wall_offset: what to add to monotonic seconds to get Unix seconds.
        ending: whether responses tell clients that the connection ends with them.
        draining: whether each connection ends after its current exchange, told or not.
        traces: whether records hold what spans need.
        session_reads: how many TLS sessions may still be read from upstream connections; see `UpstreamPool`.
    """

    destinations: Destinations

    def __init__(
        self,
        limits: LimitSettings,
        timeouts: TimeoutSettings,
        server_context: Callable[[str], ssl.SSLContext | None],
        observe: Observer | None,
        fetch_context: ContextFetcher | None = None,
    ) -> None:
        self.limits = limits
        self.timeouts = timeouts
        self.server_context = server_context
        self.fetch_context = fetch_context
        self.observe = observe
        self.counters = Counters()
        self.dialer = Dialer()
        self.admission: Admission | None = None
        self.seats = Seats(limits)
        self.clients: set[Any] = set()  # each a `Client`
        self.arrivals: set[Arrival] = set()
        self.upstreams: set[Any] = set()  # each an `Upstream`
        self.idle: OrderedDict[UpstreamConnection, None] = OrderedDict()
        self.splices: set[Splice] = set()
        self.streams = 0
        self.ending = False
        self.draining = False
        self.traces = False
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

    async def drain(self) -> bool:
        """Wait for exchanges in flight to finish, then cut the rest.

        Call this after closing the listeners. Return whether everything finished within `timeouts.drain_s`.
        """
        self.ending = self.draining = True
        for client in list(self.clients):
            client.close_if_idle()
        self.destinations.close_idle()
        give_up_at = time.monotonic() + self.timeouts.drain_s
        # Polled: an event would have to be checked at the end of every exchange.
        while (self.clients or self.arrivals or self.splices) and time.monotonic() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_POLL_S)
        finished = not (self.clients or self.arrivals or self.splices)
        self.abort()
        return finished

    def abort(self) -> None:
        """Cut every connection."""
        everything: tuple[Iterable[Watched], ...] = (self.splices, self.clients, self.arrivals, self.upstreams)
        for watched in everything:
            for one in list(watched):
                one.abort()


def _overdue(watched: Iterable[Watched], now: float) -> list[Watched]:
    return [one for one in watched if one.deadline < now]
