"""What becomes of CONNECT: end the client's TLS here, or pass bytes blind, or refuse (RFC 9110 §9.3.6). Does I/O.

For a routed host the tunnel ends at this proxy. Its first byte tells what is inside: a TLS handshake, which gets a leaf
certificate for the host, or plain HTTP, which some clients send through a tunnel as well. Anything else is refused.
"""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING

from proxy.dialing.resolver import Attempt, describe_name_timeout
from proxy.errors import (
    DestinationRefused,
    MalformedRequest,
    Overloaded,
    ProxyError,
    ProxyUsageError,
    UpstreamTimeout,
)
from proxy.policy.authority import Authority, parse_authority
from proxy.relay.answers import CONNECT_ESTABLISHED, format_answer
from proxy.relay.arrival import TLS_HANDSHAKE
from proxy.relay.destinations import Destination, describe_refusal
from proxy.relay.entry import FixedEntry, ForwardEntry, check_host
from proxy.relay.intercepting import Interception
from proxy.relay.recording import tunnelled
from proxy.relay.sides import Pipe, UnderWay
from proxy.relay.splice import join
from proxy.relay.standing import check_tunnel
from proxy.tasks import guard

if TYPE_CHECKING:
    from proxy.relay.client import ClientConnection
    from proxy.relay.message import RequestHead
    from proxy.relay.state import Relay


def begin_tunnel(client: ClientConnection, head: RequestHead, rest: bytes) -> None:
    """Decides about a CONNECT request and acts on it.

    Args:
        client: the connection it came on; it has read the whole head.
        head: the request.
        rest: what arrived behind it.

    Raises:
        ClientError: it is refused.
    """
    relay = client.relay
    if not isinstance(client.entry, ForwardEntry):
        raise ProxyUsageError("CONNECT is for a forward listener; this connection already leads to one upstream.")
    if head.has_content:
        raise MalformedRequest("A CONNECT request has no content (RFC 9110 §9.3.6).")
    authority = parse_authority(head.target, None)
    if head.host is not None:
        check_host(head.host)  # many clients write the proxy's own name there: the target alone decides
    if relay.destinations.route_for(authority) is not None:
        relay.counters.intercepts += 1
        destination = relay.destinations.find(authority, authority.port)
        if client.known is not None and client.seat is not None:
            client.known.client.check_route(destination.route)
            client.seat.known = client.known
        client.write(CONNECT_ESTABLISHED)
        TunnelEnd(client, authority, destination).take_over(rest)
        return
    if not relay.destinations.tunnels_others:
        raise DestinationRefused(describe_refusal(authority))
    if len(relay.splices) >= relay.limits.tunnels:
        raise Overloaded(f"The proxy has {relay.limits.tunnels} tunnels (limits.tunnels).", retry_after_s=5)
    if client.known is not None:
        client.known.enter("-", time.monotonic())
    tunnel = TunnelRequest(client, head, authority, rest)
    client.exchange = tunnel
    tunnel.start()


class TunnelEnd(Interception):
    """The inside of a tunnel to a routed host: its first byte tells whether TLS or plain HTTP follows."""

    __slots__ = ("_authority", "_client", "_destination")

    def __init__(self, client: ClientConnection, authority: Authority, destination: Destination) -> None:
        entry = FixedEntry(destination, authority, "connect")
        relay = client.relay
        super().__init__(relay, entry, client.peer, client.seat, relay.now + relay.timeouts.head_s)
        self._transport = client.transport
        self._client = client
        self._authority = authority
        self._destination = destination

    def take_over(self, rest: bytes) -> None:
        """Put itself in the place of the client connection."""
        self._relay.clients.discard(self._client)
        self._relay.tunnel_ends.add(self)
        self._transport.set_protocol(self)
        if rest:
            self.data_received(rest)

    def data_received(self, data: bytes) -> None:
        """Take the first bytes."""
        self._relay.tunnel_ends.discard(self)
        if data[0] == TLS_HANDSHAKE and self._authority.port != 80:
            self._intercept(self._authority.host, data)
        elif 0x41 <= data[0] <= 0x7A:
            inner = self._make_client()
            self._give_way(inner, self._transport)
            inner.data_received(data)
        else:
            error = MalformedRequest(f"Inside the tunnel to {self._authority} came neither TLS nor HTTP.")
            self._transport.write(format_answer(error, with_content=True, close=True))
            self._record_failure(error.proxy_status, "NEITHER_TLS_NOR_HTTP")
            self._transport.close()

    def _make_client(self) -> ClientConnection:
        return self._client.make_inner(self._entry)

    def _record_failure(self, outcome: str, code: str) -> None:
        asked = (b"CONNECT", str(self._authority), b"")
        client_name = self._client.sender().name
        self._record(outcome, code, asked, route=self._destination.route, client_name=client_name)


