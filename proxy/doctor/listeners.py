"""Whether the configured addresses can be listened on; where one is taken, whether by this very program. Opens sockets."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final

from proxy.config.addresses import parse_listen_address
from proxy.doctor.findings import error, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.addresses import ListenAddress
    from proxy.config.settings import Settings
    from proxy.doctor.findings import Finding

_ASK_S: Final = 1.0
# A forward listener answers origin-form with 400 and a Proxy-Status that names it; the admin site answers /livez.
_QUESTION: Final = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_OWN_NAME: Final = b"apim-auth-proxy"
_ANSWER_BYTES: Final = 16_384


def check_listeners(settings: Settings) -> Iterator[Finding]:
    """Yield whether each listener and the admin site can open its address."""
    for listener in settings.listeners:
        address = parse_listen_address(listener.address)
        yield _check_address(f"listener {listener.address}", address, f"{listener.mode}, ", "the listener's address")
        if not address.is_loopback:
            yield warning(
                f"listener {listener.address}",
                "Other machines may reach it, and whoever does may use the proxy's identity (allow_any_client: true).",
                "See to it that the network lets the right clients through, and no others.",
            )
    if settings.admin is not None:
        admin = parse_listen_address(settings.admin.address)
        yield _check_address(f"admin {settings.admin.address}", admin, "", "admin.address")


def _check_address(subject: str, address: ListenAddress, kind: str, key: str) -> Finding:
    if address.port == 0:
        return ok(subject, f"{kind}a free port is chosen at each start.".capitalize())
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    host = "127.0.0.1" if address.host == "localhost" else address.host
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As asyncio's servers do it: connections of a proxy that ended a moment ago are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, address.port))
            probe.listen()
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            return _judge_taken(subject, host, address.port, key)
        return error(subject, f"It cannot be opened: {_describe(problem)}", f"Change {key}.")
    return ok(subject, f"{kind}the address is free.".capitalize())


def _judge_taken(subject: str, host: str, port: int, key: str) -> Finding:
    if _is_own(host, port):
        return ok(subject, "An apim-auth-proxy is serving there now.")
    return error(subject, "Another program listens there already.", f"Stop it, or change {key}.")


def _is_own(host: str, port: int) -> bool:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
    try:
        with socket.create_connection((reachable, port), timeout=_ASK_S) as connection:
            connection.sendall(_QUESTION)
            answer = b""
            while len(answer) < _ANSWER_BYTES and (block := connection.recv(4_096)):
                answer += block
    except OSError:
        return False
    return _OWN_NAME in answer.lower()


def _describe(problem: OSError) -> str:
    if problem.errno == errno.EACCES:
        return "this user may not open that port."
    if problem.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address."
    return "the operating system does not allow it."
