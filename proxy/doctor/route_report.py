"""What would become of a request for a URL: which route, which credential, which fields, and why. Does no I/O."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from proxy.config.settings import ListenerMode
from proxy.doctor.connection import describe_port
from proxy.errors import MalformedRequest
from proxy.identity.sources import token_url
from proxy.policy.authority import HTTPS_PORT, Authority, parse_authority
from proxy.policy.routing import HostPattern, RouteTable, parse_host_pattern

if TYPE_CHECKING:
    from proxy.config.settings import RouteSettings, Settings

_HTTP_PORT: Final = 80


@dataclass(frozen=True, slots=True)
class RouteReport:
    """What would become of a request.

    Attributes:
        url: as asked.
        outcome: ``routed``, ``tunnelled`` or ``refused``.
        why: the reason, a sentence or two.
        way: how a client sends it, and what that takes.
        upstream: the origin the request goes to; empty where it goes nowhere.
        route: the route's key path, ``routes[0]``; empty without one; so are the ones below.
        pattern: the host pattern that matched.
        credential: its name.
        client_id: of the credential.
        token_endpoint: where its token comes from.
        target: the scope or resource of the token.
        fields: names of the fields the proxy sets.
        dial: where it connects, if not to the upstream's own name.
    """

    url: str
    outcome: str
    why: str
    way: str = ""
    upstream: str = ""
    route: str = ""
    pattern: str = ""
    credential: str = ""
    client_id: str = ""
    token_endpoint: str = ""
    target: str = ""
    fields: tuple[str, ...] = ()
    dial: str = ""


_MACHINE: Final = "this machine's managed identity endpoint"


def report_url(settings: Settings, url: str) -> RouteReport:
    """Return what would become of a request for a URL.

    Raises:
        MalformedRequest: it is no http or https URL.
    """
    scheme, authority = _parse(url)
    patterns = [
        (parse_host_pattern(text), index) for index, route in enumerate(settings.routes) for text in route.hosts
    ]
    table = RouteTable((pattern, entry) for entry, (pattern, _) in enumerate(patterns))
    entry = table.find(authority)
    upstream = authority
    if entry is None and authority.port == _HTTP_PORT:
        upstream = Authority(authority.host, HTTPS_PORT)
        entry = table.find(upstream)
    if entry is None:
        return _unrouted(settings, url, scheme, authority)
    pattern, index = patterns[entry]
    route = settings.routes[index]
    credential = settings.credentials[route.credential]
    return RouteReport(
        url=url,
        outcome="routed",
        why=_explain_match(
            upstream, str(pattern), index, is_wildcard=pattern.is_wildcard, sent_as_https=scheme == "http"
        ),
        way=_describe_way(settings, scheme, route),
        upstream=f"https://{describe_port(upstream)}",
        route=f"routes[{index}]",
        pattern=str(pattern),
        credential=route.credential,
        client_id=credential.client_id or "",
        token_endpoint=token_url(credential) if credential.managed_identity is None else _MACHINE,
        target=route.scope or route.resource or "",
        fields=("Authorization", *route.set_headers),
        dial=route.dial or "",
    )


def _parse(url: str) -> tuple[str, Authority]:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise MalformedRequest("This is no URL: its host cannot be read.") from None
    if parts.scheme not in ("http", "https"):
        raise MalformedRequest("This is not an http or https URL.")
    default_port = HTTPS_PORT if parts.scheme == "https" else _HTTP_PORT
    return parts.scheme, parse_authority(parts.netloc.encode("utf-8", "surrogatepass"), default_port)


def _explain_match(authority: Authority, pattern: str, index: int, *, is_wildcard: bool, sent_as_https: bool) -> str:
    why = f"{describe_port(authority)} is named by routes[{index}]"
    why += f", as {pattern}; no longer or exact entry fits." if is_wildcard else "."
    return why + (" The upstream is always TLS, so http is sent on as https." if sent_as_https else "")


def _describe_way(settings: Settings, scheme: str, route: RouteSettings) -> str:
    forward = next((one.address for one in settings.listeners if one.mode is ListenerMode.FORWARD), None)
    if forward is None:
        return f"No forward listener: requests reach {route.hosts[0]} through a reverse listener alone."
    if scheme == "http":
        return f"With HTTP_PROXY=http://{forward}, in absolute form; the client needs no CA."
    return (
        f"With HTTPS_PROXY=http://{forward}, by CONNECT; the client's TLS ends at the proxy, so it must trust the proxy's CA "
        "(`apim-auth-proxy ca export`). With http:// in place of https://, it needs no CA, and the proxy still sends the request "
        "on as https."
    )


def _suggest(settings: Settings, authority: Authority) -> str:
    """Say what is routed that looks like this, or else what to change."""
    hosts = [host for route in settings.routes for host in route.hosts]
    if same := [host for host in hosts if _is_same_host(parse_host_pattern(host), authority.host)]:
        return f"The port differs: a route names {', '.join(same)}, where no port means 443."
    if close := difflib.get_close_matches(str(authority).removesuffix(":443"), hosts, n=1, cutoff=0.85):
        return f"Did you mean {close[0]}, which a route names?"
    return "Add the host to a route, or set `other_hosts: tunnel`; a route's entry without a port means 443."


def _is_same_host(pattern: HostPattern, host: str) -> bool:
    named = pattern.authority.host
    return host.endswith(f".{named}") if pattern.is_wildcard else host == named


def _unrouted(settings: Settings, url: str, scheme: str, authority: Authority) -> RouteReport:
    if settings.other_hosts != "tunnel":
        return RouteReport(
            url,
            "refused",
            f"No route names {authority}, and other_hosts is `refuse`: the client gets 403. {_suggest(settings, authority)}",
        )
    if authority.port not in settings.destinations.ports:
        ports = ", ".join(map(str, settings.destinations.ports))
        return RouteReport(
            url,
            "refused",
            f"No route names {authority}, and others are passed on to ports {ports} only (destinations.ports).",
        )
    return RouteReport(
        url,
        "tunnelled",
        f"No route names {authority}, so it is passed on as it is (other_hosts: tunnel), without a token, if the host's "
        "address is public or allowed by destinations.allow.",
        way="By CONNECT, blind." if scheme == "https" else "In absolute form, as any forward proxy does.",
        upstream=f"{scheme}://{authority}",
    )
