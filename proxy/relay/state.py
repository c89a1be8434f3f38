"""The state of one relay process: what its connections share, and what the running configuration makes of requests. Does I/O.

Replaced piece by piece when the configuration changes; whoever has begun with a piece goes on with it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Protocol

from proxy.relay.accepted_connection import AcceptedConnections
from proxy.relay.shared import Shared

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from proxy.config.settings import LimitSettings, TimeoutSettings
    from proxy.relay.admission import Admission
    from proxy.relay.destinations import Destinations
    from proxy.relay.record import Observer

_DRAIN_POLL_S: Final = 0.05


class ContextFetcher(Protocol):
    """Fetches the TLS server context that holds a routed host's certificate."""

    def __call__(self, host: str, on_arrival: Callable[[], None], /, *, rsa: bool = False) -> None:
        """See `Relay`."""


class Relay(Shared):
    """The state of one relay process: what its connections share, and what a configuration makes of requests.

    Args:
        limits, timeouts: the configuration's.
        server_context: returns the TLS server context for an intercepted host; None if it has to be fetched first.
        observe: called with the record of each finished exchange; None if nothing needs them.
        fetch_context: fetches a TLS server context, or with `rsa` an RSA certificate for the one there is, then calls back.

    Attributes:
        destinations: where requests may go; replaced as a whole when the configuration changes.
        admission: who may use the proxy; None if everyone may; replaced as a whole when the configuration changes.
        accepted_connections: those of clients, whatever runs on them.
        traces: whether records hold what spans need.
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
        super().__init__(limits, timeouts)
        self.server_context = server_context
        self.fetch_context = fetch_context
        self.observe = observe
        self.admission: Admission | None = None
        self.accepted_connections = AcceptedConnections(limits)
        self.traces = False

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
