"""Opens listeners: TCP and Unix sockets, with TLS or without. Does I/O, all of it short; for the start only."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.config.addresses import parse_listen_address
from proxy.errors import ConfigurationError
from proxy.relay.doorway import Guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxy.config.settings import ListenerSettings, ListenerTlsSettings

_BACKLOG: Final = 1_024
# RFC 7468 §5.1, and OpenSSL's own label for certificates with trust settings.
_CERTIFICATE: Final = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----(.+?)-----END ", re.DOTALL)


async def open_listener(
    listener: ListenerSettings, factory: Callable[[], asyncio.BaseProtocol], *, shared_port: int | None = None
) -> tuple[asyncio.Server, tuple[str, int]]:
    """Starts to accept connections; returns the server and its address: host and port, or ``unix:/path`` and 0.

    Args:
        listener: what is configured.
        factory: makes the protocol of each connection.
        shared_port: the port, where several processes listen on it; None: the configured one, alone.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    address = parse_listen_address(listener.address)
    try:
        if address.path is not None:
            server = await loop.create_unix_server(factory, sock=_bind_unix(address.path, listener.socket_mode))
            return server, (str(address), 0)
        server = await loop.create_server(
            factory,
            address.host,
            address.port if shared_port is None else shared_port,
            backlog=_BACKLOG,
            reuse_port=shared_port is not None or None,
        )
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {listener.address}: {describe_bind(error)} Change the listener's address."
        ) from None
    name = server.sockets[0].getsockname()
    return server, (name[0], name[1])


def build_guard(listener: ListenerSettings) -> Guard | None:
    """Returns what a listener asks of those who connect; None where it asks nothing and nothing can be told.

    Raises:
        ConfigurationError: a file of its TLS cannot be used, or there is no such user.
    """
    if listener.tls is None and parse_listen_address(listener.address).path is None:
        return None
    if listener.tls is None:
        return Guard(None, find_users(listener.users))
    client_cas = frozenset[bytes]() if listener.tls.client_ca is None else _read_client_cas(listener.tls.client_ca)
    return Guard(create_listener_context(listener.tls), find_users(listener.users), client_cas)


def create_listener_context(tls: ListenerTlsSettings) -> ssl.SSLContext:
    """Returns the TLS context towards the clients of a listener.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        password = "" if tls.password_file is None else tls.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        # Without a function, OpenSSL would ask for the password of an encrypted key on the terminal.
        context.load_cert_chain(tls.certificate, tls.private_key or tls.certificate, lambda: password)
    except (OSError, ValueError, ssl.SSLError):
        raise ConfigurationError(
            f"{tls.certificate} cannot be used for a listener's tls: it must be PEM with a certificate and its key, or the key "
            "stands in private_key; an encrypted one needs the right password_file."
        ) from None
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(cafile=tls.client_ca)
        except (OSError, ssl.SSLError):
            raise _unusable_client_ca(tls.client_ca) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _read_client_cas(file: Path) -> frozenset[bytes]:
    """Returns what tells certificates apart that are one client_ca: the Base64 text of each."""
    try:
        text = file.read_bytes()
    except OSError:
        raise _unusable_client_ca(file) from None
    return frozenset(b"".join(found.split()) for found in _CERTIFICATE.findall(text))


def _unusable_client_ca(file: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{file} cannot be used as client_ca: it must be a readable PEM file with at least one certificate."
    )


def find_users(users: Iterable[str]) -> frozenset[int]:
    """Returns the numbers of Unix users given by name or number.

    Raises:
        ConfigurationError: this machine has no such user.
    """
    numbers = set()
    for user in users:
        if user.isdecimal():
            numbers.add(int(user))
            continue
        import pwd  # noqa: PLC0415  # Unix only, and so are users

        try:
            numbers.add(pwd.getpwnam(user).pw_uid)
        except KeyError:
            raise ConfigurationError(
                f"This machine has no user {user}; write one that `id {user}` knows, or a number."
            ) from None
    return frozenset(numbers)


def remove_socket(address: str) -> None:
    """Removes the file of a Unix socket that is no longer listened on; does nothing for other addresses."""
    if address.startswith("unix:"):
        with contextlib.suppress(OSError):
            Path(address.removeprefix("unix:")).unlink()


def describe_bind(error: OSError) -> str:
    """Says in words why an address cannot be bound."""
    if error.errno == errno.EADDRINUSE:
        return "another program listens there already."
    if error.errno in (errno.EACCES, errno.EPERM):
        return "this user may not bind there."
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address."
    if error.errno == errno.ENOENT:
        return "its directory does not exist."
    if error.errno == errno.EEXIST:
        return "a file that is no socket stands there."
    return "the address cannot be bound."


def _bind_unix(path: str, mode: str) -> socket.socket:
    """Returns a bound socket whose file has its mode from the first moment."""
    _clear_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.setblocking(False)
    masked = os.umask(0o777)
    try:
        bound.bind(path)
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(masked)
    Path(path).chmod(int(mode, 8))
    return bound


def _clear_stale(path: str) -> None:
    """Removes a socket that a process left behind; leaves one that somebody listens on.

    Raises:
        OSError: somebody listens there, or something else than a socket stands there.
    """
    try:
        found = Path(path).lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise OSError(errno.EADDRINUSE, "in use")
