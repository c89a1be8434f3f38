"""What the proxy does not reach, whoever asks: itself, its admin site, and addresses that a name turns out to mean."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.ports import free_port
from tests.security.boundary import HOST, OTHER_HOST, get, running, status
from tests.security.names import NamedLoop
from tests.wire.rig import AUTHORIZATION

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from tests.security.boundary import Boundary
    from tests.wire.rig import Trust


def connect(authority: str) -> bytes:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode()


def with_names(names: dict[str, list[str]], work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a test on an event loop with a DNS of its own."""
    NamedLoop.names = names
    with asyncio.Runner(loop_factory=NamedLoop) as runner:
        runner.run(work())


@contextlib.contextmanager
def listening(address: str = "127.0.0.1") -> Iterator[int]:
    """A port that accepts connections, and whoever gets there has got too far."""
    with socket.create_server((address, 0)) as server:
        yield server.getsockname()[1]


def allowing(*ports: int, networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128", "::ffff:0:0/96")) -> dict[str, Any]:
    """As permissive as a configuration can be about hosts that no route names."""
    return {"other_hosts": "tunnel", "destinations": {"allow": list(networks), "ports": list(ports)}}


@pytest.mark.parametrize("named", ["127.0.0.1", "localhost.example.test", "mapped.example.test"])
@pytest.mark.parametrize("how", [connect, lambda authority: get(host=authority)], ids=["CONNECT", "http"])
def test_the_proxy_does_not_call_itself(tmp_path: Path, trust: Trust, named: str, how: Callable[[str], bytes]) -> None:
    port = free_port()

    async def work() -> None:
        async with running(tmp_path, trust, listeners=[{"address": f"127.0.0.1:{port}"}], **allowing(port)) as boundary:
            assert status(await boundary.ask(how(f"{named}:{port}"))) == 508

    with_names({"localhost.example.test": ["127.0.0.1"], "mapped.example.test": ["::ffff:127.0.0.1"]}, work)


@pytest.mark.parametrize("named", ["127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"])  # noqa: S104  # dialled
@pytest.mark.parametrize("how", [connect, lambda authority: get("/metrics", host=authority)], ids=["CONNECT", "http"])
def test_the_admin_site_is_not_reached_through_the_proxy(
    tmp_path: Path, trust: Trust, how: Callable[[str], bytes], named: str
) -> None:
    async def work(port: int) -> None:
        admin = {"address": f"127.0.0.1:{port}"}
        networks = ("0.0.0.0/0", "::/0")
        async with running(tmp_path, trust, admin=admin, **allowing(port, networks=networks)) as boundary:
            assert status(await boundary.ask(how(f"{named}:{port}"))) == 508

    with listening() as port:
        with_names({}, lambda: work(port))


@pytest.mark.parametrize(
    "addresses",
    [
        pytest.param(["127.0.0.1"], id="loopback"),
        pytest.param(["10.0.0.1"], id="private"),
        pytest.param(["169.254.169.254"], id="metadata"),
        pytest.param(["168.63.129.16"], id="Azure's wire server"),
        pytest.param(["::1"], id="IPv6 loopback"),
        pytest.param(["::ffff:127.0.0.1"], id="IPv4-mapped"),
        pytest.param(["64:ff9b::7f00:1"], id="NAT64"),
        pytest.param(["93.184.216.34", "127.0.0.1"], id="one of several"),
        pytest.param(["0.0.0.0"], id="this host"),  # noqa: S104  # resolved, not bound
    ],
)
@pytest.mark.parametrize("how", [connect, lambda authority: get(host=authority)], ids=["CONNECT", "http"])
def test_a_public_name_that_means_an_inner_address_is_refused(
    tmp_path: Path, trust: Trust, addresses: list[str], how: Callable[[str], bytes]
) -> None:
    async def work(port: int) -> None:
        async with running(tmp_path, trust, **allowing(port, networks=())) as boundary:
            assert status(await boundary.ask(how(f"rebound.example.test:{port}"))) == 403

    with listening() as port:
        with_names({"rebound.example.test": addresses}, lambda: work(port))


def test_what_is_dialled_is_the_address_that_was_judged(tmp_path: Path, trust: Trust) -> None:
    """A name that means another address the second time it is asked for is asked for once only."""
    asked: list[str] = []

    class Rebinding(NamedLoop):
        async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
            asked.append(host)
            self.names = {host: ["127.0.0.1" if asked.count(host) == 1 else "127.0.0.2"]}  # type: ignore[misc]
            return await super().getaddrinfo(host, port)

    async def work(port: int) -> None:
        async with running(tmp_path, trust, **allowing(port, networks=("127.0.0.1/32",))) as boundary:
            assert status(await boundary.ask(connect(f"rebound.example.test:{port}"))) == 200
            assert asked.count("rebound.example.test") == 1
            assert status(await boundary.ask(connect(f"rebound.example.test:{port}"))) == 403

    with listening() as port, asyncio.Runner(loop_factory=Rebinding) as runner:
        runner.run(work(port))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "location", [f"http://{OTHER_HOST}/", f"https://{OTHER_HOST}/", "http://127.0.0.1/", "//evil.test/"]
)
async def test_a_redirect_is_passed_back_and_never_followed(tmp_path: Path, trust: Trust, location: str) -> None:
    async with running(tmp_path, trust, other_hosts="tunnel") as boundary:
        boundary.reply = f"HTTP/1.1 307 Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
        head = await boundary.ask(get())
        assert status(head) == 307
        assert f"Location: {location}".encode() in head
        assert boundary.upstream.opened == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(get(host=OTHER_HOST), id="http"),
        pytest.param(get(host=f"{HOST}:8080"), id="another port of a routed host"),
        pytest.param(connect(f"{OTHER_HOST}:443"), id="CONNECT"),
        pytest.param(connect("127.0.0.1:22"), id="an address"),
        pytest.param(get(host="localhost"), id="localhost"),
    ],
)
async def test_hosts_that_no_route_names_are_refused_unless_configured(
    tmp_path: Path, trust: Trust, request_: bytes
) -> None:
    async with running(tmp_path, trust) as boundary:
        assert status(await boundary.ask(request_)) == 403


