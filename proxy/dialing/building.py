"""A dialer from the settings. Reads the file of trusted roots for an upstream proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.dialing.dialer import Dialer
from proxy.dialing.trust import create_tls_context
from proxy.policy.upstream_proxy import UpstreamProxies, parse_exemption, parse_proxy_url

if TYPE_CHECKING:
    from proxy.config.settings import Settings, UpstreamProxySettings
    from proxy.dialing.resolver import Resolver


def build_dialer(settings: Settings, resolver: Resolver | None = None) -> Dialer:
    """Return what opens connections as the settings say.

    Args:
        settings: the configuration.
        resolver: of this process; default: one for this dialer alone.

    Raises:
        ConfigurationError: upstream_proxy.ca_file cannot be used.
    """
    proxies = build_proxies(settings.upstream_proxy)
    is_tls = any(proxy is not None and proxy.is_tls for proxy in (proxies.for_tls, proxies.for_plain))
    ca_file = settings.upstream_proxy.ca_file
    return Dialer(
        proxies,
        create_tls_context(ca_file, "upstream_proxy.ca_file") if is_tls else None,
        resolver,
        settings.timeouts.tcp_keep_alive_s,
    )


def build_proxies(settings: UpstreamProxySettings) -> UpstreamProxies:
    """Return which connections go through which upstream proxy."""
    for_tls = parse_proxy_url(settings.url.reveal()) if settings.url is not None else None
    for_plain = settings.plain_http_url
    return UpstreamProxies(
        for_tls,
        parse_proxy_url(for_plain.reveal()) if for_plain is not None else for_tls,
        tuple(map(parse_exemption, settings.no_proxy)),
    )
