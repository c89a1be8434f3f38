"""Where a request may go, with what goes along: built from the routes, remembered by authority. Does no I/O itself."""

from __future__ import annotations

import ssl  # noqa: TC003  # see below
from collections.abc import Callable  # noqa: TC003  # mypyc evaluates the annotations of dataclasses
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from proxy.errors import DestinationRefused
from proxy.policy.authority import Authority, parse_authority
from proxy.relay.message import HOP_BY_HOP
from proxy.relay.negotiation import NegotiatingPool
from proxy.relay.pool import UpstreamPool
from proxy.relay.tokens import Source  # noqa: TC001  # mypyc evaluates the annotations of dataclasses

if TYPE_CHECKING:
    from proxy.dialing.dialer import Permit
    from proxy.policy.routing import RouteTable
    from proxy.relay.shared import Shared

# Spellings and names below a wildcard that are remembered; when it is full, it is emptied of what is not in use.
_REMEMBERED: Final = 4_096
_DEFAULT_PORTS: Final = {b"http": 80, b"https": 443}


@dataclass(frozen=True, slots=True)
class Route:
    """One route, ready for use.

    Attributes:
        name: its first host pattern.
        tokens: where its access tokens come from.
        fields: what `set_headers` adds, as complete field lines with CRLF.
        field_names: their names in lower case.
        dial: where to connect instead of the authority; None for the authority itself.
        context: verifies the upstream's certificate.
        credential: the name of the credential that its tokens are obtained with.
        http2_context: reads files, and returns what is like `context` and offers these protocols; None: HTTP/2 is never spoken.
        prefers_http2: whether HTTP/2 is spoken wherever the upstream can.
    """

    name: str
    tokens: Source
    fields: bytes
    field_names: frozenset[bytes]
    dial: Authority | None
    context: ssl.SSLContext
    credential: str = ""
    http2_context: Callable[[tuple[str, ...]], ssl.SSLContext] | None = None
    prefers_http2: bool = False


@dataclass(frozen=True, slots=True)
class Destination:
    """One upstream authority, with everything an exchange with it needs.

    Attributes:
        authority: host and port; the host is the name verified on the upstream's certificate.
        name: the authority as text, for logs.
        host_field: the Host field's value.
        default_port: of the scheme by which the client named it.
        route: the route's name; ``-`` for a host that no route names.
        tokens: where access tokens come from; None for a host that no route names.
        added: complete field lines with CRLF, put behind the client's fields.
        drop: lower-case names of fields that do not pass.
        pool: the connections to it.
        credential: the name of the credential that its tokens are obtained with; empty without tokens.
    """

    authority: Authority
    name: str
    host_field: bytes
    default_port: int
    route: str
    tokens: Source | None
    added: bytes
    drop: frozenset[bytes]
    pool: UpstreamPool
    credential: str = ""


