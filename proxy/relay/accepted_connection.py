"""One accepted connection from its first moment to its last, and how many there are. Does no I/O but to ask who is there.

An `AcceptedConnection` stays the same whatever protocol runs on it: a client connection, the end of a tunnel, a splice. Each of
them tells it when the connection is gone.
"""

from __future__ import annotations

import socket
import struct
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

from proxy.dialing.descriptors import read_limit, report_exhausted, reserve
from proxy.errors import Overloaded, TooManyRequests
from proxy.policy.access import Client, Peer, address_block, is_this_machine, parse_peer_address

if TYPE_CHECKING:
    import asyncio

    from proxy.config.settings import LimitSettings
    from proxy.relay.known_client import KnownClient, Usage
    from proxy.relay.listener_policy import ListenerPolicy

# Linux' struct ucred: pid, uid, gid (unix(7)).
_UCRED: Final = struct.Struct("3i")
# Refusals in words cost a connection for a moment; beyond this share over the limit it is closed without them.
_REFUSED_WITH_WORDS: Final = 1.1


class AcceptedConnection:
    """One accepted connection.

    Attributes:
        address: the peer's address as text, ``unix`` without one.
        user: the peer's numeric Unix user; None for TCP.
        certificate_names: of the peer's verified certificate.
        known: who it is, once that is settled for all that follows, as CONNECT does.
        candidates: the configured clients that fit the connection; None before they are needed.
        admission: by which that was judged.
        rule: that of the listener it came in by; None until it is open.
        policy: what that listener asked of it; None: nothing.
        is_dismissed: whether that listener would not take it any more, so that no further request is read.
    """

    __slots__ = (
        "_accepted_connections",
        "address",
        "admission",
        "candidates",
        "certificate_names",
        "is_dismissed",
        "known",
        "policy",
        "rule",
        "user",
    )

    def __init__(self, accepted_connections: AcceptedConnections, address: str) -> None:
        self._accepted_connections: AcceptedConnections | None = accepted_connections
        self.address = address
        self.user: int | None = None
        self.certificate_names: frozenset[str] = frozenset()
        self.known: KnownClient | None = None
        self.candidates: list[Client] = []
        self.admission: Usage | None = None
        self.rule: object | None = None
        self.policy: ListenerPolicy | None = None
        self.is_dismissed = False

    def leave(self) -> None:
        """Take note that the connection is closed; more often than once is no harm."""
        accepted_connections, self._accepted_connections = self._accepted_connections, None
        if accepted_connections is not None:
            accepted_connections.remove(self.address)

    @property
    def peer(self) -> Peer:
        """What the connection shows."""
        return Peer(parse_peer_address(self.address), self.user, self.certificate_names)


class AcceptedConnections:
    """How many connections there are, in total and by address; of IPv6, by /64.

    Attributes:
        limits: what is judged by; a reload sets others, and who has been counted stays so.
        count: how many are open.
    """

    def __init__(self, limits: LimitSettings) -> None:
        self.limits = limits
        limit = read_limit()
        self._first_reserved: float = inf if limit is None else limit - reserve(limit)
        self._words_end: float = inf if limit is None else limit - reserve(limit) // 2
        self._by_block: dict[str, int] = {}
        self.count = 0

    def add(self, address: str) -> AcceptedConnection:
        """Count one connection; whether there is room for it is for `check` to say."""
        self.count += 1
        if not is_this_machine(address):
            block = address_block(address)
            self._by_block[block] = self._by_block.get(block, 0) + 1
        return AcceptedConnection(self, address)

    def remove(self, address: str) -> None:
        """Count one connection less."""
        self.count -= 1
        block = address_block(address)
        left = self._by_block.get(block, 0) - 1
        if left > 0:
            self._by_block[block] = left
        else:
            self._by_block.pop(block, None)

    def check(self, address: str, descriptor: int) -> None:
        """Judges a connection that has been counted.

        Args:
            address: the peer's.
            descriptor: the connection's. The system gives the lowest free one, so this tells how many are in use.

        Raises:
            Overloaded: there are too many in total, or as many as there are file descriptors.
            TooManyRequests: there are too many from this address.
        """
        limits = self.limits
        if descriptor >= self._first_reserved:
            raise report_exhausted()
        if self.count > limits.connections:
            raise Overloaded(f"The proxy has {limits.connections} connections (limits.connections).", retry_after_s=1)
        block = address_block(address)
        if self._by_block.get(block, 0) > limits.connections_per_client:
            raise TooManyRequests(
                f"{block} has {limits.connections_per_client} connections (limits.connections_per_client).",
                retry_after_s=1,
            )

    def is_flooded(self, descriptor: int) -> bool:
        """Whether there are so many that even saying so costs too much; the descriptor is the newest connection's."""
        return self.count > self.limits.connections * _REFUSED_WITH_WORDS + 1 or descriptor >= self._words_end


def descriptor_of(transport: asyncio.BaseTransport) -> int:
    """Return the file descriptor of a connection; -1 where there is none."""
    connected = transport.get_extra_info("socket")
    return -1 if connected is None else int(connected.fileno())


class Socket(Protocol):
    """What is asked of a transport's socket."""

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """As `socket.socket.getsockopt`."""
        ...


def peer_user(connected: Socket) -> int | None:
    """Return the numeric user at the other end of a Unix socket; None where the system does not tell (it does on Linux)."""
    option: int | None = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    _, user, _ = _UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, option, _UCRED.size))
    return int(user)