class TunnelRequest(UnderWay):
    """A CONNECT request for a host that no route names, while its tunnel is opened and after."""

    __slots__ = (
        "_attempt",
        "_authority",
        "_client",
        "_relay",
        "_rest",
        "_sender",
        "_started",
        "_task",
        "request",
        "request_complete",
    )

    def __init__(self, client: ClientConnection, head: RequestHead, authority: Authority, rest: bytes) -> None:
        self._client = client
        self._relay = client.relay
        self._sender = client.sender()
        self._authority = authority
        self._rest = rest
        self._started = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._attempt = Attempt()
        self.request = head
        self.request_complete = True

    def start(self) -> None:
        """Begins to dial."""
        self._task = asyncio.get_running_loop().create_task(
            guard(self._open, self._on_task_failed, f"a tunnel to {self._authority}")
        )

    def on_client_lost(self) -> None:
        """Give up: the client went away, so the tunnel is not needed."""
        if self._task is not None:
            self._task.cancel()
        self._record(0, 0, 0, "aborted_client")

    @property
    def response_deadline(self) -> float:
        """See `UnderWay`; there is no response before the tunnel is open."""
        return -inf

    def hold_response(self) -> None:
        """See `UnderWay`."""

    def release_response(self) -> None:
        """See `UnderWay`."""

    def fail(self, error: ProxyError) -> None:
        """Answer CONNECT with an error."""
        self._relay.counters.count_error(error.proxy_status)
        self._record(error.status, 0, 0, error.proxy_status, error.code)
        self._client.answer(error, request_complete=True)

    async def _open(self) -> None:
        transport = await self._dial_as_configured()
        self._task = None
        try:
            self._join(transport)
        except BaseException:
            transport.abort()
            raise

    def _on_task_failed(self, error: ProxyError) -> None:
        if self._task is None:
            self._client.abort()  # CONNECT had been answered: only cutting it is left
            return
        self._task = None
        self.fail(error)

    def _join(self, transport: asyncio.Transport) -> None:
        pipe = self._client.hand_over(None)
        if pipe is None:
            transport.abort()
            return
        self._relay.counters.tunnels += 1
        pipe.early = self._rest + pipe.early
        join(self._relay, pipe, Pipe(transport), self._on_end)

    async def _dial_as_configured(self) -> asyncio.Transport:
        """Dial again where a reload came in between: what may be dialled, and how, is for the new configuration to say."""
        relay, authority = self._relay, self._authority
        while True:
            destinations = relay.destinations
            transport = await dial(relay, authority, self._attempt)
            if relay.destinations is destinations:
                return transport
            transport.abort()
            check_tunnel(relay, self._sender, self.request, authority)

    def _on_end(self, up: int, down: int) -> None:
        self._relay.counters.received_bytes += up
        self._relay.counters.sent_bytes += down
        self._record(200, up, down, "ok")

    def _record(self, status: int, up: int, down: int, outcome: str, code: str = "") -> None:
        relay, sender = self._relay, self._sender
        if sender.known is not None:
            sender.known.leave()
        key = ("-", status)
        relay.counters.exchanges[key] = relay.counters.exchanges.get(key, 0) + 1
        if relay.observe is not None:
            now = time.monotonic()
            wait = self._attempt.name_wait
            relay.observe(
                tunnelled(
                    ended_at=relay.wall_offset + now,
                    client=sender.peer,
                    authority=str(self._authority),
                    status=status,
                    received_bytes=up,
                    sent_bytes=down,
                    duration_s=now - self._started,
                    outcome=outcome,
                    code=code,
                    client_name=sender.name,
                    name_s=None if wait is None else wait[1],
                )
            )


async def dial(relay: Relay, authority: Authority, attempt: Attempt) -> asyncio.Transport:
    """Return a connection to where no route leads, from which nothing is read yet.

    Raises:
        ProxyError: it may not be opened, or cannot.
    """
    limit_s = relay.timeouts.connect_s
    try:
        async with asyncio.timeout(limit_s):
            connected = await relay.dialer.connect(
                authority.host, authority.port, relay.destinations.permit, tells=True, attempt=attempt
            )
            try:
                transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=connected)
            except BaseException:
                connected.close()
                raise
    except TimeoutError:
        late = describe_name_timeout(attempt, limit_s, "timeouts.connect_s")
        if late is not None:
            raise late from None
        way = relay.dialer.describe_way(authority.host, authority.port)
        raise UpstreamTimeout(
            f"{authority}{way} did not accept a connection within {limit_s:g} s (timeouts.connect_s)."
        ) from None
    transport.pause_reading()  # nothing may be read before both ends are joined
    return transport
