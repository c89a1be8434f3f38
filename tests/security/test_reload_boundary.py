"""A configuration that takes something away takes it from whoever is half-way in as well."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from proxy.relay.destination_rule import FixedRule
from tests.security.boundary import ANSWER, HOST, OTHER_HOST, ListenerCertificates, eventually, running, status

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.relay_server import Plan
    from tests.security.boundary import Boundary
    from tests.wire.rig import Peer, Trust

CONNECT = f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode()
INSIDE = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


async def tunnel(boundary: Boundary) -> Peer:
    peer = await boundary.connect()
    peer.send(CONNECT)
    assert status(await peer.read_until()) == 200
    return peer


def without_the_route(boundary: Boundary) -> dict[str, object]:
    """The configuration's only route, for another host."""
    route = {"hosts": [OTHER_HOST], "credential": "c", "scope": "s", "dial": f"127.0.0.1:{boundary.upstream.port}"}
    return {"routes": [route | {"ca_file": "upstream-ca.pem"}]}


@pytest.mark.asyncio
async def test_a_tunnel_that_was_only_opened_keeps_no_route_that_is_gone(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust) as boundary:
        peer = await tunnel(boundary)
        await boundary.reload(**without_the_route(boundary))
        peer.send(INSIDE)
        assert status(await boundary.answer(peer)) == 403
        assert boundary.upstream.connections == []


@pytest.mark.asyncio
async def test_a_tunnel_in_its_handshake_keeps_no_route_that_is_gone(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust) as boundary:
        peer = await tunnel(boundary)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trust.client_context.wrap_bio(incoming, outgoing, server_hostname=HOST)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        peer.send(outgoing.read())
        await eventually(lambda: bool(peer.received))
        await boundary.reload(**without_the_route(boundary))
        incoming.write(bytes(peer.received))
        peer.received.clear()
        tls.do_handshake()
        tls.write(INSIDE)
        peer.send(outgoing.read())
        answer = b""
        while b"\r\n\r\n" not in answer:
            await eventually(lambda: bool(peer.received))
            incoming.write(bytes(peer.received))
            peer.received.clear()
            try:
                answer += tls.read(65_536)
            except ssl.SSLWantReadError:
                continue
        assert status(answer) == 403
        assert boundary.upstream.connections == []


@pytest.mark.asyncio
async def test_a_tunnel_that_was_only_opened_follows_its_route(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust) as boundary:
        peer = await tunnel(boundary)
        await boundary.reload()
        peer.send(INSIDE)
        assert status(await boundary.answer(peer)) == status(ANSWER) == 200


@pytest.mark.asyncio
async def test_a_connection_in_its_handshake_follows_its_listener(tmp_path: Path, trust: Trust) -> None:
    certificates = ListenerCertificates.create(tmp_path, "billing")
    listener = {
        "address": "127.0.0.1:0",
        "tls": certificates.settings,
        "mode": "reverse",
        "upstream": f"https://{HOST}",
    }
    async with running(tmp_path, trust, listeners=[listener]) as boundary:
        peer = await boundary.connect()  # TCP only: it has not begun TLS
        await eventually(lambda: bool(boundary.server.relay.arrivals))
        changed = without_the_route(boundary) | {"listeners": [listener | {"upstream": f"https://{OTHER_HOST}"}]}
        await boundary.reload(**changed)
        rules = [arrival._rule for arrival in boundary.server.relay.arrivals]
        assert [rule.destination.authority.host for rule in rules if isinstance(rule, FixedRule)] == [OTHER_HOST]
        peer.transport.abort()


@pytest.mark.asyncio
async def test_the_process_s_other_listeners_stay_no_destination(tmp_path: Path, trust: Trust) -> None:
    """The admin site's address, say, on a port the system chose: no plan has it, and a client certificate's renewal is a plan."""
    async with running(tmp_path, trust) as boundary:
        admin = ("127.0.0.1", 9901)
        boundary.server.exclude([admin])
        await boundary.reload()
        assert admin in boundary.server.relay.dialer.own_addresses


async def opened(boundary: Boundary, **changes: object) -> tuple[Plan, tuple[str, int]]:
    """A plan whose new listener is open and not in use yet, and that listener's address."""
    plan = boundary.plan(listeners=[{"address": "127.0.0.1:0"}, {"address": "[::1]:0"}], **changes)
    await boundary.server.open(plan)
    return plan, plan.listeners[1].address


