"""What becomes of CONNECT: end the client's TLS here, or pass bytes blind, or refuse (RFC 9110 §9.3.6). Does I/O.

For a routed host the tunnel ends at this proxy. Its first byte tells what is inside: a TLS handshake, which gets a leaf
certificate for the host, or plain HTTP, which some clients send through a tunnel as well. Anything else is refused.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

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
from proxy.relay.destinations import Destination, describe_refusal
from proxy.relay.entry import FixedEntry, ForwardEntry, check_host
from proxy.relay.handshakes import name_cause
from proxy.relay.recording import refused, tunnelled
from proxy.relay.secure import SecureTransport
from proxy.relay.splice import Splice
from proxy.relay.standing import check_tunnel
from proxy.tasks import guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.client import ClientConnection
    from proxy.relay.entry import Entry
    from proxy.relay.message import RequestHead
    from proxy.relay.seats import Seat
    from proxy.relay.state import ContextFetcher, Relay
    from proxy.relay.upstream import UpstreamConnection

_TLS_HANDSHAKE: Final = 0x16  # RFC 8446 §5.1: ContentType handshake


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


class TunnelEnd(asyncio.Protocol):
    """The end of a tunnel to a routed host: looks at the first byte, then gives way to what fits.

    Attributes:
        deadline: monotonic seconds by which the tunnel must have led to a first request.
    """

    __slots__ = ("_authority", "_client", "_destination", "_entry", "_fetched", "_fetched_rsa", "_inner", "deadline")

    def __init__(self, client: ClientConnection, authority: Authority, destination: Destination) -> None:
        self._client = client
        self._authority = authority
        self._destination = destination
        self._entry: Entry = FixedEntry(destination, authority, "connect")
        self._inner: ClientConnection | None = None
        self._fetched = False
        self._fetched_rsa = False
        self.deadline = client.relay.now + client.relay.timeouts.head_s

    def take_over(self, rest: bytes) -> None:
        """Put itself in the place of the client connection."""
        relay = self._client.relay
        relay.clients.discard(self._client)
        relay.tunnel_ends.add(self)
        self._client.transport.set_protocol(self)
        if rest:
            self.data_received(rest)

    def data_received(self, data: bytes) -> None:
        """Take the first bytes."""
        client, relay = self._client, self._client.relay
        relay.tunnel_ends.discard(self)
        inner = self._inner = type(client)(relay, self._entry, client.seat)
        if data[0] == _TLS_HANDSHAKE and self._authority.port != 80:
            context = relay.server_context(self._authority.host)
            if context is None:
                self._fetch_context(data)
                return
            secure = SecureTransport(context, self, self._on_failed_handshake, server_side=True)
            secure.on_no_match = self._fetch_rsa
            if isinstance(self._entry, FixedEntry):
                self._entry.tls = secure.tls
            relay.tunnel_ends.add(self)
            client.transport.set_protocol(secure)
            secure.connection_made(client.transport)
            secure.data_received(data)
        elif 0x41 <= data[0] <= 0x7A:
            client.transport.set_protocol(inner)
            inner.connection_made(client.transport)
            inner.data_received(data)
        else:
            error = MalformedRequest(f"Inside the tunnel to {self._authority} came neither TLS nor HTTP.")
            client.write(format_answer(error, with_content=True, close=True))
            self._record(error.proxy_status, "NEITHER_TLS_NOR_HTTP")
            client.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give way to what is inside: the TLS handshake is complete."""
        self._client.relay.tunnel_ends.discard(self)
        if self._inner is not None and isinstance(transport, SecureTransport):
            transport.set_protocol(self._inner)
            self._inner.connection_made(transport)

    def _fetch_context(self, data: bytes) -> None:
        """Read nothing more until there is a leaf certificate, or it is clear that there will be none."""
        relay = self._client.relay
        if self._fetched or relay.fetch_context is None:
            self._record("proxy_internal_error", "NO_CERTIFICATE")
            self._leave()
            self._client.transport.abort()
            return
        self._fetched = True
        self._await(relay.fetch_context, data, rsa=False)

    def _fetch_rsa(self, data: bytes) -> bool:
        """Begins the handshake again once an RSA certificate is shown too; False where that has been tried."""
        fetch = self._client.relay.fetch_context
        if self._fetched_rsa or fetch is None:
            return False
        self._fetched_rsa = True
        self._client.transport.set_protocol(self)
        self._await(fetch, data, rsa=True)
        return True

    def _await(self, fetch: ContextFetcher, data: bytes, *, rsa: bool) -> None:
        transport = self._client.transport
        self._client.relay.tunnel_ends.add(self)
        transport.pause_reading()

        def go_on() -> None:
            if not transport.is_closing():
                transport.resume_reading()
                self.data_received(data)

        fetch(self._authority.host, go_on, rsa=rsa)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Let go: the client went away before it sent anything."""
        self._leave()

    def pause_writing(self) -> None:
        """Nothing is written here but the answer to CONNECT."""

    def resume_writing(self) -> None:
        """Nothing to resume."""

    @property
    def seat(self) -> Seat | None:
        """Of the connection that the tunnel runs on."""
        return self._client.seat

    def redirect(self, change: Callable[[Entry], Entry]) -> None:
        """Leads to where its authority leads now."""
        self._entry = change(self._entry)
        if self._inner is not None:
            self._inner.entry = self._entry

    def dismiss(self) -> None:
        """End a tunnel whose client the listener would not take any more."""
        self.abort()

    def abort(self) -> None:
        """Cuts the connection."""
        self._client.relay.tunnel_ends.discard(self)
        self._client.transport.abort()

    def on_deadline(self) -> None:
        """Give up on a tunnel in which nothing happens."""
        self.abort()

    def _leave(self) -> None:
        self._client.relay.tunnel_ends.discard(self)
        if self._client.seat is not None:
            self._client.seat.leave()

    def _on_failed_handshake(self, error: Exception) -> None:
        self._leave()
        self._record("tls_alert_received", name_cause(error))

    def _record(self, outcome: str, code: str) -> None:
        relay = self._client.relay
        relay.counters.count_error(outcome)
        if relay.observe is not None:
            relay.observe(
                refused(
                    ended_at=relay.wall_offset + time.monotonic(),
                    client=self._client.peer,
                    mode="connect",
                    method=b"CONNECT",
                    authority=str(self._authority),
                    target=b"",
                    status=0,
                    outcome=outcome,
                    code=code,
                    route=self._destination.route,
                    client_name=_name(self._client),
                )
            )


class TunnelRequest:
    """A CONNECT request for a host that no route names, while its tunnel is opened and after.

    To the client connection it is what an exchange is: something to tell when the client goes away.
    """

    __slots__ = (
        "_attempt",
        "_authority",
        "_client",
        "_rest",
        "_started",
        "_task",
        "request",
        "request_complete",
        "upstream",
    )

    def __init__(self, client: ClientConnection, head: RequestHead, authority: Authority, rest: bytes) -> None:
        self._client = client
        self._authority = authority
        self._rest = rest
        self._started = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._attempt = Attempt()
        self.request = head
        self.request_complete = True
        self.upstream: UpstreamConnection | None = None

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

    def fail(self, error: ProxyError) -> None:
        """Answers CONNECT with an error."""
        self._client.relay.counters.count_error(error.proxy_status)
        self._record(error.status, 0, 0, error.proxy_status, error.code)
        self._client.on_exchange_failed(error, request_complete=True)

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
        relay, client = self._client.relay, self._client
        client.exchange = None
        relay.counters.tunnels += 1
        rest = self._rest + client.take_buffer()
        client.write(CONNECT_ESTABLISHED)
        relay.clients.discard(client)
        if rest:
            transport.write(rest)
        splice = Splice(relay, client.transport, transport, self._on_end)
        if client.half_closed:
            splice.client.eof_received()

    async def _dial_as_configured(self) -> asyncio.Transport:
        """Dials again where a reload came in between: what may be dialled, and how, is for the new configuration to say."""
        relay, authority = self._client.relay, self._authority
        while True:
            destinations = relay.destinations
            transport = await _dial(relay, authority, self._attempt)
            if relay.destinations is destinations:
                return transport
            transport.abort()
            check_tunnel(self._client, self.request, authority)

    def _on_end(self, up: int, down: int) -> None:
        self._client.relay.counters.received_bytes += up
        self._client.relay.counters.sent_bytes += down
        if self._client.seat is not None:
            self._client.seat.leave()
        self._record(200, up, down, "ok")

    def _record(self, status: int, up: int, down: int, outcome: str, code: str = "") -> None:
        relay = self._client.relay
        if self._client.known is not None:
            self._client.known.leave()
        key = ("-", status)
        relay.counters.exchanges[key] = relay.counters.exchanges.get(key, 0) + 1
        if relay.observe is not None:
            now = time.monotonic()
            wait = self._attempt.name_wait
            relay.observe(
                tunnelled(
                    ended_at=relay.wall_offset + now,
                    client=self._client.peer,
                    authority=str(self._authority),
                    status=status,
                    received_bytes=up,
                    sent_bytes=down,
                    duration_s=now - self._started,
                    outcome=outcome,
                    code=code,
                    client_name=_name(self._client),
                    name_s=None if wait is None else wait[1],
                )
            )


def _name(client: ClientConnection) -> str:
    return "" if client.known is None else client.known.client.name


async def _dial(relay: Relay, authority: Authority, attempt: Attempt) -> asyncio.Transport:
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
