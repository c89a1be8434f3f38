"""Which addresses may be dialled for hosts that no route names. Pure: does no I/O.

Judged is the address itself, after name resolution, so a public name that resolves to a private address does not get through.
Refused unless allowed: everything that is not a global unicast address (RFC 6890, RFC 4291), which includes loopback, private and
link-local ranges; and every cloud's metadata address, some of which look public.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final, TypeAlias

from proxy.errors import DestinationRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

Network: TypeAlias = IPv4Network | IPv6Network

# IPv6 ranges that carry an IPv4 address, where the gateway behind them delivers to (RFC 6052 §2.1, RFC 3056 §2).
_NAT64: Final = IPv6Network("64:ff9b::/96")
_6TO4: Final = IPv6Network("2002::/16")
# IPv4-compatible IPv6 addresses (RFC 4291 §2.5.5.1), deprecated, and still read as IPv4 by some stacks.
_COMPATIBLE: Final = IPv6Network("::/96")

# All that IANA has allocated for global unicast so far (RFC 4291 §2.4). What Python takes for global depends on its version.
_GLOBAL_IPV6: Final = IPv6Network("2000::/3")
# Addresses outside the private ranges under which a cloud tells its machines secrets: Azure's wire server, which hands out
# certificates, and Oracle's. The other clouds' are link-local or unique local.
_METADATA: Final = frozenset((IPv4Address("168.63.129.16"), IPv4Address("192.0.0.192")))


def check_destination(address: str, port: int, allowed: Sequence[Network], ports: Sequence[int]) -> None:
    """Judges one address.

    Args:
        address: an IPv4 or IPv6 address as text, possibly with a zone id.
        port: the port to be dialled.
        allowed: ranges that the operator has named; they may be dialled whatever they are.
        ports: the ports that may be dialled.

    Raises:
        DestinationRefused: it may not be dialled.
    """
    if port not in ports:
        raise DestinationRefused(
            f"Port {port} is not passed on; allowed are {', '.join(map(str, ports))} (destinations.ports)."
        )
    for form in embedded_addresses(ip_address(address.partition("%")[0])):
        if not is_public(form):
            if any(form in network for network in allowed):
                continue
            raise DestinationRefused(
                f"The host resolves to {form}, which is not a public address. Name it in `destinations.allow` if that is meant."
            )


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one that anybody on the internet may be meant by."""
    if not address.is_global or address.is_multicast or address in _METADATA:
        return False
    return isinstance(address, IPv4Address) or address in _GLOBAL_IPV6


def embedded_addresses(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """Return the address that a packet to `address` ends at: itself, or the IPv4 address it embeds, or both."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return [IPv4Address(int(address) & 0xFFFF_FFFF)]
    if address in _6TO4 and address.sixtofour is not None:
        return [address, address.sixtofour]
    if address.teredo is not None:
        return [address, *address.teredo]
    return [address]
