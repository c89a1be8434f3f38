"""What can only be judged by looking at several settings at once, or at what is installed. Does no other I/O.

The checks read the values as they are written, before anything is known to be right, so that all faults of a file are
found in one go: what has the wrong type or does not parse is passed over here, because validation reports it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from proxy.config.addresses import parse_listen_address, parse_origin
from proxy.config.clients import check_clients
from proxy.config.faults import Finding, KeyPath, format_key_path, suggest
from proxy.config.identity_listeners import check_identity_listeners
from proxy.config.proofs import check_proof, check_target
from proxy.config.sections import Section, sections
from proxy.config.settings import AdminSettings, LimitSettings, ListenerMode
from proxy.config.token_files import check_token_files
from proxy.config.upstream_proxy import check_upstream_proxy
from proxy.errors import ConfigurationError
from proxy.policy.routing import RouteTable, parse_host_pattern

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxy.config.addresses import ListenAddress
    from proxy.config.parsed import Value
    from proxy.policy.routing import HostPattern

_OPEN_TO_OTHERS = (
    "other machines can reach this address, and anyone who reaches the proxy uses its identity. Listen on 127.0.0.1 or "
    "[::1] (containers that share a network namespace, as in a pod, reach it there); or list the allowed clients in clients, "
    "or with the listener's tls.client_ca; or, if only the right clients can reach it, set allow_any_client: true"
)
_ADMIN_OPEN_TO_OTHERS = (
    "other machines can reach this address, and `clients` does not protect the admin site. Listen on 127.0.0.1 or [::1]; or "
    "add token_file, with a token that opens more than the probes; or, if only the right machines can reach it, set "
    "allow_any_client: true"
)
_NOT_DEFAULT_SCOPE = (
    "an application asks Microsoft Entra ID for '/.default' of an API, never for single permissions (AADSTS1002012); "
    "write the API's identifier URI followed by /.default, such as api://orders/.default"
)

_NOT_TRANSPARENT = {
    "upstream": "a transparent listener takes the upstream from each connection",
    "server_names": "only a reverse listener has server names",
    "tls": "clients of a transparent listener speak TLS with the routed host, which the interception CA stands for",
}


def check_settings(root: Section) -> Iterator[Finding]:
    """Yield what is wrong between the settings of a document."""
    yield from _check_addresses(root)
    yield from _check_listener_modes(root)
    yield from check_identity_listeners(root)
    yield from check_clients(root)
    yield from _check_credentials(root)
    yield from _check_routes(root)
    yield from check_token_files(root)
    yield from _check_hosts(root)
    yield from _check_limits(root)
    yield from _check_interception(root)
    yield from check_upstream_proxy(root)
    yield from _check_tracing(root)
    yield from _check_token_cache(root)


def _addresses(root: Section) -> Iterator[tuple[KeyPath, ListenAddress]]:
    admin = root.get("admin", {})
    written = [((*path, "address"), section.get("address")) for path, section in sections(root, "listeners")]
    if isinstance(admin, dict):
        written.append((("admin", "address"), admin.get("address", AdminSettings().address)))
    for path, text in written:
        if isinstance(text, str):
            try:
                yield path, parse_listen_address(text)
            except ConfigurationError:
                continue


def _check_addresses(root: Section) -> Iterator[Finding]:
    seen: list[ListenAddress] = []
    for path, address in _addresses(root):
        is_admin = path[0] == "admin"
        if not address.is_loopback and root.get("allow_any_client") is not True:
            if is_admin:
                if not _has_admin_token(root):
                    yield path, _ADMIN_OPEN_TO_OTHERS
            elif not _tells_clients_apart(root, path):
                yield path, _OPEN_TO_OTHERS
        if is_admin and address.path is not None:
            yield path, "health and metrics are served over TCP; write 127.0.0.1:9901"
        taken = next((other for other in seen if address.overlaps(other)), None)
        if taken is not None:
            rest = "another path" if address.path is not None else "another port"
            with_it = "" if str(taken) == str(address) else f", which {address} includes or shares"
            yield path, f"another listener or the admin site already uses {taken}{with_it}; give one of them {rest}"
        seen.append(address)


def _has_admin_token(root: Section) -> bool:
    admin = root.get("admin")
    return isinstance(admin, dict) and admin.get("token_file") is not None


def _tells_clients_apart(root: Section, path: KeyPath) -> bool:
    """Whether the listener that a path leads to does not take everyone; entries that are wrong are reported elsewhere."""
    if root.get("clients"):
        return True
    listeners = root["listeners"]
    listener = listeners[path[1]] if isinstance(listeners, list) and isinstance(path[1], int) else None
    tls = listener.get("tls") if isinstance(listener, dict) else None
    return isinstance(tls, dict) and tls.get("client_ca") is not None


def _check_listener_modes(root: Section) -> Iterator[Finding]:
    patterns = _patterns(root)
    table = None if patterns is None else RouteTable((pattern, 0) for _, pattern in patterns)
    for path, listener in sections(root, "listeners"):
        upstream = listener.get("upstream")
        mode = listener.get("mode", ListenerMode.FORWARD)
        if mode == ListenerMode.FORWARD:
            if upstream is not None:
                yield (
                    (*path, "upstream"),
                    "a forward listener takes the upstream from each request; remove this key, or set mode: reverse",
                )
            if listener.get("server_names"):
                yield (*path, "server_names"), "only reverse and identity listeners have server names; remove this key"
            if "allow_cross_site" in listener:
                yield (
                    (*path, "allow_cross_site"),
                    "web pages can send requests to a reverse listener only; remove this key",
                )
        elif mode == ListenerMode.TRANSPARENT:
            yield from _check_transparent(path, listener)
        elif mode == ListenerMode.REVERSE and upstream is None:
            yield (
                (*path, "upstream"),
                "a reverse listener needs an upstream; add upstream: https://host of a host in routes",
            )
        elif mode == ListenerMode.REVERSE and isinstance(upstream, str) and table is not None:
            try:
                authority = parse_origin(upstream)
            except ConfigurationError:
                continue
            if table.find(authority) is None:
                yield (*path, "upstream"), f"no route has the host {authority}; add it to the hosts of one"


def _check_transparent(path: KeyPath, listener: Section) -> Iterator[Finding]:
    if sys.platform != "linux":
        yield (*path, "mode"), "only Linux redirects connections to a listener; use a forward or a reverse one"
    address = listener.get("address")
    if isinstance(address, str) and address.startswith("unix:"):
        yield (*path, "address"), "connections are redirected over TCP; write 127.0.0.1:8085"
    for key, reason in _NOT_TRANSPARENT.items():
        if listener.get(key):
            yield (*path, key), f"{reason}; remove this key"


def _check_credentials(root: Section) -> Iterator[Finding]:
    names = root.get("credentials")
    for path, credential in sections(root, "credentials"):
        yield from check_proof(path, credential, names if isinstance(names, dict) else {})
        if credential.get("managed_identity") is not None:
            continue
        has_tenant = credential.get("tenant_id") is not None
        client_id = credential.get("client_id")
        if has_tenant and isinstance(client_id, str) and " " in client_id.strip():
            yield (
                (*path, "client_id"),
                "Entra ID's client ids are GUIDs, without blanks: 22222222-2222-2222-2222-222222222222",
            )
        has_endpoint = credential.get("token_endpoint") is not None
        if has_tenant and has_endpoint:
            yield (*path, "token_endpoint"), "tenant_id already says which token endpoint; remove one of the two"
        elif not has_tenant and not has_endpoint:
            yield (
                path,
                "where do the tokens come from? Add tenant_id (Microsoft Entra ID) or token_endpoint (any other server)",
            )
        elif has_endpoint and "authority" in credential:
            yield (*path, "authority"), "authority goes with tenant_id; with token_endpoint, remove it"


def _check_routes(root: Section) -> Iterator[Finding]:
    for path, route in (*sections(root, "routes"), *sections(root, "token_files")):
        yield from _check_token_of(root, path, route)
    for path, route in sections(root, "routes"):
        for key in ("client_private_key", "client_password_file"):
            if route.get(key) is not None and route.get("client_certificate") is None:
                yield (*path, key), "this key needs client_certificate; add that, or remove this key"


def _check_token_of(root: Section, path: KeyPath, route: Section) -> Iterator[Finding]:
    """Yield what is wrong with which token a route or a token file names."""
    credentials = root.get("credentials")
    if not isinstance(credentials, dict):
        return
    yield from check_target(path, route)
    name = route.get("credential")
    if not isinstance(name, str):
        return
    if name not in credentials:
        yield (*path, "credential"), f"no credential has this name; {suggest(name, credentials)}"
        return
    credential, scope = credentials[name], route.get("scope")
    if isinstance(credential, dict) and isinstance(scope, str) and _is_entra(credential):
        yield from _check_entra_scope((*path, "scope"), scope)


def _is_entra(credential: Mapping[str, Value]) -> bool:
    return credential.get("tenant_id") is not None or credential.get("managed_identity") is not None


def _check_entra_scope(path: KeyPath, scope: str) -> Iterator[Finding]:
    if " " in scope:
        yield path, "Microsoft Entra ID gives an application one scope at a time; keep the one that ends in /.default"
    elif not scope.endswith("/.default"):
        yield path, _NOT_DEFAULT_SCOPE


def _patterns(root: Section) -> list[tuple[KeyPath, HostPattern]] | None:
    """Return the patterns of all routes in order; None where one cannot be read, so that no conclusion holds."""
    patterns: list[tuple[KeyPath, HostPattern]] = []
    for path, route in sections(root, "routes"):
        hosts = route.get("hosts")
        for index, text in enumerate(hosts if isinstance(hosts, list) else []):
            if not isinstance(text, str):
                return None
            try:
                patterns.append(((*path, "hosts", index), parse_host_pattern(text)))
            except ConfigurationError:
                return None
    return patterns


def _check_hosts(root: Section) -> Iterator[Finding]:
    patterns = _patterns(root) or []
    for shadowed in RouteTable((pattern, index) for index, (_, pattern) in enumerate(patterns)).shadowed():
        first = format_key_path(patterns[shadowed.by][0][:2])
        yield (
            patterns[shadowed.index][0],
            f"{shadowed.pattern} is already in {first}; a host can have only one route, so remove one",
        )


def _check_tracing(root: Section) -> Iterator[Finding]:
    # Without importing it: that takes a quarter of a second, and is for the process that sends spans.
    tracing = root.get("tracing")
    if isinstance(tracing, dict) and tracing.get("endpoint") is not None and not _has_packages():
        yield (
            ("tracing", "endpoint"),
            "spans need packages that are not installed; run pip install 'apim-auth-proxy[otel]', or remove this key",
        )


def _check_token_cache(root: Section) -> Iterator[Finding]:
    cache = root.get("token_cache")
    if not isinstance(cache, dict):
        return
    url, credentials = cache.get("url"), root.get("credentials")
    if url is not None and find_spec("redis") is None:
        yield (
            ("token_cache", "url"),
            "sharing tokens needs a package that is not installed; run pip install 'apim-auth-proxy[redis]', or remove token_cache",
        )
    if isinstance(url, str) and not url.startswith("rediss") and cache.get("ca_file") is not None:
        yield ("token_cache", "ca_file"), "this key is for TLS only; write rediss in the url, or remove this key"
    name = cache.get("credential")
    if name is None:
        return
    if cache.get("password_file") is not None:
        yield ("token_cache", "password_file"), "credential already says how to sign in to Redis; remove one of the two"
    if isinstance(name, str) and isinstance(credentials, dict):
        found = credentials.get(name)
        if name not in credentials:
            yield ("token_cache", "credential"), f"no credential has this name; {suggest(name, credentials)}"
        elif isinstance(found, dict) and not _is_entra(found):
            yield (
                ("token_cache", "credential"),
                "Redis accepts only tokens from Microsoft Entra ID; name a credential that gets them there",
            )
        if isinstance(url, str) and not url.startswith("rediss"):
            yield ("token_cache", "url"), "an access token travels over TLS only; write rediss in place of redis"


def _has_packages() -> bool:
    try:
        return all(
            find_spec(name) is not None for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
        )
    except ModuleNotFoundError:  # a parent of one of them
        return False


def _check_interception(root: Section) -> Iterator[Finding]:
    interception = root.get("interception")
    if isinstance(interception, dict) and not interception.get("ca_certificate"):
        for key in ("ca_private_key", "ca_password_file"):
            if interception.get(key):
                yield (
                    ("interception", key),
                    "this belongs to ca_certificate, the intermediate CA's; add that, or remove this",
                )


def _check_limits(root: Section) -> Iterator[Finding]:
    limits = root.get("limits")
    if not isinstance(limits, dict):
        return
    defaults = LimitSettings()
    target = limits.get("target_bytes", defaults.target_bytes)
    head = limits.get("head_bytes", defaults.head_bytes)
    if isinstance(target, int) and isinstance(head, int) and target > head > 0:
        key = "target_bytes" if "target_bytes" in limits else "head_bytes"
        yield (
            ("limits", key),
            f"a request target of {target} bytes does not fit into a head of {head}; change one of the two",
        )
