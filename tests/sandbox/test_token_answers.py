"""What the token endpoint answers: numbers, fields, identifiers, and the claims of both token versions."""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import jwt
import pytest

from proxy.sandbox import Sandbox, SandboxKeys, SandboxSettings

TokenForm = Callable[[Sandbox, str], dict[str, str]]
Obtain = Callable[..., Awaitable[str]]

GUID = "8d5f0c1a-1111-4222-8333-944455556666"


def decoded(access_token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(access_token, options={"verify_signature": False})
    return claims


@pytest.mark.asyncio
async def test_version_2_answers_with_numbers(
    sandbox: Sandbox, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    async with client.post(sandbox.token_endpoint, data=token_form(sandbox, sandbox.scope)) as response:
        answer = await response.json()
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store, no-cache"
        assert "Strict-Transport-Security" not in response.headers
        assert response.cookies.keys() == {"fpc", "x-ms-gateway-slice", "stsservicecookie"}
    assert answer.keys() == {"token_type", "expires_in", "ext_expires_in", "access_token"}
    assert (answer["token_type"], answer["expires_in"], answer["ext_expires_in"]) == ("Bearer", 3599, 3599)


@pytest.mark.asyncio
async def test_version_1_answers_with_strings_and_the_resource(
    sandbox: Sandbox, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    form = token_form(sandbox, sandbox.scope) | {"resource": "api://orders"}
    form.pop("scope")
    async with client.post(f"{sandbox.authority}/oauth2/token", data=form) as response:
        answer = await response.json()
    claims = decoded(answer.pop("access_token"))
    assert answer == {
        "token_type": "Bearer",
        "expires_in": "3599",
        "ext_expires_in": "3599",
        "expires_on": str(claims["exp"]),
        "not_before": str(claims["nbf"]),
        "resource": "api://orders",
    }
    assert claims["ver"] == "2.0", "the resource decides the token's version, not the endpoint"


@pytest.mark.asyncio
async def test_a_version_2_token_says_what_entra_says(sandbox: Sandbox, obtain: Obtain) -> None:
    access_token = await obtain(sandbox)
    claims = decoded(access_token)
    header = jwt.get_unverified_header(access_token)
    assert header == {"typ": "JWT", "alg": "RS256", "kid": sandbox.key_ring.current.kid}
    assert claims["aud"] == "33333333-3333-3333-3333-333333333333"
    assert claims["iss"] == f"{sandbox.identity_url}/{sandbox.tenant_id}/v2.0"
    assert (claims["azp"], claims["azpacr"]) == (sandbox.client_id, "2")
    assert claims["oid"] == claims["sub"]
    assert (claims["tid"], claims["roles"]) == (sandbox.tenant_id, ["Orders.Read"])
    assert claims["iat"] == claims["nbf"]
    assert claims["exp"] - claims["iat"] == 3900
    assert abs(claims["iat"] + 300 - time.time()) < 60
    assert not claims.keys() & {"appid", "idp", "scp"}


@pytest.mark.asyncio
async def test_a_version_1_token_says_what_entra_says(sandbox: Sandbox, obtain: Obtain) -> None:
    access_token = await obtain(sandbox, sandbox.scope_v1)
    claims = decoded(access_token)
    header = jwt.get_unverified_header(access_token)
    assert header["x5t"] == header["kid"] == sandbox.key_ring.current.kid
    assert claims["aud"] == "api://orders-v1"
    assert claims["iss"] == f"{sandbox.identity_url}/{sandbox.tenant_id}/"
    assert (claims["appid"], claims["appidacr"], claims["ver"]) == (sandbox.client_id, "2", "1.0")
    assert not claims.keys() & {"azp", "azpacr", "scp"}


@pytest.mark.asyncio
async def test_a_sandbox_lives_by_the_clock_it_is_given_while_tls_lives_by_the_real_one(token_form: TokenForm) -> None:
    """Its certificate, its verdict and its tokens are all of 2040; the client's assertion of today has long expired."""
    in_2040 = 2_208_988_800.0
    async with Sandbox(SandboxSettings(clock=lambda: in_2040)) as sandbox:
        trusting = ssl.create_default_context(cadata=sandbox.ca_pem)
        form = token_form(sandbox, sandbox.scope)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session,
            session.post(sandbox.token_endpoint, data=form) as response,
        ):
            assert (await response.json())["error_codes"] == [700024]
            assert response.headers["Date"].endswith("2040 00:00:00 GMT")


@pytest.mark.asyncio
async def test_the_published_key_set_verifies_a_token(
    sandbox: Sandbox, client: aiohttp.ClientSession, obtain: Obtain
) -> None:
    access_token = await obtain(sandbox)
    async with client.get(f"{sandbox.authority}/discovery/v2.0/keys") as response:
        published = jwt.PyJWKSet.from_dict(await response.json())
    key = published[jwt.get_unverified_header(access_token)["kid"]]
    claims = jwt.decode(access_token, key, ["RS256"], audience="33333333-3333-3333-3333-333333333333")
    assert claims["tid"] == sandbox.tenant_id


@pytest.mark.asyncio
async def test_an_error_has_seven_members_and_echoes_the_correlation_id(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    headers = {"client-request-id": GUID, "return-client-request-id": "true"}
    async with client.post(sandbox.token_endpoint, data={"grant_type": "x"}, headers=headers) as response:
        error = await response.json()
        assert response.headers["x-ms-request-id"] == error["trace_id"]
        assert response.headers["client-request-id"] == GUID
    assert error.keys() == {
        "error",
        "error_description",
        "error_codes",
        "timestamp",
        "trace_id",
        "correlation_id",
        "error_uri",
    }
    assert error["correlation_id"] == GUID
    assert error["error_uri"] == f"{sandbox.identity_url}/error?code=70003"
    assert error["error_description"].endswith(
        f" Trace ID: {error['trace_id']} Correlation ID: {GUID} Timestamp: {error['timestamp']}"
    )


@pytest.mark.asyncio
async def test_a_correlation_id_that_is_no_guid_is_not_echoed(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    async with client.post(sandbox.token_endpoint, headers={"client-request-id": "mine"}) as response:
        assert len((await response.json())["correlation_id"]) == 36


@pytest.mark.asyncio
async def test_labels_can_be_parted_by_line_breaks_as_in_older_answers(
    keys: SandboxKeys, client: aiohttp.ClientSession
) -> None:
    async with (
        Sandbox(SandboxSettings(keys=keys, error_separator="\r\n")) as sandbox,
        client.post(sandbox.token_endpoint) as response,
    ):
        description = (await response.json())["error_description"]
    assert [line.partition(":")[0] for line in description.split("\r\n")] == [
        "AADSTS900144",
        "Trace ID",
        "Correlation ID",
        "Timestamp",
    ]


@pytest.mark.asyncio
async def test_strict_audience_takes_only_what_the_documents_say(
    keys: SandboxKeys, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    """The form's assertion names the advertised token endpoint; the tolerated alias names another host."""
    async with Sandbox(SandboxSettings(keys=keys, strict_audience=True)) as sandbox:
        advertised = token_form(sandbox, sandbox.scope)
        origin, sandbox.identity_url = sandbox.identity_url, sandbox.identity_url.replace("localhost", "127.0.0.1")
        alias = token_form(sandbox, sandbox.scope)
        sandbox.identity_url = origin
        statuses = []
        for form in (advertised, alias):
            async with client.post(sandbox.token_endpoint, data=form) as response:
                statuses.append(response.status)
    assert statuses == [200, 401]


@pytest.mark.asyncio
async def test_the_record_shows_the_assertion_but_nothing_that_can_be_used_again(
    sandbox: Sandbox, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    form = token_form(sandbox, sandbox.scope) | {"client_secret": "opensesame"}
    async with client.post(sandbox.token_endpoint, data=form, headers={"client-request-id": GUID}) as response:
        access_token = (await response.json())["access_token"]
    async with client.get(f"{sandbox.control_url}/token-requests") as response:
        text = await response.text()
        shown = await response.json()
    assert shown["count"] == 1
    record = shown["requests"][0]
    assert record["assertion_header"]["alg"] == "PS256"
    assert record["assertion_claims"]["iss"] == sandbox.client_id
    assert (record["client_request_id"], record["status"], record["outcome"]) == (GUID, 200, "issued")
    assert ["scope", sandbox.scope] in record["form"]
    for secret in (form["client_assertion"].rpartition(".")[2], "opensesame", access_token):
        assert secret not in text
        assert secret not in repr(sandbox.token_requests)
