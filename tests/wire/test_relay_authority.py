"""Which of the names that a request carries decides where it goes: its target, its tunnel or its listener, and never Host."""

from __future__ import annotations

import asyncio
import json
import ssl

import pytest

from proxy.policy.authority import Authority
from proxy.relay.head import parse_request_head
from tests.wire.messages import split_head
from tests.wire.rig import AUTHORIZATION, HOST, Peer, Rig, Wire

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
# What clients write there: the proxy's own address, another API, the right host at another port.
OTHER_HOSTS = ("127.0.0.1:8080", "other.example", f"{HOST}:8443", "proxy:3128")


async def check_relayed(rig: Rig, client: Peer, target: bytes) -> None:
    """The upstream has the request with the token, and its own name as Host."""
    upstream = await rig.upstream.next()
    head, _ = split_head(await upstream.read_until())
    assert head.start == b"GET " + target + b" HTTP/1.1"
    assert head.values(b"host") == [HOST.encode()]
    assert head.values(b"authorization") == [AUTHORIZATION.partition(b": ")[2]]
    upstream.send(ANSWER)
    assert await client.read(len(ANSWER)) == ANSWER
    rig.upstream.release(upstream)


async def check_misdirected(rig: Rig, client: Peer) -> None:
    head, _ = split_head(await client.read_to_end())
    assert head.status == 421
    assert not rig.upstream.heard()


