"""Every limit holds, answers with its own status, says which setting it is, and leaves room for the next request."""

from __future__ import annotations

import asyncio
import base64
import socket
from typing import TYPE_CHECKING, Any, cast

import pytest
from msgspec.structs import replace

from proxy.config.settings import LimitSettings
from proxy.errors import Overloaded, ProxyAuthenticationRequired, TooManyRequests
from proxy.policy.access import Client, PasswordClaim, address_block
from proxy.policy.passwords import parse_password_hash
from proxy.relay.accepted_connection import AcceptedConnections
from proxy.relay.admission import Admission
from proxy.relay.arrival import accept
from proxy.relay.destination_rule import ForwardRule
from proxy.relay.passwords import PasswordChecker
from tests.fuzz.connection import Ear
from tests.security.boundary import HOST, eventually, get, light_hash, running, status

if TYPE_CHECKING:
    from pathlib import Path

    from tests.security.boundary import Boundary
    from tests.wire.rig import Trust

POST = f"POST http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n"
REQUESTS: dict[str, tuple[dict[str, int], bytes, int]] = {
    "head_bytes": ({"head_bytes": 2_000, "target_bytes": 1_000}, get("/", "X-Long: " + "x" * 2_000), 431),
    "head_bytes, without its end": (
        {"head_bytes": 2_000, "target_bytes": 1_000},
        get("/", "X-Long: " + "x" * 2_000)[:-4],
        431,
    ),
    "field_count": ({"field_count": 5}, get("/", *(f"X-{n}: 1" for n in range(5))), 431),
    "target_bytes": ({"target_bytes": 100}, get("/" + "x" * 100), 414),
    "target_bytes, without its end": ({"target_bytes": 100}, get("/" + "x" * 1_000)[:500], 414),
    "body_bytes": ({"body_bytes": 10}, (POST + "Content-Length: 11\r\n\r\n").encode(), 413),
    "body_bytes, chunked": (
        {"body_bytes": 10},
        (POST + "Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n6\r\nabcdef\r\n").encode(),
        413,
    ),
}


def has_begun(boundary: Boundary) -> bool:
    """Whether the proxy has a head that is not whole."""
    return any(client._buffer for client in boundary.server.relay.clients)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_over_a_limit_gets_that_limits_status(tmp_path: Path, trust: Trust, name: str) -> None:
    limits, request, expected = REQUESTS[name]
    async with running(tmp_path, trust, limits=limits) as boundary:
        peer = await boundary.connect()
        peer.send(request)
        answer = await peer.read_to_end()
        assert status(answer) == expected
        assert f"limits.{name.partition(',')[0]}".encode() in answer
        assert boundary.upstream.opened == 0 or name == "body_bytes, chunked"
        assert status(await boundary.ask(get())) == 200


@pytest.mark.asyncio
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_head_may_be_as_long_as_its_limit_and_no_longer(
    tmp_path: Path, trust: Trust, in_pieces: bool
) -> None:  # a parameter
    """B3."""
    async with running(tmp_path, trust, limits={"head_bytes": 1_024, "target_bytes": 500}) as boundary:
        for size, expected in ((1_024, 200), (1_025, 431)):
            head = get("/", "X: " + "x" * (size - len(get("/", "X: "))))
            assert len(head) == size
            peer = await boundary.connect()
            peer.send(head[:-10] if in_pieces else head)
            if in_pieces:
                await eventually(lambda: has_begun(boundary))
                peer.send(head[-10:])
            assert status(await boundary.answer(peer)) == expected


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("sent", "word"),
    [
        pytest.param(b"GET http://api.example.test/ HTTP/1.1\r\nHo", b"timeouts.head_s", id="in the head"),
        pytest.param(POST.encode() + b"Content-Length: 5\r\n\r\nab", b"timeouts.body_idle_s", id="in the content"),
    ],
)
async def test_a_request_that_stops_half_way_gets_408(tmp_path: Path, trust: Trust, sent: bytes, word: bytes) -> None:
    async with running(tmp_path, trust) as boundary:
        peer = await boundary.connect()
        peer.send(sent)
        relay = boundary.server.relay
        if sent.startswith(b"POST"):
            await boundary.upstream.next()
        else:
            await eventually(lambda: has_begun(boundary))
        relay.tick(relay.now + 10_000)
        answer = await peer.read_to_end()
        assert status(answer) == 408
        assert word in answer


