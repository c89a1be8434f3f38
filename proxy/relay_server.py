"""A relay with its listeners and its access log: what a single process and each relay process of several have alike. Does I/O."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from ipaddress import ip_network
from math import ceil
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from proxy.config.addresses import parse_listen_address, parse_origin
from proxy.config.bound_tokens import PATIENCE_WITH_BOUND_TOKENS
from proxy.config.settings import Http2, ListenerMode
from proxy.dialing.building import build_dialer
from proxy.dialing.keep_alive import keep_alive
from proxy.dialing.resolver import Resolver
from proxy.dialing.route_tls import create_route_context, list_client_files, read_client_certificate
from proxy.errors import DestinationRefused
from proxy.identity.credential import Target
from proxy.identity.rotation import RotationWatch, Watched
from proxy.keys.fingerprint import read_fingerprint
from proxy.operations.access_log import AccessLog
from proxy.operations.heap import HeapTrimmer, find_trim
from proxy.operations.loop_lag import LoopLag
from proxy.operations.snapshot import WorkerSnapshot, take_snapshot
from proxy.policy.access import Client
from proxy.policy.authority import HTTPS_PORT, parse_authority
from proxy.policy.destinations import check_destination
from proxy.policy.passwords import parse_password_hash
from proxy.policy.routing import RouteTable, parse_host_pattern
from proxy.relay.admission import Admission
from proxy.relay.arrival import accept
from proxy.relay.destination_rule import FixedRule, ForwardRule
from proxy.relay.destinations import Destinations, Route, describe_refusal
from proxy.relay.listener_policy import ListenerPolicy
from proxy.relay.listening import build_listener_policy, find_users, open_listener, remove_socket
from proxy.relay.passwords import PasswordChecker
from proxy.relay.redirected import RedirectedConnection, RedirectedRule
from proxy.relay.state import Relay
from proxy.tasks import keep_going

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from proxy.config.settings import ClientSettings, ListenerSettings, RouteSettings, Settings
    from proxy.dialing.dialer import Dialer, Permit
    from proxy.dialing.route_tls import ClientCertificate
    from proxy.policy.authority import Authority
    from proxy.relay.accepted_connection import AcceptedConnection
    from proxy.relay.destination_rule import DestinationRule
    from proxy.relay.destinations import Destination
    from proxy.relay.message import RequestHead
    from proxy.relay.state import ContextFetcher
    from proxy.relay.tokens import Sources

_HTTP_PORT: Final = 80


@dataclass(slots=True)
class Listener:
    """A listener, and what becomes of the connections it accepts; that can change while it stays open.

    Attributes:
        key: what has to stay the same for the socket to stay open: address, file mode, and which of several such it is.
        settings: its configuration.
        rule: how requests name their destination.
        policy: what it asks of those who connect; None: nothing.
        server: what accepts; None before it is open.
        address: the bound address.
        is_closed: it accepts no more; asyncio may still ask for the protocol of a connection that it had accepted before.
    """

    key: tuple[str, str, int]
    settings: ListenerSettings
    rule: DestinationRule
    policy: ListenerPolicy | None
    server: asyncio.Server | None = None
    address: tuple[str, int] = ("", 0)
    is_closed: bool = False

    def accept(self, relay: Relay) -> asyncio.BaseProtocol:
        """Return the protocol of a connection."""
        if isinstance(self.rule, RedirectedRule):
            return RedirectedConnection(relay, self.rule)
        return accept(relay, self.rule, self.policy)


@dataclass(slots=True)
class Plan:
    """Everything a configuration means for a relay, built and checked, and not yet in use."""

    settings: Settings
    destinations: Destinations
    admission: Admission | None
    listeners: list[Listener]
    access_log: AccessLog
    dialer: Dialer
    tokens: Sources
    client_files: RotationWatch


class _EarlyConnection(asyncio.Protocol):
    """A connection on a listener whose configuration is not in use yet: nothing is read of it until it is.

    Who may use the proxy, and what for, is judged by the configuration that opened the listener, never by the one before.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._transport: asyncio.Transport | None = None
        self._begun: tuple[Relay, Listener] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait, unless the configuration is in use by now, or was given up."""
        self._transport = transport  # type: ignore[assignment]  # stream transports only
        if self.listener.is_closed:
            self.abort()
        elif self._begun is not None:
            self._hand_over(*self._begun)
        elif self._transport is not None:
            self._transport.pause_reading()

    def begin(self, relay: Relay, listener: Listener) -> None:
        """Give the connection to its listener, whose configuration has come into use."""
        self._begun = relay, listener
        if self._transport is not None:
            self._transport.resume_reading()
            self._hand_over(relay, listener)

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Forget a client that did not wait."""
        self._transport = None

    def _hand_over(self, relay: Relay, listener: Listener) -> None:
        assert self._transport is not None  # noqa: S101  # by the callers
        protocol = listener.accept(relay)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)


