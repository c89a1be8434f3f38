"""A client as long as the configuration has it, and what it has used of what it may. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import Overloaded, TooManyRequests
from proxy.policy.rate import TokenBucket

if TYPE_CHECKING:
    from proxy.policy.access import Client


class Usage:
    """How many exchanges there are by one configuration, and may be.

    Attributes:
        concurrent_exchanges: in total; None: any number.
        exchanges: under way.
    """

    def __init__(self, concurrent_exchanges: int | None) -> None:
        self.concurrent_exchanges = concurrent_exchanges
        self.exchanges = 0


class KnownClient:
    """A client as long as the configuration has it: what it has used of what it may.

    Attributes:
        client: its entry.
        exchanges: under way.
        admission: whose client it is.
    """

    __slots__ = ("_bucket", "admission", "client", "exchanges")

    def __init__(self, admission: Usage, client: Client, now: float) -> None:
        self.admission = admission
        self.client = client
        self.exchanges = 0
        rate = client.requests_per_s
        self._bucket = None if rate is None else TokenBucket(rate, client.burst, now)

    def enter(self, route: str, now: float) -> None:
        """Begins an exchange, which `leave` has to end.

        Args:
            route: the route's name; ``-`` without one.
            now: monotonic seconds.

        Raises:
            ClientRefused: not on this route.
            TooManyRequests: over its rate, or over its number of exchanges.
            Overloaded: the proxy as a whole has too many.
        """
        client, admission = self.client, self.admission
        client.check_route(route)
        limit = admission.concurrent_exchanges
        if limit is not None and admission.exchanges >= limit:
            raise Overloaded(f"The proxy has {limit} exchanges (limits.concurrent_exchanges).", retry_after_s=1)
        limit = client.concurrent_exchanges
        if limit is not None and self.exchanges >= limit:
            raise TooManyRequests(
                f"The client {client.name} has {limit} exchanges at a time (concurrent_exchanges).",
                retry_after_s=1,
                code="concurrency",
            )
        if self._bucket is not None and (wait_s := self._bucket.take(now)):
            raise TooManyRequests(
                f"The client {client.name} is over {client.requests_per_s:g} requests a second (requests_per_s).",
                retry_after_s=wait_s,
                code="rate",
            )
        self.exchanges += 1
        admission.exchanges += 1

    def leave(self) -> None:
        """End an exchange."""
        self.exchanges -= 1
        self.admission.exchanges -= 1
