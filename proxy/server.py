"""The composition root: keys, tokens, the CA and the admin site, and one relay or several relay processes. Does I/O.

Nothing below this module knows what stands beside it: the relay gets its token sources, TLS contexts and observers from here.
"""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from proxy.config.addresses import parse_listen_address
from proxy.errors import ConfigurationError
from proxy.identity.sources import TokenSources
from proxy.interception.contexts import ServerContexts
from proxy.interception.leaf import mint
from proxy.interception.names import is_wildcard
from proxy.interception.store import load_or_create
from proxy.operations.event_log import EventLog
from proxy.operations.metrics import CertificateExpiry
from proxy.operations.overview import RouteSummary
from proxy.policy.routing import parse_host_pattern
from proxy.relay.listening import describe_bind
from proxy.relay_server import RelayServer
from proxy.workers.control import Control

if TYPE_CHECKING:
    from proxy.config.settings import Settings
    from proxy.interception.authority import InterceptionCA
    from proxy.operations.admin import AdminSite
    from proxy.operations.snapshot import WorkerSnapshot
    from proxy.relay.record import ExchangeRecord


class Server:
    """One proxy, in one process or several.

    Args:
        settings: what to serve.

    Attributes:
        tokens: the token sources.
        front: the relay of a single process; None where there are relay processes.
        control: over the relay processes; None for a single process.
        addresses: the bound address of each listener, in the configuration's order, once started.
        admin_address: of the admin site; None where there is none.
    """

    def __init__(self, settings: Settings) -> None:
        """Builds everything that can fail for reasons of configuration, before any socket opens.

        Raises:
            ConfigurationError: a file named by the settings cannot be used.
        """
        self._settings = settings
        self._event_log: EventLog | None = None
        self.tokens = TokenSources.from_settings(settings)
        self._hosts = routed_hosts(settings)
        self._ca = load_or_create(settings.state_directory, self._hosts, datetime.now(UTC))
        self.front: RelayServer | None = None
        self.control: Control | None = None
        if settings.workers == 1:
            self.front = RelayServer(settings, self.tokens, ServerContexts(self._ca, self._hosts).context_for)
        self.addresses: list[tuple[str, int]] = []
        self.admin_address: tuple[str, int] | None = None
        self._admin: AdminSite | None = None
        self._reserved: list[socket.socket] = []
        self._warm_up: asyncio.Task[None] | None = None
        self._is_draining = False

    async def start(self) -> None:
        """Opens the listeners and the admin site, and begins to obtain tokens.

        Raises:
            ConfigurationError: an address cannot be bound.
        """
        self._event_log = EventLog()
        if self.front is not None:
            await self.front.start()
            self.addresses = self.front.addresses
        else:
            self._reserved = [_reserve(listener.address) for listener in self._settings.listeners]
            self.addresses = [one.getsockname()[:2] for one in self._reserved]
            self.control = Control(
                self._settings,
                [port for _, port in self.addresses],
                self.tokens,
                LeafMint(self._ca),
                self._literal_hosts(),
            )
            await self.control.start()
        if self._settings.admin is not None:
            await self._start_admin(self._settings.admin.address)
        self._warm_up = asyncio.create_task(self.tokens.warm_up(), name="warm-up")

    async def stop(self) -> None:
        """Stops accepting, lets exchanges finish, closes everything."""
        self._is_draining = True
        for reserved in self._reserved:
            reserved.close()
        if self.front is not None:
            await self.front.stop()
        if self.control is not None:
            await self.control.drain()
        if self._admin is not None:
            await self._admin.close()
        if self._warm_up is not None:
            self._warm_up.cancel()
            await asyncio.gather(self._warm_up, return_exceptions=True)
        await self.tokens.close()
        if self._event_log is not None:
            self._event_log.close()

    def cut(self) -> None:
        """Ends a drain: what is left of it is cut."""
        if self.front is not None:
            self.front.relay.abort()
        if self.control is not None:
            self.control.kill()

    def readiness(self) -> tuple[bool, list[str]]:
        """Whether requests can be served, and what is missing. Never speaks of the API's health."""
        missing = ["draining"] if self._is_draining else []
        missing += [f"no access token yet for {what}" for what in self.tokens.missing()]
        return not missing, missing

    def snapshots(self) -> list[WorkerSnapshot]:
        """Returns what each process that relays has counted so far."""
        dropped = self._event_log.dropped if self._event_log is not None else 0
        if self.front is not None:
            return [self.front.snapshot(events_dropped=dropped)]
        return self.control.snapshots() if self.control is not None else []

    def _literal_hosts(self) -> list[str]:
        return [host for host in self._hosts if not is_wildcard(host)]

    async def _start_admin(self, text: str) -> None:
        # aiohttp.web costs a quarter of a second to import, and not everybody wants the site.
        from proxy.operations.admin import AdminSite  # noqa: PLC0415
        from proxy.operations.metrics import MetricsCollector  # noqa: PLC0415
        from proxy.operations.page import Page, PageSources  # noqa: PLC0415

        address = parse_listen_address(text)
        collector = MetricsCollector(self.snapshots, self.tokens.statistics, self._other_certificates)
        page = Page(
            PageSources(
                readiness=self.readiness,
                workers=self.snapshots,
                identity=self.tokens.statistics,
                certificates=self._other_certificates,
                routes=self._summarise_routes,
                tail=self._tail,
                errors=self._errors,
            )
        )
        self._admin = AdminSite(address.host, address.port, self.readiness, collector, page=page)
        try:
            self.admin_address = await self._admin.start()
            if self.front is not None:
                self.front.relay.dialer.own_addresses |= {self.admin_address}
        except OSError as error:
            raise ConfigurationError(
                f"Cannot open the admin site on {text}: {describe_bind(error)} Change admin.address."
            ) from None

    def _other_certificates(self) -> list[CertificateExpiry]:
        """Returns the certificates beside the credentials' own."""
        return [CertificateExpiry("interception_ca", "", "", self._ca.not_after.timestamp())]

    def _summarise_routes(self) -> list[RouteSummary]:
        return [
            RouteSummary(route.hosts[0], route.hosts, route.credential, route.scope or route.resource or "")
            for route in self._settings.routes
        ]

    def _tail(self, after: int) -> tuple[int, list[ExchangeRecord]]:
        if self.front is not None:
            return self.front.access_log.tail(after)
        return self.control.recent.tail(after) if self.control is not None else (0, [])

    def _errors(self) -> list[ExchangeRecord]:
        if self.front is not None:
            return self.front.access_log.recent_errors()
        return self.control.recent.errors() if self.control is not None else []


