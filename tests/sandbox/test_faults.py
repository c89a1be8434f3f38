"""Each fault does what it says, for as often as it says, and nothing else."""

from __future__ import annotations

import base64
import json
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import jwt
import pytest

from proxy.sandbox import (
    AlwaysUnauthorized,
    ClaimsChallenge,
    GatewaySettings,
    Sandbox,
    SandboxKeys,
    SandboxSettings,
    TokenEndpointFault,
    TokenFault,
)

TokenForm = Callable[[Sandbox, str], dict[str, str]]
Obtain = Callable[..., Awaitable[str]]


async def post(client: aiohttp.ClientSession, sandbox: Sandbox, form: dict[str, str]) -> tuple[int, str, str, bytes]:
    """Return status, Content-Type, Retry-After and content."""
    async with client.post(sandbox.token_endpoint, data=form) as response:
        content = await response.read()
        retry_after = response.headers.get("Retry-After", "")
        return response.status, response.headers.get("Content-Type", ""), retry_after, content


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        pytest.param(
            TokenEndpointFault(TokenFault.TOO_MANY_REQUESTS),
            (429, "text/plain; charset=utf-8", "60", b"Too Many Requests"),
            id="429-as-the-real-one",
        ),
        pytest.param(
            TokenEndpointFault(TokenFault.TOO_MANY_REQUESTS, retry_after="2"),
            (429, "text/plain; charset=utf-8", "2", b"Too Many Requests"),
            id="429-shorter",
        ),
        pytest.param(
            TokenEndpointFault(TokenFault.TOO_MANY_REQUESTS, retry_after=""),
            (429, "text/plain; charset=utf-8", "", b"Too Many Requests"),
            id="429-without-retry-after",
        ),
        pytest.param(TokenEndpointFault(TokenFault.SERVER_ERROR_EMPTY), (502, "", "", b""), id="502-empty"),
        pytest.param(
            TokenEndpointFault(TokenFault.SERVER_ERROR_EMPTY, status=504, retry_after="1"),
            (504, "", "1", b""),
            id="504-empty",
        ),
    ],
)
async def test_an_outage_answers_these_bytes(
    sandbox: Sandbox,
    client: aiohttp.ClientSession,
    token_form: TokenForm,
    fault: TokenEndpointFault,
    expected: tuple[int, str, str, bytes],
) -> None:
    sandbox.faults.token_endpoint = fault
    assert await post(client, sandbox, token_form(sandbox, sandbox.scope)) == expected
    assert sandbox.token_requests[0].outcome == f"fault: {fault.kind}"


@pytest.mark.asyncio
async def test_a_server_error_in_json_carries_a_code(
    sandbox: Sandbox, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SERVER_ERROR_JSON)
    status, _, _, content = await post(client, sandbox, token_form(sandbox, sandbox.scope))
    error = json.loads(content)
    assert (status, error["error"], error["error_codes"]) == (503, "temporarily_unavailable", [90033])


