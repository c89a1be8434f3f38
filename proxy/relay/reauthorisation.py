"""Judge tunnels and WebSockets again that are opened across a reload. Does no I/O.

An exchange that is under way goes on as it began, for it ends by itself. A tunnel or a WebSocket may stay for days, so it opens
only where the configuration that is in use by then lets it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import ClientRefused, DestinationRefused
from proxy.relay.destinations import describe_refusal
from proxy.relay.listener_policy import DISMISSED

if TYPE_CHECKING:
    from proxy.policy.authority import Authority
    from proxy.relay.destinations import Destination
    from proxy.relay.message import RequestHead
    from proxy.relay.sender import Sender
    from proxy.relay.sides import ClientSide
    from proxy.relay.state import Relay

# Stands for any address where only the port is judged, because an upstream proxy has resolved the name.
_SOME_PUBLIC_ADDRESS: Final = "1.1.1.1"


def check_tunnel(relay: Relay, sender: Sender, request: RequestHead, authority: Authority) -> None:
    """Judge a blind tunnel anew before it is dialled again, which judges its address.

    Raises:
        DestinationRefused: a route names the host now, or other hosts are refused.
        ClientRefused: the client may not, or not by this connection.
    """
    destinations = relay.destinations
    if destinations.route_for(authority) is not None:
        raise DestinationRefused(f"A route names {authority} since the configuration changed. Connect again.")
    if not destinations.tunnels_others:
        raise DestinationRefused(describe_refusal(authority))
    check_sender(relay, sender, request, "-")


def check_upgrade(
    relay: Relay, client: ClientSide, sender: Sender, request: RequestHead, destination: Destination, address: str
) -> None:
    """Judge a WebSocket before the 101 for it is passed on.

    Args:
        relay: has the configuration of now.
        client: gets the 101.
        sender: who asked for it.
        request: its handshake.
        destination: where that was sent.
        address: of the upstream connection that it was sent on.

    Raises:
        DestinationRefused: requests like it no longer go there, or not with that credential.
        ClientRefused: the client may not, or not by this connection.
    """
    authority = destination.authority
    found = relay.destinations.find(authority, destination.default_port)
    if found is not destination:
        if not client.leads_to(authority.host):
            raise DestinationRefused(f"This listener does not lead to {authority} since the configuration changed.")
        if found.credential != destination.credential:
            raise DestinationRefused(
                f"Another route applies to {authority} since the configuration changed. Try again."
            )
        permit = relay.destinations.permit
        if found.tokens is None and permit is not None:
            is_direct = relay.dialer.choose(authority.host, authority.port, is_plain=True) is None
            permit(address if is_direct else _SOME_PUBLIC_ADDRESS, authority.port)
    check_sender(relay, sender, request, found.route)


def check_sender(relay: Relay, sender: Sender, request: RequestHead, route: str) -> None:
    """Judge who sent a request by the configuration there is now.

    Raises:
        ClientRefused: the client may not use the route, is no longer configured, or its listener would not take it any more.
    """
    if sender.accepted is None:
        return
    if sender.accepted.is_dismissed:
        raise ClientRefused(DISMISSED, code="listener_changed")
    if relay.admission is not None:
        relay.admission.confirm(sender.accepted, sender.known, request.proxy_authorization).client.check_route(route)
