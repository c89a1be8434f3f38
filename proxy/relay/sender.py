"""Who sends a request: fixed when its exchange begins, whatever becomes of the connection. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.relay.accepted_connection import AcceptedConnection
    from proxy.relay.known_client import KnownClient


class Sender:
    """Who sends a request. Requests of one connection share it until the client shows itself as another.

    Attributes:
        peer: the client's address, as text.
        mode: how requests come in, for the access log.
        known: which configured client it is; None where nothing depends on it.
        accepted: the connection that the client opened.
    """

    __slots__ = ("accepted", "known", "mode", "peer")

    def __init__(self, peer: str, mode: str, known: KnownClient | None, accepted: AcceptedConnection | None) -> None:
        self.peer = peer
        self.mode = mode
        self.known = known
        self.accepted = accepted

    @property
    def name(self) -> str:
        """The configured client's name; empty without one."""
        return "" if self.known is None else self.known.client.name
