"""What relays requests: a relay in this process, or relay processes behind it (`proxy.workers.relays`).

The server steers either through `Relays`, and never asks which of the two it is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxy.config.routed_hosts import routed_hosts
from proxy.interception.contexts import ServerContexts
from proxy.interception.rsa import RSAKey
from proxy.relay_server import RelayServer
from proxy.tasks import guard

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Sequence

    from proxy.config.settings import Settings
    from proxy.dialing.resolver import Resolver
    from proxy.identity.sources import TokenSources
    from proxy.interception.signing import Authority
    from proxy.operations.own_errors import ErrorCount
    from proxy.operations.snapshot import WorkerSnapshot
    from proxy.operations.usage import Usage
    from proxy.relay.accepted_connection import AcceptedConnections
    from proxy.relay.admission import Admission
    from proxy.relay.record import ExchangeRecord


@dataclass(frozen=True, slots=True)
class Change:
    """A configuration that is built and checked, its listeners open, and not yet in use. Ends with one of the two calls.

    Attributes:
        admission: who may use the proxy by it; None where everyone may.
        use: goes over to it. Takes its settings with the ports that identity listeners have got, and what signs leaves from
            then on. Cannot fail.
        give_up: closes what was opened for it.
    """

    admission: Admission | None
    use: Callable[[Settings, Authority], None]
    give_up: Callable[[], None]


class Relays(Protocol):
    """Everything that relays, from `start` to `drain`.

    Attributes:
        admission: who may use the proxy by the configuration in use; None where everyone may.
        accepted_connections: what counts this process's connections, those of identity listeners included.
        addresses: the bound address of each listener that relays, in the configuration's order, once started.
        is_serving: whether connections are taken.
        restarts: how many relay processes ended without being asked to.
    """

    @property
    def admission(self) -> Admission | None: ...  # noqa: D102  # above

    @property
    def accepted_connections(self) -> AcceptedConnections: ...  # noqa: D102

    @property
    def addresses(self) -> Sequence[tuple[str, int]]: ...  # noqa: D102

    @property
    def is_serving(self) -> bool: ...  # noqa: D102

    @property
    def restarts(self) -> int: ...  # noqa: D102

    async def start(self, settings: Settings, inherited: Sequence[socket.socket]) -> None:
        """Open the listeners.

        Args:
            settings: with the ports that identity listeners have got.
            inherited: sockets that listen already, one for each of the first listeners that relay.

        Raises:
            ConfigurationError: an address cannot be bound.
        """
        ...

    def fixed_until_restart(self, settings: Settings) -> list[str]:
        """Return what another configuration changes that cannot change while these run."""
        ...

    async def prepare(self, settings: Settings, tokens: TokenSources) -> Change:
        """Build what another configuration means, and open its new listeners.

        Raises:
            ConfigurationError: it cannot be used; nothing has changed.
        """
        ...

    def use_ca(self, ca: Authority) -> None:
        """Show new connections certificates of this CA."""
        ...

    def exclude(self, addresses: Collection[tuple[str, int]]) -> None:
        """Take this process's own addresses, beside those of its relay, for no destination."""
        ...

    def announce_end(self) -> None:
        """Have each response from now on tell its client to use another connection; new ones are accepted all the same."""
        ...

    async def drain(self) -> None:
        """Stop accepting, let exchanges finish, close everything."""
        ...

    def cut(self) -> None:
        """End what is left of a drain."""
        ...

    def observe(self, record: ExchangeRecord) -> None:
        """Take the record of an exchange that this process answered itself, as an identity listener does."""
        ...

    def snapshots(self) -> list[WorkerSnapshot]:
        """Return what each process that relays has counted."""
        ...

    def counted(self) -> list[WorkerSnapshot]:
        """Return the snapshots, and what this process has counted where it does not relay itself."""
        ...

    def tail(self, after: int) -> tuple[int, list[ExchangeRecord]]:
        """See `proxy.operations.access_log.AccessLog.tail`."""
        ...

    def errors(self) -> list[ErrorCount]:
        """See `proxy.operations.access_log.AccessLog.errors`."""
        ...

    def usage(self) -> Usage:
        """See `proxy.operations.access_log.AccessLog.usage`."""
        ...


