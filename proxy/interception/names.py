"""Which names an interception CA may sign for: routed hosts in, X.509 name constraints out.

Does no I/O. A name is either an ASCII DNS name in lower case without a trailing dot, or an IP address; nothing else
gets into a certificate.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from cryptography import x509

from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

Name = str | IPv4Address | IPv6Address
"""A DNS name or an address, as it stands in a certificate."""

NO_DNS_NAME = "invalid"
"""The DNS constraint of a CA for addresses only: a domain that never exists (RFC 6761 §6.4).

The other way to say "no DNS name", an excluded subtree with an empty name, makes Java's validator throw an index error.
"""

ALL_IPV4 = IPv4Network("0.0.0.0/0")
ALL_IPV6 = IPv6Network("::/0")

_MAX_DNS_NAME = 253  # RFC 1035 §2.3.4, in presentation form
# The underscore is not in a host name (RFC 952), but stands in names people really use, and verifiers accept it.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_PLAIN_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\Z")
# A last label like this makes a URL's host an IPv4 address in one of its old spellings: 127.1, 0x7f.1 (WHATWG URL
# §3.5).
_NUMERIC_LABEL = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")


def parse_name(host: str) -> Name:
    """Return the name a certificate for `host` carries.

    Args:
        host: a DNS name (A-labels) or an IP literal, IPv6 with or without brackets; no port.

    Raises:
        ConfigurationError: it is neither.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        pass
    else:
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            raise ConfigurationError(f"{host!r} names a network interface (%), which no certificate can. Leave it out.")
        return address
    name = host.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > _MAX_DNS_NAME or _NUMERIC_LABEL.match(labels[-1]) or not all(map(_LABEL.match, labels)):
        raise ConfigurationError(
            f"{host!r} is not a host that a certificate can name. Write a DNS name (non-ASCII ones as xn-- labels) "
            "or an IP address, without a port."
        )
    return name


def is_wildcard(host: str) -> bool:
    """Return whether a routed host stands for many names, ``*.apis.contoso.com``."""
    return host.startswith("*.")


