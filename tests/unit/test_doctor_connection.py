"""A connection that fails says at which step, and in whose words; nothing is sent where the certificate does not hold."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme

from proxy.doctor.connection import ProbeFailed, open_connection
from proxy.doctor.exchange import CONTENT_LIMIT_BYTES, get
from proxy.policy.authority import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def _trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


@contextlib.asynccontextmanager
async def _server(context: ssl.SSLContext | None, answer: bytes, received: list[bytes]) -> AsyncIterator[Authority]:
    """Answer every connection with some bytes and close it; plain TCP without a context."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            received.append(await reader.read(65_536))
            writer.write(answer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield Authority("127.0.0.1", server.sockets[0].getsockname()[1])


def _serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def _for_others(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("other.example", "third.example")


def _expired(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("127.0.0.1", not_before=NOW - timedelta(days=9), not_after=NOW - timedelta(days=2))


def _future(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("127.0.0.1", not_before=NOW + timedelta(days=2), not_after=NOW + timedelta(days=9))


def _strangers(_: trustme.CA) -> trustme.LeafCert:
    return trustme.CA(organization_name="Inspecting Device Ltd").issue_cert("127.0.0.1")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("issue", "said"),
    [
        pytest.param(_for_others, ["other names than 127.0.0.1", "other.example, third.example", "dial"], id="name"),
        pytest.param(_expired, [f"has expired on {NOW - timedelta(days=2):%Y-%m-%d}", "clock"], id="expired"),
        pytest.param(_future, ["not valid yet", "clock"], id="not yet valid"),
        pytest.param(_strangers, ["not trusted", "Inspecting Device Ltd", "ca_file"], id="unknown issuer"),
    ],
)
async def test_a_certificate_that_does_not_hold_is_described_and_gets_nothing(
    issue: Callable[[trustme.CA], trustme.LeafCert], said: list[str], ca: trustme.CA
) -> None:
    received: list[bytes] = []
    async with _server(_serving(issue(ca)), b"", received) as authority:
        with pytest.raises(ProbeFailed) as failed:
            await open_connection(authority, None, _trusting(ca))
    sentence = f"{failed.value.message} {failed.value.advice}"
    assert [part for part in said if part not in sentence] == []
    assert not any(received)


@pytest.mark.asyncio
async def test_a_port_without_tls_is_told_from_one_that_is_closed(ca: trustme.CA) -> None:
    async with _server(None, b"SSH-2.0-OpenSSH\r\n", []) as authority:
        with pytest.raises(ProbeFailed, match="answered with something that is not TLS"):
            await open_connection(authority, None, _trusting(ca))
    with pytest.raises(ProbeFailed, match="refuses the connection"):
        await open_connection(authority, None, _trusting(ca))


@pytest.mark.asyncio
async def test_a_name_that_does_not_resolve_is_said_so(ca: trustme.CA) -> None:
    with pytest.raises(ProbeFailed, match=r"The name nowhere\.invalid does not resolve"):
        await open_connection(Authority("nowhere.invalid", 443), None, _trusting(ca))


@pytest.mark.asyncio
async def test_dial_changes_where_and_not_whose_certificate(ca: trustme.CA) -> None:
    context = _serving(ca.issue_cert("orders.example"))
    async with _server(context, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", []) as place:
        connection = await open_connection(Authority("orders.example", 443), place, _trusting(ca))
        connection.writer.transport.abort()
    assert connection.address == "127.0.0.1"
    assert connection.tls.startswith("TLSv1.")


RESPONSES = {
    "content by length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
    "content by chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", 200, b"hello"),
    "content by close": (b"HTTP/1.0 200 OK\r\n\r\nhello", 200, b"hello"),
    "interim first": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", 401, b""),
    "cut": (b"HTTP/1.1 502 Bad\r\nContent-Length: 50\r\n\r\nhello", 502, b"hello"),
    "endless": (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 500_000, 200, b"x" * CONTENT_LIMIT_BYTES),
}  # fmt: skip


@pytest.mark.asyncio
@pytest.mark.parametrize("name", RESPONSES)
async def test_a_response_is_read_as_far_as_a_verdict_needs(name: str, ca: trustme.CA) -> None:
    answer, status, content = RESPONSES[name]
    received: list[bytes] = []
    async with _server(_serving(ca.issue_cert("127.0.0.1")), answer, received) as authority:
        connection = await open_connection(authority, None, _trusting(ca))
        response = await get(connection, b"orders.example", "/orders?x=1", {"Authorization": "Bearer abc"})
        connection.writer.transport.abort()
    assert (response.status, response.content) == (status, content)
    assert (b"link", b"x") not in response.fields
    assert received[0].startswith(b"GET /orders?x=1 HTTP/1.1\r\nHost: orders.example\r\nAuthorization: Bearer abc\r\n")


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 20"])
async def test_what_is_no_response_is_said_so(answer: bytes, ca: trustme.CA) -> None:
    async with _server(_serving(ca.issue_cert("127.0.0.1")), answer, []) as authority:
        connection = await open_connection(authority, None, _trusting(ca))
        with pytest.raises(ProbeFailed, match="gives no HTTP response"):
            await get(connection, b"orders.example", "/", {})
        connection.writer.transport.abort()
