"""Which names a certificate's own name constraints let the certificates below it carry, whoever wrote them. Does no I/O.

`proxy.interception.names` writes constraints for the routed hosts; this reads those of an organisation's CA, which may say anything
that RFC 5280 §4.2.1.10 knows of DNS names and addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, TypeAlias

from cryptography import x509

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.interception.names import Name

Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Subtrees:
    """What one certificate says.

    Attributes:
        domains: permitted DNS subtrees; None: any name.
        networks: permitted address ranges; None: any address.
        excluded_domains: never permitted.
        excluded_networks: never permitted.
    """

    domains: tuple[str, ...] | None = None
    networks: tuple[Network, ...] | None = None
    excluded_domains: tuple[str, ...] = ()
    excluded_networks: tuple[Network, ...] = ()

    @classmethod
    def of_certificate(cls, certificate: x509.Certificate) -> Subtrees:
        """Return what a certificate says; without the extension, that is nothing."""
        try:
            extension = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
        except x509.ExtensionNotFound:
            return cls()
        domains, networks = _sort(extension.permitted_subtrees or ())
        # A type of name that is not spoken of is not constrained.
        return cls(domains or None, networks or None, *_sort(extension.excluded_subtrees or ()))

    @property
    def are_bounded(self) -> bool:
        """Whether there are DNS names that may not be signed for."""
        return self.domains is not None

    def permits(self, name: Name) -> bool:
        """Return whether verifiers accept a certificate of this name; ``*.`` stands for all names below the rest."""
        if not isinstance(name, str):
            in_range = self.networks is None or any(name in network for network in self.networks)
            return in_range and not any(name in network for network in self.excluded_networks)
        apex = name.removeprefix("*.")
        below = apex if apex == name else f"any.{apex}"
        if any(_is_within(below, domain) for domain in self.excluded_domains):
            return False
        if below != apex and any(_is_within(domain.removeprefix("."), apex) for domain in self.excluded_domains):
            return False
        return self.domains is None or any(_is_within(below, domain) for domain in self.domains)


def _is_within(name: str, domain: str) -> bool:
    """Whether a name lies in a subtree. A dot in front is not in the RFC, and means what is below without the name itself."""
    if domain.startswith("."):
        return name.endswith(domain)
    return not domain or name == domain or name.endswith(f".{domain}")


def _sort(names: Iterable[x509.GeneralName]) -> tuple[tuple[str, ...], tuple[Network, ...]]:
    listed = list(names)
    domains = tuple(name.value.lower() for name in listed if isinstance(name, x509.DNSName))
    networks = (name.value for name in listed if isinstance(name, x509.IPAddress))
    return domains, tuple(network for network in networks if isinstance(network, IPv4Network | IPv6Network))
