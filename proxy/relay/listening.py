"""Opens listeners: TCP and Unix sockets, with TLS or without. Does I/O, all of it short; for the start only."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.config.addresses import parse_listen_address
from proxy.config.settings import Http2
from proxy.errors import AddressTaken, ConfigurationError
from proxy.keys.pairs import read_pair
from proxy.keys.passwords import read_password
from proxy.keys.tls import load_pair
from proxy.keys.trusted import read_trusted
from proxy.relay.listener_policy import ListenerPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cryptography import x509

    from proxy.config.settings import ListenerSettings, ListenerTlsSettings

_BACKLOG: Final = 1_024
# Of TLS 1.2; TLS 1.3 has no others. RFC 9325 §4.2.
_AEAD: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL"

_PROTOCOLS: Final = {Http2.NEEDED: ["http/1.1", "h2"], Http2.PREFERRED: ["h2", "http/1.1"], Http2.OFF: ["http/1.1"]}


async def open_listener(
    listener: ListenerSettings, factory: Callable[[], asyncio.BaseProtocol], *, shared_port: int | None = None
) -> tuple[asyncio.Server, tuple[str, int]]:
    """Start to accept connections; return the server and its address: host and port, or ``unix:/path`` and 0.

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
            server = await loop.create_unix_server(factory, sock=bind_unix(address.path, listener.socket_mode))
            return server, (str(address), 0)
        server = await loop.create_server(
            factory,
            address.host,
            address.port if shared_port is None else shared_port,
            backlog=_BACKLOG,
            reuse_port=shared_port is not None or None,
        )
    except OSError as error:
        raise cannot_listen(listener.address, error) from None
    name = server.sockets[0].getsockname()
    return server, (name[0], name[1])


def build_listener_policy(listener: ListenerSettings) -> ListenerPolicy | None:
    """Return what a listener asks of those who connect; None where it asks nothing and nothing can be told.

    Raises:
        ConfigurationError: a file of its TLS cannot be used, or there is no such user.
    """
    if listener.tls is None and parse_listen_address(listener.address).path is None:
        return None
    if listener.tls is None:
        return ListenerPolicy(None, find_users(listener.users))
    client_ca = listener.tls.client_ca
    client_cas = frozenset[bytes]() if client_ca is None else frozenset(read_trusted(client_ca, "client_ca").bodies)
    context = create_listener_context(listener.tls, _PROTOCOLS[listener.http2])
    return ListenerPolicy(context, find_users(listener.users), client_cas)


def create_listener_context(tls: ListenerTlsSettings, protocols: list[str]) -> ssl.SSLContext:
    """Return the TLS context towards the clients of a listener.

    Args:
        tls: what is configured.
        protocols: what is spoken, by our preference (RFC 7301).

    Raises:
        ConfigurationError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_AEAD)
    context.set_alpn_protocols(protocols)
    load_pair(context, read_pair(tls.certificate, tls.private_key, read_password(tls.password_file)), tls.certificate)
    if tls.client_ca is not None:
        read_trusted(tls.client_ca, "client_ca").add_to(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def find_listener_certificates(listeners: Iterable[ListenerSettings]) -> dict[str, x509.Certificate]:
    """Return the certificate of each listener with TLS, by its address.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    return {
        listener.address: read_pair(
            listener.tls.certificate, listener.tls.private_key, read_password(listener.tls.password_file)
        ).leaf
        for listener in listeners
        if listener.tls is not None
    }


def find_users(users: Iterable[str]) -> frozenset[int]:
    """Return the numbers of Unix users given by name or number.

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
    """Remove the file of a Unix socket that is no longer listened on; does nothing for other addresses."""
    if address.startswith("unix:"):
        with contextlib.suppress(OSError):
            Path(address.removeprefix("unix:")).unlink()


def cannot_listen(address: str, error: OSError, *, site: str = "") -> ConfigurationError:
    """Return the error for an address that cannot be bound.

    Args:
        address: as configured.
        error: what the system says.
        site: "admin" for that site's; a listener's otherwise.
    """
    what, key = (f"open the {site} site", f"{site}.address") if site else ("listen", "the listener's address")
    detail = f"Cannot {what} on {address}: {describe_bind(error)} Change {key}."
    return AddressTaken(detail, address) if error.errno == errno.EADDRINUSE else ConfigurationError(detail)


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


def bind_unix(path: str, mode: str) -> socket.socket:
    """Return a bound socket whose file has its mode from the first moment."""
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
    """Remove a socket that a process left behind; leave one that somebody listens on.

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
