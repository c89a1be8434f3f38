"""What can be wrong between the entries of `clients`, the listeners they come through and the routes. Does no I/O."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from proxy.config.addresses import parse_listen_address
from proxy.config.sections import sections
from proxy.config.settings import ListenerMode
from proxy.errors import ConfigurationError
from proxy.policy.routing import parse_host_pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.faults import Finding, KeyPath
    from proxy.config.parsed import Value
    from proxy.config.sections import Section

_TELLS_USERS = hasattr(socket, "SO_PEERCRED")
_MARKS = ("networks", "users", "certificate_names", "password_hash")


def check_clients(root: Section) -> Iterator[Finding]:
    """Yield what is wrong about who may connect."""
    listeners = list(sections(root, "listeners"))
    for path, listener in listeners:
        yield from _check_listener(path, listener)
        workers = root.get("workers", 1)
        is_shared = listener.get("mode") != ListenerMode.IDENTITY
        if is_shared and _is_unix(listener) and isinstance(workers, int) and workers > 1:
            yield (*path, "address"), "relay processes cannot share a Unix socket; use a TCP address, or workers: 1"
    if root.get("clients") and root.get("allow_any_client") is True:
        yield ("allow_any_client",), "clients already decides who can use the proxy; remove one of the two"
    routed = _routed_hosts(root)
    names: set[str] = set()
    for path, client in sections(root, "clients"):
        name = client.get("name")
        if isinstance(name, str):
            if name in names:
                yield (*path, "name"), "another client has this name; give each its own"
            names.add(name)
        yield from _check_client(path, client, listeners)
        yield from _check_routes(path, client.get("routes"), routed)


def _check_client(path: KeyPath, client: Section, listeners: list[tuple[KeyPath, Section]]) -> Iterator[Finding]:
    if not any(client.get(mark) for mark in _MARKS):
        yield path, f"how does the proxy recognise this client? Add at least one of {', '.join(_MARKS)}"
    if client.get("certificate_names") and not any(_asks_for_certificates(listener) for _, listener in listeners):
        yield (
            (*path, "certificate_names"),
            "no listener asks clients for certificates; add tls with client_ca to one",
        )
    if client.get("users"):
        yield from _check_platform((*path, "users"))
        if client.get("networks"):
            yield (
                (*path, "users"),
                "users are known on Unix sockets only, which have no network; split this into two clients",
            )
        elif not any(_is_unix(listener) for _, listener in listeners):
            yield (*path, "users"), "no listener is a Unix socket, and only those tell users; add one"
    if client.get("burst") is not None and client.get("requests_per_s") is None:
        yield (*path, "burst"), "this key needs requests_per_s; add that, or remove this key"


def _check_routes(path: KeyPath, routes: Value, routed: set[str]) -> Iterator[Finding]:
    for index, text in enumerate(routes if isinstance(routes, list) else []):
        if isinstance(text, str) and routed:
            try:
                pattern = str(parse_host_pattern(text))
            except ConfigurationError:
                continue
            if pattern not in routed:
                yield (
                    (*path, "routes", index),
                    "no route has this host; write one of a route's hosts, as it stands there",
                )


def _check_listener(path: KeyPath, listener: Section) -> Iterator[Finding]:
    is_unix = _is_unix(listener)
    if "socket_mode" in listener and not is_unix:
        yield (*path, "socket_mode"), "only a Unix socket has a file mode; remove this key"
    if listener.get("users"):
        yield from _check_platform((*path, "users"))
        if not is_unix:
            yield (*path, "users"), "only a Unix socket tells which user connects; remove this key"
    if is_unix and listener.get("tls") is not None:
        yield (*path, "tls"), "a Unix socket does not leave this machine and needs no TLS; remove this key"


def _check_platform(path: KeyPath) -> Iterator[Finding]:
    if not _TELLS_USERS:
        yield path, "only Linux tells which user is at the other end of a Unix socket; use socket_mode instead"


def _is_unix(listener: Section) -> bool:
    text = listener.get("address")
    try:
        return isinstance(text, str) and parse_listen_address(text).path is not None
    except ConfigurationError:
        return False


def _asks_for_certificates(listener: Section) -> bool:
    tls = listener.get("tls")
    return isinstance(tls, dict) and tls.get("client_ca") is not None


def _routed_hosts(root: Section) -> set[str]:
    """Return the patterns of all routes in one spelling; empty where one cannot be read."""
    routed: set[str] = set()
    for _, route in sections(root, "routes"):
        hosts = route.get("hosts")
        for text in hosts if isinstance(hosts, list) else []:
            try:
                routed.add(str(parse_host_pattern(text)) if isinstance(text, str) else "")
            except ConfigurationError:
                return set()
    return routed
