"""Whether the routes lead anywhere, and what is configured beside them that nothing uses. Reads files of trusted roots.

Shadowed hosts, unknown credentials and scopes of the wrong form are no findings of this module: a configuration that has
one does not load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.config.source import is_there
from proxy.dialing.route_tls import create_route_context, list_client_files, read_client_certificate
from proxy.doctor.credentials import check_ca_file, judge_end
from proxy.doctor.findings import error, ok, warning
from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from proxy.config.settings import RouteSettings, Settings
    from proxy.doctor.findings import Finding


def describe_target(route: RouteSettings) -> str:
    """Return what a route's tokens are asked for with."""
    return f"scope {route.scope}" if route.scope is not None else f"resource {route.resource}"


def check_routes(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Yield what there is to say about the routes without calling anyone.

    Args:
        settings: as loaded.
        now: aware.
    """
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
        if route.ca_file is not None and is_there(route.ca_file):
            yield check_ca_file(f"routes[{index}]", route.ca_file)
        yield from _check_client_certificate(f"routes[{index}]", route, now)
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


def _check_client_certificate(subject: str, route: RouteSettings, now: datetime) -> Iterator[Finding]:
    files = list_client_files(route)
    if not files or not all(is_there(file) for file in files):
        return
    try:
        create_route_context(route)
        found = read_client_certificate(route)
    except ConfigurationError as problem:
        yield error(subject, problem.detail)
        return
    if found is not None:
        yield ok(
            subject, f"Where the upstream asks for a client certificate, it is shown {found.subject}; the key fits."
        )
        yield judge_end(subject, found.not_after, now, "Have a new one issued, and put it in the place of the old one.")
