"""Whether rules of the kernel would lead the proxy's own connections back to it. Opens sockets; reads no rules, which takes root.

A connection to an address that nobody has (RFC 5737, RFC 3849) is accepted only where it is redirected. It is tried as the user
that runs this, while something listens at each transparent listener's address: the running proxy, or this.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from proxy.config.addresses import parse_listen_address
from proxy.config.settings import ListenerMode
from proxy.doctor.findings import error, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.settings import Settings
    from proxy.doctor.findings import Finding

_NOBODYS: Final = (
    (socket.AF_INET, ("192.0.2.1", 443)),
    (socket.AF_INET, ("192.0.2.1", 80)),
    (socket.AF_INET6, ("2001:db8::1", 443)),
    (socket.AF_INET6, ("2001:db8::1", 80)),
)
# Loopback answers within microseconds; where nothing is redirected, nothing answers.
_WAIT_S: Final = 0.5


def check_redirection(settings: Settings) -> Iterator[Finding]:
    """Yield what becomes of the proxy's own connections, where there is a transparent listener."""
    listeners = [one for one in settings.listeners if one.mode is ListenerMode.TRANSPARENT]
    if not listeners:
        return
    with ExitStack() as stack:
        for listener in listeners:
            address = parse_listen_address(listener.address)
            with contextlib.suppress(OSError):  # the proxy itself listens there, or nobody can
                family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
                host = "127.0.0.1" if address.host == "localhost" else address.host
                stack.enter_context(socket.create_server((host, address.port), family=family))
        redirected = sorted(_find_accepted())
    subject = "redirection"
    if not redirected:
        yield ok(subject, "Connections of this user to other machines are not redirected back to the proxy.")
        return
    what = f"Connections of this user to {' and '.join(redirected)} are redirected: an address that nobody has accepts one."
    if os.geteuid() == 0:
        yield warning(
            subject, what, "Run this check as the user that the proxy runs as, which the rules have to exempt."
        )
        return
    yield error(
        subject,
        f"{what} The proxy's own would come back to it.",
        "Exempt its user from the rules: `apim-auth-proxy init --transparent` prints rules that do.",
    )


def _find_accepted() -> set[str]:
    """Return the ports, in words, at which an address that nobody has accepts a connection."""
    accepted: set[str] = set()
    with ExitStack() as stack:
        pending: dict[socket.socket, str] = {}
        for family, where in _NOBODYS:
            try:
                connecting = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                connecting.setblocking(False)
                connecting.connect_ex(where)
            except OSError:  # there is no IPv6 here
                continue
            pending[connecting] = f"port {where[1]}"
        give_up_at = time.monotonic() + _WAIT_S
        while pending and (left_s := give_up_at - time.monotonic()) > 0:
            for connected in select.select((), tuple(pending), (), left_s)[1]:
                port = pending.pop(connected)
                if connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    accepted.add(port)
    return accepted
