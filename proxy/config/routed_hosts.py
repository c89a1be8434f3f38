"""The hosts that are intercepted, from the settings. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.policy.routing import parse_host_pattern

if TYPE_CHECKING:
    from proxy.config.settings import Settings


def routed_hosts(settings: Settings) -> list[str]:
    """Return the hosts of the routes, without ports, wildcards as they are."""
    return list(dict.fromkeys(_host_of(text) for route in settings.routes for text in route.hosts))


def _host_of(text: str) -> str:
    pattern = parse_host_pattern(text)
    return f"*.{pattern.authority.host}" if pattern.is_wildcard else pattern.authority.host
