"""Whether what listens at an address is the proxy of a configuration. Does I/O: asks it."""

from __future__ import annotations

import re
import socket
import ssl
from typing import TYPE_CHECKING, Final

from proxy.errors import DestinationRefused
from proxy.policy.routing import parse_host_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.config.addresses import ListenAddress
    from proxy.policy.authority import Authority

# A proxy that is busy answers late, and would pass for another program.
_PATIENCE_S: Final = 10.0
_CONNECT_S: Final = 1.0
_HEAD_BYTES: Final = 16_384
# RFC 9209 §2: whoever answers in its own name says who that is.
_OWN_ANSWER: Final = re.compile(rb"^proxy-status:[^\r\n]*apim-auth-proxy", re.IGNORECASE | re.MULTILINE)
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")

_NO_HTTP: Final = "another program, which does not speak HTTP"
_OTHER: Final = "a proxy, but not this configuration's: it shows a certificate of another CA"
_REFUSED: Final = "a proxy, but not this configuration's: it has no route for this configuration's hosts"


def listens(address: ListenAddress) -> bool:
    """Return whether something accepts connections at an address of this machine."""
    try:
        with socket.create_connection((address.host, address.port), timeout=_CONNECT_S):
            return True
    except OSError:
        return False


def describe_stranger(
    address: ListenAddress, patterns: Iterable[str], trusted: bytes, *, are_routed: bool = True
) -> str | None:
    """Open a tunnel to a routed host and look who ends its TLS; no request is sent, and the proxy counts none.

    Args:
        address: where something accepts connections without TLS.
        patterns: the configuration's routed hosts.
        trusted: PEM of the interception CA.
        are_routed: whether the hosts are from the configuration; of others, one that the proxy refuses says nothing.

    Returns:
        What else listens there; None where it is the proxy, or where nothing speaks against it.
    """
    found = [pattern.authority for pattern in map(parse_host_pattern, patterns) if not pattern.is_wildcard]
    if not found:
        return None
    try:
        with socket.create_connection((address.host, address.port), timeout=_PATIENCE_S) as connection:
            said = _ask(connection, found[0], trusted)
            return None if said == _REFUSED and not are_routed else said
    except TimeoutError:
        return "another program, which does not answer"
    except OSError:
        return _NO_HTTP


def _ask(connection: socket.socket, authority: Authority, trusted: bytes) -> str | None:
    name = authority.host_field(0)
    connection.sendall(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (name, name))
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES and (block := connection.recv(4_096)):
        head += block
    status = _STATUS.match(head)
    if status is None:
        return _NO_HTTP
    if status[1] != b"200":
        if _OWN_ANSWER.search(head) is None:
            return f"another program, which answers {status[1].decode()} to CONNECT {name.decode()}"
        return _REFUSED if DestinationRefused.title.encode() in head else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=trusted.decode("ascii"))
    try:
        with context.wrap_socket(connection, server_hostname=authority.host):
            return None
    except OSError:
        return _OTHER
