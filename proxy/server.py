"""The composition root: builds everything from the settings, listens, serves, drains. Does I/O.

Nothing below this module knows what stands beside it: the relay gets its token sources, TLS contexts and observers from here.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

from proxy.errors import ConfigurationError
from proxy.identity.credential import Target
from proxy.identity.sources import TokenSources
from proxy.interception.contexts import ServerContexts
from proxy.interception.store import load_or_create
from proxy.operations.access_log import AccessLog
from proxy.policy.authority import parse_authority
from proxy.policy.destinations import check_destination
from proxy.policy.routing import RouteTable, parse_host_pattern
from proxy.relay.destinations import Destinations, Route
from proxy.relay.entry import FixedEntry, ForwardEntry
from proxy.relay.relay import Relay

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.settings import ListenerSettings, RouteSettings, Settings
    from proxy.operations.admin import AdminSite
    from proxy.relay.dialer import Permit
    from proxy.relay.entry import Entry

_BACKLOG: Final = 1_024
_HTTPS: Final = 443


class Server:
    """One proxy process.

    Args:
        settings: what to serve.

    Attributes:
        relay: the running relay.
        tokens: the token sources.
        addresses: the bound address of each listener, in the configuration's order, once started.
        admin_address: of the admin site; None where there is none.
    """

    def __init__(self, settings: Settings) -> None:
        """Builds everything that can fail for reasons of configuration, before any socket opens.

        Raises:
            ConfigurationError: a file named by the settings cannot be used.
        """
        self._settings = settings
        self.tokens = TokenSources.from_settings(settings)
        hosts = routed_hosts(settings)
        ca = load_or_create(settings.state_directory, hosts, datetime.now(UTC))
        contexts = ServerContexts(ca, hosts)
        self.access_log = AccessLog(settings.access_log) if settings.access_log.enabled else None
        self.relay = Relay(
            settings.limits,
            settings.timeouts,
            contexts.context_for,
            self.access_log.observe if self.access_log is not None else None,
        )
        self.relay.destinations = build_destinations(self.relay, settings, self.tokens)
        self.addresses: list[tuple[str, int]] = []
        self.admin_address: tuple[str, int] | None = None
        self._admin: AdminSite | None = None
        self._listeners: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Opens the listeners and the admin site, and begins to obtain tokens.

        Raises:
            ConfigurationError: an address cannot be bound.
        """
        self._tasks.append(asyncio.create_task(self.relay.watch()))
        for listener in self._settings.listeners:
            await self._listen(listener)
        self.relay.dialer.own_addresses = frozenset(self.addresses)
        if self._settings.admin is not None:
            await self._start_admin(self._settings.admin.address)
        self._tasks.append(asyncio.create_task(self.tokens.warm_up()))

    async def stop(self) -> bool:
        """Stops accepting, lets exchanges finish, closes everything. Returns whether all of them finished in time."""
        self.relay.draining = True
        for listener in self._listeners:
            listener.close()
        finished = await self.relay.drain()
        if self._admin is not None:
            await self._admin.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.tokens.close()
        if self.access_log is not None:
            self.access_log.close()
        return finished

    def readiness(self) -> tuple[bool, list[str]]:
        """Whether requests can be served, and what is missing. Never speaks of the API's health."""
        missing = []
        if self.relay.draining:
            missing.append("draining")
        if not self.tokens.ready:
            missing.append("no access token yet")
        return not missing, missing

    async def _listen(self, listener: ListenerSettings) -> None:
        loop = asyncio.get_running_loop()
        host, _, port = listener.address.rpartition(":")
        entry = self._entry(listener, host.strip("[]"))
        try:
            server = await loop.create_server(
                self.relay.protocol_factory(entry), host.strip("[]"), int(port), backlog=_BACKLOG
            )
        except OSError as error:
            raise ConfigurationError(
                f"Cannot listen on {listener.address}: {_describe_bind(error)} Change the listener's address."
            ) from None
        self._listeners.append(server)
        name = server.sockets[0].getsockname()
        self.addresses.append((name[0], name[1]))

    def _entry(self, listener: ListenerSettings, host: str) -> Entry:
        if listener.upstream is None:
            return ForwardEntry()
        authority = parse_authority(listener.upstream.removeprefix("https://").encode(), _HTTPS)
        own_names = {parse_authority(name.encode(), None if ":" in name else 80).host for name in listener.server_names}
        own_names |= {"localhost", "127.0.0.1", "::1", host}
        return FixedEntry(
            self.relay.destinations.find(authority, _HTTPS),
            authority,
            "reverse",
            own_names=frozenset(own_names),
        )

    async def _start_admin(self, address: str) -> None:
        from proxy.operations.admin import AdminSite  # aiohttp.web costs a quarter of a second to import
        from proxy.operations.metrics import RelayCollector

        host, _, port = address.rpartition(":")
        self._admin = AdminSite(host.strip("[]"), int(port), self.readiness, RelayCollector(self.relay, self.tokens))
        try:
            self.admin_address = await self._admin.start()
        except OSError as error:
            raise ConfigurationError(
                f"Cannot open the admin site on {address}: {_describe_bind(error)} Change admin.address."
            ) from None