@dataclass(frozen=True, slots=True)
class RemovedRule:
    """The inside of a tunnel, or a connection of a reverse listener, to a host that no route names any more."""

    authority: Authority
    mode: str
    takes_http2: bool = False

    def locate(self, relay: Relay, head: RequestHead) -> tuple[Destination, bytes]:  # noqa: ARG002  # see `DestinationRule`
        """See `DestinationRule`."""
        raise DestinationRefused(describe_refusal(self.authority))


class RelayServer:
    """Listeners, the relay behind them, and the access log.

    Args:
        settings: what to serve.
        tokens: where access tokens come from.
        server_context, fetch_context: as for `Relay`.
        resolver: looks names up; default: one for this relay alone.

    Attributes:
        relay: the running relay.
        access_log: what observes it.
        addresses: the bound address of each listener that is the relay's, in the configuration's order, once started.
    """

    def __init__(
        self,
        settings: Settings,
        tokens: Sources,
        server_context: Callable[[str], ssl.SSLContext | None],
        fetch_context: ContextFetcher | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        """Build everything that can fail for reasons of configuration, before any socket opens.

        Raises:
            ConfigurationError: a file named by the settings cannot be used.
        """
        self._settings = settings
        self._resolver = resolver or Resolver()
        self.access_log = AccessLog(settings.access_log, tracing=settings.tracing)
        self.relay = Relay(
            settings.limits,
            settings.timeouts,
            server_context,
            self.access_log.observe,
            fetch_context,
        )
        self._passwords = PasswordChecker()
        self._plan = self.plan(settings, tokens)
        # A start that fails is drained as well.
        self.relay.destinations, self.relay.admission = self._plan.destinations, self._plan.admission
        self._listeners: dict[tuple[str, str, int], Listener] = {}
        self._early: list[_EarlyConnection] = []
        self._excluded: frozenset[tuple[str, int]] = frozenset()
        self.addresses: list[tuple[str, int]] = []
        self.loop_lag = LoopLag()
        self._trimmer = HeapTrimmer(self._count_open, find_trim())
        self._clock: asyncio.Task[None] | None = None
        self._client_files: asyncio.Task[None] | None = None

    async def start(self, ports: Sequence[int] | None = None, inherited: Sequence[socket.socket] = ()) -> None:
        """Open the listeners.

        Args:
            ports: the port of each listener, to be shared with other processes; None: those of the settings, alone.
            inherited: sockets that listen already, one for each of the first listeners.

        Raises:
            ConfigurationError: an address cannot be bound.
        """
        self._clock = asyncio.create_task(keep_going(self.relay.watch, "the relay's clock"), name="relay clock")
        self.loop_lag.start()
        self._trimmer.start()
        await self.open(self._plan, ports, inherited)
        self.use(self._plan)

    def announce_end(self) -> None:
        """Has each response from now on tell its client to use another connection; new ones are accepted all the same."""
        self.relay.ending = True

    async def stop(self) -> bool:
        """Stop accepting, let exchanges finish, close everything. Return whether all of them finished in time."""
        self.relay.draining = True
        for listener in self._plan.listeners:
            _close(listener)
        finished = await self.relay.drain()
        self._passwords.close()
        if self._clock is not None:
            self._clock.cancel()
        if self._client_files is not None:
            self._client_files.cancel()
        self.loop_lag.close()
        self._trimmer.close()
        self.access_log.close()
        return finished

    def plan(self, settings: Settings, tokens: Sources) -> Plan:
        """Build what a configuration means, without changing anything.

        Raises:
            ConfigurationError: a file named by the settings cannot be used.
        """
        client_files = self._watch_client_files(settings)
        destinations = build_destinations(self.relay, settings, tokens)
        dialer = build_dialer(settings, self._resolver)
        admission = build_admission(settings, self._passwords)
        listeners: list[Listener] = []
        for listener in relayed(settings):
            kind = (listener.address, listener.socket_mode)
            key = (*kind, sum(listener.key[:2] == kind for listener in listeners))  # port 0 may be there more than once
            listeners.append(
                Listener(
                    key,
                    listener,
                    build_rule(listener, destinations, settings.clients),
                    build_listener_policy(listener),
                )
            )
        before = self._settings
        is_same_log = (settings.access_log, settings.tracing) == (before.access_log, before.tracing)
        access_log = self.access_log if is_same_log else AccessLog(settings.access_log, tracing=settings.tracing)
        return Plan(settings, destinations, admission, listeners, access_log, dialer, tokens, client_files)

    async def open(
        self, plan: Plan, ports: Sequence[int] | None = None, inherited: Sequence[socket.socket] = ()
    ) -> None:
        """Open the listeners of a plan that are not open yet; those of the running plan stay as they are.

        Args:
            plan: what is to run.
            ports: as for `start`.
            inherited: as for `start`.

        Raises:
            ConfigurationError: an address cannot be bound; nothing has changed then.
        """
        running = {listener.key: listener for listener in self._plan.listeners if listener.server is not None}
        opened: list[Listener] = []
        try:
            for index, listener in enumerate(plan.listeners):
                known = running.get(listener.key)
                if known is not None:
                    listener.server, listener.address = known.server, known.address
                    continue
                factory = functools.partial(self._accept, listener)
                if index < len(inherited):
                    listener.server, listener.address = await _take_over(inherited[index], factory)
                else:
                    port = None if ports is None else ports[index]
                    listener.server, listener.address = await open_listener(
                        listener.settings, factory, shared_port=port
                    )
                opened.append(listener)
        except BaseException:
            for listener in opened:
                _close(listener)
            self._turn_away(opened)
            self.discard(plan)
            raise

    def discard(self, plan: Plan) -> None:
        """Give up a plan that is not to run after all."""
        if plan.access_log is not self.access_log:
            plan.access_log.close()

    def close_new(self, plan: Plan) -> None:
        """Close the listeners that were opened for a plan that is not to run after all."""
        running = {listener.key for listener in self._plan.listeners}
        opened = [listener for listener in plan.listeners if listener.key not in running]
        for listener in opened:
            _close(listener)
        self._turn_away(opened)
        self.discard(plan)

    def use(self, plan: Plan) -> None:
        """Goes over to a plan whose listeners are open. Exchanges in flight go on as they began. Nothing here can fail."""
        before, self._plan, self._settings = self._plan, plan, plan.settings
        relay = self.relay
        earlier: Destinations | None = getattr(relay, "destinations", None)
        relay.destinations, relay.admission = plan.destinations, plan.admission
        relay.limits, relay.timeouts = plan.settings.limits, plan.settings.timeouts
        relay.accepted_connections.limits = plan.settings.limits  # connections that are open stay counted
        relay.observe = plan.access_log.observe
        relay.traces = plan.settings.tracing.endpoint is not None
        self._listeners = {listener.key: listener for listener in plan.listeners}
        self.addresses[:] = [listener.address for listener in plan.listeners]
        for listener in plan.listeners:
            for listening in listener.server.sockets if listener.server is not None else ():
                keep_alive(listening, plan.settings.timeouts.tcp_keep_alive_s)
        plan.dialer.opened = relay.dialer.opened
        if plan.dialer.opened is None and any(isinstance(listener.rule, RedirectedRule) for listener in plan.listeners):
            plan.dialer.opened = WeakValueDictionary()
        relay.dialer = plan.dialer
        relay.dialer.own_addresses = frozenset(self.addresses) | _sites(plan.settings) | self._excluded
        if self._client_files is not None:
            self._client_files.cancel()
        self._client_files = asyncio.create_task(
            keep_going(plan.client_files.run, "watching client certificates"), name="client certificates"
        )
        for connection in self._early:
            if connection.listener.key in self._listeners:
                connection.begin(relay, self._listeners[connection.listener.key])
        self._early = [each for each in self._early if each.listener.key not in self._listeners]
        if before is plan:
            return
        for listener in before.listeners:
            if listener.key not in self._listeners:
                _close(listener)
        self._redirect(before)
        if earlier is not None:
            earlier.close_idle()
        if plan.access_log is self.access_log:
            plan.access_log.reopen()
        else:
            old_log, self.access_log = self.access_log, plan.access_log
            asyncio.get_running_loop().run_in_executor(None, old_log.close)

    def exclude(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Take these addresses, of this process's other listeners, for no destination either; port 0 is known by what was bound."""
        self._excluded = frozenset(addresses)
        self.relay.dialer.own_addresses |= self._excluded

    def snapshot(self, *, events_dropped: int = 0) -> WorkerSnapshot:
        """Return what has been counted so far."""
        return take_snapshot(
            self.relay,
            access_log=self.access_log.statistics(),
            traces=self.access_log.trace_statistics(),
            loop_lag=self.loop_lag.histogram,
            events_dropped=events_dropped,
            name_lookups=self._resolver.outcomes,
        )

    def _watch_client_files(self, settings: Settings) -> RotationWatch:
        """Return what looks at the routes' client certificates, from how their files are now: before they are read."""
        return RotationWatch(
            Watched(
                route.hosts[0],
                list_client_files(route),
                functools.partial(_load_client_certificate, route),
                lambda _: self._renew(),
                read_fingerprint(list_client_files(route)),
                "route",
                patience=PATIENCE_WITH_BOUND_TOKENS if settings.is_bound(route) else 0,
            )
            for route in settings.routes
            if route.client_certificate is not None
        )

    def _renew(self) -> None:
        """Goes over to the same configuration with files as they are now; connections that wait are not used again.

        Raises:
            ConfigurationError: another file that the configuration names cannot be used; everything is as it was.
        """
        plan = self.plan(self._settings, self._plan.tokens)
        for listener in plan.listeners:
            known = self._listeners[listener.key]
            listener.server, listener.address = known.server, known.address
        self.use(plan)

    def _count_open(self) -> int:
        relay = self.relay
        return len(relay.clients) + len(relay.arrivals) + len(relay.upstreams) + len(relay.splices)

    def _accept(self, opened: Listener) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection: by the plan in use, or one that waits for the plan with this listener."""
        listener = self._listeners.get(opened.key)
        if listener is not None:
            return listener.accept(self.relay)
        connection = _EarlyConnection(opened)
        if not opened.is_closed:
            self._early.append(connection)
        return connection

    def _turn_away(self, listeners: Sequence[Listener]) -> None:
        """Cut what has come in by listeners of a plan that is not to run after all."""
        for connection in [each for each in self._early if each.listener in listeners]:
            self._early.remove(connection)
            connection.abort()

    def _find_successor(self, before: Listener) -> Listener | None:
        """Return what a listener is now; None where it is gone, or where its connections would mean something else by now.

        A socket stays open while its listener's mode changes. What has come in by the earlier mode was opened for that: a request
        of a client that knows a forward proxy may be one to a reverse listener as well, and a transparent one has no rule at all
        without an address that the kernel has told.
        """
        listener = self._listeners.get(before.key)
        return listener if listener is not None and listener.settings.mode is before.settings.mode else None

    def _redirect(self, before: Plan) -> None:
        """Give open connections that are for one authority the destination that it has now."""
        listeners = {id(listener.rule): self._find_successor(listener) for listener in before.listeners}

        def redirect(rule: DestinationRule, *, takes_http2: bool = True) -> DestinationRule:
            listener = listeners.get(id(rule))
            if listener is not None:
                return listener.rule
            if not isinstance(rule, FixedRule):
                return rule
            # Not `find` alone: it would pass on without TLS, as to a host that no route names.
            if self.relay.destinations.route_for(rule.authority) is None:
                return RemovedRule(rule.authority, rule.mode, takes_http2)
            rule.destination = self.relay.destinations.find(rule.authority, rule.destination.default_port)
            rule.takes_http2 = takes_http2
            return rule

        # Those that have not come to a request yet, too: it would be the first of any number.
        for client in [*self.relay.clients, *self.relay.arrivals]:
            accepted = client.accepted
            if accepted is None:
                client.redirect(redirect)
                continue
            stays = _is_still_accepted(accepted, listeners)
            client.redirect(functools.partial(redirect, takes_http2=_takes_http2(accepted)))
            if not stays:
                client.dismiss()


def _takes_http2(accepted: AcceptedConnection) -> bool:
    """Whether the listener that a connection came in by takes HTTP/2 on it, which holds inside of its tunnels as well."""
    rule = accepted.rule
    return rule.takes_http2 if isinstance(rule, ForwardRule | FixedRule | RedirectedRule) else True


def _is_still_accepted(accepted: AcceptedConnection, listeners: Mapping[int, Listener | None]) -> bool:
    """Whether the listener that a connection came in by would still accept it; notes which listener that is now.

    Args:
        accepted: the connection.
        listeners: by the identity of the rule that each had before; None: it is gone.
    """
    if id(accepted.rule) not in listeners:
        return True  # it came in by none
    listener = listeners[id(accepted.rule)]
    if listener is None:
        return False
    accepted.rule = listener.rule
    return (listener.policy or ListenerPolicy()).still_takes(accepted.policy, accepted.user)


def build_rule(
    listener: ListenerSettings, destinations: Destinations, clients: Sequence[ClientSettings] = ()
) -> DestinationRule:
    """Return how requests on a listener name their destination.

    Args:
        listener: what is configured.
        destinations: where requests may go.
        clients: who may use the proxy. A page cannot send a client's password; by everything else a browser passes for one.
    """
    if listener.mode is ListenerMode.TRANSPARENT:
        return RedirectedRule(
            refuses_cross_site=not listener.allow_cross_site, takes_http2=listener.http2 is not Http2.OFF
        )
    if listener.upstream is None:
        return ForwardRule(takes_http2=listener.http2 is not Http2.OFF)
    authority = parse_origin(listener.upstream)
    host = parse_listen_address(listener.address).host
    own_names = {parse_authority(name.encode(), _HTTP_PORT).host for name in listener.server_names}
    own_names |= {"localhost", "127.0.0.1", "::1"} | ({host} if host else set())
    return FixedRule(
        destinations.find(authority, HTTPS_PORT),
        authority,
        "reverse",
        own_names=frozenset(own_names),
        refuses_cross_site=not listener.allow_cross_site
        and not (clients and all(client.password_hash is not None for client in clients)),
        takes_http2=listener.http2 is not Http2.OFF,
    )


async def _take_over(
    inherited: socket.socket, factory: Callable[[], asyncio.BaseProtocol]
) -> tuple[asyncio.Server, tuple[str, int]]:
    """Accept connections on a socket that somebody else opened; return the server and the address."""
    name = inherited.getsockname()
    loop = asyncio.get_running_loop()
    if isinstance(name, str):
        return await loop.create_unix_server(factory, sock=inherited), (f"unix:{name}", 0)
    return await loop.create_server(factory, sock=inherited), (name[0], name[1])


def _close(listener: Listener) -> None:
    listener.is_closed = True
    if listener.server is not None:
        listener.server.close()
        remove_socket(listener.address[0])


def relayed(settings: Settings) -> list[ListenerSettings]:
    """Return the listeners whose requests are passed on; the others hand out tokens, and are not the relay's."""
    return [listener for listener in settings.listeners if listener.mode is not ListenerMode.IDENTITY]


def _sites(settings: Settings) -> frozenset[tuple[str, int]]:
    """Return the addresses of the admin site and of the identity listeners, which are no destinations either."""
    texts = [listener.address for listener in settings.listeners if listener.mode is ListenerMode.IDENTITY]
    if settings.admin is not None:
        texts.append(settings.admin.address)
    addresses = [parse_listen_address(text) for text in texts]
    return frozenset(("127.0.0.1" if each.host == "localhost" else each.host, each.port) for each in addresses)


def build_admission(settings: Settings, passwords: PasswordChecker) -> Admission | None:
    """Return who may use the proxy; None where everyone may and nothing about requests is limited.

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
        password=None if secret is None else parse_password_hash(secret.reveal()),
        routes=frozenset(route_names[str(parse_host_pattern(text))] for text in client.routes) or None,
        requests_per_s=client.requests_per_s,
        burst=client.burst or max(1, ceil(client.requests_per_s or 1)),
        concurrent_exchanges=client.concurrent_exchanges,
    )


def build_destinations(relay: Relay, settings: Settings, tokens: Sources) -> Destinations:
    """Return where requests may go, by the routes of the settings.

    Raises:
        ConfigurationError: a route's ca_file or client certificate cannot be used.
    """
    routes = [_build_route(route, tokens) for route in settings.routes]
    table = RouteTable(
        (parse_host_pattern(text), index) for index, route in enumerate(settings.routes) for text in route.hosts
    )
    permit = build_permit(settings) if settings.other_hosts == "tunnel" else None
    return Destinations(relay, table, routes, permit)


def _load_client_certificate(route: RouteSettings) -> list[ClientCertificate]:
    found = read_client_certificate(route)
    return [] if found is None else [found]


def _build_route(route: RouteSettings, tokens: Sources) -> Route:
    fields = {name.encode("ascii"): value.reveal().encode("latin-1") for name, value in route.set_headers.items()}
    return Route(
        name=route.hosts[0],
        tokens=tokens.source_for(route.credential, Target(scope=route.scope, resource=route.resource)),
        fields=b"".join(b"%b: %b\r\n" % field for field in fields.items()),
        field_names=frozenset(name.lower() for name in fields),
        dial=parse_authority(route.dial.encode(), None) if route.dial is not None else None,
        context=create_route_context(route),
        credential=route.credential,
        http2_context=None if route.http2 is Http2.OFF else functools.partial(create_route_context, route),
        prefers_http2=route.http2 is Http2.PREFERRED,
    )


def check_files(settings: Settings) -> None:
    """Read the files that a relay of these settings reads, on behalf of one in another process.

    Raises:
        ConfigurationError: one of them cannot be used.
    """
    for route in settings.routes:
        create_route_context(route)
    build_dialer(settings)
    for listener in relayed(settings):
        build_listener_policy(listener)


def build_permit(settings: Settings) -> Permit:
    """Return what judges the addresses of hosts that no route names."""
    allowed = [ip_network(text) for text in settings.destinations.allow]
    ports = settings.destinations.ports
    return lambda address, port: check_destination(address, port, allowed, ports)
