"""Which of the configured clients somebody is, and what that client may do. Pure: does no I/O.

A client is recognised by everything its entry names: address, Unix user, certificate, password. Whoever none of the
entries fits is nobody and may do nothing; an entry that names nothing fits nobody.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final, TypeAlias

from proxy.errors import ClientRefused, ProxyAuthenticationRequired

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proxy.policy.passwords import PasswordHash

Network: TypeAlias = IPv4Network | IPv6Network

# No name and password of ours comes near it; it bounds what is decoded and hashed.
_CREDENTIALS_BYTES: Final = 1_024


# All loopback addresses and Unix sockets are one place.
THIS_MACHINE: Final = "this machine"


@dataclass(frozen=True, slots=True)
class Peer:
    """What a connection shows of who is at its other end.

    Attributes:
        address: an IP address; None for a Unix socket.
        user: the numeric Unix user; None for TCP, and where the system does not tell.
        certificate_names: subject common name and subject alternative names of the verified client certificate.
    """

    address: IPv4Address | IPv6Address | None = None
    user: int | None = None
    certificate_names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Client:
    """One entry of `clients`.

    Attributes:
        name: for logs; with a password, also the user name.
        networks: where it connects from; empty: it is not known by that. So are the next two.
        users: numeric Unix users.
        certificate_names: any of them, in lower case.
        password: None: it is not known by a password.
        routes: names of the routes it may use; None: all of them, and whatever `other_hosts` lets through.
        requests_per_s: None: any number.
        burst: requests that may come at once before that rate counts.
        concurrent_exchanges: None: any number.
    """

    name: str
    networks: tuple[Network, ...] = ()
    users: frozenset[int] = frozenset()
    certificate_names: frozenset[str] = frozenset()
    password: PasswordHash | None = field(default=None, repr=False)
    routes: frozenset[str] | None = None
    requests_per_s: float | None = None
    burst: int = 1
    concurrent_exchanges: int | None = None

    def fits(self, peer: Peer) -> bool:
        """Whether the connection is as the entry says; a password is not looked at."""
        if not (self.networks or self.users or self.certificate_names or self.password):
            return False
        if self.networks and not any(peer.address is not None and peer.address in network for network in self.networks):
            return False
        if self.users and peer.user not in self.users:
            return False
        return not self.certificate_names or not self.certificate_names.isdisjoint(peer.certificate_names)

    def check_route(self, route: str) -> None:
        """Judges one destination.

        Args:
            route: the route's name; ``-`` for a host that no route names.

        Raises:
            ClientRefused: this client may not use it.
        """
        if self.routes is not None and route not in self.routes:
            raise ClientRefused(
                f"The client {self.name} may not use that host. Add it to the `routes` of its entry in `clients`, if it should.",
                code="route_not_allowed",
            )


@dataclass(frozen=True, slots=True)
class PasswordClaim:
    """Somebody says a name and a password: to be verified before anything else happens.

    Attributes:
        client: who has that name; None where nobody has, which must take as long to find out.
        password: what was sent.
        name: what was sent.
        like: somebody's hash, to be as slow as where nobody has that name.
    """

    client: Client | None
    password: bytes = field(repr=False)
    name: str = field(default="", compare=False)
    like: PasswordHash | None = field(default=None, repr=False, compare=False)


def recognise(candidates: Sequence[Client], authorization: bytes | None) -> Client | PasswordClaim:
    """Decides who sends a request.

    Args:
        candidates: the entries that fit the connection, in the configuration's order.
        authorization: the value of Proxy-Authorization; None without one.

    Returns:
        The client; or a claim, which makes it the client if the password is right.

    Raises:
        ClientRefused: no entry fits the connection.
        ProxyAuthenticationRequired: an entry would, with a password.
    """
    if not candidates:
        raise ClientRefused(
            "None of the configured `clients` matches this connection. Add its address, user or certificate to one.",
            code="unknown_client",
        )
    with_password = {client.name: client for client in candidates if client.password is not None}
    if authorization is None or not with_password:
        for client in candidates:
            if client.password is None:
                return client
        raise ProxyAuthenticationRequired(
            "Send the name and password of one of the configured `clients`, for example http://NAME:PASSWORD@host:port as "
            "the proxy's URL. A program that calls a `mode: reverse` listener sends them in Proxy-Authorization. "
            "A Java program has to run with -Djdk.http.auth.tunneling.disabledSchemes= for https URLs.",
            code="no_credentials",
        )
    name, password = parse_basic(authorization)
    return PasswordClaim(with_password.get(name), password, name, next(iter(with_password.values())).password)


def parse_basic(authorization: bytes) -> tuple[str, bytes]:
    """Return the name and the password of Basic credentials (RFC 7617 §2).

    Raises:
        ProxyAuthenticationRequired: it is another scheme, or malformed.
    """
    scheme, _, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic" or len(encoded) > _CREDENTIALS_BYTES:
        raise ProxyAuthenticationRequired(
            "The proxy takes Basic credentials in Proxy-Authorization (RFC 7617) only. Put the name and the password into the "
            "proxy's URL: http://NAME:PASSWORD@host:port.",
            code="not_basic",
        )
    try:
        decoded = base64.b64decode(encoded.strip(b" "), validate=True)
        name, colon, password = decoded.partition(b":")
        if not colon:
            raise ValueError
        return name.decode("utf-8"), password
    except (binascii.Error, ValueError):
        raise ProxyAuthenticationRequired(
            "The Basic credentials in Proxy-Authorization are malformed (RFC 7617 §2).", code="malformed_credentials"
        ) from None


def parse_peer_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return a peer's address as the kernel names it, IPv4-mapped IPv6 as IPv4; None where it is none."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=1_024)
def address_block(text: str) -> str:
    """Return what an address is counted by: itself, or an IPv6 address's /64, which one host may have (RFC 4291 §2.5.4).

    Args:
        text: as the kernel names it; ``unix`` for a Unix socket.
    """
    address = parse_peer_address(text)
    if address is None or address.is_loopback:
        return text
    return str(IPv6Network((int(address) >> 64 << 64, 64))) if isinstance(address, IPv6Address) else str(address)


def is_this_machine(text: str) -> bool:
    """Whether clients at an address are this machine's own: they share one, so it says nothing about any of them."""
    parsed = parse_peer_address(text)
    return parsed is None or parsed.is_loopback


def place(text: str) -> str:
    """Return what wrong passwords are counted by: this machine, or what `address_block` returns."""
    return THIS_MACHINE if is_this_machine(text) else address_block(text)


def certificate_names(certificate: Mapping[str, object] | None) -> frozenset[str]:
    """Return the names of a verified certificate in the form of `ssl.SSLObject.getpeercert`, in lower case."""
    if not certificate:
        return frozenset()
    names = {value for kind, value in _pairs(certificate.get("subjectAltName")) if kind in ("DNS", "URI", "email")}
    for part in _items(certificate.get("subject")):
        names |= {value for kind, value in _pairs(part) if kind == "commonName"}
    return frozenset(name.lower() for name in names)


def _items(value: object) -> Iterable[object]:
    return value if isinstance(value, tuple) else ()


def _pairs(value: object) -> Iterable[tuple[str, str]]:
    return [pair for pair in _items(value) if isinstance(pair, tuple) and len(pair) == 2]
