"""The API tells byte for byte what reached it, and serves bodies of every kind."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from proxy.sandbox import GatewaySettings, Sandbox, SandboxKeys, SandboxSettings

if TYPE_CHECKING:
    import aiohttp

Obtain = Callable[..., Awaitable[str]]


@pytest_asyncio.fixture
async def sandbox(keys: SandboxKeys) -> AsyncIterator[Sandbox]:
    settings = SandboxSettings(keys=keys, gateway=GatewaySettings(subscription_required=False))
    async with Sandbox(settings) as running:
        yield running


@pytest_asyncio.fixture
async def authorization(sandbox: Sandbox, obtain: Obtain) -> bytes:
    return f"Authorization: Bearer {await obtain(sandbox)}\r\n".encode()


async def exchange(sandbox: Sandbox, raw: bytes) -> tuple[bytes, bytes]:
    """Send raw bytes, and return the response's head and the rest until the server closes."""
    trusting = ssl.create_default_context(cadata=sandbox.ca_pem)
    port = urlsplit(sandbox.api_url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="localhost")
    try:
        writer.write(raw)
        await writer.drain()
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()
    return head, body


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "target",
    [
        b"/a/../b//c;x=1/%2e%2E/%2f?q=%20+%7e&&=#frag",
        b"/[a]{b}|c^`d\"<>'!$()*,",
        b"http://upper.example/Path?x",
    ],
    ids=["encoded", "marks", "absolute-form"],
)
async def test_the_target_comes_back_as_it_was_sent(sandbox: Sandbox, authorization: bytes, target: bytes) -> None:
    raw = b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + authorization + b"\r\n"
    head, body = await exchange(sandbox, raw)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body)["target"].encode("latin-1") == target


@pytest.mark.asyncio
async def test_fields_come_back_in_order_with_case_and_duplicates_but_without_the_token(
    sandbox: Sandbox, authorization: bytes
) -> None:
    raw = (
        b"POST /x HTTP/1.1\r\nhOST: x\r\nX-One: 1\r\nx-one:  two \r\nX-Bytes: \xff\xe9\r\n"
        b"Ocp-Apim-Subscription-Key: opensesame\r\n"
        + authorization
        + b"Content-Length: 5\r\nConnection: close\r\n\r\n\x00\xffabc"
    )
    _, body = await exchange(sandbox, raw)
    shown = json.loads(body)
    assert shown["fields"] == [
        ["hOST", "x"],
        ["X-One", "1"],
        ["x-one", "two"],
        ["X-Bytes", "\xff\xe9"],
        ["Ocp-Apim-Subscription-Key", "[redacted]"],
        ["Authorization", "Bearer [redacted]"],
        ["Content-Length", "5"],
        ["Connection", "close"],
    ]
    assert shown["content"] == {
        "length": 5,
        "sha256": hashlib.sha256(b"\x00\xffabc").hexdigest(),
        "text": "\x00\xffabc",
    }
    assert (shown["method"], shown["http_version"]) == ("POST", "1.1")
    assert shown["token"]["present"] is True
    assert shown["token"]["claims"]["azp"] == sandbox.client_id
    assert shown["token"]["claims"]["roles"] == ["Orders.Read"]
    assert authorization.split()[-1] not in body


@pytest.mark.asyncio
async def test_compressed_content_is_not_unpacked(sandbox: Sandbox, authorization: bytes) -> None:
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\nConnection: close\r\n"
    _, body = await exchange(sandbox, raw + authorization + b"\r\nabc")
    assert json.loads(body)["content"]["text"] == "abc"


