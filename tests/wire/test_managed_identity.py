"""Managed identities over real sockets: the three endpoints, what each of their faults becomes, and what never happens."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import pytest_asyncio
from aiohttp import web

from proxy.config.loading import load_settings
from proxy.errors import CredentialRejected, IdentityError, IdentityPlatformUnavailable
from proxy.identity.credential import Target
from proxy.identity.https_client import HttpsClient
from proxy.identity.managed_identity import EndpointKind, ManagedIdentity, ManagedIdentityEndpoint, find_endpoint
from proxy.identity.sources import TokenSources
from proxy.sandbox import (
    ManagedIdentities,
    Sandbox,
    SandboxKeys,
    SandboxSettings,
    TokenEndpointFault,
    TokenFault,
    create_keys,
)
from proxy.sandbox.settings import SYSTEM_IDENTITY, USER_IDENTITY
from tests.ports import free_port
from tests.wire.connect_proxy import ConnectProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

ALONE = ("managed_identity: system",)
USER = (f"managed_identity: {USER_IDENTITY[0]}",)
VARIABLES = (
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "IDENTITY_SERVER_THUMBPRINT",
    "IMDS_ENDPOINT",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
)


@pytest.fixture(scope="module")
def keys() -> SandboxKeys:
    return create_keys(datetime.now(UTC))


@pytest_asyncio.fixture
async def sandbox(keys: SandboxKeys) -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(keys=keys)) as running:
        yield running


class Machine:
    """A machine whose variables name the sandbox's endpoints, and configurations on it."""

    def __init__(self, sandbox: Sandbox, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sandbox = sandbox
        self._directory = directory
        self._monkeypatch = monkeypatch
        self.built: list[TokenSources] = []
        sandbox.write_directory(directory)
        self.set(AZURE_POD_IDENTITY_AUTHORITY_HOST=sandbox.machine_url)

    def set(self, **variables: str) -> None:
        """Has these variables, of those that matter, and no others."""
        for name in VARIABLES:
            self._monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)

    def application(self, identity: str = "system", **more: str) -> tuple[str, ...]:
        """An application that trusts an identity."""
        return (
            f"tenant_id: {self.sandbox.tenant_id}",
            f"client_id: {self.sandbox.client_id}",
            f"authority: {self.sandbox.identity_url}",
            "ca_file: ca.pem",
            f"federated_managed_identity: {identity}",
            *[f"{key}: {value}" for key, value in more.items()],
        )

    def sources(self, lines: tuple[str, ...], *top: str) -> TokenSources:
        text = [
            "listeners: [{address: '127.0.0.1:0'}]",
            "state_directory: state",
            *top,
            "credentials:",
            "  mine:",
            *[f"    {line}" for line in lines],
            "routes:",
            f"  - {{hosts: [api.example.com], credential: mine, scope: '{self.sandbox.scope}'}}",
        ]
        file = self._directory / "own.yaml"
        file.write_text("\n".join(text))
        built = TokenSources.from_settings(load_settings(file, {"HOME": str(self._directory)}), jitter=lambda: 1.0)
        self.built.append(built)
        return built

    async def acquire(self, lines: tuple[str, ...], *top: str) -> dict[str, Any]:
        """Returns a token's claims."""
        token = await self.sources(lines, *top).source_for("mine", Target(scope=self.sandbox.scope)).acquire()
        claims: dict[str, Any] = jwt.decode(token.value, options={"verify_signature": False})
        return claims

    async def fail(self, lines: tuple[str, ...]) -> IdentityError:
        with pytest.raises(IdentityError) as caught:
            await self.acquire(lines)
        return caught.value


