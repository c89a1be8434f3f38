"""Who may use the proxy: by address, password, certificate and Unix user, on every way in, and never more than allowed."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from proxy.errors import ConfigurationError
from tests.security.boundary import (
    HOST,
    OTHER_HOST,
    ListenerCertificates,
    eventually,
    get,
    light_hash,
    running,
    status,
)
from tests.wire.rig import AUTHORIZATION, Peer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.security.boundary import Boundary
    from tests.wire.rig import Trust

LOOPBACK: dict[str, Any] = {"name": "here", "networks": ["127.0.0.0/8"]}
ELSEWHERE: dict[str, Any] = {"name": "elsewhere", "networks": ["192.0.2.0/24"]}
BATCH: dict[str, Any] = {"name": "batch", "password_hash": light_hash("correct horse")}
CONNECT = f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n"
needs_peer_credentials = pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="Linux only")


PASSWORD = "correct horse"


def credentials(name: str = "batch", password: str = PASSWORD) -> str:
    return "Proxy-Authorization: Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def fields(head: bytes) -> dict[str, str]:
    lines = [line.decode().partition(": ") for line in head.split(b"\r\n")[1:]]
    return {name.lower(): value for name, _, value in lines}


async def intercept(
    boundary: Boundary, trust: Trust, *connect_fields: str, listener: int = 0, context: ssl.SSLContext | None = None
) -> Peer:
    """A connection inside a tunnel to the routed host."""
    outer = await boundary.connect(listener, context)
    outer.send((CONNECT + "".join(f"{one}\r\n" for one in connect_fields) + "\r\n").encode())
    head = await outer.read_until()
    assert status(head) == 200, head
    inner = Peer()
    secured = await asyncio.get_running_loop().start_tls(
        outer.transport, inner, trust.client_context, server_hostname=HOST
    )
    assert secured is not None
    inner.connection_made(secured)
    return inner


@pytest.mark.asyncio
async def test_whom_no_entry_fits_gets_nothing_on_any_way_in(tmp_path: Path, trust: Trust) -> None:
    listeners = [
        {"address": "127.0.0.1:0"},
        {"address": "127.0.0.1:0", "mode": "reverse", "upstream": f"https://{HOST}"},
    ]
    async with running(tmp_path, trust, listeners=listeners, clients=[ELSEWHERE]) as boundary:
        assert status(await boundary.ask(get())) == 403
        assert status(await boundary.ask((CONNECT + "\r\n").encode())) == 403
        assert status(await boundary.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", listener=1)) == 403
        assert boundary.upstream.opened == 0
        assert {record.code for record in boundary.records} == {"unknown_client"}


@pytest.mark.asyncio
async def test_an_address_lets_in_on_every_way_and_is_named_in_the_record(tmp_path: Path, trust: Trust) -> None:
    listeners = [
        {"address": "127.0.0.1:0"},
        {"address": "127.0.0.1:0", "mode": "reverse", "upstream": f"https://{HOST}"},
    ]
    async with running(tmp_path, trust, listeners=listeners, clients=[ELSEWHERE, LOOPBACK]) as boundary:
        assert status(await boundary.ask(get())) == 200
        assert status(await boundary.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", listener=1)) == 200
        inner = await intercept(boundary, trust)
        inner.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert status(await boundary.answer(inner)) == 200
        assert [(record.mode, record.client_name, record.credential) for record in boundary.records] == [
            ("forward", "here", "c"),
            ("reverse", "here", "c"),
            ("connect", "here", "c"),
        ]


@pytest.mark.asyncio
async def test_without_a_password_the_proxy_asks_for_one(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        for request in (get(), (CONNECT + "\r\n").encode()):
            head = await boundary.ask(request)
            assert status(head) == 407
            assert fields(head)["proxy-authenticate"].startswith("Basic realm=")
        assert boundary.upstream.opened == 0


@pytest.mark.asyncio
async def test_the_right_password_lets_in_and_goes_no_further(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        peer = await boundary.connect()
        peer.send(get("/first", credentials()))
        upstream = await boundary.upstream.next()
        sent = await upstream.read_until()
        assert AUTHORIZATION in sent
        assert b"roxy-" not in sent
        assert b"orse" not in base64.b64encode(sent)
        upstream.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert status(await peer.read_until()) == 204
        assert boundary.records[0].client_name == "batch"


@pytest.mark.asyncio
async def test_a_password_is_wanted_with_every_request_of_a_connection(tmp_path: Path, trust: Trust) -> None:
    """The connection may come from a pool in front of the proxy, which other clients use too."""
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        peer = await boundary.connect()
        peer.send(get("/", credentials()))
        assert status(await boundary.answer(peer)) == 200
        peer.send(get("/"))
        assert status(await boundary.answer(peer)) == 407


@pytest.mark.asyncio
async def test_the_password_of_connect_counts_for_all_that_is_inside_the_tunnel(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        inner = await intercept(boundary, trust, credentials())
        for _ in range(2):
            inner.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            assert status(await boundary.answer(inner)) == 200
        assert [record.client_name for record in boundary.records] == ["batch", "batch"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "said",
    [
        credentials(password="wrong"),
        credentials(password=""),
        credentials(name="nobody"),
        credentials(name="here"),
        "Proxy-Authorization: Bearer abc",
        "Proxy-Authorization: Basic !!!",
        "Authorization: Basic " + base64.b64encode(b"batch:correct horse").decode(),
    ],
)
async def test_a_wrong_password_or_name_is_refused(tmp_path: Path, trust: Trust, said: str) -> None:
    async with running(tmp_path, trust, clients=[{**LOOPBACK, "networks": ["192.0.2.0/24"]}, BATCH]) as boundary:
        assert status(await boundary.ask(get("/", said))) == 407
        assert status(await boundary.ask(f"{CONNECT}{said}\r\n\r\n".encode())) == 407
        assert boundary.upstream.opened == 0


@pytest.mark.asyncio
async def test_a_request_with_content_waits_whole_for_its_password_to_be_checked(tmp_path: Path, trust: Trust) -> None:
    content = b"x" * 300_000
    head = f"POST http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n{credentials()}\r\nContent-Length: {len(content)}\r\n\r\n"
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        assert status(await boundary.ask(head.encode() + content)) == 200
        assert boundary.records[0].received_bytes == len(content)


@pytest.mark.asyncio
async def test_pipelined_requests_are_each_checked_in_order(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        peer = await boundary.connect()
        peer.send(get("/1", credentials()) + get("/2", credentials()) + get("/3", credentials(password="wrong")))
        assert [status(await boundary.answer(peer)) for _ in range(3)] == [200, 200, 407]


@pytest.mark.asyncio
async def test_the_same_password_is_hashed_once(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        heads = await asyncio.gather(*(boundary.ask(get("/", credentials())) for _ in range(20)))
        assert {status(head) for head in heads} == {200}
        assert boundary.server._passwords.checks == 1


@dataclass
class Gate:
    """Stands in for the slow lane's pause: it lasts until the test says so."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    pauses: int = 0

    async def pause(self) -> None:
        self.pauses += 1
        await self.open.wait()

    @classmethod
    def of(cls, boundary: Boundary) -> Gate:
        gate = cls()
        boundary.server._passwords._slow._pause = gate.pause
        return gate


