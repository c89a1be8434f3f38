"""What a reload finds half-way is judged again before it becomes lasting; who came in by a right that is gone, goes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.security.boundary import (
    ANSWER,
    HOST,
    OTHER_HOST,
    Boundary,
    ListenerCertificates,
    eventually,
    get,
    light_hash,
    running,
    status,
)
from tests.wire.rig import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.wire.rig import Trust

FAR = "127.0.0.1:9"
CONNECT_FAR = f"CONNECT {FAR} HTTP/1.1\r\nHost: {FAR}\r\n\r\n".encode()
CONNECT = f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n"
INSIDE = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA")
HERE: dict[str, Any] = {"name": "here", "networks": ["127.0.0.0/8"]}
BATCH: dict[str, Any] = {"name": "batch", "password_hash": light_hash("correct horse")}
ELSEWHERE: dict[str, Any] = {"name": "elsewhere", "networks": ["192.0.2.0/24"]}
TUNNELS: dict[str, Any] = {"other_hosts": "tunnel", "destinations": {"allow": ["127.0.0.0/8"], "ports": [9]}}
PASSWORD = "Proxy-Authorization: Basic " + base64.b64encode(b"batch:correct horse").decode()
needs_peer_credentials = pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="Linux only")


class SlowProxy:
    """An upstream proxy that opens a tunnel when the test says so; what comes through it then is kept."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.heard = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            await self.may_answer.wait()
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            self.heard += await reader.read(100)
        writer.close()


@contextlib.asynccontextmanager
async def dialling(directory: Path, trust: Trust, **changes: Any) -> AsyncIterator[tuple[Boundary, Peer, SlowProxy]]:
    """A client whose tunnel to a host that no route names is being dialled."""
    proxy = SlowProxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with running(directory, trust, upstream_proxy={"url": url}, **TUNNELS, **changes) as boundary:
            peer = await boundary.connect()
            peer.send(CONNECT_FAR + b"for the far end")
            await eventually(lambda: proxy.asked == 1)
            yield boundary, peer, proxy
    finally:
        server.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"other_hosts": "refuse"}, id="other hosts"),
        pytest.param({"destinations": {"allow": [], "ports": [9]}}, id="its network"),
        pytest.param({"destinations": {"allow": ["127.0.0.0/8"], "ports": [443]}}, id="its port"),
        pytest.param({"clients": [ELSEWHERE]}, id="its client"),
        pytest.param({"clients": [HERE | {"routes": [HOST]}]}, id="its client's right to it"),
    ],
)
async def test_a_tunnel_that_was_being_dialled_gets_no_further_than_the_configuration_now_says(
    tmp_path: Path, trust: Trust, changes: dict[str, Any]
) -> None:
    async with dialling(tmp_path, trust, clients=[HERE]) as (boundary, peer, proxy):
        await boundary.reload(**changes)
        proxy.may_answer.set()
        assert status(await peer.read_until()) == 403
        assert proxy.heard == b""
        assert not boundary.server.relay.splices
        assert boundary.records[-1].status == 403


@pytest.mark.asyncio
async def test_a_tunnel_that_was_being_dialled_does_not_open_blind_where_a_route_names_its_host_now(
    tmp_path: Path, trust: Trust
) -> None:
    """B3: its requests would go out without a token."""
    async with dialling(tmp_path, trust) as (boundary, peer, proxy):
        await boundary.reload(routes=elsewhere(boundary, hosts=[HOST, FAR]))
        proxy.may_answer.set()
        assert status(await peer.read_until()) == 403
        assert proxy.heard == b""


@pytest.mark.asyncio
@pytest.mark.parametrize("clients", [[], [HERE]])
async def test_a_tunnel_that_was_being_dialled_opens_where_it_still_may(
    tmp_path: Path, trust: Trust, clients: list[dict[str, Any]]
) -> None:
    async with dialling(tmp_path, trust, clients=clients) as (boundary, peer, proxy):
        await boundary.reload(limits={"head_bytes": 30_000})
        proxy.may_answer.set()
        assert status(await peer.read_until()) == 200
        await eventually(lambda: proxy.heard == b"for the far end")


@pytest.mark.asyncio
async def test_a_tunnel_whose_client_leaves_while_it_is_dialled_anew_leaves_nothing_behind(
    tmp_path: Path, trust: Trust
) -> None:
    async with dialling(tmp_path, trust, clients=[HERE]) as (boundary, peer, proxy):
        await boundary.reload(limits={"head_bytes": 30_000})
        peer.cut()
        relay = boundary.server.relay
        await eventually(lambda: not relay.accepted_connections.count and not relay.clients)
        proxy.may_answer.set()
        await asyncio.sleep(0.05)
        assert not relay.splices
        assert boundary.records[-1].outcome == "aborted_client"


