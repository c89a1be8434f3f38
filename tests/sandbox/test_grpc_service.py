"""The sandbox's gRPC service: at the API's port, behind the same key and token. That `exec` leads to it, the how-to page shows."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest

import proxy.sandbox.server
from proxy.sandbox import Sandbox
from proxy.sandbox.gateway import MISSING_KEY_MESSAGE, SUBSCRIPTION_KEY_FIELD
from proxy.sandbox.grpc_service import PATHS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

Obtain = Callable[..., Awaitable[str]]

UNARY: Final = PATHS[0]
STREAM: Final = PATHS[1]


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.transport.abort()


@asynccontextmanager
async def without_tls(sandbox: Sandbox) -> AsyncIterator[str]:
    """An address that leads to the API's port over TLS.

    grpcio cannot verify the sandbox's own certificate: its TLS library knows no constraints for addresses (RFC 5280 §4.2.1.10).
    """
    context = ssl.create_default_context(cadata=sandbox.ca_pem)
    context.set_alpn_protocols(["h2"])
    port = int(sandbox.api_url.rpartition(":")[2])

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost"
        )
        await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer))

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


Outcome = tuple[grpc.StatusCode, str, list[bytes]]


async def call(sandbox: Sandbox, fields: dict[str, str], path: str = UNARY) -> Outcome:
    """The outcome of calls: code, details, and what came back of three messages."""
    metadata = [(name.lower(), value) for name, value in fields.items()]
    async with without_tls(sandbox) as address:
        return await asyncio.to_thread(call_in_thread, address, metadata, path)


def call_in_thread(address: str, metadata: list[tuple[str, str]], path: str) -> Outcome:
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            if path == UNARY:
                unary = channel.unary_unary(path)
                return grpc.StatusCode.OK, "", [unary(b"%d" % n, metadata=metadata, timeout=60) for n in range(3)]
            stream = channel.stream_stream(path)
            sent = iter([b"0", b"1", b"2"])
            return grpc.StatusCode.OK, "", list(stream(sent, metadata=metadata, timeout=60))
        except grpc.RpcError as failed:
            refused: Any = failed
            return refused.code(), refused.details(), []


async def both(sandbox: Sandbox, obtain: Obtain) -> dict[str, str]:
    token = await obtain(sandbox, sandbox.scope)
    return {SUBSCRIPTION_KEY_FIELD: sandbox.subscription_key, "Authorization": f"Bearer {token}"}


@pytest.mark.asyncio
async def test_messages_come_back_in_both_kinds_of_call_and_http_1_goes_on_beside(
    sandbox: Sandbox, client: aiohttp.ClientSession, obtain: Obtain
) -> None:
    fields = await both(sandbox, obtain)
    for path in PATHS:
        assert await call(sandbox, fields, path) == (grpc.StatusCode.OK, "", [b"0", b"1", b"2"])
    async with client.get(f"{sandbox.api_url}/orders", headers=fields) as response:
        assert response.status == 200
    assert sandbox.refusals == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("lacks", "code", "says"),
    [
        (SUBSCRIPTION_KEY_FIELD, grpc.StatusCode.UNAUTHENTICATED, MISSING_KEY_MESSAGE),
        ("Authorization", grpc.StatusCode.UNAUTHENTICATED, "Access token is missing or invalid"),
    ],
)
async def test_without_key_or_token_the_gateway_refuses_in_its_own_words_and_notes_it(
    sandbox: Sandbox, obtain: Obtain, lacks: str, code: grpc.StatusCode, says: str
) -> None:
    fields = await both(sandbox, obtain)
    del fields[lacks]
    for path in PATHS:
        found, details, _ = await call(sandbox, fields, path)
        assert (found, says in details) == (code, True)
    assert [(refusal.method, refusal.path) for refusal in sandbox.refusals] == [("POST", path) for path in PATHS]


@pytest.mark.asyncio
async def test_a_method_that_there_is_not_is_unimplemented(sandbox: Sandbox, obtain: Obtain) -> None:
    found, _, _ = await call(sandbox, await both(sandbox, obtain), "/sandbox.Echo/Other")
    assert found is grpc.StatusCode.UNIMPLEMENTED


async def agreed(sandbox: Sandbox, *protocols: str) -> str | None:
    trusting = ssl.create_default_context(cadata=sandbox.ca_pem)
    trusting.set_alpn_protocols(list(protocols))
    port = int(sandbox.api_url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="localhost")
    tls = writer.get_extra_info("ssl_object")
    writer.transport.abort()
    chosen: str | None = tls.selected_alpn_protocol()
    return chosen


@pytest.mark.asyncio
async def test_http_2_is_for_those_who_have_nothing_else(sandbox: Sandbox) -> None:
    """The API itself speaks HTTP/1.1, so that whoever has both gets that."""
    assert await agreed(sandbox, "h2", "http/1.1") == "http/1.1"
    assert await agreed(sandbox, "h2") == "h2"


@pytest.mark.asyncio
async def test_without_grpcio_the_sandbox_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch, client: aiohttp.ClientSession, obtain: Obtain, keys: Any
) -> None:
    monkeypatch.setattr(proxy.sandbox.server, "has_grpc", lambda: False)
    async with Sandbox(proxy.sandbox.SandboxSettings(keys=keys)) as plain:
        assert await agreed(plain, "h2") is None
        async with client.get(f"{plain.api_url}/orders", headers=await both(plain, obtain)) as response:
            assert response.status == 200