@pytest.mark.asyncio
async def test_guessing_is_stopped_after_a_few_passwords_and_then_costs_a_small_share(
    tmp_path: Path, trust: Trust
) -> None:
    """G9: beyond ten, one password at a time is checked, with a pause behind each, and only so many wait for that."""
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        gate, passwords = Gate.of(boundary), boundary.server._passwords
        await boundary.ask(get("/", credentials()))
        heads = [await boundary.ask(get("/", credentials(password=f"guess {n}"))) for n in range(11)]
        assert [status(head) for head in heads] == [407] * 10 + [429]
        assert int(fields(heads[-1])["retry-after"]) >= 1
        asked = [
            asyncio.create_task(boundary.ask(get("/", credentials(password=f"another guess {n}")))) for n in range(30)
        ]
        await eventually(lambda: sum(one.done() for one in asked) == 22)
        assert {status(one.result()) for one in asked if one.done()} == {429}
        assert (passwords.checks, gate.pauses) == (12, 1), "while the pause lasts, nothing is hashed"
        assert status(await boundary.ask(get("/", credentials()))) == 200, "who is known already is not shut out"
        gate.open.set()
        assert {status(head) for head in await asyncio.gather(*asked)} == {429}
        assert passwords.checks == 12 + 8


@pytest.mark.asyncio
async def test_a_wrong_password_that_is_sent_again_is_not_hashed_again(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        heads = [await boundary.ask(get("/", credentials(password="wrong"))) for _ in range(12)]
        assert [status(head) for head in heads] == [407] * 10 + [429] * 2
        assert boundary.server._passwords.checks == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("guessed", ["batch", "nobody"])
async def test_a_right_password_is_taken_after_others_wrong_ones_from_the_same_machine(
    tmp_path: Path, trust: Trust, guessed: str
) -> None:
    """G9: behind a loopback address it was 429, for addresses there say nothing about who is at them."""
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        Gate.of(boundary).open.set()
        for number in range(20):
            head = await boundary.ask(get("/", credentials(guessed, f"guess {number}")))
            assert status(head) == (407 if number < 10 else 429)
        assert status(await boundary.ask(get("/", credentials()))) == 200


@pytest.mark.asyncio
async def test_a_flood_of_wrong_passwords_gives_a_right_one_no_503(tmp_path: Path, trust: Trust) -> None:
    """G9: for a name that is guessed, for names that nobody has, all at once."""
    other = {"name": "other", "password_hash": light_hash("another horse")}
    async with running(tmp_path, trust, clients=[BATCH, other]) as boundary:
        gate = Gate.of(boundary)
        flood = [
            asyncio.create_task(boundary.ask(get("/", credentials(name, f"guess {number}"))))
            for number in range(60)
            for name in ("batch", f"nobody {number}")
        ]
        await eventually(lambda: sum(one.done() for one in flood) >= len(flood) - 8)
        right = [
            asyncio.create_task(boundary.ask(get("/", credentials(name, password))))
            for name, password in (("other", "another horse"), ("batch", "correct horse"))
        ]
        await eventually(lambda: right[0].done() or boundary.server._passwords._slow._size >= 8)
        gate.open.set()
        assert [status(head) for head in await asyncio.gather(*right)] == [200, 200]
        assert {status(head) for head in await asyncio.gather(*flood)} <= {407, 429, 503}


@pytest.mark.asyncio
async def test_a_client_that_leaves_during_the_check_leaves_nothing_behind(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        for _ in range(5):
            peer = await boundary.connect()
            peer.send(get("/", credentials()))
            await asyncio.sleep(0)
            peer.cut()
        await eventually(
            lambda: not boundary.server.relay.accepted_connections.count and not boundary.server.relay.clients
        )
        assert status(await boundary.ask(get("/", credentials()))) == 200


@pytest.mark.asyncio
async def test_an_entry_with_network_and_password_wants_both(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[{**BATCH, "networks": ["192.0.2.0/24"]}]) as boundary:
        assert status(await boundary.ask(get("/", credentials()))) == 403


@pytest.mark.asyncio
async def test_a_client_certificate_lets_in_by_its_name(tmp_path: Path, trust: Trust) -> None:
    certificates = ListenerCertificates.create(tmp_path, "reports.contoso.com")
    listeners = [{"address": "127.0.0.1:0", "tls": certificates.settings}]
    clients = [{"name": "reports", "certificate_names": ["Reports.contoso.com"]}]
    async with running(tmp_path, trust, listeners=listeners, clients=clients) as boundary:
        assert status(await boundary.ask(get(), context=certificates.known)) == 200
        inner = await intercept(boundary, trust, context=certificates.known)
        inner.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert status(await boundary.answer(inner)) == 200
        assert {record.client_name for record in boundary.records} == {"reports"}


@pytest.mark.asyncio
async def test_another_name_in_the_certificate_is_another_client(tmp_path: Path, trust: Trust) -> None:
    certificates = ListenerCertificates.create(tmp_path, "sales.contoso.com")
    listeners = [{"address": "127.0.0.1:0", "tls": certificates.settings}]
    clients = [{"name": "reports", "certificate_names": ["reports.contoso.com"]}]
    async with running(tmp_path, trust, listeners=listeners, clients=clients) as boundary:
        assert status(await boundary.ask(get(), context=certificates.known)) == 403


@pytest.mark.asyncio
@pytest.mark.parametrize("who", ["stranger", "impostor"])
async def test_without_a_certificate_of_the_right_ca_no_request_is_read(tmp_path: Path, trust: Trust, who: str) -> None:
    certificates = ListenerCertificates.create(tmp_path, "reports.contoso.com")
    listeners = [{"address": "127.0.0.1:0", "tls": certificates.settings}]
    async with running(tmp_path, trust, listeners=listeners) as boundary:
        try:
            head = await boundary.ask(get(), context=getattr(certificates, who))
        except (ssl.SSLError, ConnectionError):
            head = b""
        assert head == b""
        assert boundary.upstream.opened == 0
        await eventually(lambda: bool(boundary.records) and not boundary.server.relay.accepted_connections.count)
        assert [record.outcome for record in boundary.records] == ["tls_alert_received"]


@pytest.mark.asyncio
async def test_plain_http_on_a_listener_with_tls_is_told_so(tmp_path: Path, trust: Trust) -> None:
    certificates = ListenerCertificates.create(tmp_path, "reports.contoso.com")
    async with running(
        tmp_path, trust, listeners=[{"address": "127.0.0.1:0", "tls": certificates.settings}]
    ) as boundary:
        assert status(await boundary.ask(get())) == 400


@pytest.mark.asyncio
async def test_a_handshake_that_does_not_get_on_is_given_up(tmp_path: Path, trust: Trust) -> None:
    certificates = ListenerCertificates.create(tmp_path, "reports.contoso.com")
    async with running(
        tmp_path, trust, listeners=[{"address": "127.0.0.1:0", "tls": certificates.settings}]
    ) as boundary:
        silent, slow = await boundary.connect(), await boundary.connect()
        slow.send(b"\x16\x03\x01")
        relay = boundary.server.relay
        await eventually(lambda: relay.accepted_connections.count == 2)
        relay.tick(relay.now + relay.timeouts.head_s + 1)
        await silent.until(lambda peer: peer.lost)
        await slow.until(lambda peer: peer.lost)
        await eventually(lambda: not relay.accepted_connections.count)


@pytest.mark.asyncio
async def test_a_client_keeps_to_its_routes_on_every_way_in(tmp_path: Path, trust: Trust) -> None:
    routes = [
        {"hosts": [HOST], "credential": "c", "scope": "s"},
        {"hosts": [OTHER_HOST, "third.example.test"], "credential": "c", "scope": "s"},
    ]
    listeners = [
        {"address": "127.0.0.1:0"},
        {"address": "127.0.0.1:0", "mode": "reverse", "upstream": f"https://{HOST}"},
    ]
    limited = {**LOOPBACK, "routes": ["third.example.test"]}
    async with running(
        tmp_path, trust, routes=routes, listeners=listeners, clients=[limited], other_hosts="tunnel"
    ) as boundary:
        assert status(await boundary.ask(get())) == 403
        assert status(await boundary.ask((CONNECT + "\r\n").encode())) == 403
        assert status(await boundary.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", listener=1)) == 403
        assert (
            status(
                await boundary.ask(
                    b"CONNECT unrouted.example.test:443 HTTP/1.1\r\nHost: unrouted.example.test:443\r\n\r\n"
                )
            )
            == 403
        )
        assert {record.code for record in boundary.records} == {"route_not_allowed"}
        assert (
            status(
                await boundary.ask(b"CONNECT other.example.test:443 HTTP/1.1\r\nHost: other.example.test:443\r\n\r\n")
            )
            == 200
        )


@pytest.mark.asyncio
async def test_a_client_over_its_rate_is_told_when_to_come_again(tmp_path: Path, trust: Trust) -> None:
    limited = {**LOOPBACK, "requests_per_s": 0.01, "burst": 3}
    async with running(tmp_path, trust, clients=[limited]) as boundary:
        heads = [await boundary.ask(get()) for _ in range(4)]
        assert [status(head) for head in heads] == [200, 200, 200, 429]
        assert 1 <= int(fields(heads[-1])["retry-after"]) <= 100
        assert boundary.records[-1].client_name == "here"


@pytest.mark.asyncio
async def test_a_client_has_only_so_many_exchanges_at_a_time(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[{**LOOPBACK, "concurrent_exchanges": 2}]) as boundary:
        waiting = [await boundary.connect() for _ in range(2)]
        for peer in waiting:
            peer.send(get())
        for _ in waiting:
            await boundary.upstream.next()
        refused = await boundary.connect()
        refused.send(get())
        head = await refused.read_until()
        assert status(head) == 429
        assert "retry-after" in fields(head)
        waiting[0].cut()
        assert status(await boundary.answer(waiting[1])) == 200
        assert status(await boundary.ask(get())) == 200, "both places are free again"


@pytest.mark.asyncio
@pytest.mark.parametrize("opens", [True, False])
async def test_a_tunnel_is_one_of_a_clients_exchanges_for_as_long_as_it_lasts(
    tmp_path: Path, trust: Trust, opens: bool
) -> None:  # a parameter
    """B3: and no longer, also where it never opened."""
    far = Peer()
    server = await asyncio.get_running_loop().create_server(lambda: far, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if not opens:
        server.close()
        await server.wait_closed()
    async with running(
        tmp_path,
        trust,
        clients=[{**LOOPBACK, "concurrent_exchanges": 1}],
        other_hosts="tunnel",
        destinations={"allow": ["127.0.0.0/8"], "ports": [port]},
    ) as boundary:
        tunnel = await boundary.connect()
        tunnel.send(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert status(await tunnel.read_until()) == (200 if opens else 502)
        if opens:
            assert status(await boundary.ask(get())) == 429
            tunnel.close()
            await eventually(lambda: not boundary.server.relay.splices)
        assert status(await boundary.ask(get())) == 200
    server.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", ["0600", "0660"])
async def test_a_unix_socket_has_its_mode_and_is_removed_at_the_end(tmp_path: Path, trust: Trust, mode: str) -> None:
    path = tmp_path / "proxy.sock"
    listeners = [{"address": f"unix:{path}", "socket_mode": mode}]
    async with running(tmp_path, trust, listeners=listeners) as boundary:
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
        assert status(await boundary.ask(get())) == 200
        assert boundary.records[0].client.startswith("unix")
    assert not path.exists()


@needs_peer_credentials
@pytest.mark.asyncio
async def test_only_the_users_of_a_unix_socket_get_an_answer(tmp_path: Path, trust: Trust) -> None:
    mine, others = (
        {"address": f"unix:{tmp_path}/mine", "users": [str(os.getuid())]},
        {"address": f"unix:{tmp_path}/others", "users": ["54321"]},
    )
    async with running(tmp_path, trust, listeners=[mine, others]) as boundary:
        assert status(await boundary.ask(get())) == 200
        assert status(await boundary.ask(get(), listener=1)) == 403
        assert [record.client for record in boundary.records] == [f"unix:{os.getuid()}"] * 2


@needs_peer_credentials
@pytest.mark.asyncio
async def test_a_client_is_known_by_its_unix_user(tmp_path: Path, trust: Trust) -> None:
    clients = [{"name": "nobody", "users": ["54321"]}, {"name": "me", "users": [str(os.getuid())]}]
    async with running(tmp_path, trust, listeners=[{"address": f"unix:{tmp_path}/s"}], clients=clients) as boundary:
        assert status(await boundary.ask(get())) == 200
        assert boundary.records[0].client_name == "me"


@pytest.mark.asyncio
async def test_a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not(tmp_path: Path, trust: Trust) -> None:
    path = tmp_path / "proxy.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    listeners = [{"address": f"unix:{path}"}]
    async with running(tmp_path, trust, listeners=listeners) as boundary:
        with pytest.raises(ConfigurationError, match="another program listens there"):
            async with running(tmp_path, trust, listeners=listeners):
                pass
        assert status(await boundary.ask(get())) == 200


@pytest.mark.asyncio
async def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path, trust: Trust) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigurationError, match="no socket stands there"):
        async with running(tmp_path, trust, listeners=[{"address": f"unix:{path}"}]):
            pass
    assert path.read_text() == "data"


@pytest.mark.asyncio
async def test_a_user_that_the_machine_does_not_have_is_an_error_at_the_start(tmp_path: Path, trust: Trust) -> None:
    listeners = [{"address": f"unix:{tmp_path}/s", "users": ["no-such-user-here"]}]
    with pytest.raises(ConfigurationError, match="no user no-such-user-here"):
        async with running(tmp_path, trust, listeners=listeners):
            pass


@pytest.mark.asyncio
async def test_a_record_says_whose_token_was_used_by_whom_and_how_it_was_obtained(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[LOOPBACK]) as boundary:
        await boundary.ask(get("/orders?key=secret"))
        (record,) = boundary.records
        assert (record.client_name, record.route, record.credential, record.outcome) == ("here", HOST, "c", "ok")
        assert record.token_age_s is not None
        assert b"secret" not in record.target


@pytest.mark.asyncio
async def test_a_client_that_is_removed_is_refused_on_connections_it_has(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        inner = await intercept(boundary, trust, credentials())
        outer = await boundary.connect()
        outer.send(get("/", credentials()))
        assert status(await boundary.answer(outer)) == 200
        inner.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert status(await boundary.answer(inner)) == 200
        await boundary.reload(clients=[{**BATCH, "name": "another"}])
        outer.send(get("/", credentials()))
        assert status(await boundary.answer(outer)) == 407
        inner.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert status(await boundary.answer(inner)) == 403


@pytest.mark.asyncio
async def test_a_client_whose_routes_are_cut_is_held_to_them_at_once(tmp_path: Path, trust: Trust) -> None:
    routes = [{"hosts": [host], "credential": "c", "scope": "s"} for host in (HOST, OTHER_HOST)]
    async with running(tmp_path, trust, routes=routes, clients=[BATCH]) as boundary:
        inner = await intercept(boundary, trust, credentials())
        await boundary.reload(clients=[{**BATCH, "routes": [OTHER_HOST]}])
        inner.send(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert status(await boundary.answer(inner)) == 403


@pytest.mark.asyncio
async def test_a_changed_password_is_wanted_at_once(tmp_path: Path, trust: Trust) -> None:
    async with running(tmp_path, trust, clients=[BATCH]) as boundary:
        assert status(await boundary.ask(get("/", credentials()))) == 200
        await boundary.reload(clients=[{**BATCH, "password_hash": light_hash("battery staple")}])
        assert status(await boundary.ask(get("/", credentials()))) == 407
        assert status(await boundary.ask(get("/", credentials(password="battery staple")))) == 200
