"""Tells a client that has only ended sending from one that has gone: both look like FIN. Does I/O.

A program that is killed while it waits sends FIN, and so does one that half-closes and goes on reading (RFC 9112 §9.6). Nothing is
sent to find out. Where the client is on this machine, the kernel is asked whether a program still holds the other end;
everywhere, keep-alive probes have the kernel of a client that has gone answer with a reset within a minute or two.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

# A socket that its program has left lives on for a minute on Linux (tcp_fin_timeout); the first probe behind that is reset.
_KEEP_ALIVE_S: Final = 10

# sock_diag(7): a netlink header and struct inet_diag_req_v2, and where the inode stands in the struct inet_diag_msg that answers.
_REQUEST: Final = struct.Struct("=IHHII BBBBI 2s2s16s16sIII")
_HEADER: Final = struct.Struct("=IHHII")
_INODE: Final = struct.Struct("=I")
_INODE_AT: Final = _HEADER.size + 4 + 48 + 16
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_NETLINK_SOCK_DIAG: Final = 4
_ANY_STATE: Final = 0xFFFFFFFF
_NO_COOKIE: Final = 0xFFFFFFFF


def watch_presence(transport: asyncio.Transport) -> None:
    """Has the kernel probe the peer of a connection from which FIN has come."""
    connected = transport.get_extra_info("socket")
    if connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
            option = getattr(socket, name, None)
            if option is not None:
                connected.setsockopt(socket.IPPROTO_TCP, option, _KEEP_ALIVE_S)


def is_gone(transport: asyncio.Transport) -> bool:
    """Whether the peer of a connection from which FIN has come has left it; False where that cannot be told."""
    connected = transport.get_extra_info("socket")
    if connected is None:
        return False
    try:
        poll = select.poll()
        poll.register(connected.fileno(), 0)
        # A reset, or both directions ended: of a Unix socket, that its peer has closed it. An event loop that reads no more from
        # a socket does not see it.
        if poll.poll(0):
            return True
        family, peer, here = connected.family, connected.getpeername(), connected.getsockname()
    except (OSError, ValueError):
        return True
    return family in (socket.AF_INET, socket.AF_INET6) and is_orphan(family, peer, here)


def is_orphan(family: int, local: tuple[Any, ...], remote: tuple[Any, ...]) -> bool:
    """Whether a TCP socket of this machine is held by no program any more; False where there is none, or that cannot be told.

    Args:
        family: of both addresses.
        local: the socket's own address, as `getsockname` has it.
        remote: its peer's.
    """
    netlink = getattr(socket, "AF_NETLINK", None)
    if netlink is None:
        return False
    request = _REQUEST.pack(
        _REQUEST.size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0,
        family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE,
        local[1].to_bytes(2, "big"), remote[1].to_bytes(2, "big"),
        *(socket.inet_pton(family, host.partition("%")[0]) for host in (local[0], remote[0])), 0, _NO_COOKIE, _NO_COOKIE,
    )  # fmt: skip
    try:
        with socket.socket(netlink, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG) as asked:
            asked.send(request)
            answer = asked.recv(4_096)  # the kernel has answered by now: netlink is synchronous
    except OSError:  # not allowed here (`RestrictAddressFamilies` of systemd, seccomp), or not built into the kernel
        return False
    if len(answer) < _INODE_AT + _INODE.size or _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return False
    return bool(_INODE.unpack_from(answer, _INODE_AT)[0] == 0)
