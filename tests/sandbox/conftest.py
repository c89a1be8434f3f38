"""A sandbox on loopback, a client that trusts it, and assertions signed by hand, independently of the code under test."""

from __future__ import annotations

import base64
import json
import ssl
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import aiohttp
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from proxy.sandbox import Sandbox, SandboxKeys, SandboxSettings, create_keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.fixture(scope="session")
def keys() -> SandboxKeys:
    return create_keys(datetime.now(UTC))


@pytest_asyncio.fixture
async def sandbox(keys: SandboxKeys) -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(keys=keys)) as running:
        yield running


@pytest_asyncio.fixture
async def client(keys: SandboxKeys) -> AsyncIterator[aiohttp.ClientSession]:
    trusting = ssl.create_default_context(cadata=keys.ca.certificate_pem.decode())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session:
        yield session


@pytest.fixture
def token_form() -> Callable[[Sandbox, str], dict[str, str]]:
    """A well-formed token request for a scope."""

    def make(sandbox: Sandbox, scope: str) -> dict[str, str]:
        def encode(raw: bytes) -> str:
            return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

        now = int(time.time())
        thumbprint = sandbox.keys.client.certificate.fingerprint(hashes.SHA256())
        header = {"alg": "PS256", "typ": "JWT", "x5t#S256": encode(thumbprint)}
        claims = {
            "aud": sandbox.token_endpoint,
            "iss": sandbox.client_id,
            "sub": sandbox.client_id,
            "jti": str(uuid.uuid4()),
            "nbf": now,
            "exp": now + 600,
        }
        signing_input = ".".join(encode(json.dumps(each).encode()) for each in (header, claims))
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        signature = sandbox.keys.client.private_key.sign(signing_input.encode(), scheme, hashes.SHA256())
        return {
            "grant_type": "client_credentials",
            "client_id": sandbox.client_id,
            "scope": scope,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": f"{signing_input}.{encode(signature)}",
        }

    return make


@pytest.fixture
def obtain(
    client: aiohttp.ClientSession, token_form: Callable[[Sandbox, str], dict[str, str]]
) -> Callable[..., Awaitable[str]]:
    """Obtain an access token; further form fields as keywords."""

    async def request(sandbox: Sandbox, scope: str | None = None, **more: str) -> str:
        form = token_form(sandbox, scope or sandbox.scope) | more
        async with client.post(sandbox.token_endpoint, data=form) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return str(answer["access_token"])

    return request