@pytest.mark.asyncio
async def test_a_head_that_comes_in_drops_gets_no_more_time_for_each(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust) as boundary:
        peer = await boundary.connect()
        relay = boundary.server.relay
        peer.send(get()[:1])
        await eventually(lambda: has_begun(boundary))
        began = now = relay.now
        for byte in get()[1:40]:
            peer.send(bytes([byte]))
            await asyncio.sleep(0.002)
            now += 2  # the relay's own clock shows the real time in between
            relay.tick(now)
            if peer.received:
                break
        assert status(await peer.read_to_end()) == 408
        assert now - began <= relay.timeouts.head_s + 6


@pytest.mark.asyncio
async def test_connections_over_the_limit_get_503_and_those_within_go_on(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, limits={"connections": 3}) as boundary:
        within = [await boundary.connect() for _ in range(3)]
        await eventually(lambda: boundary.server.relay.accepted_connections.count == 3)
        over = await boundary.connect()
        answer = await over.read_to_end()
        assert status(answer) == 503
        assert b"limits.connections" in answer
        assert b"Retry-After: " in answer
        within[0].send(get())
        assert status(await boundary.answer(within[0])) == 200
        over.cut()
        within[1].cut()
        await eventually(lambda: boundary.server.relay.accepted_connections.count == 2)
        assert status(await boundary.ask(get())) == 200


@pytest.mark.asyncio
async def test_a_flood_of_connections_is_cut_without_words(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, limits={"connections": 10}) as boundary:
        peers = [await boundary.connect() for _ in range(40)]
        await eventually(lambda: sum(peer.lost for peer in peers) >= 25)
        assert boundary.server.relay.accepted_connections.count <= 13


@pytest.mark.asyncio
async def test_tunnels_count_as_connections_for_as_long_as_they_last(tmp_path: Path, trust: Trust) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        port = target.getsockname()[1]
        connect = f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        changes: dict[str, Any] = {
            "other_hosts": "tunnel",
            "destinations": {"allow": ["127.0.0.0/8"], "ports": [port]},
            "limits": {"connections": 2},
        }
        async with running(tmp_path, trust, **changes) as boundary:
            tunnels = [await boundary.connect() for _ in range(2)]
            for tunnel in tunnels:
                tunnel.send(connect)
                assert status(await tunnel.read_until()) == 200
            assert status(await (await boundary.connect()).read_to_end()) == 503
            tunnels[0].cut()
            await eventually(lambda: boundary.server.relay.accepted_connections.count == 1)
            assert status(await boundary.ask(get())) == 200


@pytest.mark.asyncio
async def test_intercepted_tunnels_count_whether_anything_happens_in_them_or_not(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, limits={"connections": 2}) as boundary:
        idle = [await boundary.connect() for _ in range(2)]
        for peer in idle:
            peer.send(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode())
            assert status(await peer.read_until()) == 200
        assert status(await (await boundary.connect()).read_to_end()) == 503
        relay = boundary.server.relay
        relay.tick(relay.now + relay.timeouts.head_s + 1)
        await eventually(lambda: relay.accepted_connections.count == 0)


