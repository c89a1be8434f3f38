"""A relay with its listeners and its access log: what a single process and each relay process of several have alike. Does I/O."""

from __future__ import annotations

import asyncio
import errno
import ssl
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

from proxy.config.addresses import parse_listen_address, parse_origin
from proxy.errors import ConfigurationError
from proxy.identity.credential import Target
from proxy.operations.access_log import AccessLog
from proxy.operations.loop_lag import LoopLag
from proxy.operations.snapshot import WorkerSnapshot, take_snapshot
from proxy.policy.authority import HTTPS_PORT, parse_authority
from proxy.policy.destinations import check_destination
from proxy.policy.routing import RouteTable, parse_host_pattern
from proxy.relay.destinations import Destinations, Route
from proxy.relay.entry import FixedEntry, ForwardEntry
from proxy.relay.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from proxy.config.settings import ListenerSettings, RouteSettings, Settings
    from proxy.relay.dialer import Permit
    from proxy.relay.entry import Entry
    from proxy.relay.tokens import Sources

_BACKLOG: Final = 1_024
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
        self.access_log = AccessLog(settings.access_log) if settings.access_log.enabled else None
        self.relay = Relay(
            settings.limits,
            settings.timeouts,
            server_context,
            self.access_log.observe if self.access_log is not None else None,
            fetch_context,
        )
        self.relay.destinations = build_destinations(self.relay, settings, tokens)
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
        for index, listener in enumerate(self._settings.listeners):
            await self._listen(listener, None if ports is None else ports[index])
        self.relay.dialer.own_addresses = frozenset(self.addresses)

    async def stop(self) -> bool:
        """Stops accepting, lets exchanges finish, closes everything. Returns whether all of them finished in time."""
        self.relay.draining = True
        for listener in self._listeners:
            listener.close()
        finished = await self.relay.drain()
        if self._clock is not None:
            self._clock.cancel()
        self.loop_lag.close()
        if self.access_log is not None:
            self.access_log.close()
        return finished

    def snapshot(self, *, events_dropped: int = 0) -> WorkerSnapshot:
        """Returns what has been counted so far."""
        return take_snapshot(
            self.relay,
            access_log=self.access_log.statistics() if self.access_log is not None else None,
            loop_lag=self.loop_lag.histogram,
            events_dropped=events_dropped,
        )

    async def _listen(self, listener: ListenerSettings, port: int | None) -> None:
        loop = asyncio.get_running_loop()
        address = parse_listen_address(listener.address)
        entry = self._entry(listener, address.host)
        try:
            server = await loop.create_server(
                self.relay.protocol_factory(entry),
                address.host,
                address.port if port is None else port,
                backlog=_BACKLOG,
                reuse_port=port is not None or None,
            )
        except OSError as error:
            raise ConfigurationError(
                f"Cannot listen on {listener.address}: {describe_bind(error)} Change the listener's address."
            ) from None
        self._listeners.append(server)
        name = server.sockets[0].getsockname()
        self.addresses.append((name[0], name[1]))

    def _entry(self, listener: ListenerSettings, host: str) -> Entry:
        if listener.upstream is None:
            return ForwardEntry()
        authority = parse_origin(listener.upstream)
        own_names = {parse_authority(name.encode(), _HTTP_PORT).host for name in listener.server_names}
        own_names |= {"localhost", "127.0.0.1", "::1", host}
        return FixedEntry(
            self.relay.destinations.find(authority, HTTPS_PORT),
            authority,
            "reverse",
            own_names=frozenset(own_names),
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


def describe_bind(error: OSError) -> str:
    """Says why an address could not be bound."""
    if error.errno == errno.EADDRINUSE:
        return "another program listens there already."
    if error.errno == errno.EACCES:
        return "this user may not bind that port."
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address."
    return "the address cannot be bound."