def test_a_host_that_is_passed_on_without_a_route_never_gets_a_token(tmp_path: Path, trust: Trust) -> None:
    async def work() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with running(tmp_path, trust, **allowing(port)) as boundary:
            await boundary.ask(get())  # a token is at hand
            assert (
                status(await boundary.ask(get("/x", "Authorization: Basic mine", host=f"{OTHER_HOST}:{port}"))) == 200
            )
        server.close()

    heard = b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    with_names({OTHER_HOST: ["127.0.0.1"]}, work)
    assert heard.startswith(b"GET /x HTTP/1.1\r\n")
    assert b"Authorization: Basic mine\r\n" in heard
    assert AUTHORIZATION not in heard


@pytest.mark.asyncio
@pytest.mark.parametrize("listener", [0, 1], ids=["forward", "reverse"])
async def test_trace_does_not_show_the_token(tmp_path: Path, trust: Trust, listener: int) -> None:
    listeners = [
        {"address": "127.0.0.1:0"},
        {"address": "127.0.0.1:0", "mode": "reverse", "upstream": f"https://{HOST}"},
    ]
    async with running(tmp_path, trust, listeners=listeners) as boundary:
        target = f"http://{HOST}/" if listener == 0 else "/"
        head = await boundary.ask(f"TRACE {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode(), listener)
        assert status(head) == 403
        assert boundary.upstream.opened == 0


@pytest.mark.asyncio
async def test_a_certificate_for_another_name_gets_no_token(tmp_path: Path, trust: Trust) -> None:
    routes = [{"hosts": [OTHER_HOST], "credential": "c", "scope": "s"}]

    async def ask(boundary: Boundary) -> bytes:
        boundary.server.relay.destinations.close_idle()
        return await boundary.ask(get(host=OTHER_HOST))

    async with running(tmp_path, trust) as first:
        routes[0]["dial"] = f"127.0.0.1:{first.upstream.port}"
        (tmp_path / "second").mkdir()
        async with running(tmp_path / "second", trust, routes=routes) as boundary:
            assert status(await ask(boundary)) == 502
            assert not any(AUTHORIZATION in bytes(peer.received) for peer in first.upstream.connections)
            assert boundary.records[-1].outcome == "tls_certificate_error"