async def upgrading(boundary: Boundary, listener: int = 0) -> tuple[Peer, Peer]:
    """A client that waits for the answer to a WebSocket handshake, and the upstream that has it."""
    peer = await boundary.connect(listener)
    peer.send(get("/socket", *UPGRADE))
    upstream = await boundary.upstream.next()
    await upstream.read_until()
    return peer, upstream


def elsewhere(boundary: Boundary, **changes: Any) -> list[dict[str, Any]]:
    """The only route, for another host."""
    route = {"hosts": [OTHER_HOST], "credential": "c", "scope": "s", "dial": f"127.0.0.1:{boundary.upstream.port}"}
    return [route | {"ca_file": "upstream-ca.pem"} | changes]


@pytest.mark.asyncio
@pytest.mark.parametrize("what", ["route", "route, others pass", "credential", "client", "client's route"])
async def test_a_websocket_that_was_not_open_yet_does_not_open_without_the_right_to_it(
    tmp_path: Path, trust: Trust, what: str
) -> None:
    async with running(tmp_path, trust, clients=[HERE]) as boundary:
        peer, upstream = await upgrading(boundary)
        gone = {"routes": elsewhere(boundary)}
        both = elsewhere(boundary) + elsewhere(boundary, hosts=[HOST])
        second = {"token_endpoint": "https://login.example.test/token", "client_id": "j", "certificate": "c.pem"}
        changes: dict[str, dict[str, Any]] = {
            "route": gone,
            "route, others pass": gone | {"other_hosts": "tunnel", "destinations": {"ports": [443]}},
            "credential": {
                "credentials": {"d": second},
                "routes": elsewhere(boundary, hosts=[HOST], credential="d"),
            },
            "client": {"clients": [ELSEWHERE]},
            "client's route": {"routes": both, "clients": [HERE | {"routes": [OTHER_HOST]}]},
        }
        await boundary.reload(**changes[what])
        upstream.send(SWITCHED + b"first frame")
        answer = await peer.read_until()
        assert status(answer) == 403
        assert b"first frame" not in answer
        await eventually(lambda: upstream.lost)
        assert not boundary.server.relay.splices


@pytest.mark.asyncio
@pytest.mark.parametrize(("allowed", "expected"), [([], 403), (["127.0.0.0/8"], 101)])
async def test_a_websocket_to_a_host_that_no_route_names_opens_only_where_its_address_still_may_be_dialled(
    tmp_path: Path, trust: Trust, allowed: list[str], expected: int
) -> None:
    """B3."""
    far = Peer()
    server = await asyncio.get_running_loop().create_server(lambda: far, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    destinations = {"allow": ["127.0.0.0/8"], "ports": [port]}
    async with running(tmp_path, trust, other_hosts="tunnel", destinations=destinations) as boundary:
        peer = await boundary.connect()
        peer.send(get("/socket", *UPGRADE, host=f"127.0.0.1:{port}"))
        await eventually(lambda: b"\r\n\r\n" in far.received)
        await boundary.reload(destinations=destinations | {"allow": allowed})
        far.send(SWITCHED)
        assert status(await peer.read_until()) == expected
    server.close()
    far.transport.abort()


@pytest.mark.asyncio
async def test_a_websocket_that_was_not_open_yet_does_not_open_where_its_listener_asks_for_more_now(
    tmp_path: Path, trust: Trust
) -> None:
    """B3: its client could not open it anew."""
    async with running(tmp_path, trust) as boundary:
        peer, upstream = await upgrading(boundary)
        certificates = ListenerCertificates.create(tmp_path, "reports.contoso.com")
        await boundary.reload(listeners=[{"address": "127.0.0.1:0", "tls": certificates.settings}])
        upstream.send(SWITCHED)
        answer = await peer.read_until()
        assert status(answer) == 403
        assert b"listener_changed" in answer


@pytest.mark.asyncio
async def test_a_websocket_that_was_not_open_yet_opens_where_it_still_may(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[HERE]) as boundary:
        peer, upstream = await upgrading(boundary)
        await boundary.reload(clients=[ELSEWHERE, HERE])
        upstream.send(SWITCHED + b"first frame")
        assert status(await peer.read_until()) == 101
        assert await peer.read(11) == b"first frame"


@pytest.mark.asyncio
async def test_a_websocket_without_clients_wants_one_where_clients_came_meanwhile(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust) as boundary:
        peer, upstream = await upgrading(boundary)
        await boundary.reload(clients=[BATCH])
        upstream.send(SWITCHED)
        assert status(await peer.read_until()) == 407


@pytest.mark.asyncio
async def test_a_websocket_of_a_reverse_listener_that_leads_elsewhere_now_does_not_open(
    tmp_path: Path, trust: Trust
) -> None:
    listener = {"address": "127.0.0.1:0", "mode": "reverse", "upstream": f"https://{HOST}"}
    async with running(tmp_path, trust, listeners=[listener]) as boundary:
        peer = await boundary.connect()
        lines = ["GET /socket HTTP/1.1", "Host: localhost", *UPGRADE, "", ""]
        peer.send("\r\n".join(lines).encode())
        upstream = await boundary.upstream.next()
        await upstream.read_until()
        both = elsewhere(boundary) + elsewhere(boundary, hosts=[HOST])
        await boundary.reload(routes=both, listeners=[listener | {"upstream": f"https://{OTHER_HOST}"}])
        upstream.send(SWITCHED)
        assert status(await peer.read_until()) == 403


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("clients", "expected"),
    [([ELSEWHERE], 403), ([BATCH | {"password_hash": light_hash("battery staple")}], 407), ([BATCH], 200), ([], 200)],
    ids=["removed", "another password", "the same", "nobody is asked"],
)
async def test_a_password_that_was_being_checked_counts_by_the_configuration_there_is_then(
    tmp_path: Path, trust: Trust, clients: list[dict[str, Any]], expected: int
) -> None:
    may_go_on = threading.Event()
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        with ThreadPoolExecutor(1) as thread:
            boundary.server._passwords._threads = thread
            thread.submit(may_go_on.wait)
            try:
                peer = await boundary.connect()
                peer.send(get("/", PASSWORD))
                await eventually(lambda: boundary.server._passwords.checks == 1)
                await boundary.reload(clients=clients)
            finally:
                may_go_on.set()
            assert status(await boundary.answer(peer)) == expected


