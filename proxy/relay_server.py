"""A relay with its listeners and its access log: what a single process and each relay process of several have alike. Does I/O."""

from __future__ import annotations

import asyncio
import ssl
from ipaddress import ip_network
from math import ceil
from typing import TYPE_CHECKING, Final

from proxy.config.addresses import parse_listen_address, parse_origin
from proxy.errors import ConfigurationError
from proxy.identity.credential import Target
from proxy.operations.access_log import AccessLog
from proxy.operations.loop_lag import LoopLag
from proxy.operations.snapshot import WorkerSnapshot, take_snapshot
from proxy.policy.access import Client
from proxy.policy.authority import HTTPS_PORT, parse_authority
from proxy.policy.destinations import check_destination
from proxy.policy.passwords import parse_password_hash
from proxy.policy.routing import RouteTable, parse_host_pattern
from proxy.relay.admission import Admission
from proxy.relay.destinations import Destinations, Route
from proxy.relay.doorway import Doorway
from proxy.relay.entry import FixedEntry, ForwardEntry
from proxy.relay.listening import build_guard, find_users, open_listener, remove_socket
from proxy.relay.passwords import PasswordChecker
from proxy.relay.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from proxy.config.settings import ClientSettings, ListenerSettings, RouteSettings, Settings
    from proxy.relay.dialer import Permit
    from proxy.relay.entry import Entry
    from proxy.relay.tokens import Sources

_HTTP_PORT: Final = 80


class RelayServer:
    """Listeners, the relay behind them, and the access log.

    Args:
        settings: what to serve.
        tokens: where access tokens come from.
        server_context, fetch_context: as for `Relay`.

    Attributes:
        relay: the running relay.
        addresses: the bound address of each listener, in the configuration's order, once started.
    """

    def __init__(
        self,
        settings: Settings,
        tokens: Sources,
        server_context: Callable[[str], ssl.SSLContext | None],
        fetch_context: Callable[[str, Callable[[], None]], None] | None = None,
    ) -> None:
        """Builds everything that can fail for reasons of configuration, before any socket opens.

        Raises:
            ConfigurationError: a file named by the settings cannot be used.
        """
        self._settings = settings
        self.access_log = AccessLog(settings.access_log)
        self.relay = Relay(
            settings.limits,
            settings.timeouts,
            server_context,
            self.access_log.observe,
            fetch_context,
        )
        self.relay.destinations = build_destinations(self.relay, settings, tokens)
        self._passwords = PasswordChecker()
        self.relay.admission = build_admission(settings, self._passwords)
        self._guards = [build_guard(listener) for listener in settings.listeners]
        self.addresses: list[tuple[str, int]] = []
        self.loop_lag = LoopLag()
        self._listeners: list[asyncio.Server] = []
        self._clock: asyncio.Task[None] | None = None

    async def start(self, ports: Sequence[int] | None = None) -> None:
        """Opens the listeners.

        Args:
            ports: the port of each listener, to be shared with other processes; None: those of the settings, alone.

        Raises:
            ConfigurationError: an address cannot be bound.
        """
        self._clock = asyncio.create_task(self.relay.watch(), name="relay clock")
        self.loop_lag.start()
        for index in range(len(self._settings.listeners)):
            await self._listen(index, None if ports is None else ports[index])
        self.relay.dialer.own_addresses = frozenset(self.addresses) | _admin_addresses(self._settings)

    async def stop(self) -> bool:
        """Stops accepting, lets exchanges finish, closes everything. Returns whether all of them finished in time."""
        self.relay.draining = True
        for listener in self._listeners:
            listener.close()
        for address, _ in self.addresses:
            remove_socket(address)
        finished = await self.relay.drain()
        self._passwords.close()
        if self._clock is not None:
            self._clock.cancel()
        self.loop_lag.close()
        self.access_log.close()
        return finished

    def snapshot(self, *, events_dropped: int = 0) -> WorkerSnapshot:
        """Returns what has been counted so far."""
        return take_snapshot(
            self.relay,
            access_log=self.access_log.statistics(),
            loop_lag=self.loop_lag.histogram,
            events_dropped=events_dropped,
        )

    async def _listen(self, index: int, port: int | None) -> None:
        listener, guard = self._settings.listeners[index], self._guards[index]
        entry = self._entry(listener, parse_listen_address(listener.address).host)
        factory: Callable[[], asyncio.BaseProtocol] = self.relay.protocol_factory(entry)
        if guard is not None:
            asks = guard
            factory = lambda: Doorway(self.relay, entry, asks)  # noqa: E731  # as short as what it replaces
        server, address = await open_listener(listener, factory, shared_port=port)
        self._listeners.append(server)
        self.addresses.append(address)

    def _entry(self, listener: ListenerSettings, host: str) -> Entry:
        if listener.upstream is None:
            return ForwardEntry()
        authority = parse_origin(listener.upstream)
        own_names = {parse_authority(name.encode(), _HTTP_PORT).host for name in listener.server_names}
        own_names |= {"localhost", "127.0.0.1", "::1"} | ({host} if host else set())
        return FixedEntry(
            self.relay.destinations.find(authority, HTTPS_PORT),
            authority,
            "reverse",
            own_names=frozenset(own_names),
        )


def _admin_addresses(settings: Settings) -> frozenset[tuple[str, int]]:
    """Returns the admin site's address, which is no destination either."""
    if settings.admin is None:
        return frozenset()
    address = parse_listen_address(settings.admin.address)
    return frozenset({("127.0.0.1" if address.host == "localhost" else address.host, address.port)})


def build_admission(settings: Settings, passwords: PasswordChecker) -> Admission | None:
    """Returns who may use the proxy; None where everyone may and nothing about requests is limited.

    Raises:
        ConfigurationError: a client is known by a Unix user that this machine does not have.
    """
    limit = settings.limits.concurrent_exchanges
    if not settings.clients and limit is None:
        return None
    names = {str(parse_host_pattern(text)): route.hosts[0] for route in settings.routes for text in route.hosts}
    return Admission([_build_client(client, names) for client in settings.clients], limit, passwords)


def _build_client(client: ClientSettings, route_names: Mapping[str, str]) -> Client:
    secret = client.password_hash
    return Client(
        name=client.name,
        networks=tuple(ip_network(text) for text in client.networks),
        users=find_users(client.users),
        certificate_names=frozenset(name.lower() for name in client.certificate_names),
        password=None if secret is None else parse_password_hash(secret.get_secret_value()),
        routes=frozenset(route_names[str(parse_host_pattern(text))] for text in client.routes) or None,
        requests_per_s=client.requests_per_s,
        burst=client.burst or max(1, ceil(client.requests_per_s or 1)),
        concurrent_exchanges=client.concurrent_exchanges,
    )


def build_destinations(relay: Relay, settings: Settings, tokens: Sources) -> Destinations:
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


def _build_route(route: RouteSettings, context: ssl.SSLContext, tokens: Sources) -> Route:
    fields = {
        name.encode("ascii"): value.get_secret_value().encode("latin-1") for name, value in route.set_headers.items()
    }
    return Route(
        name=route.hosts[0],
        tokens=tokens.source_for(route.credential, Target(scope=route.scope, resource=route.resource)),
        fields=b"".join(b"%b: %b\r\n" % field for field in fields.items()),
        field_names=frozenset(name.lower() for name in fields),
        dial=parse_authority(route.dial.encode(), None) if route.dial is not None else None,
        context=context,
        credential=route.credential,
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
