"""Whether the configured addresses can be listened on; where one is taken, whether by this very program. Opens sockets."""

from __future__ import annotations

import errno
import functools
import os
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509

from proxy.config.addresses import parse_listen_address
from proxy.config.source import is_there
from proxy.doctor.credentials import judge_end
from proxy.doctor.findings import error, ok, warning
from proxy.errors import ConfigurationError
from proxy.keys.pairs import read_pair
from proxy.keys.passwords import read_password
from proxy.keys.tls import load_pair
from proxy.keys.trusted import read_trusted
from proxy.policy import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from proxy.config.addresses import ListenAddress
    from proxy.config.settings import ListenerSettings, ListenerTlsSettings, Settings
    from proxy.doctor.findings import Finding

# A proxy that is busy answers late, and would pass for another program.
_ASK_S: Final = 3.0
# The admin site names itself in the answer.
_ADMIN_QUESTION: Final = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_OWN_NAME: Final = b"apim-auth-proxy"
_ANSWER_BYTES: Final = 16_384


def check_listeners(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Yield whether each listener and the admin site can open its address, and serve there.

    Args:
        settings: as loaded.
        now: aware.
    """
    for listener in settings.listeners:
        subject = f"listener {listener.address}"
        address = parse_listen_address(listener.address)
        if address.path is not None:
            yield _check_socket(subject, Path(address.path))
        else:
            is_own = functools.partial(_answers, question=probe.QUESTION)
            if listener.tls is not None:
                is_own = functools.partial(_shows_certificate, tls=listener.tls)
            yield _check_address(subject, address, f"{listener.mode}, ", "the listener's address", is_own)
        if listener.tls is not None:
            yield from _check_tls(subject, listener.tls, now)
        if not address.is_loopback and not _tells_clients_apart(settings, listener):
            yield warning(
                subject,
                "Other machines can reach it, and anyone who does uses the proxy's identity (allow_any_client: true).",
                "List the allowed clients in `clients`, or make sure that only they can reach it.",
            )
    if settings.admin is not None:
        admin = parse_listen_address(settings.admin.address)
        is_own = functools.partial(_answers, question=_ADMIN_QUESTION)
        yield _check_address(f"admin {settings.admin.address}", admin, "", "admin.address", is_own)


def _tells_clients_apart(settings: Settings, listener: ListenerSettings) -> bool:
    return bool(settings.clients) or (listener.tls is not None and listener.tls.client_ca is not None)


def _check_address(
    subject: str, address: ListenAddress, kind: str, key: str, is_own: Callable[[socket.socket], bool]
) -> Finding:
    if address.port == 0:
        return ok(subject, f"{kind}a free port is chosen at each start.".capitalize())
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    host = "127.0.0.1" if address.host == "localhost" else address.host
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As asyncio's servers do it: connections of a proxy that ended a moment ago are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # 0.0.0.0 may have the same port
            probe.bind((host, address.port))
            probe.listen()
    except OSError as problem:
        if problem.errno != errno.EADDRINUSE:
            return error(subject, f"It cannot be opened: {_describe(problem)}", f"Change {key}.")
        if _is_served_by(is_own, host, address.port):
            return ok(subject, "An apim-auth-proxy is serving there now.")
        return error(subject, "Another program listens there already.", f"Stop it, or change {key}.")
    return ok(subject, f"{kind}the address is free.".capitalize())


def _check_socket(subject: str, path: Path) -> Finding:
    parent = path.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return error(
            subject,
            f"{parent} is not a directory that this user can write to.",
            "Make it, or let the address name a socket elsewhere.",
        )
    if path.exists() and not path.is_socket():
        return error(
            subject, f"{path} is there and is no socket.", "Move it away, or let the address name another path."
        )
    return ok(subject, f"The socket can be made in {parent}.")


def _check_tls(subject: str, tls: ListenerTlsSettings, now: datetime) -> Iterator[Finding]:
    files = [file for file in (tls.certificate, tls.private_key, tls.password_file, tls.client_ca) if file is not None]
    if not all(is_there(file) for file in files):
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        pair = read_pair(tls.certificate, tls.private_key, read_password(tls.password_file))
        load_pair(context, pair, tls.certificate)
        if tls.client_ca is not None:
            read_trusted(tls.client_ca, "client_ca").add_to(context)
    except ConfigurationError as problem:
        yield error(subject, problem.detail)
    else:
        yield judge_end(subject, pair.leaf.not_valid_after_utc, now, "Renew it, and put the new one in its place.")


def _is_served_by(is_own: Callable[[socket.socket], bool], host: str, port: int) -> bool:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
    try:
        with socket.create_connection((reachable, port), timeout=_ASK_S) as connection:
            return is_own(connection)
    except (OSError, ValueError, ConfigurationError):
        return False


def _answers(connection: socket.socket, question: bytes) -> bool:
    connection.sendall(question)
    answer = b""
    while len(answer) < _ANSWER_BYTES and (block := connection.recv(4_096)):
        answer += block
    return _OWN_NAME in answer.lower()


def _shows_certificate(connection: socket.socket, tls: ListenerTlsSettings) -> bool:
    """Return whether the server shows the listener's own certificate; who wants one of ours cannot be asked more."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # to look at the certificate, never to speak over the connection
    with context.wrap_socket(connection) as secured:
        shown = secured.getpeercert(binary_form=True)
    configured = read_pair(tls.certificate, tls.private_key, read_password(tls.password_file)).leaf
    return shown is not None and x509.load_der_x509_certificate(shown) == configured


def _describe(problem: OSError) -> str:
    if problem.errno == errno.EACCES:
        return "this user may not open that port."
    if problem.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address."
    return "the operating system does not allow it."
