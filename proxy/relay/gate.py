"""Who sends a request, where it goes, and whether it may: judged once, whatever HTTP version it came in. Does no I/O.

A client side asks in this order: `identify`, which may need a password to be checked; then, of CONNECT, `begin_connect`, and of any
other request `begin_exchange`. What is refused on the way is an error that the side answers with, and `record_refusal` records it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.errors import (
    ClientRefused,
    ContentTooLarge,
    DestinationRefused,
    MalformedRequest,
    Overloaded,
    ProxyError,
    ProxyUsageError,
)
from proxy.policy import probe
from proxy.policy.authority import Authority, parse_authority
from proxy.relay.counters import NO_HTTP
from proxy.relay.destination_rule import FixedRule, ForwardRule, check_host
from proxy.relay.destinations import Destination, describe_refusal
from proxy.relay.exchange import Exchange
from proxy.relay.listener_policy import DISMISSED
from proxy.relay.recording import note_trace, refused
from proxy.relay.tunnel import TunnelRequest

if TYPE_CHECKING:
    from proxy.policy.access import PasswordClaim
    from proxy.relay.accepted_connection import AcceptedConnection
    from proxy.relay.destination_rule import DestinationRule
    from proxy.relay.known_client import KnownClient
    from proxy.relay.message import RequestHead
    from proxy.relay.sender import Sender
    from proxy.relay.sides import ClientSide
    from proxy.relay.state import Relay


@dataclass(frozen=True, slots=True)
class RoutedTunnel:
    """What CONNECT to a routed host asks for: a tunnel that ends at this proxy.

    Attributes:
        authority: as CONNECT named it.
        destination: where the requests inside go.
        takes_http2: whether they may be of HTTP/2.
    """

    authority: Authority
    destination: Destination
    takes_http2: bool


def identify(
    relay: Relay, accepted: AcceptedConnection | None, head: RequestHead
) -> KnownClient | PasswordClaim | None:
    """Return who sends a request, or who it would be if the password were right; None where nothing depends on it.

    Raises:
        ClientRefused: nobody who may.
        ProxyAuthenticationRequired: nobody yet.
    """
    admission = relay.admission
    if admission is None or accepted is None:
        return None
    return admission.identify(accepted, head.proxy_authorization)


def take_verdict(
    relay: Relay, accepted: AcceptedConnection | None, head: RequestHead, verdict: KnownClient | ProxyError
) -> KnownClient | PasswordClaim | None:
    """Return who sends a request whose password has been checked, as `identify` does.

    Raises:
        ProxyError: the verdict, where it is one; or the listener would not take the connection any more.
    """
    if isinstance(verdict, ProxyError):
        raise verdict
    if accepted is not None and accepted.is_dismissed:
        raise ClientRefused(DISMISSED, code="listener_changed")
    if relay.admission is None:
        return None
    if verdict.admission is not relay.admission:
        return identify(relay, accepted, head)  # what was right by another configuration is checked by this one
    return verdict


def begin_exchange(
    relay: Relay, client: ClientSide, sender: Sender, rule: DestinationRule, head: RequestHead
) -> Exchange:
    """Return the exchange of a request, counted as its sender's and not started.

    Args:
        relay: the process-wide state.
        client: gets the response.
        sender: who sent the request.
        rule: how requests on the connection name their destination.
        head: the request.

    Raises:
        ClientError: it is refused.
        Overloaded: there are too many exchanges.
    """
    destination, target = rule.locate(relay, head)
    if head.method == b"TRACE" and destination.tokens is not None:
        raise ClientRefused("TRACE is not passed on: the response would show the access token (RFC 9110 §9.3.8).")
    body_bytes = relay.limits.body_bytes
    if body_bytes is not None and head.length is not None and head.length > body_bytes:
        raise ContentTooLarge(f"The content has {head.length} bytes; the limit is {body_bytes} (limits.body_bytes).")
    if sender.known is not None:
        sender.known.enter(destination.route, time.monotonic())
    return Exchange(relay, client, sender, head, destination, target)


def begin_connect(
    relay: Relay, client: ClientSide, sender: Sender, rule: DestinationRule, head: RequestHead
) -> TunnelRequest | RoutedTunnel:
    """Decide about CONNECT (RFC 9110 §9.3.6): end the client's TLS here, or pass bytes blind. The arguments are `begin_exchange`'s.

    Raises:
        ClientError: it is refused.
        Overloaded: there are too many tunnels or exchanges.
    """
    if not isinstance(rule, ForwardRule):
        raise ProxyUsageError("CONNECT is for a forward listener; this connection already leads to one upstream.")
    if head.has_content:
        raise MalformedRequest("A CONNECT request has no content (RFC 9110 §9.3.6).")
    authority = parse_authority(head.target, None)
    if head.host is not None:
        check_host(head.host)  # many clients write the proxy's own name there: the target alone decides
    if relay.destinations.route_for(authority) is not None:
        destination = relay.destinations.find(authority, authority.port)
        if sender.known is not None and sender.accepted is not None:
            sender.known.client.check_route(destination.route)
            sender.accepted.known = sender.known
        relay.counters.intercepts += 1
        return RoutedTunnel(authority, destination, rule.takes_http2)
    if not relay.destinations.tunnels_others:
        raise DestinationRefused(describe_refusal(authority))
    if len(relay.splices) >= relay.limits.tunnels:
        raise Overloaded(f"The proxy has {relay.limits.tunnels} tunnels (limits.tunnels).", retry_after_s=5)
    if sender.known is not None:
        sender.known.enter("-", time.monotonic())
    return TunnelRequest(relay, client, sender, head, authority)


def record_refusal(
    relay: Relay,
    sender: Sender,
    rule: DestinationRule,
    error: ProxyError,
    asked: tuple[bytes, str, bytes],
    head: RequestHead | None = None,
) -> None:
    """Count and record a request that no exchange began for.

    Args:
        relay: the process-wide state.
        sender: who sent it.
        rule: how requests on the connection name their destination.
        error: why.
        asked: method, authority and path, as far as they are known.
        head: the request, where it could be read.
    """
    if error.code == probe.CODE:
        return
    relay.counters.count_error(error.proxy_status)
    method, authority, target = asked
    if method and not authority and isinstance(rule, FixedRule):
        authority = str(rule.authority)
    key = ("", error.status)
    relay.counters.exchanges[key] = relay.counters.exchanges.get(key, 0) + 1
    version = sender.version(head)
    relay.counters.count_versions(version, NO_HTTP)
    if relay.observe is not None:
        relay.observe(
            refused(
                ended_at=relay.wall_offset + time.monotonic(),
                client=sender.peer,
                mode=rule.mode,
                method=method,
                authority=authority,
                target=target,
                status=error.status,
                outcome=error.proxy_status,
                code=error.code,
                client_name=sender.name,
                trace=None if head is None or not relay.traces else note_trace(head),
                version=version,
            )
        )
