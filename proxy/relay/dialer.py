"""Opens TCP connections: resolves once, checks every address, connects to a checked one. Does I/O.

Happy Eyeballs (RFC 8305) is aiohappyeyeballs'. What is dialled is an address this module has seen and approved, never a name that
could resolve to something else a moment later.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Final, TypeAlias

from aiohappyeyeballs import start_connection

from proxy.errors import LoopDetected, UpstreamUnreachable

Permit: TypeAlias = Callable[[str, int], None]
"""Takes an IP address and a port; raises ``DestinationRefused`` where they may not be dialled."""

# RFC 8305 §8: the recommended delay before the next address is tried as well.
_HAPPY_EYEBALLS_DELAY_S: Final = 0.25


class Dialer:
    """Opens connections.

    Attributes:
        own_addresses: (IP address, port) of every listener of this proxy; filled in once they are bound.
    """

    def __init__(self) -> None:
        self.own_addresses: frozenset[tuple[str, int]] = frozenset()

    async def connect(self, host: str, port: int, permit: Permit | None = None) -> socket.socket:
        """Returns a connected non-blocking socket; the caller closes it.

        Args:
            host: a DNS name in A-label form, or an IP address.
            port: 1 to 65535.
            permit: asked for every address the name resolves to.

        Raises:
            UpstreamUnreachable: the name does not resolve, or nothing accepts the connection.
            DestinationRefused: an address is not permitted.
            LoopDetected: the address is a listener of this very proxy.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            raise UpstreamUnreachable(
                f"The name {host} does not resolve. Check its spelling and this machine's DNS."
            ) from None
        if permit is not None:
            for *_, address in found:
                permit(str(address[0]), port)
        try:
            connected = await start_connection(found, happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY_S)
        except OSError as error:
            raise UpstreamUnreachable(f"{_describe(host, port)} {_cause(error)}.") from None
        if self._is_self(connected):
            connected.close()
            raise LoopDetected(
                f"{_describe(host, port)} is a listener of this proxy itself. Check the name's DNS entry and `dial`."
            )
        return connected

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
