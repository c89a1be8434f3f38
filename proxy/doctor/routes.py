"""Whether the routes lead anywhere, and what is configured beside them that nothing uses. Reads files of trusted roots.

Shadowed hosts, unknown credentials and scopes of the wrong form are no findings of this module: a configuration that has
one does not load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.doctor.credentials import check_ca_file
from proxy.doctor.findings import ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.settings import RouteSettings, Settings
    from proxy.doctor.findings import Finding


def describe_target(route: RouteSettings) -> str:
    """Return what a route's tokens are asked for with."""
    return f"scope {route.scope}" if route.scope is not None else f"resource {route.resource}"


def check_routes(settings: Settings) -> Iterator[Finding]:
    """Yield what there is to say about the routes without calling anyone."""
    for index, route in enumerate(settings.routes):
        fields = f", sets {', '.join(route.set_headers)}" if route.set_headers else ""
        dial = f", dials {route.dial}" if route.dial else ""
        yield ok(
            f"routes[{index}]",
            f"{', '.join(route.hosts)}: credential {route.credential}, {describe_target(route)}{fields}{dial}.",
            hosts=list(route.hosts),
            credential=route.credential,
            target=route.scope or route.resource or "",
        )
        if route.ca_file is not None and route.ca_file.is_file():
            yield check_ca_file(f"routes[{index}]", route.ca_file)
    used = {route.credential for route in settings.routes}
    used |= {one.key_vault_credential for one in settings.credentials.values() if one.key_vault_credential is not None}
    for name in settings.credentials:
        if name not in used:
            yield warning(f"credential {name}", "No route uses it.", "Name it in a route, or remove it.")
    if settings.other_hosts == "tunnel":
        yield ok("other hosts", "Requests for hosts that no route names are passed on, without a token.")
    else:
        yield ok("other hosts", "Requests for hosts that no route names are refused with 403.")
    if settings.destinations.allow and settings.other_hosts != "tunnel":
        yield warning(
            "other hosts",
            "destinations.allow is set, and nothing uses it.",
            "It counts with `other_hosts: tunnel` only; set that, or remove it.",
        )