@pytest.mark.asyncio
async def test_a_connection_before_its_listener_is_in_use_is_judged_by_the_new_configuration(
    tmp_path: Path, trust: Trust
) -> None:
    async with running(tmp_path, trust) as boundary:
        stranger = [{"name": "somebody", "networks": ["192.0.2.0/24"]}]
        plan, address = await opened(boundary, clients=stranger)
        peer = await boundary.connect_to(address)
        gone = await boundary.connect_to(address)
        peer.send(f"GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await eventually(lambda: len(boundary.server._early) == 2)
        gone.transport.abort()
        assert bytes(peer.received) == b""
        boundary.use(plan)
        assert status(await boundary.answer(peer)) == 403
        assert boundary.upstream.connections == []


async def connected_early(boundary: Boundary) -> tuple[Plan, Peer]:
    """A plan that is not in use yet, and a connection to its new listener."""
    plan, address = await opened(boundary)
    peer = await boundary.connect_to(address)
    await eventually(lambda: bool(boundary.server._early))
    return plan, peer


@pytest.mark.asyncio
async def test_a_connection_before_its_listener_is_in_use_is_served_once_it_is(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust) as boundary:
        plan, peer = await connected_early(boundary)
        boundary.use(plan)
        peer.send(f"GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert status(await boundary.answer(peer)) == 200
        assert boundary.server._early == []


@pytest.mark.asyncio
async def test_a_connection_to_a_listener_that_is_given_up_is_cut(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust) as boundary:
        plan, peer = await connected_early(boundary)
        boundary.server.close_new(plan)
        await eventually(lambda: peer.lost)
        assert boundary.server._early == []


MODES = {
    "forward": ({"mode": "forward"}, f"GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()),
    "reverse": ({"mode": "reverse", "upstream": f"https://{HOST}"}, INSIDE),
    "transparent": ({"mode": "transparent"}, INSIDE),
}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("before", "after"), [(before, after) for before in MODES for after in MODES if before != after]
)
async def test_where_a_listener_changes_its_mode_at_its_address_what_came_in_by_the_earlier_one_ends(
    before: str, after: str, tmp_path: Path, trust: Trust
) -> None:
    """New connections are read by the new mode; one that waits between two requests is closed, and none is read by both."""
    settings, request = MODES[before]
    changed, other_request = MODES[after]
    async with running(tmp_path, trust, listeners=[{"address": "127.0.0.1:0"} | settings]) as boundary:
        address = boundary.server.addresses[0]
        idle = await boundary.connect()
        if before != "transparent":  # no rule of the kernel has led it here, so that nothing can be asked
            idle.send(request)
            assert status(await boundary.answer(idle)) == 200
        else:
            await eventually(lambda: bool(boundary.server.relay.arrivals))
        await boundary.reload(listeners=[{"address": "127.0.0.1:0"} | changed])
        assert boundary.server.addresses[0] == address
        await eventually(lambda: idle.lost)
        await eventually(lambda: not boundary.server.relay.clients)
        new = await boundary.ask(other_request)
        assert status(new) == (508 if after == "transparent" else 200)


@pytest.mark.asyncio
@pytest.mark.parametrize("after", ["reverse", "transparent"])
async def test_where_a_listener_changes_its_mode_an_exchange_under_way_finishes_and_none_follows(
    after: str, tmp_path: Path, trust: Trust
) -> None:
    async with running(tmp_path, trust) as boundary:
        peer = await boundary.connect()
        peer.send(MODES["forward"][1])
        await eventually(lambda: bool(boundary.upstream.connections and boundary.upstream.connections[0].received))
        await boundary.reload(listeners=[{"address": "127.0.0.1:0"} | MODES[after][0]])
        peer.send(MODES["forward"][1])
        assert status(await boundary.answer(peer)) == 200
        await eventually(lambda: peer.lost)
        await eventually(lambda: not boundary.server.relay.clients)
        assert [record.status for record in boundary.records] == [200]


@pytest.mark.asyncio
async def test_where_a_listener_changes_its_mode_an_idle_tunnel_ends(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust) as boundary:
        peer = await tunnel(boundary)
        await boundary.reload(listeners=[{"address": "127.0.0.1:0"} | MODES["reverse"][0]])
        await eventually(lambda: peer.lost)
        assert boundary.upstream.connections == []
