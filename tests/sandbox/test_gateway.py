"""The gateway's answers, byte for byte those of API Management, and the reasons that only the sandbox gives."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from proxy.sandbox import (
    GatewaySettings,
    RateLimit,
    RequiredClaim,
    ResourceApplication,
    Sandbox,
    SandboxKeys,
    SandboxSettings,
)

if TYPE_CHECKING:
    import aiohttp

Obtain = Callable[..., Awaitable[str]]

KEY_FIELD = "Ocp-Apim-Subscription-Key"
OWNERS = b'{ "statusCode": 401, "message": "Unauthorized. Access token is missing or invalid." }'
NOT_PRESENT = b'{ "statusCode": 401, "message": "JWT not present." }'
INVALID = b'{ "statusCode": 401, "message": "Invalid JWT." }'
MISSING_KEY = (
    b'{ "statusCode": 401, "message": "Access denied due to missing subscription key. '
    b'Make sure to include subscription key when making requests to an API." }'
)
INVALID_KEY = (
    b'{ "statusCode": 401, "message": "Access denied due to invalid subscription key. '
    b'Make sure to provide a valid key for an active subscription." }'
)
NOT_FOUND = b'{ "statusCode": 404, "message": "Resource not found" }'


def test_the_lengths_are_those_of_captured_replies() -> None:
    lengths = [len(each) for each in (OWNERS, NOT_PRESENT, INVALID, MISSING_KEY, INVALID_KEY, NOT_FOUND)]
    assert lengths == [85, 52, 48, 152, 143, 54]


def gateway(keys: SandboxKeys, settings: GatewaySettings) -> Sandbox:
    return Sandbox(SandboxSettings(keys=keys, gateway=settings))


@pytest.mark.asyncio
async def test_the_right_key_and_token_reach_the_api(
    sandbox: Sandbox, client: aiohttp.ClientSession, obtain: Obtain
) -> None:
    for scope in (sandbox.scope, sandbox.scope_v1):
        headers = {KEY_FIELD: sandbox.subscription_key, "Authorization": f"Bearer {await obtain(sandbox, scope)}"}
        async with client.get(f"{sandbox.api_url}/orders", headers=headers) as response:
            assert response.status == 200
    assert sandbox.refusals == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fields", "content", "reason"),
    [
        pytest.param({}, MISSING_KEY, "SubscriptionKeyNotFound", id="no-key"),
        pytest.param({KEY_FIELD: "wrong"}, INVALID_KEY, "SubscriptionKeyInvalid", id="wrong-key"),
        pytest.param({"Authorization": "Bearer x"}, MISSING_KEY, "SubscriptionKeyNotFound", id="key-before-token"),
    ],
)
async def test_a_key_that_does_not_hold_is_refused_before_the_token_is_looked_at(
    sandbox: Sandbox, client: aiohttp.ClientSession, fields: dict[str, str], content: bytes, reason: str
) -> None:
    async with client.get(f"{sandbox.api_url}/orders", headers=fields) as response:
        assert response.status == 401
        assert await response.read() == content
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["WWW-Authenticate"] == (
            f'AzureApiManagementKey realm="{sandbox.api_url}/",name="Ocp-Apim-Subscription-Key",type="header"'
        )
    assert [each.reason for each in sandbox.refusals] == [reason]


@pytest.mark.asyncio
async def test_the_key_may_stand_in_the_query_where_the_field_is_absent(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    url = f"{sandbox.api_url}/orders?subscription-key={sandbox.subscription_key}"
    contents = []
    for fields in ({}, {KEY_FIELD: "wrong"}):
        async with client.get(url, headers=fields) as response:
            contents.append(await response.read())
    assert contents == [OWNERS, INVALID_KEY]
    assert sandbox.subscription_key not in repr(sandbox.refusals)


@pytest.mark.asyncio
@pytest.mark.parametrize("fields", [{}, {"Authorization": "Bearer nonsense"}], ids=["no-token", "bad-token"])
async def test_a_refused_token_gets_the_owners_message_and_no_challenge(
    sandbox: Sandbox, client: aiohttp.ClientSession, fields: dict[str, str]
) -> None:
    async with client.get(f"{sandbox.api_url}/", headers={KEY_FIELD: sandbox.subscription_key, **fields}) as response:
        assert (response.status, await response.read()) == (401, OWNERS)
        assert "WWW-Authenticate" not in response.headers
        assert "Sandbox-Explanation" not in response.headers


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("message", "status", "without_token", "with_bad_token"),
    [
        pytest.param(None, 401, NOT_PRESENT, INVALID, id="the-policys-own"),
        pytest.param("", 401, b"", b"", id="empty"),
        pytest.param(
            'Say "please"',
            403,
            b'{ "statusCode": 403, "message": "Say \\"please\\"" }',
            b'{ "statusCode": 403, "message": "Say \\"please\\"" }',
            id="the-owners-text-and-status",
        ),
    ],
)
async def test_the_owner_chooses_message_and_status(
    keys: SandboxKeys,
    client: aiohttp.ClientSession,
    message: str | None,
    status: int,
    without_token: bytes,
    with_bad_token: bytes,
) -> None:
    settings = GatewaySettings(
        subscription_required=False, failed_validation_message=message, failed_validation_status=status
    )
    async with gateway(keys, settings) as sandbox:
        answers = []
        for fields in ({}, {"Authorization": "Bearer nonsense"}):
            async with client.get(f"{sandbox.api_url}/", headers=fields) as response:
                answers.append((response.status, await response.read()))
    assert answers == [(status, without_token), (status, with_bad_token)]


@pytest.mark.asyncio
async def test_an_unknown_operation_is_not_found_whatever_the_request_carries(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    async with client.get(f"{sandbox.api_url}/no-such-operation") as response:
        assert (response.status, await response.read()) == (404, NOT_FOUND)


@pytest.mark.asyncio
async def test_a_token_without_the_role_is_refused(
    keys: SandboxKeys, client: aiohttp.ClientSession, obtain: Obtain
) -> None:
    async with gateway(keys, GatewaySettings(subscription_required=False)) as sandbox:
        sandbox.tenant.register_resource(ResourceApplication("33333333-3333-3333-3333-333333333333", ("api://orders",)))
        headers = {"Authorization": f"Bearer {await obtain(sandbox)}"}
        async with client.get(f"{sandbox.api_url}/", headers=headers) as response:
            assert response.status == 401
        assert sandbox.refusals[0].reason == "TokenClaimNotFound"


@pytest.mark.asyncio
async def test_a_token_for_another_api_is_refused(
    keys: SandboxKeys, client: aiohttp.ClientSession, obtain: Obtain
) -> None:
    settings = GatewaySettings(subscription_required=False, required_claims=())
    other = ResourceApplication("99999999-9999-9999-9999-999999999999", ("api://other",))
    async with Sandbox(SandboxSettings(keys=keys, gateway=settings, resources=(other,))) as sandbox:
        headers = {"Authorization": f"Bearer {await obtain(sandbox, 'api://other/.default')}", "Sandbox-Explain": "1"}
        async with client.get(f"{sandbox.api_url}/", headers=headers) as response:
            assert response.headers["Sandbox-Explanation"].startswith(
                "TokenAudienceNotAllowed: the token's aud is 9999"
            )


@pytest.mark.asyncio
async def test_several_required_roles_can_be_asked_for(
    keys: SandboxKeys, client: aiohttp.ClientSession, obtain: Obtain
) -> None:
    claims = (RequiredClaim("roles", ("Orders.Read", "Orders.Write")),)
    settings = GatewaySettings(subscription_required=False, required_claims=claims)
    async with gateway(keys, settings) as sandbox:
        headers = {"Authorization": f"Bearer {await obtain(sandbox)}"}
        async with client.get(f"{sandbox.api_url}/", headers=headers) as response:
            assert response.status == 401
        assert sandbox.refusals[0].reason == "TokenClaimValueNotAllowed"


@pytest.mark.asyncio
async def test_the_reason_is_told_in_log_record_and_field_but_never_with_the_token(
    sandbox: Sandbox, client: aiohttp.ClientSession, obtain: Obtain, caplog: pytest.LogCaptureFixture
) -> None:
    access_token = await obtain(sandbox)
    spoiled = f"{access_token[:-8]}AAAAAAAA"
    headers = {
        KEY_FIELD: sandbox.subscription_key,
        "Authorization": f"Bearer {spoiled}",
        "Sandbox-Explain": "1",
    }
    with caplog.at_level(logging.WARNING, "proxy.sandbox.gateway"):
        async with client.get(f"{sandbox.api_url}/orders?secret=1", headers=headers) as response:
            told = response.headers["Sandbox-Explanation"]
            assert await response.read() == OWNERS
    assert told == "TokenSignatureInvalid: the token's signature does not match the key it names."
    assert caplog.messages == [f"refused GET /orders with 401: {told}"]
    assert spoiled[:40] not in caplog.text + repr(sandbox.refusals)


@pytest.mark.asyncio
async def test_calls_over_the_limit_are_told_when_to_try_again(
    keys: SandboxKeys, client: aiohttp.ClientSession
) -> None:
    clock = [1_800_000_000.0]
    settings = GatewaySettings(subscription_required=False, rate_limit=RateLimit(2, 60))
    async with Sandbox(SandboxSettings(keys=keys, gateway=settings, clock=lambda: clock[0])) as sandbox:
        answers = []
        for step in (0, 3, 0, 58):
            clock[0] += step
            async with client.get(f"{sandbox.api_url}/") as response:
                answers.append((response.status, response.headers.get("Retry-After"), await response.read()))
    limited = b'{ "statusCode": 429, "message": "Rate limit is exceeded. Try again in 57 seconds." }'
    assert [status for status, _, _ in answers] == [401, 401, 429, 401]
    assert answers[2] == (429, "57", limited)
    assert len(limited) == 84


@pytest.mark.asyncio
async def test_an_expired_token_is_refused_in_the_second_it_expires(
    keys: SandboxKeys, client: aiohttp.ClientSession, obtain: Obtain
) -> None:
    settings = GatewaySettings(subscription_required=False)
    async with Sandbox(SandboxSettings(keys=keys, gateway=settings)) as sandbox:
        sandbox.faults.token_lifetime_s = 100
        headers = {"Authorization": f"Bearer {await obtain(sandbox)}"}
        statuses = []
        for offset_s in (0.0, 50.0, 102.0):
            sandbox.faults.clock_offset_s = offset_s
            async with client.get(f"{sandbox.api_url}/", headers=headers) as response:
                statuses.append(response.status)
    assert statuses == [200, 200, 401]
