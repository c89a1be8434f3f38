"""Which routes show a credential's certificate: tokens may be bound to it, and work on connections that show it only. Does no I/O.

Source: RFC 8705 §3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from proxy.config.settings import ClientAuthentication

if TYPE_CHECKING:
    from proxy.config.settings import RouteSettings, Settings

# A new certificate is used for token requests at the first look at its files, and shown to upstreams some looks later, perhaps by
# another process. A token that is bound to the old one is refused then, and the one that replaces it is bound to the new one;
# the other way around, it would be bound to the old one still.
PATIENCE_WITH_BOUND_TOKENS: Final = 2


def show_certificates(settings: Settings) -> Settings:
    """Return the settings in which each route of a `tls` credential shows its certificate, unless it has one of its own."""
    routes = tuple(_show(settings, route) for route in settings.routes)
    return settings if routes == settings.routes else replace(settings, routes=routes)


def _show(settings: Settings, route: RouteSettings) -> RouteSettings:
    credential = settings.credentials.get(route.credential)
    if credential is None or credential.client_authentication is not ClientAuthentication.TLS:
        return route
    if route.client_certificate is not None:
        return route
    return replace(
        route,
        client_certificate=credential.certificate,
        client_private_key=credential.private_key,
        client_password_file=credential.password_file,
    )