@pytest_asyncio.fixture
async def machine(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    machine = Machine(sandbox, tmp_path, monkeypatch)
    yield machine
    for sources in machine.built:
        await sources.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(("lines", "client_id"), [(ALONE, SYSTEM_IDENTITY[0]), (USER, USER_IDENTITY[0])])
@pytest.mark.parametrize("endpoint", ["imds", "app_service"])
async def test_the_machines_own_identity_is_the_credential(
    machine: Machine, endpoint: str, lines: tuple[str, ...], client_id: str
) -> None:
    if endpoint == "app_service":
        sandbox = machine.sandbox
        machine.set(IDENTITY_ENDPOINT=sandbox.identity_endpoint, IDENTITY_HEADER=sandbox.identity_header)

    claims = await machine.acquire(lines)

    assert (claims["azp"], claims["roles"]) == (client_id, ["Orders.Read"])
    (request,) = machine.sandbox.managed_identity_requests
    assert (request.endpoint, request.resource) == (endpoint, "api://orders")
    assert request.client_id == (None if lines == ALONE else client_id)
    assert machine.sandbox.token_request_count == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("identity", ["system", USER_IDENTITY[0]])
async def test_an_application_is_proved_by_an_identity_that_it_trusts(machine: Machine, identity: str) -> None:
    claims = await machine.acquire(machine.application(identity))

    assert claims["azp"] == machine.sandbox.client_id
    (asked,) = machine.sandbox.managed_identity_requests
    assert asked.resource == "api://AzureADTokenExchange"
    (request,) = machine.sandbox.token_requests
    assert request.outcome == "issued"


@pytest.mark.asyncio
async def test_the_identitys_token_is_kept_while_it_holds(machine: Machine) -> None:
    """The endpoint is everybody's on the machine, and throttles them together."""
    sources = machine.sources(machine.application())
    source = sources.source_for("mine", Target(scope=machine.sandbox.scope))
    token = await source.acquire()
    assert source.report_refusal(token, token.obtained_at_mono + 100, certain=True)

    await source.acquire()

    assert machine.sandbox.token_request_count == 2
    assert len(machine.sandbox.managed_identity_requests) == 1


@pytest.mark.asyncio
async def test_an_identity_that_the_application_does_not_trust_is_explained(machine: Machine) -> None:
    sandbox = machine.sandbox
    client = sandbox.tenant.client(sandbox.client_id)
    assert client is not None
    (first, *_) = client.federated
    sandbox.tenant.register_client(dataclasses.replace(client, federated=(first,)))

    error = await machine.fail(machine.application(USER_IDENTITY[0]))

    assert isinstance(error, CredentialRejected)
    assert error.code == "AADSTS700213"
    assert (await machine.fail(machine.application(assertion_audience="api://orders"))).code == "AADSTS700212"


@pytest.mark.asyncio
async def test_a_machine_without_the_identity_is_told_which_key_names_it(machine: Machine) -> None:
    machine.sandbox.machine.identities = ManagedIdentities()

    alone = await machine.fail(ALONE)
    user = await machine.fail(USER)
    federated = await machine.fail(machine.application())
    sandbox = machine.sandbox
    machine.set(IDENTITY_ENDPOINT=sandbox.identity_endpoint, IDENTITY_HEADER=sandbox.identity_header)
    app_service = await machine.fail(ALONE)

    for error in (alone, user, federated, app_service):
        assert error.code == "managed_identity_http_400"
        assert not isinstance(error, IdentityPlatformUnavailable)
    assert "has no system-assigned identity" in alone.detail
    assert f"has no identity {USER_IDENTITY[0]}" in user.detail
    assert "`managed_identity`" in user.detail
    assert "`federated_managed_identity`" in federated.detail


@pytest.mark.asyncio
async def test_an_api_that_is_not_registered_is_told_by_its_code(machine: Machine) -> None:
    sources = machine.sources(ALONE)
    with pytest.raises(IdentityError) as caught:
        await sources.source_for("mine", Target(scope="api://unknown/.default")).acquire()
    assert caught.value.code == "AADSTS500011"
    assert "az ad sp create" in caught.value.detail


@pytest.mark.asyncio
async def test_where_nothing_answers_it_is_said_where_identities_are(machine: Machine) -> None:
    machine.set(AZURE_POD_IDENTITY_AUTHORITY_HOST=f"http://127.0.0.1:{free_port()}")

    error = await machine.fail(ALONE)

    assert isinstance(error, IdentityPlatformUnavailable)
    assert error.code == "managed_identity_unreachable"
    assert "the metadata service (IMDS)" in error.detail
    assert "Only machines in Azure" in error.detail


@pytest.mark.asyncio
async def test_an_endpoint_that_hangs_or_breaks_off_is_told(machine: Machine) -> None:
    machine.sandbox.faults.managed_identity = TokenEndpointFault(TokenFault.DEAD)
    assert (await machine.fail(ALONE)).code == "managed_identity_unreachable"

    machine.sandbox.faults.managed_identity = TokenEndpointFault(TokenFault.SLOW, delay_s=60)
    client = HttpsClient("managed identity endpoint", timeout_s=0.1)
    endpoint = find_endpoint({"AZURE_POD_IDENTITY_AUTHORITY_HOST": machine.sandbox.machine_url})
    with pytest.raises(IdentityPlatformUnavailable, match=r"did not answer within 0\.1 s"):
        await ManagedIdentity(endpoint, client).request_token(Target(resource="api://orders"), None)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (TokenFault.TOO_MANY_REQUESTS, None, "managed_identity_http_429"),
        (TokenFault.SERVER_ERROR_EMPTY, 500, "managed_identity_http_500"),
        (TokenFault.SERVER_ERROR_JSON, 503, "managed_identity_http_503"),
    ],
)
async def test_an_overloaded_endpoint_is_left_alone_for_a_while_and_asked_again(
    machine: Machine, kind: TokenFault, status: int | None, code: str
) -> None:
    machine.sandbox.faults.managed_identity = TokenEndpointFault(kind, times=1, status=status, retry_after="30")
    source = machine.sources(ALONE).source_for("mine", Target(scope=machine.sandbox.scope))

    for _ in range(5):
        with pytest.raises(IdentityPlatformUnavailable) as caught:
            await source.acquire()
        assert caught.value.code == code
    assert len(machine.sandbox.managed_identity_requests) == 1
    if kind is not TokenFault.SERVER_ERROR_JSON:  # which names no time
        # A random part is added to what a 429 says, so that not all who were told so come back at once.
        longest_s = 60 if kind is TokenFault.TOO_MANY_REQUESTS else 30
        assert 29 <= (caught.value.retry_after_s or 0) <= longest_s
    elif source.statistics().retry_in_s > 0:
        await asyncio.sleep(source.statistics().retry_in_s)
        await source.acquire()