def routed_hosts(settings: Settings) -> list[str]:
    """Returns the hosts that are intercepted: those of the routes, without ports, wildcards as they are."""
    return list(dict.fromkeys(_host_of(text) for route in settings.routes for text in route.hosts))


def _host_of(text: str) -> str:
    pattern = parse_host_pattern(text)
    return f"*.{pattern.authority.host}" if pattern.is_wildcard else pattern.authority.host


def build_destinations(relay: Relay, settings: Settings, tokens: TokenSources) -> Destinations:
    """Returns where requests may go, by the routes of the settings.

    Raises:
        ConfigurationError: a route's ca_file cannot be used.
    """
    contexts: dict[Path | None, ssl.SSLContext] = {}
    routes = []
    for route in settings.routes:
        if route.ca_file not in contexts:
            contexts[route.ca_file] = create_client_context(route.ca_file)
        routes.append(_build_route(route, contexts[route.ca_file], tokens))
    table = RouteTable(
        (parse_host_pattern(text), index) for index, route in enumerate(settings.routes) for text in route.hosts
    )
    permit = build_permit(settings) if settings.other_hosts == "tunnel" else None
    return Destinations(relay, table, routes, permit)


def _build_route(route: RouteSettings, context: ssl.SSLContext, tokens: TokenSources) -> Route:
    fields = {name.encode("ascii"): value.get_secret_value().encode("latin-1") for name, value in route.set_headers.items()}
    return Route(
        name=route.hosts[0],
        tokens=tokens.source_for(route.credential, Target(scope=route.scope)),
        fields=b"".join(b"%b: %b\r\n" % field for field in fields.items()),
        field_names=frozenset(name.lower() for name in fields),
        dial=parse_authority(route.dial.encode(), None) if route.dial is not None else None,
        context=context,
    )


def build_permit(settings: Settings) -> Permit:
    """Returns what judges the addresses of hosts that no route names."""
    allowed = [ip_network(text) for text in settings.destinations.allow]
    ports = settings.destinations.ports
    return lambda address, port: check_destination(address, port, allowed, ports)


def create_client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Returns the TLS context towards upstreams: the system's roots, and those of `ca_file` added to them.

    Raises:
        ConfigurationError: the file holds no certificate.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError):
            raise ConfigurationError(
                f"{ca_file} cannot be used as ca_file: it must be a readable PEM file with at least one certificate."
            ) from None
    return context


def _describe_bind(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there already."
    if error.errno == errno.EACCES:
        return "this user may not bind that port."
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address."
    return "the address cannot be bound."
