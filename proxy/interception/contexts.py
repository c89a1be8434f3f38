"""A TLS server context for each intercepted host: made when a client first asks for it, cached, renewed, bounded.

Does I/O only to hand OpenSSL a key and its certificates, which it takes from files alone: through memory where the
kernel can, else through a private file that is deleted at once. A context shows a leaf for a routed host, or for the
names beside one below a wildcard route, and never one that has ended.
"""

from __future__ import annotations

import ssl
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from proxy.interception.leaf import mint
from proxy.interception.names import parse_name, split_hosts, wildcard_over
from proxy.keys.tls import lend_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from cryptography.hazmat.primitives.asymmetric import rsa

    from proxy.interception.signing import Authority

CAPACITY = 1024
"""Contexts kept by default, of about 25 KiB each."""

_RENEW_AFTER = 2 / 3
"""The share of a leaf's remaining life after which it is renewed, so that no client meets one about to end."""

_SHORTEST_S = 60.0
"""A CA that has ended signs no leaf that lasts; signing one for each connection would help nobody."""


class ServerTLS(ssl.SSLObject):
    """The server's end of an intercepted TLS connection, which remembers the name the client asked for.

    Attributes:
        requested_name: the SNI as sent (RFC 6066 §3); None where the client sent none, or not yet.
    """

    requested_name: str | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    context: ssl.SSLContext
    renew_at: float
    has_rsa: bool = False


class ServerContexts:
    """The contexts of one process. Not for several threads at a time.

    Args:
        authority: what signs the leaves.
        hosts: the routed hosts. Names below a wildcard share a context with their siblings, so that a client that walks
            through them costs a look-up each.
        clock: the time in Unix seconds.
        capacity: how many contexts are kept.

    Raises:
        ConfigurationError: one of the hosts is not a name.
    """

    def __init__(
        self,
        authority: Authority,
        hosts: Iterable[str] = (),
        *,
        clock: Callable[[], float] = time.time,
        capacity: int = CAPACITY,
    ) -> None:
        self._clock = clock
        self._capacity = capacity
        self.use(authority, hosts)

    def __len__(self) -> int:
        return len(self._entries)

    def use(self, authority: Authority, hosts: Iterable[str]) -> None:
        """Go over to another CA and other hosts. Connections that have their context keep it.

        Raises:
            ConfigurationError: one of the hosts is not a name.
        """
        literal, self._apexes = split_hosts(hosts)
        self._literal_hosts = frozenset(literal)
        self._authority = authority
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def context_for(self, host: str) -> ssl.SSLContext:
        """Return the context for one host: at once where it is cached, after some 2 ms of CPU where it must be made.

        Args:
            host: a DNS name or an IP literal, without a port; quickest in canonical form (lower case, no trailing dot,
                no brackets).

        Raises:
            ConfigurationError: the host is not a name, or the CA may not sign for it.
        """
        now = self._clock()
        name, entry = self._find(host)
        if entry is None:
            name, entry = self._find(_canonical(host))
        if entry is None or now >= entry.renew_at:
            apexes = frozenset[str]() if name in self._literal_hosts else self._apexes
            name, entry = _make_entry(self._authority, _canonical(host), now, apexes)
            self._entries[name] = entry
            if len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        self._entries.move_to_end(name)
        return entry.context

    def show_rsa(self, host: str, key: rsa.RSAPrivateKey) -> None:
        """Have a host's context show an RSA certificate to clients that take no other, until it is renewed.

        Args:
            host: as for `context_for`.
            key: of the certificate.

        Raises:
            ConfigurationError: as for `context_for`.
        """
        self.context_for(host)
        name, entry = self._find(_canonical(host))
        if entry is None or entry.has_rsa:
            return
        apexes = frozenset[str]() if name in self._literal_hosts else self._apexes
        leaf = mint(self._authority, _canonical(host), datetime.fromtimestamp(self._clock(), UTC), apexes, key)
        show_too(entry.context, leaf.pem())
        self._entries[name] = replace(entry, has_rsa=True)

    def _find(self, host: str) -> tuple[str, _Entry | None]:
        entry = self._entries.get(host)
        if entry is None and host not in self._literal_hosts:
            wildcard = wildcard_over(host, self._apexes)
            if wildcard is not None:
                return wildcard, self._entries.get(wildcard)
        return host, entry


def _canonical(host: str) -> str:
    return str(parse_name(host))


def _make_entry(authority: Authority, host: str, now: float, apexes: Collection[str]) -> tuple[str, _Entry]:
    leaf = mint(authority, host, datetime.fromtimestamp(now, UTC), apexes)
    renew_at = now + max((leaf.not_after.timestamp() - now) * _RENEW_AFTER, _SHORTEST_S)
    return leaf.name, _Entry(create_server_context(leaf.pem()), renew_at)


def create_server_context(pem: bytes) -> ssl.SSLContext:
    """Return a server context that shows these certificates.

    Session tickets are on, as OpenSSL has them by default: a client that returns resumes without a signature from us.
    So are the CBC cipher suites with SHA-2 that Python offers, which listeners do not have: clients that know no other, as those
    of Java 7, come here because they cannot be changed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9325 §3.1.1
    context.options |= ssl.OP_NO_RENEGOTIATION
    # By our preference: HTTP/1.1 for whoever can, HTTP/2 for whoever cannot, as gRPC. A client that offers nothing we know gets no
    # ALPN rather than an alert.
    context.set_alpn_protocols(["http/1.1", "h2"])
    context.sslobject_class = ServerTLS
    context.sni_callback = _remember_requested_name
    show_too(context, pem)
    return context


def show_too(context: ssl.SSLContext, pem: bytes) -> None:
    """Have a context show these certificates, beside others that have a key of another kind: OpenSSL picks what fits a client.

    Args:
        context: connections that it is used for already are left alone.
        pem: private key, leaf and chain.
    """
    with lend_file(pem) as path:
        context.load_cert_chain(path)


def _remember_requested_name(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
    """Note the SNI; judging it is for who knows the CONNECT target, and can answer 421."""
    if isinstance(connection, ServerTLS):
        connection.requested_name = name
