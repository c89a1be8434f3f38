"""What can be wrong with listeners of `mode: identity`, which hand tokens out. Does no I/O.

They are stricter than others: `allow_any_client` is not enough, because whoever reaches one has the token itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.config.addresses import parse_listen_address
from proxy.config.sections import sections
from proxy.config.settings import ListenerMode
from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.faults import Finding, KeyPath
    from proxy.config.sections import Section

_SERVICES = ("authorize", "token_endpoint")
_OTHERS_KEYS = ("upstream", "allow_cross_site", "http2")
_OPEN_TO_OTHERS = (
    "other machines can reach this address, and anyone who can reach it gets access tokens, whatever allow_any_client says. "
    "Listen on 127.0.0.1, [::1] or a Unix socket, or list the allowed clients in clients"
)


def check_identity_listeners(root: Section) -> Iterator[Finding]:
    """Yield what is wrong with what listeners hand out, and to whom."""
    for path, listener in sections(root, "listeners"):
        if listener.get("mode", ListenerMode.FORWARD) == ListenerMode.IDENTITY:
            yield from _check_keys(path, listener)
            yield from _check_reach(root, path, listener)
        else:
            for key in _SERVICES:
                if key in listener:
                    yield (
                        (*path, key),
                        "only a listener with mode: identity hands out tokens; remove this key, or set that",
                    )


def _check_keys(path: KeyPath, listener: Section) -> Iterator[Finding]:
    for key in _OTHERS_KEYS:
        if key in listener:
            yield (*path, key), "an identity listener passes no requests on, and answers over HTTP/1.1; remove this key"
    if not any(listener.get(key) for key in _SERVICES):
        yield (
            path,
            "this listener would serve nothing; add authorize: true (gateways) or token_endpoint: true (programs)",
        )


def _check_reach(root: Section, path: KeyPath, listener: Section) -> Iterator[Finding]:
    text = listener.get("address")
    try:
        address = parse_listen_address(text) if isinstance(text, str) else None
    except ConfigurationError:
        return
    if address is None or address.is_loopback or root.get("clients"):
        return
    tls = listener.get("tls")
    if listener.get("token_endpoint") is True:
        yield (*path, "token_endpoint"), _OPEN_TO_OTHERS
    elif root.get("allow_any_client") is True and not (isinstance(tls, dict) and tls.get("client_ca") is not None):
        yield (*path, "address"), f"{_OPEN_TO_OTHERS}, or with the listener's tls.client_ca"
