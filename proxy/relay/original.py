"""Where a redirected connection was going before the kernel led it here. Asks the kernel (Linux); formats of socket addresses."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio

# linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h; levels and sizes: ip(7), ipv6(7).
_SO_ORIGINAL_DST: Final = 80
_IP6T_SO_ORIGINAL_DST: Final = 80
_SOL_IP: Final = 0
_SOCKADDR_IN_BYTES: Final = 16
_SOCKADDR_IN6_BYTES: Final = 28


class Socket(Protocol):
    """What is asked of a transport's socket."""

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """As `socket.socket.getsockopt`."""
        ...


def read_original_destination(connected: Socket, *, is_ipv6: bool) -> tuple[str, int] | None:
    """Return the IP address and port that a client connected to; None where the kernel does not know.

    Args:
        connected: an accepted connection.
        is_ipv6: whether it came over IPv6.
    """
    try:
        if is_ipv6:
            return parse_sockaddr_in6(
                connected.getsockopt(socket.IPPROTO_IPV6, _IP6T_SO_ORIGINAL_DST, _SOCKADDR_IN6_BYTES)
            )
        return parse_sockaddr_in(connected.getsockopt(_SOL_IP, _SO_ORIGINAL_DST, _SOCKADDR_IN_BYTES))
    except OSError:  # no rule has redirected it, nobody tracks connections, or this is not Linux
        return None


def parse_sockaddr_in(raw: bytes) -> tuple[str, int]:
    """Return address and port of a ``struct sockaddr_in`` (ip(7)): family, port, address."""
    return socket.inet_ntop(socket.AF_INET, raw[4:8]), int.from_bytes(raw[2:4], "big")


def parse_sockaddr_in6(raw: bytes) -> tuple[str, int]:
    """Return address and port of a ``struct sockaddr_in6`` (ipv6(7)): family, port, flow label, address."""
    return socket.inet_ntop(socket.AF_INET6, raw[8:24]), int.from_bytes(raw[2:4], "big")


def has_ipv6(transport: asyncio.BaseTransport) -> bool:
    """Return whether a connection came over IPv6; of IPv4 through an IPv6 socket, False (RFC 4291 §2.5.5.2)."""
    name = transport.get_extra_info("sockname")
    return isinstance(name, tuple) and ":" in name[0] and not str(name[0]).startswith("::ffff:")
