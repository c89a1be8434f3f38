"""What systemd and its like are told, and the sockets they hand over (sd_notify(3), sd_listen_fds(3)). Does I/O, no more than that.

The protocol is a datagram of text and two variables, so no library is needed. Without a service manager nothing happens.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Final

from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START


def notify(*states: str) -> None:
    """Tell the service manager, such as ``READY=1``. Never fails: whoever does not listen is not told."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path or not hasattr(socket, "AF_UNIX"):
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.sendto("\n".join(states).encode(), address)


def notify_reloading() -> None:
    """Tell the service manager that a reload has begun, with the moment, as ``Type=notify-reload`` wants it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1_000}")


def watchdog_interval_s(environ: MutableMapping[str, str]) -> float | None:
    """Return how often to send ``WATCHDOG=1``: twice as often as asked for (sd_watchdog_enabled(3)); None for never."""
    try:
        asked_us, process = int(environ.get("WATCHDOG_USEC", "0")), int(environ.get("WATCHDOG_PID", str(os.getpid())))
    except ValueError:
        return None
    return asked_us / 2_000_000 if asked_us > 0 and process == os.getpid() else None


def take_sockets(environ: MutableMapping[str, str], listeners: int) -> list[socket.socket]:
    """Return the listening sockets that were handed over, one for each of the first listeners, in order.

    The variables are removed: they are not for processes that this one starts.

    Raises:
        ConfigurationError: there are more than listeners, or one is no socket.
    """
    process, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not count.isdecimal():
        return []
    if int(count) > listeners:
        raise ConfigurationError(
            f"The service manager hands over {count} sockets, and there are {listeners} listeners. Each ListenStream of the "
            "socket unit is one listener, in the same order."
        )
    sockets = []
    for descriptor in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)):
        try:
            os.set_inheritable(descriptor, False)
            taken = socket.socket(fileno=descriptor)
        except OSError:
            raise ConfigurationError(
                f"Descriptor {descriptor}, which the service manager hands over, is no socket."
            ) from None
        taken.setblocking(False)
        sockets.append(taken)
    return sockets
