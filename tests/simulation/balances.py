"""What is held, and by whom: checked in the middle of a story, each time that everything waits.

Nothing is on its way from one hand to another then, because all callbacks have run that time does not hold back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from proxy.relay.exchange import Exchange
from proxy.relay.http2.pool import Http2Pool
from proxy.relay.upstream import UpstreamConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.relay.state import Relay
    from tests.simulation.world import World

# At each such moment it would take longer than everything else.
_EVERY: Final = 16


class Balances:
    """Looks at a running relay.

    Args:
        world: is told of what does not add up.
        relay: whose it is.
    """

    def __init__(self, world: World, relay: Relay) -> None:
        self._world = world
        self._relay = relay
        self._moments = 0
        self._admissions: list[Any] = []

    def on_waiting(self) -> None:
        """Take note that everything waits."""
        self._moments += 1
        admission = self._relay.admission
        if admission is not None and (not self._admissions or self._admissions[-1] is not admission):
            self._admissions.append(admission)  # exchanges of an earlier one end as they began
        if self._moments % _EVERY == 0 and not self._world.broken:
            for what in self._find():
                self._world.fail(what)

    def _find(self) -> Iterator[str]:
        relay = self._relay
        exchanges = set(_exchanges(relay))
        splices = list(set.__iter__(relay.splices))
        under_way = len(exchanges) + sum(not splice._closed for splice in splices)
        counted = sum(admission.exchanges for admission in self._admissions)
        if counted != under_way:
            yield f"{counted} exchanges are counted, and {under_way} are under way"
        yield from self._find_connections(exchanges, splices)
        clients = len(relay.clients) + len(relay.arrivals) + len(splices)
        accepted = relay.accepted_connections.count
        open_here = sum(not each._is_told for each in self._world.network.accepted)
        if not clients <= accepted + sum(splice._closed for splice in splices) or accepted > open_here:
            yield f"{accepted} accepted connections are counted, of {clients} with a protocol and {open_here} open"

    def _find_connections(self, exchanges: set[Any], splices: list[Any]) -> Iterator[str]:
        """Find connections to upstreams that belong to nobody, and places that nobody has."""
        relay = self._relay
        # Each may be about to open a connection, or to find out which version it has.
        waiting = sum(getattr(each, "_task", None) is not None for each in exchanges)
        joined = {splice.upstream.transport for splice in splices}
        opened: dict[Any, int] = {}
        idle = unowned = 0
        for connection in set.__iter__(relay.upstreams):
            opened[connection.pool] = opened.get(connection.pool, 0) + connection.opened
            is_idle = connection in relay.idle
            idle += is_idle
            if not isinstance(connection, UpstreamConnection):
                yield from self._find_streams(connection, exchanges, is_idle=is_idle)
                continue
            pool: Any = connection.pool
            receiver = connection.receiver
            if receiver is not None and receiver not in exchanges:
                yield "a connection to an upstream belongs to an exchange that is not under way"
            if is_idle and (receiver is not None or connection not in pool.idle):
                yield "a connection to an upstream is idle, and has an exchange or no place in its pool"
            if not is_idle and receiver is None and not connection.transport.is_closing():
                unowned += connection.transport not in joined
        if unowned > waiting:
            yield f"{unowned} connections to upstreams are neither used nor closed, and {waiting} exchanges wait for one"
        if idle != len(relay.idle):
            yield f"{len(relay.idle)} connections to upstreams are idle, and {idle} of them are open"
        opening = 0
        for taken, count in opened.items():
            over = taken.size - count
            if over < 0:
                yield f"{count} connections to an upstream have {taken.size} places"
            if not isinstance(taken, Http2Pool):  # which opens for all who wait
                opening += over
        if opening > waiting:
            yield f"{opening} places are taken for connections to be opened, and {waiting} exchanges wait for one"

    def _find_streams(self, connection: Any, exchanges: set[Any], *, is_idle: bool) -> Iterator[str]:
        """Find streams to an upstream that belong to nobody."""
        for stream in connection.core.streams.values():
            receiver = None if stream.user is None else stream.user.receiver
            if receiver is not None and receiver not in exchanges:
                yield "a stream to an upstream belongs to an exchange that is not under way"
        if is_idle and connection.core.streams:
            yield "a connection to an upstream is idle, and has streams"
        elif not is_idle and not (connection.core.streams or connection.reserved or connection.transport.is_closing()):
            yield "a connection to an upstream of HTTP/2 is neither used nor closed"


def _exchanges(relay: Relay) -> Iterator[Any]:
    """Return the exchanges under way that clients' connections own; those that have become a splice are none."""
    for client in set.__iter__(relay.clients):
        core = getattr(client, "core", None)
        if core is None:
            if client.exchange is not None:
                yield client.exchange
            continue
        for stream in core.streams.values():
            exchange = None if stream.user is None else stream.user.exchange
            if isinstance(exchange, Exchange):
                yield exchange