def split_hosts(hosts: Iterable[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the routed hosts without a wildcard, in canonical form, and the apexes of those with one.

    Raises:
        ConfigurationError: one of them is not a name.
    """
    listed = list(hosts)
    literal = tuple(str(parse_name(host)) for host in listed if not is_wildcard(host))
    return literal, frozenset(str(_subtree(host)) for host in listed if is_wildcard(host))


def wildcard_over(name: str, apexes: Collection[str]) -> str | None:
    """Return the wildcard name that a certificate may carry in place of this one, or None where there is none.

    The star stands for one whole label (RFC 9525 §6.3), so names deeper below an apex share the wildcard of their parent. Left
    alone is what verifiers disagree about: a star before a single label, or in place of an underscore or of an A-label.

    Args:
        name: a DNS name in canonical form, or the text of an address.
        apexes: what ``*.`` of a wildcard route stands before.
    """
    first, _, parent = name.partition(".")
    if "." not in parent or not _PLAIN_LABEL.match(first) or first.startswith("xn--"):
        return None
    return f"*.{parent}" if any(tail in apexes for tail in subtrees_over(parent)) else None


def subtrees_over(name: Name) -> Iterator[Name]:
    """Yield the roots of the subtrees that a name lies in, the smallest first: the name itself, and each parent of a DNS name."""
    if not isinstance(name, str):
        yield name
        return
    while name:
        yield name
        name = name.partition(".")[2]


@dataclass(frozen=True, slots=True)
class Constraints:
    """The names that certificates below a CA may carry (RFC 5280 §4.2.1.10).

    A DNS constraint always stands for a subtree: ``apis.contoso.com`` permits that name and every name below it, and
    X.509 has no portable way to say less. So a wildcard's constraint also permits its apex, and a literal host's the
    names below it; what the proxy itself mints is decided by the routes, which are exact.

    Attributes:
        domains: permitted DNS subtrees.
        addresses: permitted addresses, each exactly.
    """

    domains: frozenset[str]
    addresses: frozenset[IPv4Address | IPv6Address]

    @classmethod
    def of_hosts(cls, hosts: Iterable[str]) -> Constraints:
        """Return the constraints that permit these routed hosts.

        Args:
            hosts: DNS names, ``*.`` wildcards or IP literals, without ports.

        Raises:
            ConfigurationError: there is no host, or one is not a name.
        """
        names = [_subtree(host) for host in hosts]
        if not names:
            raise ConfigurationError("No host is routed, so there is nothing an interception CA may sign for.")
        return cls.of_names(names)

    @classmethod
    def of_names(cls, names: Iterable[Name]) -> Constraints:
        """Return the constraints that permit these subtrees, each named by its root."""
        listed = frozenset(names)
        domains = frozenset(name for name in listed if isinstance(name, str))
        return cls(domains, frozenset(name for name in listed if not isinstance(name, str)))

    @classmethod
    def of_certificate(cls, certificate: x509.Certificate) -> Constraints:
        """Return the constraints a certificate carries, as this module writes them.

        Raises:
            ConfigurationError: it carries none, so its key could impersonate any host.
        """
        try:
            extension = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
        except x509.ExtensionNotFound:
            raise ConfigurationError(
                "The interception CA has no name constraints, so its key could impersonate any host."
            ) from None
        permitted = extension.permitted_subtrees or []
        domains = {name.value for name in permitted if isinstance(name, x509.DNSName)}
        networks = (name.value for name in permitted if isinstance(name, x509.IPAddress))
        return cls(
            frozenset(domains - {NO_DNS_NAME}),
            frozenset(net.network_address for net in networks if isinstance(net, IPv4Network | IPv6Network)),
        )

    def permits(self, name: Name) -> bool:
        """Return whether a verifier that follows RFC 5280 §4.2.1.10 accepts a leaf of this name, which may begin with ``*.``."""
        if not isinstance(name, str):
            return name in self.addresses
        return any(tail in self.domains for tail in subtrees_over(name))

    def names(self) -> tuple[Name, ...]:
        """Return the root of each permitted subtree, in a fixed order."""
        addresses = sorted(self.addresses, key=lambda address: (address.version, int(address)))
        return (*sorted(self.domains), *addresses)

    def split(self, size_bytes: int) -> tuple[Constraints, ...]:
        """Return constraints that permit the same together, each with names of at most this many bytes, or one name."""
        groups: list[list[Name]] = [[]]
        room = size_bytes
        for name in self.names():
            length = len(str(name))
            if groups[-1] and length > room:
                groups.append([])
                room = size_bytes
            groups[-1].append(name)
            room -= length
        return tuple(map(Constraints.of_names, groups))

    def listed(self) -> tuple[str, ...]:
        """Return what is permitted, in an order for people; good as routed hosts, too."""
        return (*sorted(self.domains), *sorted(map(str, self.addresses)))

    def missing(self, hosts: Iterable[str]) -> tuple[str, ...]:
        """Return the routed hosts that these constraints do not permit, in the order given.

        Raises:
            ConfigurationError: one of them is not a name.
        """
        return tuple(host for host in hosts if not self.permits(_subtree(host)))

    def extension(self) -> x509.NameConstraints:
        """Return the certificate extension, to be marked critical.

        A type of name that no permitted subtree speaks of is unconstrained, so each type a TLS server can be known by
        is always spoken of. Where some address is permitted, the other family is not excluded besides: every other
        address is refused anyhow, and Java's validator throws an index error comparing an IPv4 leaf with ``::/0``.
        """
        permitted: list[x509.GeneralName] = [x509.DNSName(name) for name in sorted(self.domains or {NO_DNS_NAME})]
        permitted += [x509.IPAddress(ipaddress.ip_network(name)) for name in self.names() if not isinstance(name, str)]
        excluded = None if self.addresses else [x509.IPAddress(ALL_IPV4), x509.IPAddress(ALL_IPV6)]
        return x509.NameConstraints(permitted, excluded)


def _subtree(host: str) -> Name:
    """Return the root of the subtree a routed host needs."""
    if not is_wildcard(host):
        return parse_name(host)
    name = parse_name(host[2:])
    if not isinstance(name, str):
        raise ConfigurationError(f"{host!r}: a wildcard stands before a DNS name, never before an address.")
    return name