async def connect(rig: Rig, target: str, host: str) -> Peer:
    """A connection on which CONNECT has been answered."""
    client = await rig.client("forward")
    client.send(f"CONNECT {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert await client.read(len(ESTABLISHED)) == ESTABLISHED
    return client


async def start_tls(client: Peer, context: ssl.SSLContext, name: str) -> Peer:
    inner = Peer()
    transport = await asyncio.get_running_loop().start_tls(client.transport, inner, context, server_hostname=name)
    assert transport is not None
    inner.connection_made(transport)
    return inner


@pytest.mark.parametrize("host", OTHER_HOSTS)
@pytest.mark.parametrize("minor", [0, 1])
def test_host_beside_an_absolute_form_target_is_ignored_and_written_anew(uv_wire: Wire, host: str, minor: int) -> None:
    """C1: RFC 9112 §3.2.2."""

    async def work(rig: Rig) -> None:
        client = await rig.client("forward")
        client.send(f"GET http://{HOST}/x HTTP/1.{minor}\r\nA: 1\r\nHost: {host}\r\nB: 2\r\n\r\n".encode())
        upstream = await rig.upstream.next()
        assert (await upstream.read_until()).startswith(
            f"GET /x HTTP/1.1\r\nA: 1\r\nHost: {HOST}\r\nB: 2\r\n".encode() + AUTHORIZATION
        )

    uv_wire.run(work)


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_host_of_connect_is_ignored(uv_wire: Wire, host: str) -> None:
    """C1: undici 5.22 to 6.2, tunnel-agent and Node's own http.request send the proxy's name there."""

    async def work(rig: Rig) -> None:
        client = await start_tls(await connect(rig, f"{HOST}:443", host), rig.trust.client_context, HOST)
        client.send(f"GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await check_relayed(rig, client, b"/x")
        client.transport.abort()

    uv_wire.run(work)


@pytest.mark.parametrize("host", OTHER_HOSTS)
@pytest.mark.parametrize("target", ["/x", f"https://{HOST}/x"])
def test_host_inside_a_tunnel_has_to_agree_with_connect(uv_wire: Wire, host: str, target: str) -> None:
    """C1: also where CONNECT's own Host said the same; what decides is its target."""

    async def work(rig: Rig) -> None:
        client = await start_tls(await connect(rig, f"{HOST}:443", host), rig.trust.client_context, HOST)
        client.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        await check_misdirected(rig, client)

    uv_wire.run(work)


def test_a_server_name_inside_a_tunnel_has_to_agree_with_connect(uv_wire: Wire) -> None:
    """B3: Host agrees with CONNECT, so that the server name is the only one that does not."""

    async def work(rig: Rig) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client = await start_tls(await connect(rig, f"{HOST}:443", f"{HOST}:443"), context, "other.example")
        client.send(f"GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await check_misdirected(rig, client)

    uv_wire.run(work)


@pytest.mark.parametrize(
    ("port", "first", "detail", "code"),
    [
        pytest.param(443, b"\x00\x01", b"came neither TLS nor HTTP", "NEITHER_TLS_NOR_HTTP", id="neither"),
        pytest.param(
            80, b"\x16\x03\x01", b"came TLS, and port 80 is for plain HTTP", "TLS_ON_PORT_80", id="TLS on port 80"
        ),
    ],
)
def test_what_cannot_be_inside_a_tunnel_is_told_so(
    uv_wire: Wire, port: int, first: bytes, detail: bytes, code: str
) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, f"{HOST}:{port}", f"{HOST}:{port}")
        client.send(first)
        answer = await client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert detail in answer
        assert [record.code for record in rig.records] == [code]
        assert rig.upstream.connections == []

    uv_wire.run(work)


@pytest.mark.parametrize(
    "target", [f"http://{HOST}/x", f"https://{HOST}/x", f"http://{HOST}:443/x", "http://localhost/x"]
)
def test_a_reverse_listener_takes_absolute_form(uv_wire: Wire, target: str) -> None:
    """G11: RFC 9112 §3.2.2. A plain listener's clients call the upstream by `http`, for they know no other scheme."""

    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.send(f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await check_relayed(rig, client, b"/x")

    uv_wire.run(work)


@pytest.mark.parametrize(
    "target", ["http://other.example/x", "https://other.example:443/x", "http://localhost.example/x"]
)
def test_a_reverse_listener_refuses_absolute_form_for_another(uv_wire: Wire, target: str) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.send(f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await check_misdirected(rig, client)

    uv_wire.run(work)


@pytest.mark.parametrize(
    "host",
    [
        "proxy:8081", "proxy", "10.1.2.3:8081", "[fd00::7]:8081", "auth.apis.svc:8081", "auth.apis.svc.cluster.local",
        "host.docker.internal", "printer.local", "x.localhost:8081", "PROXY.Internal.",
    ],
)  # fmt: skip
def test_a_reverse_listener_is_reached_by_names_that_nobody_on_the_internet_can_own(uv_wire: Wire, host: str) -> None:
    """C2: as compose and Kubernetes name it."""

    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.send(f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        await check_relayed(rig, client, b"/x")

    uv_wire.run(work)


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("proxy.contoso.com:8081", "proxy.contoso.com"),
        ("Evil.Example", "evil.example"),
        ("internal.evil.example", "internal.evil.example"),
        ("evil.testing", "evil.testing"),
        ("notlocal.dev:80", "notlocal.dev"),
    ],
)
def test_a_reverse_listener_refuses_other_names_and_says_what_to_configure(
    uv_wire: Wire, host: str, named: str
) -> None:
    """C2: a web page's name that was rebound is one of them."""

    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.send(f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head, content = split_head(await client.read_to_end())
        assert head.status == 421
        assert f"`server_names: [{named}]`" in json.loads(content)["detail"]
        assert not rig.upstream.heard()

    uv_wire.run(work)


@pytest.mark.parametrize("port", [b"", b":443", b":8081"])
def test_a_host_that_a_route_names_is_never_the_listeners_own(uv_wire: Wire, port: bytes) -> None:
    """C2: a client that means another API does not get this one's, however local its name, and by whatever port it came here."""

    async def work(rig: Rig) -> None:
        listener = Authority("other.internal", 443)
        usual = rig.reverse.authority
        rig.reverse.authority = listener  # so that HOST, which is below .test, is another route's
        try:
            client = await rig.client("reverse")
            client.send(b"GET /x HTTP/1.1\r\nHost: %b%b\r\n\r\n" % (HOST.upper().encode(), port))
            await check_misdirected(rig, client)
        finally:
            rig.reverse.authority = usual

    uv_wire.run(work)


@pytest.mark.parametrize(
    ("target", "is_its"), [("http://api.example.com/x", True), ("https://api.example.com/x", False)]
)
def test_only_http_without_a_port_means_whatever_port_the_listener_leads_to(
    uv_wire: Wire, target: str, is_its: bool
) -> None:  # a parameter
    """B3: https without a port is 443, and here that is another authority."""

    async def work(rig: Rig) -> None:
        usual, rig.reverse.authority = rig.reverse.authority, Authority("api.example.com", 8443)
        try:
            client = await rig.client("reverse")
            client.send(f"GET {target} HTTP/1.1\r\nHost: api.example.com:8443\r\n\r\n".encode())
            await (check_relayed(rig, client, b"/x") if is_its else check_misdirected(rig, client))
        finally:
            rig.reverse.authority = usual
            rig.reverse.known_hosts.clear()

    uv_wire.run(work)


def test_only_so_many_spellings_of_a_host_are_remembered(uv_wire: Wire) -> None:
    """B3: invariant 8."""

    async def work(rig: Rig) -> None:
        for number in range(200):
            raw = f"GET / HTTP/1.1\r\nHost: proxy{number}\r\n\r\n".encode()
            rig.reverse.locate(rig.relay, parse_request_head(raw, target_bytes=100, field_count=10))
        assert len(rig.reverse.known_hosts) == 64
        rig.reverse.known_hosts.clear()

    uv_wire.run(work)