class Destinations:
    """All destinations of one configuration.

    Args:
        relay: the process-wide state.
        table: which authority belongs to which route.
        routes: by the table's index.
        permit: judges the addresses of hosts that no route names; None: they are refused altogether.
    """

    def __init__(self, relay: Shared, table: RouteTable, routes: list[Route], permit: Permit | None) -> None:
        self._relay = relay
        self._table = table
        self._routes = routes
        self._permit = permit
        self._by_target: dict[tuple[bytes, bytes], Destination] = {}
        self._by_authority: dict[tuple[Authority, int], Destination] = {}
        self._routed_pools: dict[Authority, UpstreamPool] = {}
        self._over_http2: dict[tuple[Authority, int], Destination] = {}
        self._forget_at = _REMEMBERED

    @property
    def tunnels_others(self) -> bool:
        """Whether hosts that no route names are passed on."""
        return self._permit is not None

    @property
    def permit(self) -> Permit | None:
        """Judges the addresses of hosts that no route names."""
        return self._permit

    def for_target(self, scheme: bytes, raw: bytes) -> Destination:
        """Return the destination of an absolute-form target.

        Args:
            scheme: ``http`` or ``https``, in lower case.
            raw: the authority as sent.

        Raises:
            MalformedRequest: it is no authority.
            DestinationRefused: no route names it, and others are refused.
        """
        found = self._by_target.get((scheme, raw))
        if found is None:
            default_port = _DEFAULT_PORTS[scheme]
            authority = parse_authority(raw, default_port)
            if scheme == b"https" and self.route_for(authority) is None:
                raise DestinationRefused(
                    f"No route names {authority}. An https URL for such a host goes through CONNECT, "
                    "if `other_hosts: tunnel` is set."
                )
            found = self.find(authority, default_port)
            if len(self._by_target) >= _REMEMBERED:
                self._by_target.clear()
            self._by_target[scheme, raw] = found
        return found

    def route_for(self, authority: Authority) -> tuple[Route, Authority] | None:
        """Return the route, and the authority it is reached under; None where no route names it.

        ``http://host`` without a route of its own for port 80 is the same as ``https://host``: an upstream is always TLS.
        """
        index = self._table.find(authority)
        if index is None and authority.port == 80:
            authority = Authority(authority.host, 443)
            index = self._table.find(authority)
        return None if index is None else (self._routes[index], authority)

    def has_name(self, authority: Authority) -> bool:
        """Return whether a route names a host, at whatever port. An address is a machine, on which several programs may listen."""
        return not authority.is_ip and self._table.names(authority.host)

    def find(self, authority: Authority, default_port: int) -> Destination:
        """Return the destination for an authority; see `for_target`."""
        found = self._by_authority.get((authority, default_port))
        if found is None:
            routed = self.route_for(authority)
            if routed is not None:
                found = self._routed(*routed, default_port)
            elif self._permit is None:
                raise DestinationRefused(describe_refusal(authority))
            else:
                found = self._plain(authority, default_port, self._permit)
            if len(self._by_authority) >= self._forget_at:
                self._forget_unused()
            self._by_authority[authority, default_port] = found
        return found

    def over_http2(self, destination: Destination) -> Destination | None:
        """Return a destination's like whose connections speak HTTP/2; None where none may, or plain HTTP is spoken."""
        key = (destination.authority, destination.default_port)
        found = self._over_http2.get(key)
        if found is None:
            pool = destination.pool.over_http2()
            if pool is None:
                return None
            found = self._over_http2[key] = replace(destination, pool=pool)
        return found

    def close_idle(self) -> None:
        """Close every upstream connection that waits for an exchange."""
        for destination in self._by_authority.values():
            destination.pool.close_idle()

    def _routed(self, route: Route, authority: Authority, default_port: int) -> Destination:
        pool = self._routed_pools.get(authority)  # http and https URLs of one host share it
        if pool is None:
            pool = self._routed_pools[authority] = self._make_pool(route, authority)
        return Destination(
            authority=authority,
            name=str(authority),
            host_field=authority.host_field(443),
            default_port=default_port,
            route=route.name,
            tokens=route.tokens,
            added=route.fields,
            drop=HOP_BY_HOP | route.field_names | {b"authorization"},
            pool=pool,
            credential=route.credential,
        )

    def _make_pool(self, route: Route, authority: Authority) -> UpstreamPool:
        dial, dns_only = route.dial or authority, route.dial is not None
        if route.http2_context is None:
            return UpstreamPool(self._relay, dial, authority.host, route.context, dns_only=dns_only)
        return NegotiatingPool(
            self._relay,
            dial,
            authority.host,
            route.context,
            route.http2_context,
            prefers_http2=route.prefers_http2,
            dns_only=dns_only,
        )

    def _plain(self, authority: Authority, default_port: int, permit: Permit) -> Destination:
        return Destination(
            authority=authority,
            name=str(authority),
            host_field=authority.host_field(80),
            default_port=default_port,
            route="-",
            tokens=None,
            added=b"",
            drop=HOP_BY_HOP,
            pool=UpstreamPool(self._relay, authority, None, None, permit),
        )

    def _forget_unused(self) -> None:
        self._by_target.clear()
        for key, destination in list(self._by_authority.items()):
            if destination.pool.is_unused:
                del self._by_authority[key]
                self._routed_pools.pop(destination.authority, None)
        for key, destination in list(self._over_http2.items()):
            if destination.pool.is_unused:
                del self._over_http2[key]
        # Twice what is in use, so that looking for what is not costs each request the same, however many are in use.
        self._forget_at = max(_REMEMBERED, 2 * len(self._by_authority))


def describe_refusal(authority: Authority) -> str:
    """Says why a host is not passed on, and what would change that."""
    return (
        f"No route names {authority}, and this proxy passes on routed hosts only. Check the spelling and the port, add the host to "
        "a route's `hosts`, or set `other_hosts: tunnel`. If the host needs no token, name it in NO_PROXY in the client."
    )
