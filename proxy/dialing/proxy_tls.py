"""TLS with an upstream proxy, behind a plain socket on loopback, so that whoever dials gets a socket in every case. Does I/O.

The bytes of such a connection are copied once more than those of others, which is the price of one way for all that dial:
TLS within TLS is something that neither every event loop nor every HTTP library does. Back-pressure passes both ways, and
so does a reset. A half-close does not, because TLS connections of asyncio have none: it ends the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Final

from proxy.dialing.distrust import explain_distrust
from proxy.errors import UpstreamUnreachable, UpstreamUntrusted

if TYPE_CHECKING:
    from proxy.policy.upstream_proxy import UpstreamProxy

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger


async def start_tls(connected: socket.socket, proxy: UpstreamProxy, context: ssl.SSLContext) -> socket.socket:
    """Return a socket whose bytes travel to the proxy within TLS; the caller closes it, which closes `connected`.

    Args:
        connected: to the proxy; taken over.
        proxy: whose name its certificate must carry.
        context: verifies that certificate.

    Raises:
        UpstreamUntrusted: the certificate does not verify.
        UpstreamUnreachable: the handshake fails.
    """
    loop = asyncio.get_running_loop()
    outside, inside = _Side(), _Side()
    outside.other, inside.other = inside, outside
    try:
        await loop.create_connection(lambda: outside, sock=connected, ssl=context, server_hostname=proxy.authority.host)
    except ssl.SSLCertVerificationError as error:
        connected.close()
        distrust = explain_distrust(error.verify_code, "upstream_proxy.ca_file")
        raise UpstreamUntrusted(
            f"The certificate of the upstream proxy {proxy} {distrust.what}. {distrust.advice}",
            code="upstream_proxy_untrusted",
        ) from None
    except OSError:
        connected.close()
        raise UpstreamUnreachable(
            f"The upstream proxy {proxy} did not complete a TLS handshake. If it is spoken to without TLS, which is usual, "
            "begin upstream_proxy.url with http://.",
            code="upstream_proxy_tls_failed",
        ) from None
    except BaseException:
        connected.close()
        raise
    try:
        near, far = await _create_pair()
        await loop.create_connection(lambda: inside, sock=far)
    except BaseException:
        outside.reset()
        raise
    if outside.transport is None or outside.transport.is_closing():
        inside.reset()  # it went away meanwhile, when there was nobody to tell
    outside.resume()
    return near


class _Side(asyncio.Protocol):
    """One of two ends between which bytes are copied. Nothing is read at the first one before there is a second.

    Attributes:
        transport: its own; None before it is connected.
        other: the other end.
    """

    other: _Side

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # stream transports only
        if self.other.transport is None:
            self.pause()

    def data_received(self, data: bytes) -> None:
        if self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        self.other.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.other.close()
        else:
            self.other.reset()

    def pause_writing(self) -> None:
        self.other.pause()

    def resume_writing(self) -> None:
        self.other.resume()

    def pause(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """Cuts the connection so that its peer can tell that from an end."""
        if self.transport is not None:
            _reset(self.transport)


def _reset(transport: asyncio.Transport) -> None:
    connected = transport.get_extra_info("socket")
    if connected is not None:
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


async def _create_pair() -> tuple[socket.socket, socket.socket]:
    """Return two non-blocking sockets that are connected with each other.

    Over TCP, because socketpair(2) makes Unix sockets, which know no reset.
    """
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.setblocking(False)
        near = socket.socket()
        try:
            near.setblocking(False)
            await loop.sock_connect(near, listener.getsockname())
            while True:
                far, peer = await loop.sock_accept(listener)
                if peer == near.getsockname():
                    break
                far.close()  # somebody else on this machine tried the port
        except BaseException:
            near.close()
            raise
    for one in (near, far):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far
