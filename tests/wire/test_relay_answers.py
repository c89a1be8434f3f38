"""Own answers that need a state of the proxy: no token, a limit reached, a loop; and targets that only absolute-form has."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from proxy.errors import CredentialRejected, IdentityPlatformUnavailable, ProxyError
from tests.wire.messages import Head, chunked, split_head
from tests.wire.rig import HOST, MODES, Mode, Peer, Rig, Wire, address_form, settle
from tests.wire.test_relay_refusals import check_problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.identity.access_token import AccessToken

HOST_LINE = b"Host: " + HOST.encode() + b"\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST_LINE + b"\r\n"


@contextmanager
def limited(rig: Rig, **limits: int) -> Iterator[None]:
    """For a while, other limits."""
    usual, rig.relay.limits = rig.relay.limits, replace(rig.relay.limits, **limits)
    try:
        yield
    finally:
        rig.relay.limits = usual


async def read_answer(client: Peer, status: int, token: str) -> Head:
    head, _ = split_head(await client.read_until())
    assert head.status == status, head
    check_problem(head, await client.read(int(head.values(b"content-length")[0])), token)
    return head


@pytest.mark.parametrize(
    ("target", "arrives"),
    [
        (b"http://api.example.test", b"GET / HTTP/1.1"),
        (b"http://api.example.test?q=1", b"GET /?q=1 HTTP/1.1"),
        (b"https://api.example.test/x", b"GET /x HTTP/1.1"),
        (b"https://api.example.test:443/x", b"GET /x HTTP/1.1"),
        (b"HTTPS://API.EXAMPLE.TEST./X", b"GET /X HTTP/1.1"),
        (b"http://api.example.test/?", b"GET /? HTTP/1.1"),
        (b"http://api.example.test//x", b"GET //x HTTP/1.1"),
    ],
)
def test_an_absolute_form_without_a_path_gets_one(uv_wire: Wire, target: bytes, arrives: bytes) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client("forward")
        client.send(b"GET " + target + b" HTTP/1.1\r\n" + HOST_LINE + b"\r\n")
        upstream = await rig.upstream.next()
        head, _ = split_head(await upstream.read_until())
        assert head.start == arrives
        assert head.values(b"host") == [HOST.encode()]

    uv_wire.run(work)


@pytest.mark.parametrize(
    ("start", "code", "advice"),
    [
        # With a line feed and a control character in the random part, which would be a fault of its own in a head.
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\x00\r\n\r\n", b"tls_on_plain_port", b"Use http://"),
        (b"\x05\x02\x00\x01\r\n\r\n", b"socks", b"instead of socks"),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01me\x00\r\n\r\n", b"socks", b"instead of socks"),
        (b"PRI * HTTP/2.0\r\n\r\nSMTP\r\n", b"http2", b"Use HTTP/1.1"),
        # E6.
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\n" + GET, b"proxy_protocol", b"begins with the PROXY protocol"),
        (b"PROXY UNKNOWN\r\n" + GET, b"proxy_protocol", b"begins with the PROXY protocol"),
        (b"\r\n\r\n\x00\r\nQUIT\n!\x11\x00\x0c" + bytes(12), b"proxy_protocol", b"begins with the PROXY protocol"),
        (b"GET http://api.example.test/a b HTTP/1.1\r\n\r\n", b"target_not_encoded", b"Encode it as %20"),
        (b"GET /a b?c d HTTP/1.1\r\n\r\n", b"target_not_encoded", b"Encode it as %20"),
        (b"GET /a b", b"target_not_encoded", b"Encode it as %20"),
        (b"GET http://api.example.test/a#b HTTP/1.1\r\n\r\n", b"target_not_encoded", b"%23"),
    ],
)
def test_a_client_of_another_protocol_is_told_apart(uv_wire: Wire, start: bytes, code: bytes, advice: bytes) -> None:
    """In the log above all, where the code stands: few of them show what they cannot read."""

    async def work(rig: Rig) -> None:
        client = await rig.client("forward")
        client.send(start)
        head, content = split_head(await client.read_to_end())
        assert head.status == 400
        assert b'details="%b"' % code in head.values(b"proxy-status")[0]
        assert b'"code": "%b"' % code in content
        assert advice in content
        assert rig.records[-1].code == code.decode()

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("error", "status", "token"),
    [
        (IdentityPlatformUnavailable("It is away.", retry_after_s=7, code="timeout"), 503, "proxy_internal_response"),
        (CredentialRejected("It said no.", code="AADSTS700027"), 502, "proxy_configuration_error"),
    ],
)
def test_an_identity_error_is_its_own_answer(
    uv_wire: Wire, mode: Mode, error: ProxyError, status: int, token: str
) -> None:
    async def work(rig: Rig) -> None:
        async def refuse() -> AccessToken:
            raise error

        rig.tokens.token = None
        rig.tokens.acquire = refuse  # type: ignore[method-assign]  # a fake of the tests' own
        try:
            client = await rig.client(mode)
            client.send(address_form(GET, mode))
            head = await read_answer(client, status, token)
        finally:
            del rig.tokens.acquire
        assert head.values(b"retry-after") == ([b"7"] if error.retry_after_s else [])
        assert error.code.encode() in head.values(b"proxy-status")[0]
        assert not rig.upstream.heard(), "never sent bare"
        assert not client.ended

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "message",
    [b"Content-Length: 11\r\n\r\nhello world", b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"hello", b" world")],
)
def test_content_over_its_limit_is_413(uv_wire: Wire, mode: Mode, message: bytes) -> None:
    async def work(rig: Rig) -> None:
        request = b"POST /x HTTP/1.1\r\n" + HOST_LINE + message
        with limited(rig, body_bytes=10):
            client = await rig.client(mode)
            client.send(address_form(request, mode))
            head = await read_answer(client, 413, "http_request_error")
            assert head.values(b"connection") == [b"close"]
            await client.until(lambda peer: peer.ended)
            assert not rig.upstream.heard()
        with limited(rig, body_bytes=11):
            client = await rig.client(mode)
            client.send(address_form(request, mode))
            upstream = await rig.upstream.next()
            await upstream.read_until(b"world")

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_requests_wait_for_a_connection_and_then_get_503(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        usual = rig.relay.timeouts
        with limited(rig, upstream_connections=1):
            first, second, third = [await rig.client(mode) for _ in range(3)]
            first.send(address_form(GET, mode))
            upstream = await rig.upstream.next()
            await upstream.read_until()
            rig.upstream.release(upstream)
            second.send(address_form(GET, mode))
            await settle()
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            upstream.send(answer)
            assert await first.read(len(answer)) == answer
            upstream = await rig.upstream.next()
            await upstream.read_until()  # the second has waited for this
            rig.relay.timeouts = replace(usual, connect_s=0.05)
            try:
                third.send(address_form(GET, mode))
                head = await read_answer(third, 503, "connection_limit_reached")
            finally:
                rig.relay.timeouts = usual
            assert head.values(b"retry-after")
            upstream.send(answer)
            assert await second.read(len(answer)) == answer

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_that_dies_lets_a_waiting_request_open_another(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        with limited(rig, upstream_connections=1):
            first, second = [await rig.client(mode) for _ in range(2)]
            first.send(address_form(GET.replace(b"GET", b"POST"), mode))
            upstream = await rig.upstream.next()
            await upstream.read_until()
            second.send(address_form(GET, mode))
            await settle()
            upstream.cut()
            await read_answer(first, 502, "connection_terminated")
            upstream = await rig.upstream.next()
            await upstream.read_until()
            upstream.send(b"HTTP/1.1 204 N\r\n\r\n")
            assert await second.read_until() == b"HTTP/1.1 204 N\r\n\r\n"

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_route_that_leads_back_here_is_508(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        rig.relay.dialer.own_addresses = frozenset({("127.0.0.1", rig.ports["forward"])})
        try:
            with rig.leading_to(rig.ports["forward"]):
                client = await rig.client(mode)
                client.send(address_form(GET, mode))
                await read_answer(client, 508, "proxy_loop_detected")
        finally:
            rig.relay.dialer.own_addresses = frozenset()

    uv_wire.run(work)
