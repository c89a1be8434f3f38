"""The dialer at the wire: what it says to an upstream proxy, what it takes for an answer, and how connections through it end."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trustme
import uvloop

from proxy.config.settings import CredentialSettings
from proxy.dialing.dialer import Dialer
from proxy.errors import (
    DestinationRefused,
    IdentityPlatformUnavailable,
    LoopDetected,
    Overloaded,
    ProxyError,
    UpstreamProtocolError,
    UpstreamProxyRefused,
    UpstreamUnreachable,
    UpstreamUntrusted,
)
from proxy.identity.machine import Machine
from proxy.identity.proof.key_vault import parse_vault_key
from proxy.identity.proof.vault_access import VaultAccess
from proxy.identity.token_endpoint import TokenEndpoint
from proxy.policy.destinations import check_destination
from proxy.policy.upstream_proxy import UpstreamProxies, parse_exemption, parse_proxy_url
from tests.wire.connect_proxy import ConnectProxy

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from proxy.identity.credential import Target
    from proxy.identity.source import TokenSource

Serve: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
OPEN = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[None, None, None]], None]:
    """Runs a test on each event loop."""

    def run(work: Coroutine[None, None, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                await work

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(bounded())

    return run


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def _proxy(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    writers: list[asyncio.StreamWriter] = []

    async def bounded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)

    server = await asyncio.start_server(bounded, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await asyncio.sleep(0.02)  # a connection may have been made and not yet accepted
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.02)


def _answering(*parts: bytes, heads: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if heads is not None:
            heads.append(head)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.001 if len(parts) > 1 else 0)
        while block := await reader.read(1_000):
            writer.write(block.upper())

    return serve


def _dialer(port: int, *, userinfo: str = "", scheme: str = "http", context: ssl.SSLContext | None = None) -> Dialer:
    return Dialer(UpstreamProxies(parse_proxy_url(f"{scheme}://{userinfo}localhost:{port}")), context)


async def _exchange(connected: socket.socket, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connected, data)
    received = b""
    while len(received) < len(data):
        block = await loop.sock_recv(connected, 65_536)
        assert block, received
        received += block
    return received


def test_the_request_has_what_a_proxy_needs_and_no_more(run: Callable[..., None]) -> None:
    heads: list[bytes] = []

    async def work() -> None:
        async with _proxy(_answering(OPEN, heads=heads)) as port:
            for userinfo, host in (("user:pass@", "api.example"), ("", "2001:db8::1")):
                (await _dialer(port, userinfo=userinfo).connect(host, 8443)).close()

    run(work())
    first, second = (head.split(b"\r\n") for head in heads)
    assert first[:2] == [b"CONNECT api.example:8443 HTTP/1.1", b"Host: api.example:8443"]
    assert first[3:] == [b"Proxy-Authorization: Basic dXNlcjpwYXNz", b"", b""]
    assert second[:2] == [b"CONNECT [2001:db8::1]:8443 HTTP/1.1", b"Host: [2001:db8::1]:8443"]
    assert second[3:] == [b"", b""]


@pytest.mark.parametrize(
    "answer",
    [
        OPEN,
        b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n",
        b"HTTP/1.1 204\r\n\r\n",
        b"HTTP/1.1 299 \xff\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_any_2xx_opens_the_tunnel_however_it_is_cut(answer: bytes, run: Callable[..., None]) -> None:
    """Content-Length means nothing in a 2xx answer to CONNECT (RFC 9110 §9.3.6)."""

    async def work() -> None:
        for parts in ((answer,), tuple(answer[index : index + 1] for index in range(len(answer)))):
            async with _proxy(_answering(*parts)) as port:
                with await _dialer(port).connect("api.example", 443) as connected:
                    assert await _exchange(connected, b"hello") == b"HELLO"

    run(work())


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nForbidden", UpstreamProxyRefused, "upstream_proxy_403"),
        (b"HTTP/1.1 407 A\r\nProxy-Authenticate: Basic realm=x\r\n\r\n", UpstreamProxyRefused, "upstream_proxy_407"),
        (b"HTTP/1.1 502 Bad\r\n\r\n", UpstreamProxyRefused, "upstream_proxy_502"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", UpstreamProxyRefused, "upstream_proxy_100"),
        (b"SSH-2.0-OpenSSH_9\r\n", UpstreamProtocolError, "upstream_proxy_not_http"),
        (b"\x15\x03\x01\x00\x02\x02\x28", UpstreamProtocolError, "upstream_proxy_not_http"),
        (b"HTTP/2 200 OK\r\n\r\n", UpstreamProtocolError, "upstream_proxy_not_http"),
        (b"HTTP/1.1 20 OK\r\n\r\n", UpstreamProtocolError, "upstream_proxy_not_http"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", UpstreamProtocolError, "upstream_proxy_not_http"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000, UpstreamProtocolError, "upstream_proxy_not_http"),
        (OPEN + b"more", UpstreamProtocolError, ""),
    ],
)
def test_any_other_answer_is_an_error_that_says_whose(
    answer: bytes, kind: type[ProxyError], code: str, run: Callable[..., None]
) -> None:
    async def work() -> None:
        async with _proxy(_answering(answer)) as port:
            with pytest.raises(kind, match=f"The upstream proxy http://localhost:{port} ") as raised:
                await _dialer(port, userinfo="user:hunter2@").connect("api.example", 443)
            assert raised.value.code == code
            assert "hunter2" not in raised.value.detail

    run(work())


@pytest.mark.parametrize(
    ("field", "userinfo", "words"),
    [
        (b"Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n", "", "takes no Basic authentication"),
        (b"Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: Basic realm=x\r\n", "", "Put user and password"),
        (b"Proxy-Authenticate: basic realm=x\r\n", "u:p@", "does not accept the user and password"),
    ],
)
def test_407_says_what_is_missing(field: bytes, userinfo: str, words: str, run: Callable[..., None]) -> None:
    async def work() -> None:
        async with _proxy(_answering(b"HTTP/1.1 407 Who\r\n" + field + b"\r\n")) as port:
            with pytest.raises(UpstreamProxyRefused, match=words):
                await _dialer(port, userinfo=userinfo).connect("api.example", 443)

    run(work())


def test_a_server_that_speaks_first_is_heard_in_a_blind_tunnel(run: Callable[..., None]) -> None:
    async def work() -> None:
        async with _proxy(_answering(OPEN + b"SSH-2.0-x\r\n")) as port:
            with await _dialer(port).connect("git.example", 443, tells=True) as connected:
                assert await asyncio.get_running_loop().sock_recv(connected, 100) == b"SSH-2.0-x\r\n"

    run(work())


def test_a_connection_that_ends_without_an_answer_is_unreachable(run: Callable[..., None]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 20")
        writer.close()

    async def work() -> None:
        async with _proxy(serve) as port:
            with pytest.raises(UpstreamUnreachable, match="closed the connection without an answer to CONNECT"):
                await _dialer(port).connect("api.example", 443)

    run(work())


def test_a_wait_that_is_cancelled_leaves_no_connection(run: Callable[..., None]) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        assert await reader.read() == b""
        gone.set()

    async def work() -> None:
        async with _proxy(serve) as port:
            waiting = asyncio.create_task(_dialer(port).connect("api.example", 443))
            await asked.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await gone.wait()

    run(work())


def test_an_upstream_proxy_that_is_this_very_proxy_is_a_loop(run: Callable[..., None]) -> None:
    async def work() -> None:
        async with _proxy(_answering(OPEN)) as port:
            dialer = _dialer(port)
            dialer.own_addresses = frozenset({("127.0.0.1", port)})
            with pytest.raises(LoopDetected):
                await dialer.connect("api.example", 443)

    run(work())


def test_exempt_hosts_are_dialled_directly(run: Callable[..., None]) -> None:
    async def direct(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read(100)).upper())

    async def work() -> None:
        async with _proxy(direct) as port:
            nowhere = parse_proxy_url("http://127.0.0.1:1")
            dialer = Dialer(UpstreamProxies(nowhere, nowhere, (parse_exemption("api.example"),)))
            with await dialer.connect("127.0.0.1", port, name="api.example") as connected:
                assert await _exchange(connected, b"hello") == b"HELLO"
            with pytest.raises(UpstreamUnreachable, match=r"The upstream proxy cannot be used. 127\.0\.0\.1:1 refused"):
                await dialer.connect("127.0.0.1", port)

    run(work())


@pytest.mark.parametrize(
    ("host", "port", "is_open"),
    [
        ("127.0.0.1", 443, False),
        ("localhost", 443, False),
        ("10.1.2.3", 443, False),
        ("93.184.215.14", 443, True),
        ("93.184.215.14", 22, False),
        ("unknown-here.invalid", 443, True),
        ("unknown-here.invalid", 22, False),
    ],
)
def test_unrouted_destinations_are_judged_by_all_that_is_known_of_them(
    host: str, port: int, is_open: bool, run: Callable[..., None]
) -> None:
    """A name that does not resolve on this machine is for the upstream proxy to judge."""
    heads: list[bytes] = []

    async def work() -> None:
        async with _proxy(_answering(OPEN, heads=heads)) as proxy_port:
            dialer = _dialer(proxy_port)
            permit = lambda address, port: check_destination(address, port, [], [443])  # noqa: E731
            if is_open:
                (await dialer.connect(host, port, permit)).close()
            else:
                with pytest.raises(DestinationRefused):
                    await dialer.connect(host, port, permit)

    run(work())
    assert len(heads) == is_open


# TLS with the upstream proxy


def _serving(ca: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(name).configure_cert(context)
    return context


def _trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def test_bytes_pass_through_an_https_proxy_in_both_directions(ca: trustme.CA, run: Callable[..., None]) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OPEN)
        while block := await reader.read(65_536):
            writer.write(block)
            await writer.drain()

    async def work() -> None:
        async with _proxy(echo, _serving(ca)) as port:
            dialer = _dialer(port, scheme="https", context=_trusting(ca))
            with await dialer.connect("api.example", 443) as connected:
                content = bytes(range(256)) * 8_000
                loop = asyncio.get_running_loop()
                sending = asyncio.create_task(loop.sock_sendall(connected, content))
                received = b""
                while len(received) < len(content):
                    received += await loop.sock_recv(connected, 65_536)
                await sending
                assert received == content

    run(work())


@pytest.mark.parametrize("is_cut", [False, True])
def test_an_end_is_an_end_and_a_reset_is_a_reset_through_an_https_proxy(
    is_cut: bool, ca: trustme.CA, run: Callable[..., None]
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OPEN)
        await reader.readexactly(2)
        if is_cut:
            connected = writer.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.write(b"last")
            writer.close()

    async def work() -> None:
        async with _proxy(serve, _serving(ca)) as port:
            dialer = _dialer(port, scheme="https", context=_trusting(ca))
            loop = asyncio.get_running_loop()
            with await dialer.connect("api.example", 443) as connected:
                await loop.sock_sendall(connected, b"go")
                if is_cut:
                    with pytest.raises(ConnectionResetError):
                        await loop.sock_recv(connected, 100)
                else:
                    assert await loop.sock_recv(connected, 100) == b"last"
                    assert await loop.sock_recv(connected, 100) == b""

    run(work())


def test_closing_the_socket_closes_the_connection_to_an_https_proxy(ca: trustme.CA, run: Callable[..., None]) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OPEN)
        assert await reader.read() == b""
        gone.set()

    async def work() -> None:
        async with _proxy(serve, _serving(ca)) as port:
            dialer = _dialer(port, scheme="https", context=_trusting(ca))
            (await dialer.connect("api.example", 443)).close()
            await gone.wait()

    run(work())


def test_an_https_proxy_whose_certificate_does_not_hold_hears_nothing(ca: trustme.CA, run: Callable[..., None]) -> None:
    heads: list[bytes] = []

    async def work() -> None:
        expired = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert("localhost", not_after=datetime.now(UTC) - timedelta(days=1)).configure_cert(expired)
        for context, trust, words in (
            (_serving(ca), ssl.create_default_context(), r"upstream_proxy\.ca_file"),
            (_serving(ca, "other.example"), _trusting(ca), "for other names"),
            (expired, _trusting(ca), "has expired"),
        ):
            async with _proxy(_answering(OPEN, heads=heads), context) as port:
                with pytest.raises(UpstreamUntrusted, match=words):
                    await _dialer(port, scheme="https", userinfo="u:p@", context=trust).connect("api.example", 443)

    run(work())
    assert heads == []


def test_a_proxy_without_tls_that_is_called_https_is_explained(ca: trustme.CA, run: Callable[..., None]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def work() -> None:
        async with _proxy(serve) as port:
            with pytest.raises(UpstreamUnreachable, match=r"begin upstream_proxy\.url with http://"):
                await _dialer(port, scheme="https", context=_trusting(ca)).connect("api.example", 443)

    run(work())


# Who else dials


def test_key_vaults_go_through_it_and_managed_identities_do_not(
    ca: trustme.CA, tmp_path: Path, run: Callable[..., None]
) -> None:
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    token = b'{"access_token":"t","expires_in":3600,"token_type":"Bearer"}'

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(token) + token)
        await writer.drain()
        writer.close()

    async def work() -> None:
        async with _proxy(answer) as identity, _proxy(answer, _serving(ca)) as vault:
            with ConnectProxy() as upstream:
                environ = {"IDENTITY_ENDPOINT": f"http://localhost:{identity}/token", "IDENTITY_HEADER": "secret"}
                access = VaultAccess(_no_source, Machine(environ), dialer=_dialer(upstream.port))
                url = f"https://localhost:{vault}"
                try:
                    tokens = access.tokens(_credential(), parse_vault_key(f"{url}/keys/one"))
                    assert (await tokens.acquire()).value == "t"
                    assert upstream.targets == []
                    answered = await access.client(tmp_path / "ca.pem").exchange("GET", f"{url}/certificates/one")
                    assert answered.status == 200
                    assert upstream.targets == [f"localhost:{vault}"]
                finally:
                    await access.close()

    run(work())


def _credential() -> CredentialSettings:
    return CredentialSettings(client_id="me", tenant_id="a.example", key_vault_key="https://x/keys/one")


def _no_source(_name: str, _target: Target) -> TokenSource:
    pytest.fail("no other credential is meant")


def test_a_token_endpoint_that_an_upstream_proxy_keeps_away_is_an_outage_with_its_reason(
    run: Callable[..., None],
) -> None:
    async def work() -> None:
        async with _proxy(_answering(b"HTTP/1.1 503 Later\r\n\r\n")) as port:
            endpoint = TokenEndpoint("https://login.example/token", dialer=_dialer(port, userinfo="u:hunter2@"))
            with pytest.raises(
                IdentityPlatformUnavailable, match=r"answered 503 to CONNECT login\.example:443"
            ) as raised:
                await endpoint.request({"grant_type": "client_credentials"}, "1")
            assert raised.value.code == "upstream_proxy_503"
            assert "hunter2" not in raised.value.detail

    run(work())


def test_what_is_dialled_is_probed_by_tcp(run: Callable[..., None]) -> None:
    """C5: also to the token endpoint and to an upstream proxy, which are dialled in the same way."""

    async def work() -> None:
        async with _proxy(_answering(OPEN)) as port:
            with await Dialer(keep_alive_s=44.2).connect("127.0.0.1", port) as connected:
                assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
                if hasattr(socket, "TCP_KEEPIDLE"):
                    assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 45

    run(work())


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_without_a_descriptor_that_is_said(run: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    """A7: to the client with the limit, and in the log no more than once a minute."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def work() -> None:
        async with _proxy(_answering(OPEN)) as port:
            with socket.socket() as lowest:
                limit = lowest.fileno()
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            # What earlier tests left may be freed meanwhile, by the collector or a thread of c-ares': it is taken up again.
            held: list[socket.socket] = []
            errors: list[Overloaded] = []
            try:
                while len(errors) < 3:
                    assert len(held) < 50
                    try:
                        held.append(await Dialer().connect("127.0.0.1", port))
                    except Overloaded as error:
                        errors.append(error)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for each in held:
                    each.close()
            assert {error.code for error in errors} == {"out_of_file_descriptors"}
            assert all(f"out of file descriptors: it may have {limit}" in error.detail for error in errors)

    run(work())
    assert len(caplog.records) <= 1