class LeafMint:
    """Makes the leaf certificates that relay processes present.

    Args:
        ca: what signs them.
    """

    def __init__(self, ca: InterceptionCA) -> None:
        self._ca = ca

    def __call__(self, host: str) -> bytes:
        """Returns a leaf for a host as PEM, with its chain and its own key.

        Raises:
            ConfigurationError: the CA may not sign for that host.
        """
        return mint(self._ca, host, datetime.now(UTC)).pem()


def routed_hosts(settings: Settings) -> list[str]:
    """Returns the hosts that are intercepted: those of the routes, without ports, wildcards as they are."""
    return list(dict.fromkeys(_host_of(text) for route in settings.routes for text in route.hosts))


def _host_of(text: str) -> str:
    pattern = parse_host_pattern(text)
    return f"*.{pattern.authority.host}" if pattern.is_wildcard else pattern.authority.host


def _reserve(text: str) -> socket.socket:
    """Binds an address for the relay processes to share, without listening on it: so the port is known, and ours.

    Raises:
        ConfigurationError: it cannot be bound, or somebody else listens there.
    """
    address = parse_listen_address(text)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    host = "127.0.0.1" if address.host == "localhost" else address.host
    try:
        # First without SO_REUSEPORT, under which a second proxy would share the first one's clients.
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, address.port))
            port = probe.getsockname()[1]
        reserved = socket.socket(family)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {text}: {describe_bind(error)} Change the listener's address."
        ) from None
    return reserved