@pytest.mark.asyncio
async def test_tunnels_over_their_own_limit_get_503(tmp_path: Path, trust: Trust) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        port = target.getsockname()[1]
        connect = f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        changes: dict[str, Any] = {
            "other_hosts": "tunnel",
            "destinations": {"allow": ["127.0.0.0/8"], "ports": [port]},
            "limits": {"tunnels": 1},
        }
        async with running(tmp_path, trust, **changes) as boundary:
            first, second = await boundary.connect(), await boundary.connect()
            first.send(connect)
            assert status(await first.read_until()) == 200
            second.send(connect)
            answer = await second.read_to_end()
            assert status(answer) == 503
            assert b"limits.tunnels" in answer
            first.cut()
            await eventually(lambda: not boundary.server.relay.splices)
            assert status(await boundary.ask(connect)) == 200


@pytest.mark.asyncio
async def test_exchanges_over_the_limit_get_503_until_one_ends(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, limits={"concurrent_exchanges": 1}) as boundary:
        first = await boundary.connect()
        first.send(get())
        await boundary.upstream.next()
        second = await boundary.connect()
        second.send(get())
        answer = await second.read_to_end()
        assert status(answer) == 503
        assert b"limits.concurrent_exchanges" in answer
        assert status(await boundary.answer(first)) == 200
        assert status(await boundary.ask(get())) == 200


@pytest.mark.asyncio
async def test_requests_that_find_no_upstream_connection_in_time_get_503(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, limits={"upstream_connections": 1}) as boundary:
        first, second = await boundary.connect(), await boundary.connect()
        first.send(get())
        await boundary.upstream.next()
        relay = boundary.server.relay
        relay.timeouts = replace(relay.timeouts, connect_s=0.3)  # too short for a handshake on a busy machine
        second.send(get())
        head = await second.read_until()
        assert status(head) == 503
        assert b"Retry-After: " in head