class OneRelay:
    """The relay of a proxy that is one process. See `Relays`.

    Args:
        settings: what to serve.
        tokens: where access tokens come from.
        ca: what signs leaves.
        resolver: looks names up.
        events_dropped: how many events this process's event log has dropped.
    """

    restarts = 0

    def __init__(
        self,
        settings: Settings,
        tokens: TokenSources,
        ca: Authority,
        resolver: Resolver,
        events_dropped: Callable[[], int],
    ) -> None:
        """Build everything that can fail for reasons of configuration, before any socket opens.

        Raises:
            ConfigurationError: a file named by the settings cannot be used.
        """
        self._hosts = routed_hosts(settings)
        self._contexts = ServerContexts(ca, self._hosts)
        self._server = RelayServer(settings, tokens, self._contexts.context_for, self._show_rsa, resolver=resolver)
        self._events_dropped = events_dropped
        self._rsa_key = RSAKey()
        self._making_rsa: set[asyncio.Task[None]] = set()
        self.accepted_connections = self._server.relay.accepted_connections

    @property
    def admission(self) -> Admission | None:
        """See `Relays`."""
        return self._server.relay.admission

    @property
    def addresses(self) -> Sequence[tuple[str, int]]:
        """See `Relays`."""
        return self._server.addresses

    @property
    def is_serving(self) -> bool:
        """See `Relays`."""
        return True

    async def start(self, settings: Settings, inherited: Sequence[socket.socket]) -> None:  # noqa: ARG002  # it has them
        """See `Relays`."""
        await self._server.start(inherited=inherited)

    def fixed_until_restart(self, settings: Settings) -> list[str]:  # noqa: ARG002
        """See `Relays`."""
        return []

    async def prepare(self, settings: Settings, tokens: TokenSources) -> Change:
        """See `Relays`."""
        plan = self._server.plan(settings, tokens)
        await self._server.open(plan)

        def use(settings: Settings, ca: Authority) -> None:
            self._hosts = routed_hosts(settings)
            self._contexts.use(ca, self._hosts)
            self._server.use(plan)

        return Change(plan.admission, use, lambda: self._server.close_new(plan))

    def use_ca(self, ca: Authority) -> None:
        """See `Relays`."""
        self._contexts.use(ca, self._hosts)

    def exclude(self, addresses: Collection[tuple[str, int]]) -> None:
        """See `Relays`."""
        self._server.exclude(addresses)

    def announce_end(self) -> None:
        """See `Relays`."""
        self._server.announce_end()

    async def drain(self) -> None:
        """See `Relays`."""
        await self._server.stop()

    def cut(self) -> None:
        """See `Relays`."""
        self._server.relay.abort()

    def observe(self, record: ExchangeRecord) -> None:
        """See `Relays`."""
        self._server.access_log.observe(record)

    def snapshots(self) -> list[WorkerSnapshot]:
        """See `Relays`."""
        return [self._server.snapshot(events_dropped=self._events_dropped())]

    def counted(self) -> list[WorkerSnapshot]:
        """See `Relays`."""
        return self.snapshots()

    def tail(self, after: int) -> tuple[int, list[ExchangeRecord]]:
        """See `Relays`."""
        return self._server.access_log.tail(after)

    def errors(self) -> list[ErrorCount]:
        """See `Relays`."""
        return self._server.access_log.errors()

    def usage(self) -> Usage:
        """See `Relays`."""
        return self._server.access_log.usage()

    def _show_rsa(self, host: str, on_done: Callable[[], None], *, rsa: bool = True) -> None:
        """Has a host's context show an RSA certificate too, then calls back; see `Relay.fetch_context`."""
        if not rsa:
            on_done()
            return

        async def show() -> None:
            self._contexts.show_rsa(host, await self._rsa_key.get())

        task = asyncio.create_task(guard(show, lambda _error: None, f"making an RSA certificate for {host}"))
        self._making_rsa.add(task)
        task.add_done_callback(self._making_rsa.discard)
        task.add_done_callback(lambda _: on_done())
