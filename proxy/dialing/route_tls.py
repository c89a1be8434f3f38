"""The TLS context towards a route's upstreams, with the client certificate that the route names. Reads files.

A context that shows a certificate belongs to one route and is shared with nobody, so that no other upstream is shown it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.dialing.trust import HTTP_1_1, create_own_tls_context, create_tls_context
from proxy.errors import ConfigurationError
from proxy.keys.fingerprint import read_fingerprint
from proxy.keys.pairs import KeyNames, read_pair
from proxy.keys.passwords import read_password
from proxy.keys.tls import load_pair

if TYPE_CHECKING:
    import ssl
    from datetime import datetime
    from pathlib import Path

    from proxy.config.settings import RouteSettings, Settings
    from proxy.keys.fingerprint import Fingerprint

_NAMES = KeyNames("client_private_key", "client_password_file")


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What a route shows to its upstreams, without the key.

    Attributes:
        route: the route's name, its first host.
        subject: RFC 4514 text.
        not_after: UTC.
    """

    route: str
    subject: str
    not_after: datetime

    @property
    def name(self) -> str:
        """For the log."""
        return f"certificate {self.subject}, which ends on {self.not_after:%Y-%m-%d}"


def list_client_files(route: RouteSettings) -> tuple[Path, ...]:
    """Return the files of a route's client certificate; none where it shows none."""
    named = (route.client_certificate, route.client_private_key, route.client_password_file)
    return tuple(file for file in named if file is not None)


def create_route_context(route: RouteSettings, protocols: tuple[str, ...] = HTTP_1_1) -> ssl.SSLContext:
    """Return the context that verifies a route's upstreams, and shows them the route's client certificate if they ask.

    Args:
        route: what is configured.
        protocols: those that are offered (RFC 7301).

    Raises:
        ConfigurationError: a file cannot be used. A certificate out of its dates can: the upstream judges them.
    """
    if route.client_certificate is None:
        return create_tls_context(route.ca_file, protocols=protocols)
    password = read_password(route.client_password_file)
    pair = read_pair(route.client_certificate, route.client_private_key, password, _NAMES)
    context = create_own_tls_context(route.ca_file, protocols=protocols)
    load_pair(context, pair, route.client_certificate)
    return context


def read_client_certificate(route: RouteSettings) -> ClientCertificate | None:
    """Return what a route shows; None where it shows nothing.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    if route.client_certificate is None:
        return None
    password = read_password(route.client_password_file)
    pair = read_pair(route.client_certificate, route.client_private_key, password, _NAMES)
    return ClientCertificate(route.hosts[0], pair.leaf.subject.rfc4514_string(), pair.leaf.not_valid_after_utc)


class ClientCertificates:
    """What the routes of a configuration show, as their files are at present.

    Args:
        settings: the configuration.

    Raises:
        ConfigurationError: a file cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._known: list[tuple[RouteSettings, Fingerprint, ClientCertificate]] = []
        for route in settings.routes:
            read = read_fingerprint(list_client_files(route))
            found = read_client_certificate(route)
            if found is not None:
                self._known.append((route, read, found))

    def look(self) -> list[ClientCertificate]:
        """Return what there is now; what has been replaced by something that cannot be used counts as before."""
        for index, (route, before, _) in enumerate(self._known):
            now = read_fingerprint(list_client_files(route))
            if now != before:
                with contextlib.suppress(ConfigurationError):
                    found = read_client_certificate(route)
                    if found is not None:
                        self._known[index] = (route, now, found)
        return [found for _, _, found in self._known]

    def ends(self) -> dict[str, datetime]:
        """Return when each one ends, by what it is called in the log."""
        return {
            f"route {found.route}: the client certificate {found.subject}": found.not_after for found in self.look()
        }