async def inside(boundary: Boundary, trust: Trust, context: ssl.SSLContext | None = None) -> Peer:
    """A connection inside a tunnel to the routed host, opened by the client that has the password."""
    outer = await boundary.connect(context=context)
    outer.send(f"{CONNECT}{PASSWORD}\r\n\r\n".encode())
    assert status(await outer.read_until()) == 200
    inner = Peer()
    loop = asyncio.get_running_loop()
    secured = await loop.start_tls(outer.transport, inner, trust.client_context, server_hostname=HOST)
    assert secured is not None
    inner.connection_made(secured)
    return inner


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "clients",
    [
        pytest.param([BATCH | {"password_hash": light_hash("battery staple")}], id="another password"),
        pytest.param([BATCH | {"networks": ["192.0.2.0/24"]}], id="another network"),
        pytest.param([ELSEWHERE], id="removed"),
    ],
)
async def test_a_tunnel_does_not_outlive_what_its_client_proved(
    tmp_path: Path, trust: Trust, clients: list[dict[str, Any]]
) -> None:
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        inner = await inside(boundary, trust)
        inner.send(INSIDE)
        assert status(await boundary.answer(inner)) == 200
        await boundary.reload(clients=clients)
        inner.send(INSIDE)
        assert status(await boundary.answer(inner)) == 403
        await inner.until(lambda peer: peer.ended or peer.lost)