class FakeTransport(asyncio.Transport):
    """A connection from an address that a test machine need not have."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 40_000)})
        self.written = b""
        self.is_aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_reading(self) -> bool:
        return True

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True

    def close(self) -> None:
        self.is_aborted = True


@pytest.mark.asyncio
async def test_connections_of_one_client_over_the_limit_get_429(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, limits={"connections_per_client": 2}) as boundary:
        answers = []
        for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.1"):
            connection = accept(boundary.server.relay, ForwardRule())
            transport = FakeTransport(address)
            connection.connection_made(cast("asyncio.BaseTransport", transport))
            answers.append(transport.written)
        assert [status(answer) for answer in answers] == [0, 0, 0, 429]
        assert b"limits.connections_per_client" in answers[3]
        boundary.server.relay.clients.clear()


def test_connections_are_counted_by_address_and_given_back_once() -> None:
    accepted_connections = AcceptedConnections(LimitSettings(connections=4, connections_per_client=2))
    taken = [accepted_connections.add("192.0.2.1") for _ in range(3)]
    with pytest.raises(TooManyRequests):
        accepted_connections.check("192.0.2.1", -1)
    taken[0].leave()
    taken[0].leave()
    accepted_connections.check("192.0.2.1", -1)
    assert accepted_connections.count == 2
    for _ in range(3):
        accepted_connections.add("192.0.2.9")
    with pytest.raises(Overloaded):
        accepted_connections.check("192.0.2.1", -1)


@pytest.mark.parametrize(
    ("address", "other", "counted_together"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_a_network_of_ipv6_counts_as_one_client(address: str, other: str, counted_together: bool) -> None:
    accepted_connections = AcceptedConnections(LimitSettings(connections_per_client=1))
    first = accepted_connections.add(address)
    accepted_connections.add(other)
    if counted_together:
        with pytest.raises(TooManyRequests):
            accepted_connections.check(other, -1)
    first.leave()
    accepted_connections.check(other, -1)
    assert address_block(address) == address_block(other) or not counted_together


@pytest.mark.asyncio
async def test_guesses_from_a_network_of_ipv6_are_counted_together() -> None:
    passwords = PasswordChecker()
    admission = Admission([Client("batch", password=parse_password_hash(light_hash("right")))], None, passwords)
    accepted_connections = AcceptedConnections(LimitSettings())
    try:
        for number in range(12):
            accepted = accepted_connections.add(f"2001:db8:1:2::{number + 1:x}")
            claim = admission.identify(accepted, b"Basic " + base64.b64encode(b"batch:wrong"))
            assert isinstance(claim, PasswordClaim)
            with pytest.raises(ProxyAuthenticationRequired if number < 10 else TooManyRequests):
                await admission.verify(accepted, claim)
    finally:
        passwords.close()


@pytest.mark.asyncio
async def test_guesses_from_every_address_of_this_machine_are_counted_together() -> None:
    """G9: whoever is on a machine has all of 127.0.0.0/8."""
    passwords = PasswordChecker()
    admission = Admission([Client("batch", password=parse_password_hash(light_hash("right")))], None, passwords)
    accepted_connections = AcceptedConnections(LimitSettings())
    try:
        for number, address in enumerate(["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.2", "unix"] * 3):
            accepted = accepted_connections.add(address)
            claim = admission.identify(accepted, b"Basic " + base64.b64encode(b"batch:wrong"))
            assert isinstance(claim, PasswordClaim)
            with pytest.raises(ProxyAuthenticationRequired if number < 10 else TooManyRequests):
                await admission.verify(accepted, claim)
    finally:
        passwords.close()


@pytest.mark.asyncio
async def test_an_unknown_name_costs_what_a_known_one_costs() -> None:
    """G9: as many hashes, with the parameters that the configured ones have, and as many guesses."""
    stored = parse_password_hash(light_hash("right"))
    for name in ("batch", "nobody"):
        passwords = PasswordChecker()
        admission = Admission([Client("batch", password=stored)], None, passwords)
        accepted = AcceptedConnections(LimitSettings()).add("192.0.2.1")
        try:
            for number in range(10):
                claim = admission.identify(accepted, b"Basic " + base64.b64encode(f"{name}:wrong {number}".encode()))
                assert isinstance(claim, PasswordClaim)
                decoy = passwords._decoy_like(claim.like)
                assert (decoy.log_n, decoy.block, decoy.parallel) == (stored.log_n, stored.block, stored.parallel)
                with pytest.raises(ProxyAuthenticationRequired):
                    await admission.verify(accepted, claim)
            assert passwords.checks == 10
        finally:
            passwords.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.3.2.1", "::1", "unix", "::ffff:127.0.0.1"])
def test_clients_of_this_machine_share_addresses_and_are_not_counted_by_them(address: str) -> None:
    accepted_connections = AcceptedConnections(LimitSettings(connections_per_client=1))
    for _ in range(5):
        accepted_connections.add(address)
    accepted_connections.check(address, -1)


@pytest.mark.timeout(30)
@pytest.mark.asyncio
async def test_a_head_that_comes_byte_by_byte_costs_no_more_than_its_bytes(tmp_path: Path, trust: Trust) -> None:
    """Looked at whole with each byte it takes minutes, in which nobody else is served."""
    async with running(tmp_path, trust) as boundary:
        connection = accept(boundary.server.relay, ForwardRule())
        ear = Ear()
        ear.set_protocol(connection)
        connection.connection_made(ear)
        head = f"GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n".encode()
        head += b"a:\r\n" * ((boundary.server.relay.limits.head_bytes - len(head) - 8) // 4)
        for at in range(len(head)):
            connection.data_received(head[at : at + 1])
        assert not ear.written, "it may still become a request"
        connection.data_received(b"a\nb")
        assert status(bytes(ear.written)) == 400
        ear.close()
        connection.connection_lost(None)


@pytest.mark.timeout(30)
@pytest.mark.asyncio
async def test_empty_lines_before_a_request_cost_no_more_than_their_bytes(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust) as boundary:
        connection = accept(boundary.server.relay, ForwardRule())
        ear = Ear()
        ear.set_protocol(connection)
        connection.connection_made(ear)
        connection.data_received(b"\r\n" * 2_000_000)
        assert not ear.written
        connection.data_received(b"\r\n\n")
        assert status(bytes(ear.written)) == 400
        ear.close()
        connection.connection_lost(None)
