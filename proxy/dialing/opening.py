"""Has an upstream proxy open a tunnel: one CONNECT request, one answer (RFC 9110 §9.3.6). Does I/O on a given socket.

The answer is read to its last byte and no further, so that what comes behind it is for whoever uses the tunnel.
"""

from __future__ import annotations

import asyncio
import re
import socket
from typing import TYPE_CHECKING, Final

from proxy import __version__
from proxy.errors import UpstreamProtocolError, UpstreamProxyRefused, UpstreamUnreachable

if TYPE_CHECKING:
    from proxy.policy.authority import Authority
    from proxy.policy.upstream_proxy import UpstreamProxy

# Proxies answer CONNECT with a few lines; a refusal's content is not read.
_HEAD_LIMIT_BYTES: Final = 32_768
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")  # RFC 9112 §4
_FIELD_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00\r\n]*)")  # RFC 9112 §5


async def open_tunnel(connected: socket.socket, proxy: UpstreamProxy, target: Authority, *, tells: bool) -> None:
    """Send CONNECT over a connection to the proxy and return when the tunnel is open.

    Args:
        connected: non-blocking; left open whatever happens.
        proxy: who is asked.
        target: where the tunnel leads.
        tells: whether the other end may be the first to send; where it may not, bytes behind the answer are an error.

    Raises:
        UpstreamProxyRefused: it answered, and said no.
        UpstreamProtocolError: what it answered is not an HTTP/1.1 response to CONNECT.
        UpstreamUnreachable: it closed the connection.
    """
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(connected, format_connect(proxy, target))
        head, more = await _read_head(connected, proxy)
    except OSError:
        raise _closed(proxy) from None
    judge_answer(head, proxy, target)
    if more and not tells:
        raise UpstreamProtocolError(
            f"The upstream proxy {proxy} sent bytes behind its answer to CONNECT, before the tunnel was used. "
            "Is upstream_proxy.url the address of an HTTP proxy?"
        )


def format_connect(proxy: UpstreamProxy, target: Authority) -> bytes:
    """Return the CONNECT request for a target."""
    authorization = b"Proxy-Authorization: %b\r\n" % proxy.authorization if proxy.authorization else b""
    name = str(target).encode("ascii")
    return b"CONNECT %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: apim-auth-proxy/%b\r\n%b\r\n" % (
        name,
        name,
        __version__.encode("ascii"),
        authorization,
    )


def judge_answer(head: bytes, proxy: UpstreamProxy, target: Authority) -> None:
    """Judges the head of the answer to CONNECT, with the empty line that ends it. Any 2xx opens the tunnel.

    Raises:
        UpstreamProxyRefused: the status says no.
        UpstreamProtocolError: it is no head of an HTTP/1.1 response.
    """
    line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    status_line = _STATUS_LINE.fullmatch(line)
    fields = [_FIELD_LINE.fullmatch(one) for one in lines]
    if status_line is None or None in fields:
        raise _not_http(proxy)
    status = int(status_line[1])
    if 200 <= status < 300:
        return
    schemes = [
        field[2].strip().split(b" ")[0].lower()
        for field in fields
        if field is not None and field[1].lower() == b"proxy-authenticate"
    ]
    raise UpstreamProxyRefused(
        f"The upstream proxy {proxy} answered {status} to CONNECT {target}: {_explain(status, proxy, schemes)}",
        code=f"upstream_proxy_{status}",
    )


def _explain(status: int, proxy: UpstreamProxy, schemes: list[bytes]) -> str:
    if status == 407:
        if schemes and b"basic" not in schemes:
            return (
                "it takes no Basic authentication, which is all this proxy speaks. Ask its operator for Basic or for an "
                "exception, or put a helper for its scheme in between."
            )
        if proxy.authorization:
            return "it does not accept the user and password in upstream_proxy.url."
        return (
            "it requires authentication. Put user and password into upstream_proxy.url: http://user:password@host:port."
        )
    if status in (403, 405):
        return "it does not open tunnels to that host and port. Ask its operator to allow it, or name the host in no_proxy."
    if status in (502, 503, 504):
        return "it cannot reach that host. Check the host's spelling; one that only this network knows belongs in no_proxy."
    return "it opened no tunnel. Ask its operator, or name the host in upstream_proxy.no_proxy."


async def _read_head(connected: socket.socket, proxy: UpstreamProxy) -> tuple[bytes, bool]:
    """Take the head from the socket; return it, and whether more has arrived behind it."""
    head = b""
    while True:
        seen = await _peek(connected)
        if not seen:
            raise _closed(proxy)
        end = (head + seen).find(b"\r\n\r\n") + 4
        taken = len(seen) if end < 4 else end - len(head)
        connected.recv(taken)  # as many bytes have just been seen there
        head += seen[:taken]
        if end >= 4:
            return head, taken < len(seen)
        if len(head) > _HEAD_LIMIT_BYTES or not b"HTTP/1.".startswith(head[:7]):
            raise _not_http(proxy)


async def _peek(connected: socket.socket) -> bytes:
    """Return what has arrived, at least a byte, and leave it there; nothing at the connection's end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return connected.recv(_HEAD_LIMIT_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            arrived: asyncio.Future[None] = loop.create_future()
            loop.add_reader(connected.fileno(), _wake, arrived)
            try:
                await arrived
            finally:
                loop.remove_reader(connected.fileno())


def _wake(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)


def _closed(proxy: UpstreamProxy) -> UpstreamUnreachable:
    return UpstreamUnreachable(
        f"The upstream proxy {proxy} closed the connection without an answer to CONNECT. Check upstream_proxy.url: is it "
        f"the proxy's address, and the scheme {'https' if proxy.is_tls else 'http'} right?",
        code="upstream_proxy_closed",
    )


def _not_http(proxy: UpstreamProxy) -> UpstreamProtocolError:
    return UpstreamProtocolError(
        f"The upstream proxy {proxy} answered CONNECT with something that is not HTTP/1.1. Check upstream_proxy.url: is "
        f"it the address of an HTTP proxy, and the scheme {'https' if proxy.is_tls else 'http'} right?",
        code="upstream_proxy_not_http",
    )