@pytest.mark.asyncio
async def test_a_bad_request_may_be_a_page_of_html(
    sandbox: Sandbox, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.BAD_REQUEST_HTML)
    status, content_type, _, content = await post(client, sandbox, token_form(sandbox, sandbox.scope))
    assert (status, content_type) == (400, "text/html; charset=utf-8")
    assert content.startswith(b"<!DOCTYPE html>")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        pytest.param(TokenFault.NO_ACCESS_TOKEN, "access_token", None, id="no-access-token"),
        pytest.param(TokenFault.WRONG_TOKEN_TYPE, "token_type", "mac", id="wrong-token-type"),
        pytest.param(TokenFault.EXPIRES_IN_ABSURD, "expires_in", 10**15, id="absurd"),
        pytest.param(TokenFault.EXPIRES_IN_NEGATIVE, "expires_in", -1, id="negative"),
        pytest.param(TokenFault.EXPIRES_IN_STRING, "expires_in", "3599", id="string"),
        pytest.param(TokenFault.EXPIRES_IN_WORD, "expires_in", "soon", id="word"),
        pytest.param(TokenFault.EXPIRES_IN_MISSING, "expires_in", None, id="missing"),
    ],
)
async def test_an_answer_is_spoiled_in_one_member(
    sandbox: Sandbox,
    client: aiohttp.ClientSession,
    token_form: TokenForm,
    kind: TokenFault,
    name: str,
    expected: object,
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(kind)
    status, _, _, content = await post(client, sandbox, token_form(sandbox, sandbox.scope))
    answer = json.loads(content)
    assert status == 200
    assert answer.get(name) == expected
    others = {"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599}
    assert all(answer[each] == value for each, value in others.items() if each != name)


@pytest.mark.asyncio
async def test_malformed_json_breaks_off(
    sandbox: Sandbox, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.MALFORMED_JSON)
    status, _, _, content = await post(client, sandbox, token_form(sandbox, sandbox.scope))
    assert status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(content)


@pytest.mark.asyncio
async def test_an_oversize_answer_is_over_a_mebibyte(
    sandbox: Sandbox, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.OVERSIZE)
    _, _, _, content = await post(client, sandbox, token_form(sandbox, sandbox.scope))
    assert len(content) > 2**20
    assert "access_token" in json.loads(content)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("kind", "error"),
    [(TokenFault.CUT, aiohttp.ClientPayloadError), (TokenFault.DEAD, aiohttp.ClientConnectionError)],
    ids=["cut", "dead"],
)
async def test_the_connection_breaks(
    sandbox: Sandbox,
    client: aiohttp.ClientSession,
    token_form: TokenForm,
    kind: TokenFault,
    error: type[aiohttp.ClientError],
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(kind, times=1)
    with pytest.raises(error):
        await post(client, sandbox, token_form(sandbox, sandbox.scope))
    assert sandbox.token_requests[0].status == 0


@pytest.mark.asyncio
async def test_a_refusal_is_not_hidden_by_a_fault_of_the_good_answer(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.CUT)
    status, _, _, _ = await post(client, sandbox, {})
    assert (status, sandbox.token_requests[0].outcome) == (400, "AADSTS900144")


@pytest.mark.asyncio
async def test_slow_waits_and_then_answers(
    sandbox: Sandbox, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SLOW, delay_s=0.2, times=1)
    began = time.monotonic()
    status, _, _, _ = await post(client, sandbox, token_form(sandbox, sandbox.scope))
    assert status == 200
    assert time.monotonic() - began >= 0.2
    assert sandbox.token_requests[0].outcome == "issued"


@pytest.mark.asyncio
async def test_a_counted_fault_strikes_that_often(
    sandbox: Sandbox, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SERVER_ERROR_EMPTY, times=3)
    statuses = [(await post(client, sandbox, token_form(sandbox, sandbox.scope)))[0] for _ in range(5)]
    assert statuses == [502, 502, 502, 200, 200]
    assert sandbox.token_request_count == 5


@pytest.mark.asyncio
async def test_a_closed_identity_platform_refuses_connections_until_it_is_opened(
    sandbox: Sandbox, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    form = token_form(sandbox, sandbox.scope)
    trusting = ssl.create_default_context(cadata=sandbox.ca_pem)
    # A session of its own: one that keeps this connection may not have heard of its end when it sends the next request.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as earlier:
        await post(earlier, sandbox, form)
    await sandbox.close_identity_platform()
    with pytest.raises(aiohttp.ClientConnectorError):
        await post(client, sandbox, form)
    await sandbox.open_identity_platform()
    assert (await post(client, sandbox, form))[0] == 200
    assert sandbox.token_request_count == 2


@pytest.mark.asyncio
async def test_a_short_lifetime_is_told_and_real(
    sandbox: Sandbox, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    sandbox.faults.token_lifetime_s = 5
    sandbox.faults.refresh_in_s = 2
    began = time.time()
    _, _, _, content = await post(client, sandbox, token_form(sandbox, sandbox.scope))
    answer = json.loads(content)
    claims: dict[str, Any] = jwt.decode(answer["access_token"], options={"verify_signature": False})
    assert (answer["expires_in"], answer["refresh_in"]) == (5, 2)
    assert began + 5 <= claims["exp"] <= time.time() + 6


@pytest.mark.asyncio
async def test_a_clock_ahead_is_seen_in_date_and_in_verdicts(
    sandbox: Sandbox, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    form = token_form(sandbox, sandbox.scope)
    sandbox.faults.clock_offset_s = 3600.0
    async with client.post(sandbox.token_endpoint, data=form) as response:
        assert (await response.json())["error_codes"] == [700024]
        shown = parsedate_to_datetime(response.headers["Date"]).timestamp()
    assert abs(shown - time.time() - 3600) < 60


# The gateway's faults


async def call(client: aiohttp.ClientSession, sandbox: Sandbox, access_token: str) -> tuple[int, str]:
    """Return status and challenge."""
    headers = {
        "Authorization": f"Bearer {access_token}",
        "Ocp-Apim-Subscription-Key": sandbox.subscription_key,
    }
    async with client.get(f"{sandbox.api_url}/", headers=headers) as response:
        return response.status, response.headers.get("WWW-Authenticate", "")


@pytest.mark.asyncio
async def test_after_a_roll_over_old_tokens_fail_and_new_ones_hold(
    sandbox: Sandbox, client: aiohttp.ClientSession, obtain: Obtain
) -> None:
    old = await obtain(sandbox)
    assert (await call(client, sandbox, old))[0] == 200
    await sandbox.roll_signing_keys()
    assert (await call(client, sandbox, old))[0] == 401
    assert sandbox.refusals[0].reason == "TokenSignatureKeyNotFound"
    assert (await call(client, sandbox, await obtain(sandbox)))[0] == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(("interval_s", "status"), [(0.0, 200), (300.0, 401)], ids=["at-once", "as-the-real-one"])
async def test_an_unknown_key_makes_the_gateway_fetch_the_set_again_but_not_too_often(
    keys: SandboxKeys, client: aiohttp.ClientSession, obtain: Obtain, interval_s: float, status: int
) -> None:
    """The other key was not published when the gateway last looked."""
    settings = GatewaySettings(key_refetch_interval_s=interval_s)
    async with Sandbox(SandboxSettings(keys=keys, gateway=settings)) as sandbox:
        first, second = keys.signing_keys
        sandbox.key_ring.keys = (first,)
        assert (await call(client, sandbox, await obtain(sandbox)))[0] == 200
        sandbox.key_ring.keys = (second, first)
        assert (await call(client, sandbox, await obtain(sandbox)))[0] == status


@pytest.mark.asyncio
@pytest.mark.parametrize("with_challenge", [False, True], ids=["bare", "challenge"])
async def test_revoked_tokens_fail_and_later_ones_hold(
    sandbox: Sandbox, client: aiohttp.ClientSession, obtain: Obtain, with_challenge: bool
) -> None:
    old = await obtain(sandbox)
    sandbox.revoke_issued_tokens(with_challenge=with_challenge)
    status, challenge = await call(client, sandbox, old)
    assert status == 401
    assert challenge.startswith('Bearer error="invalid_token"') is with_challenge
    assert (await call(client, sandbox, await obtain(sandbox)))[0] == 200


@pytest.mark.asyncio
async def test_every_token_is_refused_as_often_as_asked(
    sandbox: Sandbox, client: aiohttp.ClientSession, obtain: Obtain
) -> None:
    access_token = await obtain(sandbox)
    sandbox.faults.always_unauthorized = AlwaysUnauthorized(times=2)
    assert [(await call(client, sandbox, access_token))[0] for _ in range(3)] == [401, 401, 200]


@pytest.mark.asyncio
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
async def test_a_claims_challenge_is_answered_by_a_token_asked_for_with_those_claims(
    sandbox: Sandbox, client: aiohttp.ClientSession, obtain: Obtain, padded: bool
) -> None:
    sandbox.challenge_claims(padded=padded)
    status, challenge = await call(client, sandbox, await obtain(sandbox))
    assert status == 401
    assert 'error="insufficient_claims"' in challenge
    matched = re.search(r'claims="([^"]+)"', challenge)
    assert matched is not None
    claims = base64.b64decode(matched[1] + "=" * (-len(matched[1]) % 4)).decode()
    assert json.loads(claims)["access_token"]["nbf"]["essential"] is True
    merged = json.dumps({"access_token": {**json.loads(claims)["access_token"], "xms_cc": {"values": ["CP1"]}}})
    assert (await call(client, sandbox, await obtain(sandbox, claims=merged)))[0] == 200
    assert (await call(client, sandbox, await obtain(sandbox)))[0] == 401


@pytest.mark.asyncio
async def test_a_counted_claims_challenge_is_not_used_up_by_tokens_that_answer_it(
    sandbox: Sandbox, client: aiohttp.ClientSession, obtain: Obtain
) -> None:
    plain = await obtain(sandbox)
    answering = await obtain(sandbox, claims='{"access_token":{"nbf":{"value":"2000000000"}}}')
    sandbox.faults.claims_challenge = ClaimsChallenge(1_900_000_000, times=1)
    statuses = [(await call(client, sandbox, each))[0] for each in (answering, plain, plain)]
    assert statuses == [200, 401, 200]


# The switches over HTTP


@pytest.mark.asyncio
async def test_faults_are_switched_over_http(
    sandbox: Sandbox, client: aiohttp.ClientSession, token_form: TokenForm
) -> None:
    change = {"token_endpoint": {"kind": "server_error_empty", "times": 1}, "token_lifetime_s": 7, "clock_offset_s": 1}
    async with client.post(f"{sandbox.control_url}/faults", json=change) as response:
        shown = await response.json()
    assert shown["token_endpoint"]["kind"] == "server_error_empty"
    assert (sandbox.faults.token_lifetime_s, sandbox.faults.clock_offset_s) == (7, 1.0)
    assert (await post(client, sandbox, token_form(sandbox, sandbox.scope)))[0] == 502

    async with client.post(f"{sandbox.control_url}/faults", json={"token_lifetime_s": None, "clock_offset_s": None}):
        pass
    assert (sandbox.faults.token_lifetime_s, sandbox.faults.clock_offset_s) == (None, 0.0)

    sandbox.faults.refresh_in_s = 3
    async with client.delete(f"{sandbox.control_url}/faults") as response:
        assert set((await response.json()).values()) == {None, 0.0}
    assert sandbox.faults.refresh_in_s is None


@pytest.mark.asyncio
async def test_actions_are_taken_over_http(sandbox: Sandbox, client: aiohttp.ClientSession, obtain: Obtain) -> None:
    access_token = await obtain(sandbox)
    kid = sandbox.key_ring.current.kid
    async with client.post(f"{sandbox.control_url}/revocation", json={"with_challenge": True}) as response:
        assert response.status == 200
    status, challenge = await call(client, sandbox, access_token)
    assert (status, "invalid_token" in challenge) == (401, True)
    async with client.post(f"{sandbox.control_url}/claims-challenge", json={"times": 2}) as response:
        assert (await response.json())["claims_challenge"]["times"] == 2
    async with client.post(f"{sandbox.control_url}/signing-keys") as response:
        assert response.status == 204
    assert sandbox.key_ring.current.kid != kid
    async with client.get(f"{sandbox.control_url}/gateway-refusals") as response:
        assert [each["reason"] for each in (await response.json())["refusals"]] == ["TokenRevoked"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(b"{", "The content is not JSON.", id="no-json"),
        pytest.param(
            b'{"tokens": 1}', "tokens: there is no such key; GET /sandbox/faults shows them all.", id="unknown"
        ),
        pytest.param(
            b'{"token_endpoint": {"kind": "slow", "delay": 1}}',
            "token_endpoint.delay: there is no such key; GET /sandbox/faults shows them all.",
            id="unknown-inside",
        ),
        pytest.param(
            b'{"token_lifetime_s": "long"}', "token_lifetime_s: this value is not possible here.", id="wrong-type"
        ),
        pytest.param(
            b'{"always_unauthorized": {"times": 0}}',
            "always_unauthorized.times: this value is not possible here (it has to be >= 1).",
            id="out-of-range",
        ),
    ],
)
async def test_a_faulty_change_changes_nothing_and_says_why(
    sandbox: Sandbox, client: aiohttp.ClientSession, content: bytes, complaint: str
) -> None:
    async with client.post(f"{sandbox.control_url}/faults", data=content) as response:
        assert response.status == 400
        assert (await response.json())["faults"] == [complaint]
    async with client.get(f"{sandbox.control_url}/faults") as response:
        assert set((await response.json()).values()) == {None, 0.0}
