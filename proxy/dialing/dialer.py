"""Opens TCP connections: resolves a name, checks every address, connects to a checked one; or has a proxy do that. Does I/O.

Happy Eyeballs (RFC 8305) is aiohappyeyeballs'. What is dialled is an address this module has seen and approved, never a name that
could resolve to something else a moment later. An upstream proxy is told the name and resolves it itself: then what this module
finds of it is checked as well, and beyond that it is for the upstream proxy to say where its tunnels may lead.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from aiohappyeyeballs import addr_to_addr_infos, start_connection

from proxy.dialing.descriptors import EXHAUSTED, report_exhausted
from proxy.dialing.keep_alive import DEFAULT_S, keep_alive
from proxy.dialing.lookup import find_in_hosts_file
from proxy.dialing.opening import open_tunnel
from proxy.dialing.proxy_tls import start_tls
from proxy.dialing.resolver import Resolver
from proxy.errors import LoopDetected, NameTimeout, Overloaded, UpstreamError, UpstreamUnreachable
from proxy.policy.authority import Authority
from proxy.policy.upstream_proxy import UpstreamProxies

if TYPE_CHECKING:
    import socket
    import ssl
    from weakref import WeakValueDictionary

    from aiohappyeyeballs import AddrInfoType

    from proxy.dialing.resolver import Attempt
    from proxy.policy.upstream_proxy import UpstreamProxy

Address: TypeAlias = tuple[str, int]
"""IP address and port."""
Permit: TypeAlias = Callable[[str, int], None]
"""Takes an IP address and a port; raises ``DestinationRefused`` where they may not be dialled."""

# RFC 8305 §8: the recommended delay before the next address is tried as well.
_HAPPY_EYEBALLS_DELAY_S: Final = 0.25
# A resolver that knows no outside names says so at once, or never.
_LOOK_AHEAD_S: Final = 2.0
_SOME_PUBLIC_ADDRESS: Final = "1.1.1.1"


class Dialer:
    """Opens connections.

    Args:
        proxies: which connections go through an upstream proxy.
        proxy_context: verifies the certificate of one that is spoken to over TLS; None where there is none.
        resolver: looks names up, for all dialers of the process; default: one of its own.
        keep_alive_s: silence before TCP probes a connection.

    Attributes:
        resolver: as above.
        own_addresses: (IP address, port) of every listener of this proxy; filled in once they are bound.
        opened: the connections that are open, by where they begin and end, to know them by should they come back; None: nobody
            has to.
    """

    def __init__(
        self,
        proxies: UpstreamProxies | None = None,
        proxy_context: ssl.SSLContext | None = None,
        resolver: Resolver | None = None,
        keep_alive_s: float = DEFAULT_S,
    ) -> None:
        self._keep_alive_s = keep_alive_s
        self.resolver = resolver or Resolver()
        self.own_addresses: frozenset[tuple[str, int]] = frozenset()
        self.opened: WeakValueDictionary[tuple[Address, Address], socket.socket] | None = None
        self._proxies = proxies or UpstreamProxies()
        self._proxy_context = proxy_context

    async def connect(
        self,
        host: str,
        port: int,
        permit: Permit | None = None,
        *,
        name: str | None = None,
        is_plain: bool = False,
        tells: bool = False,
        dns_only: bool = False,
        attempt: Attempt | None = None,
    ) -> socket.socket:
        """Return a connected non-blocking socket; the caller closes it.

        Args:
            host: a DNS name in A-label form, or an IP address.
            port: 1 to 65535.
            permit: asked for every address the name resolves to.
            name: whom the connection is for where that is not `host`; either may be exempt from the upstream proxy.
            is_plain: plain http will be spoken.
            tells: the other end may be the first to send.
            dns_only: `host` is looked up by DNS alone, not in the hosts file, which may lead clients here under the same name.
            attempt: is told how far this comes.

        Raises:
            UpstreamUnreachable: the name does not resolve, or nothing accepts the connection.
            NameTimeout: no name server answers.
            Overloaded: too many names are being looked up, or no file descriptor is left.
            UpstreamError: the upstream proxy does not open a tunnel.
            DestinationRefused: an address is not permitted.
            LoopDetected: the address is a listener of this very proxy.
        """
        if permit is not None:
            # The port, before anybody is asked about the name: a query would tell others what is refused anyway.
            permit(_SOME_PUBLIC_ADDRESS, port)
        proxy = self.choose(host, port, name, is_plain=is_plain)
        if proxy is None:
            return await self._connect(host, port, permit, attempt, dns_only=dns_only)
        if permit is not None:
            await self._look_ahead(host, port, permit)
        connected = await self._connect_proxy(proxy, attempt)
        try:
            await open_tunnel(connected, proxy, Authority(host, port), tells=tells)
        except BaseException:
            connected.close()
            raise
        return connected

    def choose(self, host: str, port: int, name: str | None = None, *, is_plain: bool = False) -> UpstreamProxy | None:
        """Return the upstream proxy that a connection would go through; None for a direct one."""
        return self._proxies.choose((host, name or host), port, is_plain=is_plain)

    def describe_way(self, host: str, port: int, name: str | None = None, *, is_plain: bool = False) -> str:
        """Return words for a message about a connection: nothing for a direct one."""
        proxy = self.choose(host, port, name, is_plain=is_plain)
        return "" if proxy is None else f", through the upstream proxy {proxy},"

    async def _connect_proxy(self, proxy: UpstreamProxy, attempt: Attempt | None) -> socket.socket:
        try:
            connected = await self._connect(proxy.authority.host, proxy.authority.port, None, attempt)
        except (UpstreamUnreachable, NameTimeout) as error:
            kind: type[UpstreamError] = type(error)
            raise kind(
                f"The upstream proxy cannot be used. {error.detail} It is named by upstream_proxy.url, or by HTTPS_PROXY in "
                "the proxy's environment.",
                code=f"upstream_proxy_{error.code}",
            ) from None
        if not proxy.is_tls or self._proxy_context is None:
            return connected
        return await start_tls(connected, proxy, self._proxy_context)

    async def _look_ahead(self, host: str, port: int, permit: Permit) -> None:
        """Asks `permit` for what can be known of a destination that an upstream proxy will resolve.

        Many networks with such a proxy resolve no outside name within: then nothing is judged here.
        """
        try:
            async with asyncio.timeout(_LOOK_AHEAD_S):
                found = await self.resolver.resolve(host)
        except (UpstreamError, Overloaded, TimeoutError):
            return
        for address in found:
            permit(address, port)

    async def _connect(
        self, host: str, port: int, permit: Permit | None, attempt: Attempt | None, *, dns_only: bool = False
    ) -> socket.socket:
        resolver = self.resolver.dns_only if dns_only else self.resolver
        try:
            found = await resolver.resolve(host, attempt)
        except UpstreamUnreachable as error:
            if not dns_only or not find_in_hosts_file(host):
                raise
            raise UpstreamUnreachable(f"{error.detail} {HOSTS_FILE_NOT_ASKED}", code=error.code) from None
        if permit is not None:
            for address in found:
                permit(address, port)
        infos: list[AddrInfoType] = [info for address in found for info in addr_to_addr_infos((address, port)) or ()]
        try:
            connected = await start_connection(infos, happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY_S)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise report_exhausted(error.errno) from None
            resolver.forget(host)  # what answers there may have moved
            raise UpstreamUnreachable(f"{_describe(host, port)} {_cause(error)}.", code="connection_failed") from None
        keep_alive(connected, self._keep_alive_s)
        if self.opened is not None:
            self.opened[connected.getsockname()[:2], connected.getpeername()[:2]] = connected
        if self._is_self(connected):
            connected.close()
            if not dns_only and set(find_in_hosts_file(host)).intersection(found):
                raise LoopDetected(
                    f"{_describe(host, port)} is a listener of this proxy itself: this machine's hosts file says so. "
                    f"Add `dial: {_describe(host, port)}` to its route: the name in `dial` is looked up by DNS alone.",
                    code="hosts_file_loop",
                )
            raise LoopDetected(
                f"{_describe(host, port)} is a listener of this proxy itself. Check the name's DNS entry, `dial` and "
                "the upstream proxy."
            )
        return connected

    def has_opened(self, begin: Address, end: Address) -> bool:
        """Return whether a connection between these addresses is one of this dialer's: then this proxy is the client.

        Its beginning alone would not tell: another program's connection to elsewhere may begin at the same port.
        """
        found = None if self.opened is None else self.opened.get((begin, end))
        return found is not None and found.fileno() >= 0

    def _is_self(self, connected: socket.socket) -> bool:
        # An IPv4 listener is reached under the address's IPv4-mapped IPv6 form as well (RFC 4291 §2.5.5.2).
        port = connected.getpeername()[1]
        peer = _plain_address(connected.getpeername()[0])
        if (peer, port) in self.own_addresses:
            return True
        # A listener on all addresses is reached under any of this machine's: then both ends carry the same one.
        unspecified = {("0.0.0.0", port), ("::", port)}  # noqa: S104  # compared, not bound
        wildcard = not unspecified.isdisjoint(self.own_addresses)  # compared, not bound
        return wildcard and (
            _plain_address(connected.getsockname()[0]) == peer or ipaddress.ip_address(peer).is_loopback
        )


HOSTS_FILE_NOT_ASKED: Final = (
    "The hosts file has this name, and is not asked: `dial` is looked up by DNS alone. Write the address in `dial`."
)


def _plain_address(text: str) -> str:
    address = ipaddress.ip_address(text.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def _describe(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cause(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused the connection; nothing listens there, or a firewall rejects it"
    if isinstance(error, ConnectionResetError):
        return "reset the connection"
    if isinstance(error, TimeoutError):
        return "did not answer"
    return "cannot be reached from this machine; check its network, routes and firewall"
