"""What becomes of an access token between the identity platform, the proxy and the gateway, as clients see it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, TypeAlias

import pytest
import pytest_asyncio

from proxy.sandbox import (
    AlwaysUnauthorized,
    GatewaySettings,
    Sandbox,
    SandboxSettings,
    TokenEndpointFault,
    TokenFault,
)
from tests.end_to_end.conftest import OWN_SUBSCRIPTION_KEY
from tests.end_to_end.programs import PATIENCE_S, Configuration, configuration, run_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from proxy.sandbox import SandboxKeys
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Answer, Curl
    from tests.end_to_end.programs import Place, ProxyProgram

pytestmark = pytest.mark.asyncio

Start: TypeAlias = "Callable[[Configuration], Awaitable[ProxyProgram]]"
Ask: TypeAlias = "Callable[..., Awaitable[Answer]]"

# Over the 64 KiB that are kept to be sent once more (limits.replay_bytes).
BIG_BODY = b"x" * 200_000


@pytest_asyncio.fixture
async def sandbox(sandbox_keys: SandboxKeys) -> AsyncIterator[Sandbox]:
    """A sandbox of the test's own, whose gateway bears with a request that takes long to arrive.

    So a machine that stands still makes no good token a bad one; what `life_left_s` says is looked at instead.
    """
    lenient = GatewaySettings(clock_skew_s=600)
    settings = SandboxSettings(keys=sandbox_keys, subscription_key=OWN_SUBSCRIPTION_KEY, gateway=lenient)
    async with Sandbox(settings) as running:
        yield running


def life_left_s(answer: Answer, asked_at: float) -> float:
    """Returns how long the token that the API got was still good when the client began to ask: seconds, below 0 if it was not."""
    claims = json.loads(answer.content)["token"]["claims"]
    return float(claims["exp"] - asked_at)


@pytest.fixture
def start(start_proxy: StartProxy) -> Start:
    """Starts a proxy without holding up the sandbox, which lives in this process."""

    async def run(settings: Configuration) -> ProxyProgram:
        return await asyncio.to_thread(start_proxy, settings)

    return run


@pytest.fixture
def ask(curl: Curl, own_place: Place) -> Ask:
    """Calls the API through a proxy with an http URL."""

    async def call(proxy: ProxyProgram, path: str, *arguments: str, stdin: bytes = b"") -> Answer:
        url = f"http://{own_place.api_authority}{path}"
        return await asyncio.to_thread(curl, "--proxy", proxy.forward, *arguments, url, stdin=stdin)

    return call


async def test_a_hundred_first_requests_make_one_token_request(
    sandbox: Sandbox, own_place: Place, start: Start
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SLOW, delay_s=0.7, times=1)
    proxy = await start(configuration(own_place, credential={"lazy": True}))
    assert sandbox.token_request_count == 0

    arguments = [
        "-sS",
        "--proxy",
        proxy.forward,
        "--cacert",
        str(proxy.ca_file),
        "-w",
        "%{http_code} ",
        "-o",
        "/dev/null",
    ]
    parallel = ["--parallel", "--parallel-immediate", "--parallel-max", "100"]
    url = f"{own_place.api_url}/bytes/[1-100]"
    done = await asyncio.to_thread(run_program, ["curl", *arguments, *parallel, url])

    assert done.status == 0, done.stderr
    assert done.stdout.split() == [b"200"] * 100
    assert sandbox.token_request_count == 1


async def test_a_token_is_replaced_before_it_expires(
    sandbox: Sandbox, own_place: Place, start: Start, ask: Ask
) -> None:
    sandbox.faults.token_lifetime_s = 3
    proxy = await start(configuration(own_place))
    give_up_at = time.monotonic() + 2 * PATIENCE_S
    while sandbox.token_request_count < 3:
        assert time.monotonic() < give_up_at, "the token is not replaced"
        asked_at = time.time()
        answer = await ask(proxy, "/orders")
        assert answer.status == 200
        assert life_left_s(answer, asked_at) > 0
        await asyncio.sleep(0.05)

    assert sandbox.refusals == []


async def test_a_valid_token_outlasts_an_outage_and_none_is_sent_after_it(
    sandbox: Sandbox, own_place: Place, start: Start, ask: Ask
) -> None:
    sandbox.faults.token_lifetime_s = 8  # from the first request on, and two of them have to fit into it
    settings = configuration(own_place, credential={"lazy": True}, timeouts={"token_s": 2, "drain_s": 5})
    proxy = await start(settings)
    assert (await ask(proxy, "/bytes/1")).status == 200
    await sandbox.close_identity_platform()

    left_s: list[float] = []
    give_up_at = time.monotonic() + 8 + PATIENCE_S
    asked_at = time.time()
    while (refused := await ask(proxy, "/orders")).status == 200:
        left_s.append(life_left_s(refused, asked_at))
        assert time.monotonic() < give_up_at, "the token has expired long ago"
        await asyncio.sleep(0.1)
        asked_at = time.time()
    assert left_s, "the token was good for longer"
    assert min(left_s) > 0
    assert refused.status == 503
    assert refused.problem["type"] == "urn:apim-auth-proxy:proxy_internal_response"
    assert refused.problem["code"] == "connection_failed"
    assert int(refused.fields("Retry-After")[0]) >= 1

    await sandbox.open_identity_platform()
    give_up_at = time.monotonic() + 2 * PATIENCE_S
    while (await ask(proxy, "/bytes/1")).status != 200:
        assert time.monotonic() < give_up_at, "it did not recover"
        await asyncio.sleep(0.1)
    # No request without a token ever reached the gateway.
    assert sandbox.refusals == []


async def test_the_platforms_retry_after_is_passed_on_and_kept(
    sandbox: Sandbox, own_place: Place, start: Start, ask: Ask
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.TOO_MANY_REQUESTS, retry_after="600")
    proxy = await start(configuration(own_place, credential={"lazy": True}))

    refusals = [await ask(proxy, "/bytes/1") for _ in range(5)]
    assert {each.status for each in refusals} == {503}
    assert {each.problem["code"] for each in refusals} == {"too_many_requests"}
    # What the platform asked for, less what the test takes, and at most as long again: a fleet must not come back at once.
    assert all(480 <= int(each.fields("Retry-After")[0]) <= 1_200 for each in refusals)
    assert sandbox.token_request_count == 1


@pytest.mark.parametrize(
    "fault",
    [
        TokenEndpointFault(TokenFault.TOO_MANY_REQUESTS, retry_after="2", times=1),
        TokenEndpointFault(TokenFault.SERVER_ERROR_EMPTY, status=503, times=1),
        TokenEndpointFault(TokenFault.DEAD, times=1),
    ],
    ids=["429", "503", "cut"],
)
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_blip_is_waited_out(
    fault: TokenEndpointFault, workers: int, sandbox: Sandbox, own_place: Place, start: Start, ask: Ask
) -> None:
    """A8: the platform is asked again once it may be, and the request waits for that, as there is time for it."""
    sandbox.faults.token_endpoint = fault
    proxy = await start(configuration(own_place, credential={"lazy": True}, workers=workers))

    assert (await ask(proxy, "/bytes/1")).status == 200
    assert sandbox.token_request_count == 2


async def test_nobody_waits_for_ever_for_a_token(sandbox: Sandbox, own_place: Place, start: Start, ask: Ask) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SLOW, delay_s=300, times=1)
    settings = configuration(own_place, credential={"lazy": True}, timeouts={"token_s": 0.5, "drain_s": 1})
    proxy = await start(settings)

    answer = await ask(proxy, "/bytes/1")
    assert answer.status == 503
    assert "timeouts.token_s" in str(answer.problem["detail"])


async def test_a_refused_token_is_replaced_and_a_small_request_repeated_once(
    sandbox: Sandbox, own_place: Place, start: Start, ask: Ask
) -> None:
    proxy = await start(configuration(own_place))
    assert (await ask(proxy, "/bytes/1")).status == 200
    sandbox.revoke_issued_tokens(with_challenge=True)

    answer = await ask(proxy, "/echo", "--data", "a small body")
    assert (answer.status, answer.content) == (200, b"a small body")
    assert len(sandbox.refusals) == 1
    assert sandbox.token_request_count == 2


async def test_a_big_request_gets_the_401_and_the_next_one_a_new_token(
    sandbox: Sandbox, own_place: Place, start: Start, ask: Ask
) -> None:
    proxy = await start(configuration(own_place))
    assert (await ask(proxy, "/bytes/1")).status == 200
    sandbox.revoke_issued_tokens(with_challenge=True)

    answer = await ask(proxy, "/echo", "--data-binary", "@-", "--header", "Expect:", stdin=BIG_BODY)
    assert answer.status == 401
    assert answer.fields("WWW-Authenticate")[0].startswith('Bearer error="invalid_token"')
    assert answer.fields("Proxy-Status") == []
    assert len(sandbox.refusals) == 1

    answer = await ask(proxy, "/echo", "--data-binary", "@-", stdin=BIG_BODY)
    assert (answer.status, answer.content) == (200, BIG_BODY)
    assert sandbox.token_request_count == 2


@pytest.mark.parametrize(
    ("with_challenge", "token_requests"),
    [pytest.param(False, 1, id="which may mean the audience or a role"), pytest.param(True, 2, id="which blames it")],
)
async def test_an_api_that_refuses_every_token_causes_no_storm(
    with_challenge: bool, token_requests: int, sandbox: Sandbox, own_place: Place, start: Start, ask: Ask
) -> None:
    proxy = await start(configuration(own_place))
    assert (await ask(proxy, "/bytes/1")).status == 200
    sandbox.faults.always_unauthorized = AlwaysUnauthorized(with_challenge=with_challenge)

    answers = [await ask(proxy, "/bytes/1") for _ in range(5)]
    assert {each.status for each in answers} == {401}
    assert {each.content for each in answers} == {
        b'{ "statusCode": 401, "message": "Unauthorized. Access token is missing or invalid." }'
    }
    assert sandbox.token_request_count == token_requests


async def test_a_refused_subscription_key_is_the_clients_to_see(
    sandbox: Sandbox, own_place: Place, start: Start, ask: Ask, curl: Curl
) -> None:
    key = {"Ocp-Apim-Subscription-Key": "00000000"}
    proxy = await start(configuration(own_place, route={"set_headers": key}))
    direct = ["--cacert", own_place.ca_file, "--header", "Ocp-Apim-Subscription-Key: 00000000"]

    answer = await ask(proxy, "/orders")
    assert answer.unchanging == (await asyncio.to_thread(curl, *direct, f"{own_place.api_url}/orders")).unchanging
    assert answer.status == 401
    assert b"invalid subscription key" in answer.content
    assert sandbox.token_request_count == 1


async def test_a_claims_challenge_is_answered(sandbox: Sandbox, own_place: Place, start: Start, ask: Ask) -> None:
    proxy = await start(configuration(own_place, credential={"client_capabilities": ["cp1"]}))
    assert (await ask(proxy, "/bytes/1")).status == 200
    sandbox.challenge_claims(padded=False)
    assert sandbox.faults.claims_challenge is not None

    answer = await ask(proxy, "/echo", "--data", "content")
    assert (answer.status, answer.content) == (200, b"content")
    first, second = (json.loads(dict(request.form)["claims"])["access_token"] for request in sandbox.token_requests)
    assert first == {"xms_cc": {"values": ["CP1"]}}
    assert second == {
        "nbf": {"essential": True, "value": str(sandbox.faults.claims_challenge.nbf_at)},
        "xms_cc": {"values": ["CP1"]},
    }