@pytest.mark.asyncio
async def test_what_is_asked_of_the_machine_goes_by_no_upstream_proxy(machine: Machine) -> None:
    with ConnectProxy() as upstream:
        proxied = f"upstream_proxy: {{url: 'http://127.0.0.1:{upstream.port}'}}"
        await machine.acquire(ALONE, proxied)
        assert upstream.targets == []
        await machine.acquire(machine.application(), proxied)
        # The token endpoint by it, and nothing else.
        assert upstream.targets == [machine.sandbox.identity_url.removeprefix("https://")]


@pytest.mark.asyncio
async def test_a_vaults_identity_outlives_a_reload_that_does_not_change_it(machine: Machine) -> None:
    """The sources of before are closed, and with them what they alone used."""
    earlier = machine.sources(machine.application())
    later = machine.sources(machine.application())
    later.adopt(earlier, ["mine"])
    await earlier.retire(later)

    token = await later.source_for("mine", Target(scope=machine.sandbox.scope)).acquire()

    assert token.value


# Azure Arc: who can read a file that the agent names may use the machine's identity.


class Agent:
    """The agent's endpoint. Its challenge names a path."""

    def __init__(self, path: str, *, client_id: str = "", challenge: str | None = None) -> None:
        self.challenge = f"Basic realm={path}" if challenge is None else challenge
        self.client_id = client_id
        self.seen: list[Mapping[str, str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append(request.headers)
        assert request.query["api-version"] == "2020-06-01"
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": self.challenge} if self.challenge else {})
        return web.json_response(
            {"access_token": "t", "token_type": "Bearer", "expires_in": "3600", "client_id": self.client_id}
        )


@asynccontextmanager
async def _arc(agent: Agent, key_directory: Path) -> AsyncIterator[ManagedIdentityEndpoint]:
    app = web.Application()
    app.add_routes([web.get("/metadata/identity/oauth2/token", agent.answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/metadata/identity/oauth2/token"
    try:
        found = find_endpoint({"IDENTITY_ENDPOINT": url, "IMDS_ENDPOINT": "http://127.0.0.1:1"})
        assert found.kind is EndpointKind.AZURE_ARC
        yield dataclasses.replace(found, key_directory=key_directory)
    finally:
        await runner.cleanup()


async def _ask_arc(agent: Agent, directory: Path, client_id: str | None = None) -> str:
    client = HttpsClient("managed identity endpoint")
    async with _arc(agent, directory) as endpoint:
        identity = ManagedIdentity(endpoint, client, client_id=client_id, setting="managed_identity")
        return (await identity.request_token(Target(scope="api://orders/.default"), None)).value


@pytest.mark.asyncio
async def test_azure_arc_is_shown_the_key_that_its_agent_has_written(tmp_path: Path) -> None:
    (tmp_path / "abc.key").write_text("c2VjcmV0\n")
    agent = Agent("/var/opt/azcmagent/tokens/abc.key")

    assert await _ask_arc(agent, tmp_path) == "t"

    assert [each.get("Authorization") for each in agent.seen] == [None, "Basic c2VjcmV0"]
    assert all(each["Metadata"] == "true" for each in agent.seen)


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["{directory}/id_rsa", "../id_rsa", "/etc/passwd", "..\\id_rsa"])
async def test_no_other_file_is_shown_to_whoever_answers_as_azure_arc(tmp_path: Path, path: str) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (tmp_path / "id_rsa").write_text("secret")
    agent = Agent(path.replace("{directory}", str(tmp_path)))

    with pytest.raises(IdentityError, match="group himds") as caught:
        await _ask_arc(agent, keys)

    assert caught.value.code == "managed_identity_key_unreadable"
    assert len(agent.seen) == 1


@pytest.mark.asyncio
async def test_a_token_of_another_identity_of_azure_arc_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "abc.key").write_text("c2VjcmV0")
    agent = Agent("/x/abc.key", client_id="system-assigned")
    with pytest.raises(IdentityError, match="another identity"):
        await _ask_arc(agent, tmp_path, USER_IDENTITY[0])
    agent.client_id = USER_IDENTITY[0].upper()
    assert await _ask_arc(agent, tmp_path, USER_IDENTITY[0]) == "t"


@pytest.mark.asyncio
@pytest.mark.parametrize("challenge", ["", "Negotiate"])
async def test_a_challenge_without_a_file_is_not_the_agents(tmp_path: Path, challenge: str) -> None:
    """Another program on its port."""
    with pytest.raises(IdentityError, match="is not the Azure Arc agent"):
        await _ask_arc(Agent("x", challenge=challenge), tmp_path)


@pytest.mark.asyncio
async def test_service_fabric_is_refused_before_its_secret_is_sent() -> None:
    endpoint = find_endpoint(
        {"IDENTITY_ENDPOINT": "https://127.0.0.1:1/", "IDENTITY_HEADER": "s", "IDENTITY_SERVER_THUMBPRINT": "aa"}
    )
    identity = ManagedIdentity(endpoint, HttpsClient("managed identity endpoint"))
    with pytest.raises(IdentityError, match="Service Fabric"):
        await identity.request_token(Target(resource="x"), None)
