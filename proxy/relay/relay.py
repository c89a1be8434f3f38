"""What all connections of one process share, and the one coarse clock that watches their deadlines. Does I/O.

There is no timer per request: each connection writes down when it would be overdue, and twice a second all of them are
looked at. So every timeout is up to half a second late, which none of them minds.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol

from proxy.dialing.dialer import Dialer
from proxy.relay.client import ClientConnection
from proxy.relay.counters import Counters
from proxy.relay.seats import Seats
from proxy.tasks import log_fault

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from proxy.config.settings import LimitSettings, TimeoutSettings
    from proxy.relay.admission import Admission
    from proxy.relay.connect import TunnelEnd
    from proxy.relay.destinations import Destinations
    from proxy.relay.doorway import Doorway
    from proxy.relay.entry import Entry
    from proxy.relay.record import Observer
    from proxy.relay.splice import Splice
    from proxy.relay.upstream import UpstreamConnection

_TICK_S: Final = 0.5
_DRAIN_POLL_S: Final = 0.05
# CPython loses 7 KB at each reading of `SSLObject.session`; so no more than 4 MB are ever lost, whatever names clients ask for.
SESSION_READS: Final = 512


class ContextFetcher(Protocol):
    """Fetches what a routed host's certificate is shown with."""

    def __call__(self, host: str, on_arrival: Callable[[], None], /, *, rsa: bool = False) -> None:
        """See `Relay`."""


class Watched(Protocol):
    """Whatever has a deadline."""

    deadline: float

    def on_deadline(self) -> None:
        """Act on a deadline that has passed; called again while it stays so."""

    def abort(self) -> None:
        """Cuts it at once."""


class Relay:
    """The state of one relay process.

    Args:
        limits, timeouts: the configuration's.
        server_context: returns the TLS server context for an intercepted host; None where it is still to be fetched.
        observe: called with each finished exchange; None: nobody looks.
        fetch_context: fetches a TLS server context, or with `rsa` an RSA certificate for the one there is, then calls back.

    Attributes:
        destinations: where requests may go; replaced as a whole when the configuration changes.
        admission: who may use the proxy; None where everyone may; replaced as a whole when the configuration changes.
        clients, tunnel_ends, upstreams, splices: what is open.
        idle: upstream connections that wait for an exchange, of all pools, the one that has waited longest first.
        seats: how many client connections there are, whatever runs on them.
        now: monotonic seconds, up to half a second old.
        wall_offset: what to add to monotonic seconds to get Unix seconds.
        ending: whether responses tell clients that the connection ends with them.
        draining: whether connections end after their current exchange, told or not.
        traces: whether records say what spans need.
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
        self.clients: set[ClientConnection] = set()
        self.tunnel_ends: set[TunnelEnd | Doorway] = set()
        self.upstreams: set[UpstreamConnection] = set()
        self.idle: OrderedDict[UpstreamConnection, None] = OrderedDict()
        self.splices: set[Splice] = set()
        self.ending = False
        self.draining = False
        self.traces = False
        self.session_reads = SESSION_READS
        self.now = time.monotonic()
        self.wall_offset = time.time() - self.now

    def protocol_factory(self, entry: Entry) -> Callable[[], ClientConnection]:
        """Return what makes the protocol of each connection accepted on a listener."""
        return lambda: ClientConnection(self, entry)

    async def watch(self) -> None:
        """Run the clock until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick(time.monotonic())

    def tick(self, now: float) -> None:
        """Tells everything that is overdue."""
        self.now = now
        self.wall_offset = time.time() - time.monotonic()
        for watched in (self.clients, self.tunnel_ends, self.upstreams, self.splices):
            for overdue in _overdue(watched, now):
                try:
                    overdue.on_deadline()
                except Exception as error:  # noqa: BLE001  # what is wrong with one must not keep the others from being told
                    log_fault("giving up on a connection", error)
                    overdue.abort()

    def close_longest_idle(self) -> None:
        """Close the upstream connection that has waited longest for an exchange, of whichever upstream."""
        connection, _ = self.idle.popitem(last=False)
        connection.pool.idle.remove(connection)
        connection.transport.close()

    async def drain(self) -> bool:
        """Lets exchanges in flight finish, then cuts what is left.

        Listeners are closed by now. Returns whether everything finished within `timeouts.drain_s`.
        """
        self.ending = self.draining = True
        for client in list(self.clients):
            if client.exchange is None:
                client.transport.close()
        self.destinations.close_idle()
        give_up_at = time.monotonic() + self.timeouts.drain_s
        # Polled, because an event would cost every exchange a check.
        while (self.clients or self.tunnel_ends or self.splices) and time.monotonic() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_POLL_S)
        finished = not (self.clients or self.tunnel_ends or self.splices)
        self.abort()
        return finished

    def abort(self) -> None:
        """Cuts every connection."""
        for watched in (self.splices, self.clients, self.tunnel_ends, self.upstreams):
            for one in list(watched):
                one.abort()


def _overdue(watched: Iterable[Watched], now: float) -> list[Watched]:
    return [one for one in watched if one.deadline < now]
