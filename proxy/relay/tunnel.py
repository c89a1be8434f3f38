"""CONNECT to a host that no route names: dials, answers, and passes bytes without a look at them (RFC 9110 §9.3.6). Does I/O."""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING

from proxy.dialing.resolver import Attempt, describe_name_timeout
from proxy.errors import ProxyError, ProxyUsageError, UpstreamTimeout
from proxy.relay.counters import NO_HTTP
from proxy.relay.reauthorisation import check_tunnel
from proxy.relay.recording import tunnelled
from proxy.relay.sides import Pipe, UnderWay
from proxy.relay.splice import join
from proxy.tasks import guard

if TYPE_CHECKING:
    from proxy.policy.authority import Authority
    from proxy.relay.known_client import KnownClient
    from proxy.relay.message import RequestHead
    from proxy.relay.sender import Sender
    from proxy.relay.sides import ClientSide
    from proxy.relay.state import Relay


class TunnelRequest(UnderWay):
    """A CONNECT request for a host that no route names, while its tunnel is opened and after.

    Args:
        relay: the process-wide state.
        client: gets the answer, and hands its connection over.
        sender: who sent the request.
        head: the request.
        authority: where the tunnel leads.
    """

    __slots__ = (
        "_attempt",
        "_authority",
        "_client",
        "_relay",
        "_sender",
        "_started",
        "_task",
        "request",
        "request_complete",
    )

    def __init__(
        self, relay: Relay, client: ClientSide, sender: Sender, head: RequestHead, authority: Authority
    ) -> None:
        self._relay = relay
        self._client = client
        self._sender = sender
        self._authority = authority
        self._started = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._attempt = Attempt()
        self.request = head
        self.request_complete = True

    def start(self) -> None:
        """Begin to dial."""
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
            self._client.cut()  # CONNECT had been answered: only cutting it is left
            return
        self._task = None
        self.fail(error)

    def _join(self, transport: asyncio.Transport) -> None:
        pipe = self._client.hand_over(None)
        if pipe is None:
            transport.abort()
            self.fail(ProxyUsageError("CONNECT is for HTTP/1.1 connections."))
            return
        self._relay.counters.tunnels += 1
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
        self._record(200, up, down, "ok")

    def _record(self, status: int, up: int, down: int, outcome: str, code: str = "") -> None:
        wait, sender = self._attempt.name_wait, self._sender
        record_tunnel(
            self._relay,
            sender.peer,
            sender.known,
            self._authority,
            self._started,
            status=status,
            received_bytes=up,
            sent_bytes=down,
            outcome=outcome,
            code=code,
            name_s=None if wait is None else wait[1],
            version=sender.version(self.request),
        )


def record_tunnel(
    relay: Relay,
    client: str,
    known: KnownClient | None,
    authority: Authority,
    started: float,
    *,
    status: int,
    received_bytes: int,
    sent_bytes: int,
    outcome: str,
    code: str,
    name_s: float | None,
    version: int,
) -> None:
    """Count a blind tunnel that has ended, or the attempt to open one, and make its record.

    The client's exchange ends here, where it is a known one's. The keywords are those of `recording.tunnelled`; `started` is
    monotonic.
    """
    if known is not None:
        known.leave()
    counters = relay.counters
    counters.received_bytes += received_bytes
    counters.sent_bytes += sent_bytes
    key = ("-", status)
    counters.exchanges[key] = counters.exchanges.get(key, 0) + 1
    counters.count_versions(version, NO_HTTP)
    if relay.observe is not None:
        now = time.monotonic()
        relay.observe(
            tunnelled(
                ended_at=relay.wall_offset + now,
                client=client,
                authority=str(authority),
                status=status,
                received_bytes=received_bytes,
                sent_bytes=sent_bytes,
                duration_s=now - started,
                outcome=outcome,
                code=code,
                client_name="" if known is None else known.client.name,
                name_s=name_s,
                version=version,
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
