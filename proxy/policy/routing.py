"""Which route an authority takes. Does no I/O.

The answer depends on the set of patterns and never on their order: an exact host beats a wildcard, a longer wildcard
beats a shorter one. A pattern names one port: a route for 443 never gives its token to another port of the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.errors import ConfigurationError, MalformedRequest
from proxy.policy.authority import HTTPS_PORT, Authority, parse_authority

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class HostPattern:
    """The authorities that one entry of a route's hosts stands for.

    Attributes:
        authority: the exact authority; for a wildcard, the domain below which every name matches, and the port.
        is_wildcard: whether it stands for the names below the domain, at any depth, and not for the domain itself.
    """

    authority: Authority
    is_wildcard: bool = False

    def __str__(self) -> str:
        text = self.authority.host_field(HTTPS_PORT).decode("ascii")
        return f"*.{text}" if self.is_wildcard else text


@dataclass(frozen=True, slots=True)
class Shadowed:
    """A pattern that no authority can reach, because an earlier entry has the same one.

    Attributes:
        pattern: the pattern both entries have.
        index: what the later entry would have led to.
        by: what the earlier one leads to.
    """

    pattern: HostPattern
    index: int
    by: int


def parse_host_pattern(text: str) -> HostPattern:
    """Return the pattern that ``host``, ``host:port``, ``*.domain`` or ``*.domain:port`` stands for.

    Without a port it is 443. The star stands for one or more labels: ``*.example.com`` matches ``a.example.com`` and
    ``a.b.example.com``, not ``example.com``. (A wildcard in a certificate, RFC 9525 §6.3, stands for one.)

    Raises:
        ConfigurationError: for anything else.
    """
    if "/" in text:
        raise ConfigurationError(
            "write only the host, without a scheme or a path, such as api.example.com or api.example.com:8443"
        )
    is_wildcard = text.startswith("*.")
    domain = text.removeprefix("*.")
    if "*" in domain:
        raise ConfigurationError(
            "a '*' can only replace whole labels at the start of a domain; write *.example.com, or list the hosts"
        )
    try:
        authority = parse_authority(domain.encode("utf-8", "surrogatepass"), HTTPS_PORT)
    except MalformedRequest as error:
        raise ConfigurationError(f"not a host or host:port. {error.detail}") from None
    if is_wildcard and authority.is_ip:
        raise ConfigurationError("there are no names below an IP address; list the addresses one by one")
    return HostPattern(authority, is_wildcard)


class RouteTable:
    """Finds the entry that an authority leads to.

    Args:
        entries: patterns and the index each leads to. Of equal patterns the first counts.
    """

    __slots__ = ("_exact", "_hosts", "_shadowed", "_wildcards")

    def __init__(self, entries: Iterable[tuple[HostPattern, int]]) -> None:
        self._exact: dict[Authority, int] = {}
        self._wildcards: dict[Authority, int] = {}
        self._shadowed: list[Shadowed] = []
        for pattern, index in entries:
            entries_of_kind = self._wildcards if pattern.is_wildcard else self._exact
            if pattern.authority in entries_of_kind:
                self._shadowed.append(Shadowed(pattern, index, by=entries_of_kind[pattern.authority]))
            else:
                entries_of_kind[pattern.authority] = index
        # Without their ports: exact ones, and the domains of wildcards.
        self._hosts = tuple(frozenset(one.host for one in kind) for kind in (self._exact, self._wildcards))

    def find(self, authority: Authority) -> int | None:
        """Return what the authority leads to, None where no pattern matches."""
        found = self._exact.get(authority)
        if found is not None or not self._wildcards:
            return found
        domain = authority.host
        while "." in domain:
            domain = domain.partition(".")[2]
            found = self._wildcards.get(Authority(domain, authority.port))
            if found is not None:
                return found
        return None

    def names(self, host: str) -> bool:
        """Return whether any pattern stands for a host, at whatever port."""
        exact, domains = self._hosts
        labels = host.split(".")
        return host in exact or any(".".join(labels[at:]) in domains for at in range(1, len(labels)))

    def shadowed(self) -> list[Shadowed]:
        """Return the entries that can never be reached, in the order given."""
        return list(self._shadowed)
