"""Which connections go through an upstream proxy, and what its URL and the list of exceptions mean. Does no I/O.

Invariant: what proves us to the upstream proxy shows in no repr and no message.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from proxy.errors import ConfigurationError, MalformedRequest
from proxy.policy.authority import HTTPS_PORT, Authority, parse_authority

if TYPE_CHECKING:
    from collections.abc import Iterable

_DEFAULT_PORTS: Final = {"http": 80, "https": HTTPS_PORT}
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
# Where a machine asks about itself: no proxy stands between (RFC 3927 §2.7, RFC 4291 §2.5.6).
_LINK_LOCAL: Final = (IPv4Network("169.254.0.0/16"), IPv6Network("fe80::/10"))


@dataclass(frozen=True, slots=True)
class UpstreamProxy:
    """A proxy that connections are opened through by CONNECT (RFC 9110 §9.3.6).

    Attributes:
        authority: where it listens.
        is_tls: whether it is spoken to over TLS.
        authorization: the value of Proxy-Authorization (RFC 7617); empty where it asks for none.
    """

    authority: Authority
    is_tls: bool = False
    authorization: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.authority}"


@dataclass(frozen=True, slots=True)
class Exemption:
    """What is reached without the upstream proxy: one entry of the list of exceptions.

    Attributes:
        domain: a name, which stands for itself and, unless `is_below`, for what is below it as well; empty for the others.
        is_below: whether only names below the domain are meant.
        network: a range of addresses; None for the others.
        port: the one port that is meant; None for all.
        is_all: whether every host is meant.
    """

    domain: str = ""
    is_below: bool = False
    network: IPv4Network | IPv6Network | None = None
    port: int | None = None
    is_all: bool = False

    def covers(self, host: str, port: int) -> bool:
        """Whether a host, a DNS name in A-label form or an IP address, is meant. Names are not resolved."""
        if self.port is not None and self.port != port:
            return False
        if self.is_all:
            return True
        if self.network is not None:
            address = _read_address(host)
            return address is not None and address in self.network
        return host.endswith(f".{self.domain}") or (host == self.domain and not self.is_below)


@dataclass(frozen=True, slots=True)
class UpstreamProxies:
    """The proxies for both kinds of destination, and the exceptions.

    Attributes:
        for_tls: for TLS and for tunnels; None: none.
        for_plain: for plain http; None: none.
        exemptions: what is reached without either.
    """

    for_tls: UpstreamProxy | None = None
    for_plain: UpstreamProxy | None = None
    exemptions: tuple[Exemption, ...] = ()

    def choose(self, hosts: Iterable[str], port: int, *, is_plain: bool = False) -> UpstreamProxy | None:
        """Return the proxy that a connection goes through; None for a direct one.

        Args:
            hosts: what is dialled, and the names it stands for; any of them may be exempt.
            port: what is dialled.
            is_plain: whether plain http is spoken over the connection.
        """
        chosen = self.for_plain if is_plain else self.for_tls
        if chosen is None or any(_is_exempt(host, port, self.exemptions) for host in hosts):
            return None
        return chosen


def _is_exempt(host: str, port: int, exemptions: Iterable[Exemption]) -> bool:
    address = _read_address(host)
    if address is not None and any(address in network for network in _LINK_LOCAL):
        return True
    return any(exemption.covers(host, port) for exemption in exemptions)


def _read_address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def parse_proxy_url(text: str) -> UpstreamProxy:
    """Return the proxy that ``http[s]://[user:password@]host[:port]`` stands for.

    User and password are percent-decoded. Without a port it is the scheme's.

    Raises:
        ConfigurationError: for anything else; the message repeats nothing of it.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise ConfigurationError("write the proxy's whole URL, such as http://proxy.example.com:3128")
    if scheme.lower() not in _DEFAULT_PORTS:
        raise ConfigurationError("only http:// and https:// proxies can be used, no SOCKS and no others")
    userinfo, at, host = rest.removesuffix("/").rpartition("@")
    try:
        authority = parse_authority(host.encode("utf-8", "surrogatepass"), _DEFAULT_PORTS[scheme.lower()])
    except MalformedRequest:
        raise ConfigurationError(
            "the proxy's host and port cannot be read; write http://host:port, or http://user:password@host:port with "
            "other characters than letters and digits percent-encoded in user and password"
        ) from None
    return UpstreamProxy(authority, scheme.lower() == "https", _format_authorization(userinfo) if at else b"")


def _format_authorization(userinfo: str) -> bytes:
    user, colon, password = (unquote_to_bytes(part) for part in userinfo.partition(":"))
    # RFC 7617 §2: a user-id has no colon, and neither of the two has control characters.
    if not user or b":" in user or _CONTROL.search(user + password):
        raise ConfigurationError(
            "in user:password@ the user is empty or holds a colon, or there is a control character; a password from a "
            "file often ends in a line break"
        )
    return b"Basic " + base64.b64encode(user + (colon or b":") + password)


def parse_exemption(text: str) -> Exemption:
    """Return the exception that one entry of ``no_proxy`` stands for.

    ``example.com`` stands for the name and all below it, ``.example.com`` for the same, ``*.example.com`` for what is
    below it only; ``10.0.0.0/8`` and ``10.1.2.3`` for addresses, ``*`` for everything; ``:port`` may follow a name or an
    address.

    Raises:
        ConfigurationError: for anything else.
    """
    if text == "*":
        return Exemption(is_all=True)
    if "/" in text:
        try:
            return Exemption(network=ip_network(text, strict=False))
        except ValueError:
            raise ConfigurationError("not an address range; write one such as 10.0.0.0/8") from None
    is_below = text.startswith("*.")
    name = text.removeprefix("*." if is_below else ".")
    try:
        # An IPv6 address may stand without brackets here, as in curl's NO_PROXY.
        bare = f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name
        raw = bare.encode("utf-8", "surrogatepass")
        authority, other = parse_authority(raw, 1), parse_authority(raw, 2)
    except MalformedRequest:
        raise ConfigurationError(
            "not a host; write example.com, *.example.com, an address or a range such as 10.0.0.0/8, or * for all"
        ) from None
    port = authority.port if authority.port == other.port else None
    if authority.is_ip:
        return Exemption(network=ip_network(authority.host), port=port)
    return Exemption(authority.host, is_below, port=port)
