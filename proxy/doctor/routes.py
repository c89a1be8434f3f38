"""Whether the routes lead anywhere, and what is configured beside them that nothing uses. Reads files of trusted roots.

Shadowed hosts, unknown credentials and scopes of the wrong form are no findings of this module: a configuration that has
one does not load.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from proxy.config.addresses import parse_listen_address
from proxy.config.source import is_there
from proxy.dialing.lookup import find_in_hosts_file
from proxy.dialing.route_tls import create_route_context, list_client_files, read_client_certificate
from proxy.doctor.credentials import check_ca_file, judge_end
from proxy.doctor.findings import error, ok, warning
from proxy.errors import ConfigurationError
from proxy.policy.routing import parse_host_pattern

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from proxy.config.addresses import ListenAddress
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
        if route.dial is None:
            yield from _check_hosts_file(f"routes[{index}]", route, settings)
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


def _check_hosts_file(subject: str, route: RouteSettings, settings: Settings) -> Iterator[Finding]:
    """Yield the hosts that this machine's hosts file sends to a listener of ours, to which the proxy would then connect itself."""
    listeners = [parse_listen_address(listener.address) for listener in settings.listeners]
    for pattern in map(parse_host_pattern, route.hosts):
        host, port = pattern.authority.host, pattern.authority.port
        found = () if pattern.is_wildcard else find_in_hosts_file(host)
        if any(_leads_to(address, port, listener) for address in found for listener in listeners):
            yield error(
                subject,
                f"The hosts file sends {host} to a listener of this configuration, and the proxy would follow it.",
                f"Add `dial: {host}:{port}` to the route: the name in `dial` is looked up by DNS alone.",
            )


def _leads_to(address: str, port: int, listener: ListenAddress) -> bool:
    """Whether an address of the hosts file, where a listener has that port, is that listener's."""
    if listener.path is not None or listener.port != port:
        return False
    found, own = ip_address(address), ip_address("127.0.0.1" if listener.host == "localhost" else listener.host)
    return found == own or (own.is_unspecified and found.is_loopback)


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