@pytest.mark.asyncio
async def test_a_client_of_http_1_0_is_answered(sandbox: Sandbox, authorization: bytes) -> None:
    head, body = await exchange(sandbox, b"GET /chunked/1000 HTTP/1.0\r\nHost: x\r\n" + authorization + b"\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == expected_bytes(1000)


@pytest.mark.asyncio
async def test_continue_is_sent_to_a_client_that_may_go_on_and_not_to_another(
    sandbox: Sandbox, authorization: bytes
) -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n"
    head, _ = await exchange(sandbox, request + authorization + b"\r\nabc")
    assert head == b"HTTP/1.1 100 Continue"
    head, _ = await exchange(sandbox, request + b"\r\nabc")
    assert head.startswith(b"HTTP/1.1 401 ")


def expected_bytes(length: int) -> bytes:
    return bytes(index % 251 for index in range(length))


@pytest_asyncio.fixture
async def caller(client: aiohttp.ClientSession, sandbox: Sandbox, obtain: Obtain) -> AsyncIterator[Callable[..., Any]]:
    """Call a path of the API with a token."""
    headers = {"Authorization": f"Bearer {await obtain(sandbox)}"}

    def request(path: str, method: str = "GET", **more: Any) -> Any:
        headers_too = headers | more.pop("headers", {})
        return client.request(method, f"{sandbox.api_url}{path}", headers=headers_too, allow_redirects=False, **more)

    yield request


@pytest.mark.asyncio
@pytest.mark.parametrize("length", [0, 1, 251, 65_511, 65_512, 200_000])
@pytest.mark.parametrize("path", ["bytes", "chunked"])
async def test_bodies_are_the_same_every_time(caller: Callable[..., Any], path: str, length: int) -> None:
    async with caller(f"/{path}/{length}") as response:
        assert await response.read() == expected_bytes(length)
        assert response.headers.get("Content-Length") == (str(length) if path == "bytes" else None)


@pytest.mark.asyncio
async def test_head_has_the_fields_of_get_and_no_content(caller: Callable[..., Any]) -> None:
    async with caller("/bytes/1000", "HEAD") as response:
        assert response.headers["Content-Length"] == "1000"
        assert await response.read() == b""


@pytest.mark.asyncio
async def test_a_long_body_is_described_by_length_and_digest(caller: Callable[..., Any]) -> None:
    content = expected_bytes(300_000)
    async with caller("/", "PUT", data=content) as response:
        shown = (await response.json())["content"]
    assert shown == {"length": 300_000, "sha256": hashlib.sha256(content).hexdigest(), "text": None}


@pytest.mark.asyncio
@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
async def test_echo_sends_the_content_back(caller: Callable[..., Any], chunked: bool) -> None:
    content = expected_bytes(300_000)

    async def blocks() -> AsyncIterator[bytes]:
        yield content[:100_000]
        yield content[100_000:]

    data = blocks() if chunked else content
    async with caller("/echo", "POST", data=data, headers={"Content-Type": "application/x-test"}) as response:
        assert await response.read() == content
        assert response.headers["Content-Type"] == "application/x-test"
        assert ("Content-Length" in response.headers) is not chunked


@pytest.mark.asyncio
async def test_echo_answers_while_the_request_is_still_being_sent(caller: Callable[..., Any]) -> None:
    came_back = asyncio.Event()

    async def blocks() -> AsyncIterator[bytes]:
        yield b"first"
        await came_back.wait()
        yield b"second"

    async with caller("/echo", "POST", data=blocks()) as response:
        assert await response.content.readexactly(5) == b"first"
        came_back.set()
        assert await response.read() == b"second"


@pytest.mark.asyncio
@pytest.mark.parametrize(("code", "reason"), [(201, "Made"), (204, None), (304, None), (418, None), (503, "Nope")])
async def test_any_status_can_be_asked_for(caller: Callable[..., Any], code: int, reason: str | None) -> None:
    async with caller(f"/status/{code}" + (f"?reason={reason}" if reason else "")) as response:
        assert response.status == code
        assert reason is None or response.reason == reason
        assert await response.text() == ("" if code in {204, 304} else f"status {code}\n")


@pytest.mark.asyncio
async def test_events_come_one_by_one(caller: Callable[..., Any]) -> None:
    async with caller("/sse?count=3&interval=0.01") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        text = await response.text()
    assert text == "".join(f"id: {number}\ndata: event {number}\n\n" for number in range(3))


@pytest.mark.asyncio
async def test_slow_waits_before_it_answers(caller: Callable[..., Any]) -> None:
    began = asyncio.get_running_loop().time()
    async with caller("/slow/0.1") as response:
        assert (await response.json())["target"] == "/slow/0.1"
    assert asyncio.get_running_loop().time() - began >= 0.1


@pytest.mark.asyncio
async def test_redirect_and_fields_say_what_they_are_told_to(caller: Callable[..., Any]) -> None:
    async with caller("/redirect?to=/bytes/3") as response:
        assert (response.status, response.headers["Location"]) == (302, "/bytes/3")
    async with caller("/fields?X-B=2&Set-Cookie=a%3D1&Set-Cookie=b%3D2&x-b=3") as response:
        fields = [(name.decode(), value.decode()) for name, value in response.raw_headers]
    assert [each for each in fields if each[0].lower() in {"x-b", "set-cookie"}] == [
        ("X-B", "2"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("x-b", "3"),
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path",
    ["/bytes/x", "/bytes/-1", "/bytes/99999999999", "/slow/forever", "/slow/nan", "/status/99", "/fields?a%0d%0ab=1",
     "/fields?a=%0d%0ab", "/redirect?to=%0a", "/status/200?reason=%0d"],
)  # fmt: skip
async def test_what_cannot_be_served_is_a_bad_request(caller: Callable[..., Any], path: str) -> None:
    async with caller(path) as response:
        assert response.status == 400


@pytest.mark.asyncio
async def test_websocket_messages_are_echoed(client: aiohttp.ClientSession, sandbox: Sandbox, obtain: Obtain) -> None:
    headers = {"Authorization": f"Bearer {await obtain(sandbox)}"}
    async with client.ws_connect(f"{sandbox.api_url}/websocket", headers=headers) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"
        await socket.send_bytes(b"\x00\xff")
        assert await socket.receive_bytes() == b"\x00\xff"
    async with client.get(f"{sandbox.api_url}/websocket", headers=headers) as response:
        assert response.status == 426


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/bytes/100000000", "/chunked/100000000"])
async def test_a_client_that_resets_its_connection_is_no_fault(
    sandbox: Sandbox, authorization: bytes, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """The answer waits for a full connection when the reset comes: aiohttp then raises another error than for a closed one."""
    idle = asyncio.all_tasks()
    trusting = ssl.create_default_context(cadata=sandbox.ca_pem)
    address = ("127.0.0.1", urlsplit(sandbox.api_url).port or 0)

    def ask() -> ssl.SSLSocket:
        connection = trusting.wrap_socket(socket.create_connection(address), server_hostname="localhost")
        connection.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: a\r\n" + authorization + b"\r\n")
        connection.recv(1)
        return connection

    with await asyncio.to_thread(ask) as connection:
        answering = asyncio.all_tasks() - idle
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await asyncio.wait(answering, timeout=60)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
