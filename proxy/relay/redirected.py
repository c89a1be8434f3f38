"""A connection that the kernel has redirected here, from a program without any setting, until it is known what it is for. Does I/O.

That is its SNI, or for plain HTTP the first request's Host, with the port it was going to; decided once. A routed host is reached
by its route, under its own name, never at the address that the client had found, which may be anybody's. Where no route has the
name, or there is none, the connection is refused, or passed on unopened to the original address, and never with a token.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

from proxy.errors import (
    ClientRefused,
    DestinationRefused,
    LoopDetected,
    MalformedRequest,
    MisdirectedRequest,
    Overloaded,
    ProxyError,
    RequestTimeout,
)
from proxy.policy.access import PasswordClaim
from proxy.policy.authority import Authority
from proxy.relay.accepted_connection import descriptor_of
from proxy.relay.answers import format_answer
from proxy.relay.arrival import TLS_HANDSHAKE, InterceptedArrival
from proxy.relay.asked import describe_raw
from proxy.relay.client_hello import ClientHelloReader
from proxy.relay.destination_rule import FixedRule, parse_named
from proxy.relay.destinations import describe_refusal
from proxy.relay.head import parse_request_head
from proxy.relay.original import has_ipv6, read_original_destination
from proxy.relay.original_tunnel import OriginalTunnel
from proxy.relay.sides import Pipe
from proxy.relay.splice import join

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from proxy.relay.destination_rule import DestinationRule
    from proxy.relay.destinations import Destination
    from proxy.relay.known_client import KnownClient
    from proxy.relay.message import RequestHead
    from proxy.relay.state import Relay

MODE: Final = "transparent"
_HTTP_PORT: Final = 80
# RFC 8446 §6: level fatal, description. The version is the one that every client takes in a record (§5.1).
_ALERT: Final = b"\x15\x03\x03\x00\x02\x02"
_UNRECOGNIZED_NAME: Final = b"\x70"
_DECODE_ERROR: Final = b"\x32"
_INTERNAL_ERROR: Final = b"\x50"
# As for any client of the relay.
_LINGER_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class RedirectedRule:
    """A transparent listener: a connection's own rule is made once it is known what it is for.

    Attributes:
        refuses_cross_site: whether requests of web pages of other sites are refused.
        mode: for the access log.
        takes_http2: see `DestinationRule`.
    """

    refuses_cross_site: bool = True
    mode: str = MODE
    takes_http2: bool = True

    def locate(self, relay: Relay, head: RequestHead) -> tuple[Destination, bytes]:
        """See `DestinationRule`; no request is read by this one."""
        raise NotImplementedError


class RedirectedConnection(InterceptedArrival):
    """A redirected connection, until it is known what it is for; and after that, while its tunnel is opened.

    Args:
        relay: the process-wide state.
        rule: the listener's.
    """

    __slots__ = (
        "_authority",
        "_begun",
        "_has_ended",
        "_head",
        "_hello",
        "_is_decided",
        "_original",
        "_refuses_cross_site",
        "_tunnel",
    )

    def __init__(self, relay: Relay, rule: RedirectedRule) -> None:
        super().__init__(relay, rule, "", None, inf)
        self._refuses_cross_site = rule.refuses_cross_site
        self._begun = False
        self._has_ended = False
        self._is_decided = False
        self._head = bytearray()
        self._hello: ClientHelloReader | None = None
        self._original: Authority | None = None
        self._authority: Authority | None = None
        self._tunnel: OriginalTunnel | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look at where the connection was going; called again when a TLS handshake is complete."""
        if self._begun:
            super().connection_made(transport)
            return
        self._begun = True
        self._transport = transport  # type: ignore[assignment]  # stream transports only
        relay = self._relay
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        accepted = self.accepted = relay.accepted_connections.add(self._peer)
        accepted.rule = self._rule
        relay.arrivals.add(self)
        self.deadline = relay.now + relay.timeouts.head_s
        connected = transport.get_extra_info("socket")
        if connected is not None:
            found = read_original_destination(connected, is_ipv6=has_ipv6(transport))
            self._original = None if found is None else Authority(*found)
        try:
            relay.accepted_connections.check(self._peer, descriptor_of(transport))
        except ProxyError as error:  # nothing is known of its protocol yet, so there are no words for it
            self._record_error(error)
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Read on until it is known what the connection is for."""
        if self._tunnel is not None:
            self._tunnel.early += data
        if self._is_decided or self._transport.is_closing():
            return
        try:
            if self._hello is not None or (not self._head and data[0] == TLS_HANDSHAKE):
                self._read_hello(data)
            elif self._head or 0x41 <= data[0] <= 0x7A:
                self._read_head(data)
            else:
                self._decide(None, data)
        except ProxyError as error:
            self._refuse(error, data)

    def eof_received(self) -> bool:
        """Close: a program that has ended sending before it said what it wants gets nothing."""
        self._has_ended = True
        return self._tunnel is not None

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go: the client went away."""
        if self._tunnel is not None:
            self._tunnel.cancel()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Cut the connection."""
        if self._tunnel is not None:
            self._tunnel.cancel()
        super().abort()

    def redirect(self, change: Callable[[DestinationRule], DestinationRule]) -> None:
        """Follow a new configuration; a listener of another mode would have read the connection in another way."""
        super().redirect(change)
        if not self._is_decided:
            if isinstance(self._rule, RedirectedRule):
                self._refuses_cross_site = self._rule.refuses_cross_site
            else:
                self.abort()

    def on_deadline(self) -> None:
        """Give up on a program that says nothing, or not enough: it may wait for a server that speaks first."""
        if self._tunnel is not None:
            return  # it has a limit of its own
        if self._is_decided or self._transport.is_closing():
            self.abort()
            return
        limit = f"{self._relay.timeouts.head_s:g} s (timeouts.head_s)"
        if self._hello is None and not self._head:
            late = (
                f"The client sent nothing within {limit}. A protocol in which the server speaks first cannot come here."
            )
            self._refuse(RequestTimeout(late, code="first_byte_missing"))
        else:
            self._refuse(RequestTimeout(f"The client did not say within {limit} what the connection is for."))

    # What it is for.

    def _read_hello(self, data: bytes) -> None:
        reader = self._hello = self._hello or ClientHelloReader()
        hello = reader.feed(data)
        if hello is not None:
            self._decide(
                None if hello.server_name is None else hello.server_name.encode("ascii"), bytes(reader.received)
            )

    def _read_head(self, data: bytes) -> None:
        """Find the first request's Host; what is wrong with the request is said by who serves it."""
        limits = self._relay.limits
        checked = max(0, len(self._head) - 3)
        self._head += data
        end = self._head.find(b"\r\n\r\n", checked) + 4
        if end < 4 and len(self._head) <= limits.head_bytes:
            return
        raw, host = bytes(self._head), None
        if end >= 4:
            try:
                host = parse_request_head(
                    raw[:end], target_bytes=limits.target_bytes, field_count=limits.field_count
                ).host
            except ProxyError as error:
                self._refuse(error)
                return
        self._decide(host, raw)

    def _decide(self, name: bytes | None, data: bytes) -> None:
        """Act on what is known now.

        Args:
            name: SNI, or the first Host; None: there is none.
            data: all that has come.

        Raises:
            ProxyError: the connection is refused.
        """
        original = self._check_original()
        is_tls = self._hello is not None
        named = None if name is None else _parse_name(name, original.port, is_tls=is_tls)
        authority = None if named is None else Authority(named.host, original.port)
        self._authority = authority
        destinations = self._relay.destinations
        # Plain http on port 80 is the same as https for a routed host; TLS on port 80 is nothing that a route means.
        is_routed = (
            authority is not None
            and destinations.route_for(authority) is not None
            and not (is_tls and authority.port == _HTTP_PORT)
        )
        if is_routed and named != authority:
            raise MisdirectedRequest(
                f"The connection was going to port {original.port}, and the request names {named}."
            )
        if authority is not None and is_routed:
            destination = destinations.find(authority, authority.port)
            self._is_decided = True
            rule = FixedRule(
                destination,
                authority,
                MODE,
                refuses_cross_site=self._refuses_cross_site,
                takes_http2=self._rule.takes_http2,
            )
            if is_tls:
                self._relay.counters.intercepts += 1
                self._rule = rule
                self._start_handshake(authority.host, data)
            else:
                self._hand_over(rule, data)
            return
        if not destinations.tunnels_others:
            raise describe_unrouted(authority, original)
        self._pass_on(original, data)

    def _check_original(self) -> Authority:
        """Return where the connection was going.

        Raises:
            LoopDetected: here, by no rule; or nobody knows; or it is this proxy's own.
        """
        original = self._original
        local = self._transport.get_extra_info("sockname")
        if original is None:
            raise LoopDetected(
                "The kernel does not know where this connection was going: no rule has redirected it to this listener. "
                "Clients do not connect to a transparent listener themselves.",
                code="original_destination_unknown",
            )
        own = self._relay.dialer.own_addresses
        where = (original.host, original.port)
        if where in own or (isinstance(local, tuple) and where == local[:2]):
            raise LoopDetected(
                f"This connection was going to the transparent listener itself, {original}. Clients do not connect to it: "
                "rules of the kernel redirect what they send elsewhere.",
                code="not_redirected",
            )
        peer = self._transport.get_extra_info("peername")
        if isinstance(peer, tuple) and self._relay.dialer.has_opened((peer[0], peer[1]), where):
            raise LoopDetected(
                f"The proxy's own connection to {original} was redirected back to it. Exempt the user that the proxy runs as "
                "from the rules: `apim-auth-proxy init --transparent` prints rules that do.",
                code="redirect_loop",
            )
        return original

    # What becomes of it.

    def _hand_over(self, rule: DestinationRule, data: bytes) -> None:
        """Let requests come."""
        self._is_decided = True
        self._rule = rule
        self._open(self._transport, data)

    def _pass_on(self, original: Authority, data: bytes) -> None:
        """Begin to open a tunnel to where the client wanted to go."""
        relay = self._relay
        if len(relay.splices) >= relay.limits.tunnels:
            raise Overloaded(f"The proxy has {relay.limits.tunnels} tunnels (limits.tunnels).", retry_after_s=5)
        known = self._enter()
        self._is_decided = True
        self._transport.pause_reading()
        self._tunnel = OriginalTunnel(self, original, known, data)

    def _enter(self) -> KnownClient | None:
        """Return who the client is; a password cannot be asked for here."""
        admission = self._relay.admission
        if admission is None or self.accepted is None:
            return None
        found = admission.identify(self.accepted, None)
        if isinstance(found, PasswordClaim):
            raise ClientRefused(
                "This client is known by a password, which no program sends on a redirected connection.",
                code="unknown_client",
            )
        found.enter("-", time.monotonic())
        return found

    def join(self, upstream: asyncio.Transport, data: bytes, tunnel: OriginalTunnel) -> None:
        """Pass bytes on from now on: the tunnel is open."""
        relay = self._relay
        self._tunnel = None
        relay.arrivals.discard(self)
        relay.counters.tunnels += 1
        leave = None if self.accepted is None else self.accepted.leave
        join(relay, Pipe(self._transport, data, leave, has_ended=self._has_ended), Pipe(upstream), tunnel.on_end)

    def fail(self, error: ProxyError) -> None:
        """Refuse, because the tunnel could not be opened; that has been recorded."""
        self._tunnel = None
        if self._transport.is_closing():
            return
        self._transport.resume_reading()
        self._say(error)

    @property
    def relay(self) -> Relay:
        """The process-wide state."""
        return self._relay

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._peer

    # Refusals.

    def _refuse(self, error: ProxyError, data: bytes = b"") -> None:
        """Say no; `data` is what came where it is neither TLS nor HTTP."""
        self._is_decided = True
        self._record_error(error, data)
        self._say(error)

    def _say(self, error: ProxyError) -> None:
        """Tell the client in as many words as its protocol has, and end the connection."""
        transport = self._transport
        if self._hello is not None:
            transport.write(_ALERT + _describe_alert(error))
        elif self._head:
            key = ("", error.status)
            exchanges = self._relay.counters.exchanges
            exchanges[key] = exchanges.get(key, 0) + 1
            transport.write(format_answer(error, with_content=self._head[:5] != b"HEAD ", close=True))
        # Closed with bytes unread, the connection would be reset, and the answer lost with it (RFC 9112 §9.6).
        transport.write_eof()
        self.deadline = self._relay.now + _LINGER_S

    def _record_error(self, error: ProxyError, data: bytes = b"") -> None:
        method, authority, target = (
            (b"", "", b"") if self._hello is not None else describe_raw(bytes(self._head) or data)
        )
        named = authority or str(self._authority or self._original or "")
        self._record(error.proxy_status, error.code, (method, named, target), status=error.status if self._head else 0)

    def _record_failure(self, outcome: str, code: str) -> None:
        route = self._rule.destination.route if isinstance(self._rule, FixedRule) else ""
        self._record(outcome, code, (b"", str(self._authority or ""), b""), route=route)


def _parse_name(name: bytes, port: int, *, is_tls: bool) -> Authority | None:
    """Return what a client named, with the port it was going to where it names none; None where it can be no host.

    Raises:
        MalformedRequest: it is Host, and no authority.
    """
    try:
        return parse_named(name, port)
    except MalformedRequest:
        if is_tls:
            return None
        raise


def _describe_alert(error: ProxyError) -> bytes:
    """Return the TLS alert that comes closest to an error (RFC 8446 §6.2)."""
    if isinstance(error, DestinationRefused):
        return _UNRECOGNIZED_NAME
    return _DECODE_ERROR if isinstance(error, MalformedRequest) else _INTERNAL_ERROR


def describe_unrouted(authority: Authority | None, original: Authority) -> DestinationRefused:
    """Return the refusal of a connection that no route has."""
    if authority is None:
        return DestinationRefused(
            f"The connection to {original} names no host, by SNI or Host, so no route can be found for it. If it is to be "
            "passed on, set `other_hosts: tunnel`.",
            code="host_not_named",
        )
    return DestinationRefused(describe_refusal(authority))
