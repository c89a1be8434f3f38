"""TCP keep-alive: probes on silent connections, so that nobody on the way forgets them (RFC 9293 §3.8.4). Sets socket options."""

from __future__ import annotations

import contextlib
import socket
from math import ceil
from typing import Final, Protocol

DEFAULT_S: Final = 60.0
# After the first, this many more, in as much time again as passed before it.
_PROBES: Final = 4


class Socket(Protocol):
    """A socket, or what an event loop shows of one."""

    @property
    def family(self) -> int:
        """Its address family."""
        ...

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """See `socket.socket`."""
        ...


def keep_alive(connected: Socket, idle_s: float) -> None:
    """Have a connection probed once it has been silent; one that answers no probe ends with an error.

    On a socket that listens, this is for the connections it accepts: they inherit it.

    Args:
        connected: passed over unless it is TCP.
        idle_s: silence before the first probe; rounded up to whole seconds.
    """
    if connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    idle = ceil(idle_s)
    with contextlib.suppress(OSError):  # the connection is gone, or the system has a limit of its own
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", idle),
            ("TCP_KEEPALIVE", idle),  # what macOS calls it
            ("TCP_KEEPINTVL", max(1, idle // _PROBES)),
            ("TCP_KEEPCNT", _PROBES),
        ):
            option = getattr(socket, name, None)
            if option is not None:
                connected.setsockopt(socket.IPPROTO_TCP, option, value)