@pytest.mark.asyncio
async def test_a_tunnel_goes_on_where_its_client_proved_what_is_still_asked(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        inner = await inside(boundary, trust)
        await boundary.reload(clients=[BATCH | {"concurrent_exchanges": 3}, HERE])
        for clients in ([HERE, BATCH], [{"name": "batch", "networks": ["127.0.0.0/8"]}]):
            inner.send(INSIDE)
            assert status(await boundary.answer(inner)) == 200
            await boundary.reload(clients=clients)
        inner.send(INSIDE)
        assert status(await boundary.answer(inner)) == 200
        assert {record.client_name for record in boundary.records[-2:]} == {"batch"}


# Who came in by a client_ca


@contextlib.asynccontextmanager
async def by_certificate(
    directory: Path, trust: Trust, **changes: Any
) -> AsyncIterator[tuple[Boundary, ListenerCertificates, dict[str, Any]]]:
    """A listener that wants certificates of clients, and its settings."""
    certificates = ListenerCertificates.create(directory, "reports")
    listener = {"address": "127.0.0.1:0", "tls": certificates.settings}
    async with running(directory, trust, listeners=[listener], **changes) as boundary:
        yield boundary, certificates, listener


def another_ca(directory: Path, *, beside: bool = False) -> None:
    """Puts another CA into the file that the configuration names; `beside` the one that is there."""
    (directory / "second").mkdir()
    ListenerCertificates.create(directory / "second", "reports")
    file = directory / "clients.pem"
    earlier = file.read_bytes() if beside else b""
    file.write_bytes((directory / "second" / "clients.pem").read_bytes() + earlier)


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["another file", "another CA in the file", "no client_ca", "no TLS", "no listener"])
async def test_a_connection_with_a_certificate_of_a_ca_that_is_gone_is_closed(
    tmp_path: Path, trust: Trust, how: str
) -> None:
    """A connection that waits at once, one in an exchange behind it; inside a tunnel as well."""
    async with by_certificate(tmp_path, trust) as (boundary, certificates, listener):
        idle = await boundary.connect(context=certificates.known)
        idle.send(get())
        assert status(await boundary.answer(idle)) == 200
        tunnel = await inside(boundary, trust, certificates.known)
        busy = await boundary.connect(context=certificates.known)
        busy.send(get() + get())
        arrived: list[Peer] = []

        def has_arrived() -> bool:
            arrived[:] = [peer for peer in boundary.upstream.connections if b"\r\n\r\n" in peer.received]
            return bool(arrived)

        await eventually(has_arrived)
        (upstream,) = arrived
        another_ca(tmp_path)
        own = certificates.settings
        after: dict[str, list[dict[str, Any]]] = {
            "another file": [listener | {"tls": own | {"client_ca": "second/clients.pem"}}],
            "another CA in the file": [listener],
            "no client_ca": [listener | {"tls": {"certificate": own["certificate"]}}],
            "no TLS": [{"address": "127.0.0.1:0"}],
            "no listener": [{"address": "127.0.0.1:0", "mode": "reverse", "upstream": f"https://{HOST}"}],
        }
        if how == "no listener":
            after[how][0]["address"] = f"unix:{tmp_path}/other"
        await boundary.reload(listeners=after[how])
        await idle.until(lambda peer: peer.lost)
        await tunnel.until(lambda peer: peer.lost)
        await upstream.read_until()
        upstream.send(ANSWER)
        head = await busy.read_until()
        assert (status(head), b"Connection: close" in head) == (200, True)
        assert await busy.read_to_end() == b"ok", "the second request is not answered"
        await eventually(lambda: not boundary.server.relay.accepted_connections.count)


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["nothing", "a second CA", "limits"])
async def test_a_connection_whose_ca_is_still_there_goes_on(tmp_path: Path, trust: Trust, how: str) -> None:
    async with by_certificate(tmp_path, trust) as (boundary, certificates, _):
        peer = await boundary.connect(context=certificates.known)
        peer.send(get())
        assert status(await boundary.answer(peer)) == 200
        if how == "a second CA":
            another_ca(tmp_path, beside=True)
        await boundary.reload(**({"limits": {"head_bytes": 30_000}} if how == "limits" else {}))
        peer.send(get())
        assert status(await boundary.answer(peer)) == 200


@pytest.mark.asyncio
async def test_a_handshake_by_a_ca_that_is_gone_leads_nowhere(tmp_path: Path, trust: Trust) -> None:
    async with by_certificate(tmp_path, trust) as (boundary, certificates, _):
        peer = await boundary.connect()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = certificates.known.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        peer.send(outgoing.read())
        await eventually(lambda: bool(peer.received))
        another_ca(tmp_path)
        await boundary.reload()
        await peer.until(lambda one: one.lost)
        await eventually(lambda: not boundary.server.relay.accepted_connections.count)


@pytest.mark.asyncio
async def test_a_connection_without_a_certificate_is_closed_where_one_is_asked_for_now(
    tmp_path: Path, trust: Trust
) -> None:
    certificates = ListenerCertificates.create(tmp_path, "reports")
    async with running(tmp_path, trust) as boundary:
        peer = await boundary.connect()
        peer.send(get())
        assert status(await boundary.answer(peer)) == 200
        await boundary.reload(listeners=[{"address": "127.0.0.1:0", "tls": certificates.settings}])
        await peer.until(lambda one: one.lost)


@needs_peer_credentials
@pytest.mark.asyncio
@pytest.mark.parametrize(("users", "goes_on"), [(["54321"], False), (["54321", str(os.getuid())], True), ([], True)])
async def test_a_user_that_a_socket_no_longer_takes_is_let_go(
    tmp_path: Path, trust: Trust, users: list[str], *, goes_on: bool
) -> None:
    listener = {"address": f"unix:{tmp_path}/s", "users": [str(os.getuid())]}
    async with running(tmp_path, trust, listeners=[listener]) as boundary:
        peer = await boundary.connect()
        peer.send(get())
        assert status(await boundary.answer(peer)) == 200
        await boundary.reload(listeners=[listener | {"users": users}])
        peer.send(get())
        assert status(await boundary.answer(peer)) == (200 if goes_on else 0)
