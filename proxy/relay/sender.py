"""Who sends a request: fixed when its exchange begins, whatever becomes of the connection. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.relay.counters import HTTP_1_0, HTTP_1_1, HTTP_2, NO_HTTP

if TYPE_CHECKING:
    from proxy.relay.accepted_connection import AcceptedConnection
    from proxy.relay.known_client import KnownClient
    from proxy.relay.message import RequestHead


class Sender:
    """Who sends a request. Requests of one connection share it until the client shows itself as another.

    Attributes:
        peer: the client's address, as text.
        mode: how requests come in, for the access log.
        is_http2: whether they come over HTTP/2.
        known: which configured client it is; None where nothing depends on it.
        accepted: the connection that the client opened.
    """

    __slots__ = ("accepted", "is_http2", "known", "mode", "peer")

    def __init__(
        self,
        peer: str,
        mode: str,
        known: KnownClient | None,
        accepted: AcceptedConnection | None,
        *,
        is_http2: bool = False,
    ) -> None:
        self.peer = peer
        self.mode = mode
        self.known = known
        self.accepted = accepted
        self.is_http2 = is_http2

    def version(self, request: RequestHead | None) -> int:
        """Return the version of HTTP that a request came in, as `counters` numbers them; None: it could not be read."""
        if self.is_http2:
            return HTTP_2
        if request is None:
            return NO_HTTP
        return HTTP_1_1 if request.minor else HTTP_1_0

    @property
    def name(self) -> str:
        """The configured client's name; empty without one."""
        return "" if self.known is None else self.known.client.name
