"""Every way to prove who we are, over real sockets: against the sandbox, and against a key vault's REST shape."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import re
import ssl
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import pytest_asyncio
import trustme
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, utils
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from proxy.config.loading import load_settings
from proxy.errors import CredentialRejected, IdentityError, IdentityPlatformUnavailable
from proxy.identity.certificate_creation import create_certificate
from proxy.identity.credential import Target
from proxy.identity.sources import TokenSources
from proxy.sandbox import (
    Sandbox,
    SandboxKeys,
    SandboxSettings,
    TokenEndpointFault,
    TokenFault,
    create_keys,
    register_certificate,
)
from proxy.sandbox.tokens import self_signed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from proxy.identity.credential import CredentialStatistics
    from proxy.identity.source import TokenSource

MINE = "mine"


@pytest.fixture(scope="module")
def keys() -> SandboxKeys:
    return create_keys(datetime.now(UTC))


@pytest.fixture(scope="module")
def vault_ca() -> trustme.CA:
    return trustme.CA()


@pytest_asyncio.fixture
async def sandbox(keys: SandboxKeys) -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(keys=keys)) as running:
        yield running


class Bench:
    """A configuration against the sandbox, with everything but the proof filled in."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        self.sandbox = sandbox
        self.directory = directory
        self.built: list[TokenSources] = []
        sandbox.write_directory(directory)

    def sources(self, *lines: str, other: tuple[str, ...] = (), poll_s: float = 0.05) -> TokenSources:
        """Build token sources from the lines of a credential."""
        head = [
            f"    tenant_id: {self.sandbox.tenant_id}",
            f"    client_id: {self.sandbox.client_id}",
            f"    authority: {self.sandbox.identity_url}",
            "    ca_file: ca.pem",
        ]
        text = [
            "listeners: [{address: '127.0.0.1:0'}]",
            "state_directory: state",
            "credentials:",
            *[f"  {MINE}:", *head, *[f"    {line}" for line in lines]],
            *(["  other:", *head, *[f"    {line}" for line in other]] if other else []),
            "routes:",
            f"  - {{hosts: [api.example.com], credential: {MINE}, scope: '{self.sandbox.scope}'}}",
        ]
        file = self.directory / "own.yaml"
        file.write_text("\n".join(text))
        built = TokenSources.from_settings(load_settings(file, {"HOME": str(self.directory)}), poll_s=poll_s)
        self.built.append(built)
        return built

    def source(self, *lines: str) -> TokenSource:
        return self.sources(*lines).source_for(MINE, Target(scope=self.sandbox.scope))

    def register(self, *certificates: bytes, secrets: tuple[str, ...] = ()) -> None:
        """Replace what is registered for the client; nothing given keeps its certificate."""
        client = self.sandbox.tenant.client(self.sandbox.client_id)
        assert client is not None
        registered = tuple(register_certificate(x509.load_pem_x509_certificate(pem)) for pem in certificates)
        self.sandbox.tenant.register_client(
            dataclasses.replace(client, certificates=registered or client.certificates, secrets=secrets)
        )

    def write_pair(self, name: str) -> bytes:
        """Write a new pair and return its certificate."""
        certificate, key = create_certificate("client", 1, 2048, datetime.now(UTC))
        temporary = self.directory / f"{name}.new"
        temporary.touch(mode=0o600)
        temporary.write_bytes(certificate + key)
        temporary.replace(self.directory / name)
        return certificate


@pytest_asyncio.fixture
async def bench(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(sandbox, tmp_path)
    yield bench
    for sources in bench.built:
        await sources.close()


def _read(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


@pytest.mark.asyncio
async def test_a_signer_command_proves_it(bench: Bench) -> None:
    command = "[openssl, dgst, -sha256, -sigopt, 'rsa_padding_mode:pss', -sigopt, 'rsa_pss_saltlen:digest', -sign, KEY]"
    key = bench.directory / "clientapp.key"
    source = bench.source("certificate: clientapp.crt", f"signer_command: {command.replace('KEY', str(key))}")

    token = await source.acquire()

    assert _read(token.value)["azp"] == bench.sandbox.client_id
    header = bench.sandbox.token_requests[0].assertion_header
    assert header is not None
    assert header["alg"] == "PS256"


@pytest.mark.asyncio
async def test_a_signer_that_fails_is_not_the_platforms_fault(bench: Bench) -> None:
    source = bench.source("certificate: clientapp.crt", "signer_command: ['false']")

    with pytest.raises(IdentityError) as caught:
        await source.acquire()

    assert not isinstance(caught.value, IdentityPlatformUnavailable)
    assert caught.value.code == "signer_failed"
    assert bench.sandbox.token_request_count == 0


@pytest.mark.asyncio
async def test_a_client_secret_is_accepted_with_a_warning(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.register(secrets=("s3cr3t-value",))
    source = bench.source("client_secret: s3cr3t-value")

    token = await source.acquire()

    assert _read(token.value)["azpacr"] == "1"
    assert "cert new" in caplog.text
    assert "s3cr3t-value" not in caplog.text


@pytest.mark.asyncio
async def test_a_wrong_client_secret_is_explained_and_never_repeated(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    source = bench.source("client_secret: s3cr3t-value")

    with pytest.raises(CredentialRejected) as caught:
        await source.acquire()

    assert caught.value.code == "AADSTS7000215"
    assert "s3cr3t-value" not in caught.value.detail + caplog.text


@pytest.mark.asyncio
async def test_a_federated_token_is_read_anew_for_each_request(bench: Bench) -> None:
    file = bench.directory / "token"
    file.write_text("e30.e30.AAAA\n")
    source = bench.source("federated_token_file: token")

    with pytest.raises(CredentialRejected):
        await source.acquire()
    for content, reason in (
        ("not a token", "does not hold a JWT"),
        ("", "does not hold a JWT"),
        (None, "cannot be read"),
    ):
        file.unlink()
        if content is not None:
            file.write_text(content)
        source.forgive()
        with pytest.raises(IdentityError, match=reason):
            await source.acquire()
        file.touch()

    assert bench.sandbox.token_request_count == 1
    assert ("grant_type", "client_credentials") in bench.sandbox.token_requests[0].form


@pytest.mark.asyncio
async def test_a_resource_is_asked_for_at_the_v1_endpoint(bench: Bench) -> None:
    sources = bench.sources("certificate: clientapp.pem")
    resource = bench.sandbox.scope.removesuffix("/.default")

    token = await sources.source_for(MINE, Target(resource=resource)).acquire()

    (request,) = bench.sandbox.token_requests
    assert token.value
    assert request.path == f"/{bench.sandbox.tenant_id}/oauth2/token"
    assert ("resource", resource) in request.form
    assert "scope" not in dict(request.form)
    assert request.assertion_claims is not None
    assert str(request.assertion_claims["aud"]).endswith("/oauth2/token")


@pytest.mark.asyncio
async def test_further_parameters_and_capabilities_go_along(bench: Bench) -> None:
    source = bench.source(
        "certificate: clientapp.pem", "token_parameters: {audience: orders}", "client_capabilities: [cp1]"
    )

    token = await source.acquire()
    assert source.report_refusal(token, time.monotonic(), '{"access_token":{"nbf":{"essential":true,"value":"5"}}}')
    await source.acquire()

    first, second = (dict(request.form) for request in bench.sandbox.token_requests)
    assert first["audience"] == "orders"
    assert first["claims"] == '{"access_token":{"xms_cc":{"values":["CP1"]}}}'
    assert second["claims"] == ('{"access_token":{"nbf":{"essential":true,"value":"5"},"xms_cc":{"values":["CP1"]}}}')


# Several certificates, and certificates that change.


@pytest.mark.asyncio
async def test_the_next_certificate_is_tried_and_the_one_that_works_is_remembered(bench: Bench) -> None:
    bench.write_pair("unknown.pem")
    sources = bench.sources("certificates: [{certificate: unknown.pem}, {certificate: clientapp.pem}]")
    source = sources.source_for(MINE, Target(scope=bench.sandbox.scope))

    await source.acquire()
    source.renew()
    await asyncio.sleep(0)
    await _until(lambda: sources.statistics().credentials[MINE].requests.get(("ok", "")) == 2)

    outcomes = [request.outcome for request in bench.sandbox.token_requests]
    assert outcomes == ["AADSTS700027", "issued", "issued"]
    statistics = sources.statistics().credentials[MINE]
    fingerprint = bench.sandbox.keys.client.certificate.fingerprint(hashes.SHA1())  # noqa: S303 -- the portal's form
    assert statistics.proof_in_use == f"certificate {fingerprint.hex().upper()}"
    assert statistics.requests == {("rejected", "AADSTS700027"): 1, ("ok", ""): 2}
    assert len(statistics.expirations) == 2


@pytest.mark.asyncio
async def test_when_no_certificate_is_accepted_each_is_named(bench: Bench) -> None:
    for name in ("one.pem", "two.pem"):
        bench.write_pair(name)
    source = bench.source("certificates: [{certificate: one.pem}, {certificate: two.pem}]")

    with pytest.raises(CredentialRejected) as caught:
        await source.acquire()

    assert caught.value.detail.count("AADSTS700027") == 3
    assert bench.sandbox.token_request_count == 2


@pytest.mark.asyncio
async def test_a_refusal_that_is_not_about_the_proof_is_not_tried_again(bench: Bench) -> None:
    bench.write_pair("two.pem")
    sources = bench.sources("certificates: [{certificate: clientapp.pem}, {certificate: two.pem}]")

    with pytest.raises(CredentialRejected) as caught:
        await sources.source_for(MINE, Target(scope="api://unknown/.default")).acquire()

    assert caught.value.code == "AADSTS500011"
    assert bench.sandbox.token_request_count == 1


@pytest.mark.asyncio
async def test_a_certificate_is_rolled_over_under_load_without_a_failure(bench: Bench) -> None:
    bench.sandbox.faults.token_lifetime_s = 5
    old = (bench.directory / "clientapp.crt").read_bytes()
    sources = bench.sources("certificate: clientapp.pem")
    source = sources.source_for(MINE, Target(scope=bench.sandbox.scope))
    await sources.warm_up()
    ended = asyncio.Event()
    served = 0

    async def client() -> None:
        nonlocal served
        while not ended.is_set():
            asked_at = time.monotonic()
            token = source.peek(asked_at) or await source.acquire()
            assert asked_at < token.expires_at_mono
            served += 1
            await asyncio.sleep(0.002)

    def statistics() -> CredentialStatistics:
        return sources.statistics().credentials[MINE]

    def is_new_in_use() -> bool:
        thumbprint = x509.load_pem_x509_certificate(new).fingerprint(hashes.SHA1())  # noqa: S303 -- the portal's form
        return statistics().proof_in_use == f"certificate {thumbprint.hex().upper()}"

    clients = [asyncio.create_task(client()) for _ in range(20)]
    try:
        new = bench.write_pair("clientapp.pem")  # Changed here before the platform knows it.
        await _until(lambda: any(request.outcome == "AADSTS700027" for request in bench.sandbox.token_requests))
        for known in ((old, new), (new,)):
            bench.register(*known)
            earlier = statistics().requests["ok", ""]
            source.renew()
            await _until(lambda earlier=earlier: statistics().requests["ok", ""] > earlier and is_new_in_use())  # type: ignore[misc]
        enough = served + 1_000
        await _until(lambda: served > enough)
    finally:
        ended.set()
        await asyncio.gather(*clients)

    assert is_new_in_use()


@pytest.mark.asyncio
async def test_a_remembered_refusal_is_forgotten_when_the_certificate_changes(bench: Bench) -> None:
    bench.register(bench.write_pair("right.pem"))
    sources = bench.sources("certificate: clientapp.pem")
    source = sources.source_for(MINE, Target(scope=bench.sandbox.scope))
    await sources.warm_up()
    assert [(one.credential, str(one.target)) for one in sources.failing()] == [(MINE, bench.sandbox.scope)]

    (bench.directory / "right.pem").replace(bench.directory / "clientapp.pem")
    # For less long than the refusal would be remembered: in looks, because nobody here acts while the machine stalls.
    for _ in range(300):
        if source.peek(time.monotonic()) is not None:
            break
        await asyncio.sleep(0.01)

    assert source.peek(time.monotonic()) is not None

    assert sources.failing() == []


@pytest.mark.asyncio
async def test_a_bad_new_pair_leaves_the_old_one_in_use(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    sources = bench.sources("certificate: clientapp.pem")
    source = sources.source_for(MINE, Target(scope=bench.sandbox.scope))
    await sources.warm_up()

    (bench.directory / "bad.pem").write_bytes((bench.directory / "clientapp.crt").read_bytes())
    (bench.directory / "bad.pem").replace(bench.directory / "clientapp.pem")
    await _until(lambda: "the old ones stay" in caplog.text)
    source.renew()
    await _until(lambda: bench.sandbox.token_request_count == 2)

    assert [request.outcome for request in bench.sandbox.token_requests] == ["issued", "issued"]
    assert "no private key in it" in caplog.text


# Outage and clock.


@pytest.mark.asyncio
async def test_a_lazy_credential_is_not_warmed_up_and_not_waited_for(bench: Bench) -> None:
    sources = bench.sources("certificate: clientapp.pem", "lazy: true")

    await sources.warm_up()

    assert sources.ready
    assert bench.sandbox.token_request_count == 0
    await sources.source_for(MINE, Target(scope=bench.sandbox.scope)).acquire()
    assert bench.sandbox.token_request_count == 1


@pytest.mark.asyncio
async def test_warming_up_goes_on_until_the_platform_is_back(bench: Bench) -> None:
    bench.sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SERVER_ERROR_EMPTY, times=1)
    sources = bench.sources("certificate: clientapp.pem")

    await sources.warm_up()
    ready = sources.ready
    await _until(lambda: sources.ready)

    assert not ready
    assert bench.sandbox.token_request_count == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("offset_s", [3_600, -3_600], ids=["we_are_slow", "we_are_fast"])
async def test_a_clock_that_breaks_assertions_is_corrected_for_and_said_so(
    offset_s: float, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.sandbox.faults.clock_offset_s = offset_s
    sources = bench.sources("certificate: clientapp.pem")

    token = await sources.source_for(MINE, Target(scope=bench.sandbox.scope)).acquire()

    statistics = sources.statistics().credentials[MINE]
    assert token.value
    assert [request.outcome for request in bench.sandbox.token_requests] == ["AADSTS700024", "issued"]
    assert statistics.clock_skew_s == pytest.approx(offset_s, abs=30)
    assert statistics.clock_correction_s == pytest.approx(offset_s, abs=30)
    assert re.search(rf"clock is 3[56]\d\d s {'slow' if offset_s > 0 else 'fast'} by", caplog.text)


@pytest.mark.asyncio
async def test_a_correction_ends_when_the_clock_is_right_again(bench: Bench) -> None:
    bench.sandbox.faults.clock_offset_s = 3_600
    sources = bench.sources("certificate: clientapp.pem")
    source = sources.source_for(MINE, Target(scope=bench.sandbox.scope))
    await source.acquire()

    bench.sandbox.faults.clock_offset_s = 0
    source.renew()
    # It is corrected between the refusal and the second attempt, which has to be waited for, too.
    await _until(lambda: sources.statistics().credentials[MINE].requests.get(("ok", "")) == 2)

    assert sources.statistics().credentials[MINE].clock_correction_s == 0
    assert bench.sandbox.token_requests[-1].outcome == "issued"


# A key in a vault.


class Vault:
    """The REST shape of Azure Key Vault and of the metadata service, with a key of its own."""

    def __init__(self, certificate: x509.Certificate, key: RSAPrivateKey) -> None:
        self.certificate = certificate
        self.key = key
        self.calls: list[tuple[str, str]] = []
        self.accepted = {"Bearer vault-token"}
        self.status = 200
        self.identity_status = 200
        self.url = ""

    async def get_certificate(self, request: web.Request) -> web.Response:
        self._note(request)
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        identifier = f"{self.url}/keys/clientapp/0001"
        return web.json_response({"kid": identifier, "x5t": "unused", "cer": base64.b64encode(der).decode()})

    async def sign(self, request: web.Request) -> web.Response:
        self._note(request)
        body = await request.json()
        assert body["alg"] == "PS256"
        digest = base64.urlsafe_b64decode(body["value"] + "==")
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=32)
        signature = self.key.sign(digest, pss, utils.Prehashed(hashes.SHA256()))
        value = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
        return web.json_response({"kid": f"{self.url}/keys/clientapp/0001", "value": value})

    async def issue(self, request: web.Request) -> web.Response:
        assert request.headers["Metadata"] == "true"
        assert request.query["resource"] == "https://vault.azure.net"
        self.calls.append(("identity", request.query.get("client_id", "")))
        if self.identity_status != 200:
            return web.json_response({"error": "invalid_request"}, status=self.identity_status)
        expires_on = str(int(time.time()) + 3_600)
        return web.json_response({"access_token": "vault-token", "token_type": "Bearer", "expires_on": expires_on})

    def _note(self, request: web.Request) -> None:
        self.calls.append((request.method, request.path_qs))
        if self.status != 200:
            raise _error(self.status)
        if request.headers.get("Authorization") not in self.accepted:
            raise web.HTTPUnauthorized


def _error(status: int) -> web.HTTPException:
    kinds: dict[int, type[web.HTTPException]] = {
        403: web.HTTPForbidden,
        404: web.HTTPNotFound,
        429: web.HTTPTooManyRequests,
        503: web.HTTPServiceUnavailable,
    }
    return kinds[status]()


@asynccontextmanager
async def _listen(routes: list[web.RouteDef], tls: ssl.SSLContext | None) -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield f"http{'s' if tls else ''}://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture
async def vault(bench: Bench, vault_ca: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Vault]:
    client = bench.sandbox.keys.client
    key = serialization.load_pem_private_key(client.private_key_pem, None)
    assert isinstance(key, RSAPrivateKey)
    emulation = Vault(client.certificate, key)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    vault_ca.issue_cert("localhost").configure_cert(tls)
    with (bench.directory / "ca.pem").open("ab") as trusted:
        trusted.write(vault_ca.cert_pem.bytes())
    routes = [
        web.get("/certificates/clientapp", emulation.get_certificate),
        web.post("/keys/clientapp/sign", emulation.sign),
        web.post("/keys/clientapp/0001/sign", emulation.sign),
    ]
    identity = [web.get("/metadata/identity/oauth2/token", emulation.issue)]
    async with _listen(routes, tls) as emulation.url, _listen(identity, None) as metadata:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", metadata)
        monkeypatch.delenv("IDENTITY_ENDPOINT", raising=False)
        yield emulation


@pytest.mark.asyncio
async def test_a_vault_key_proves_it_by_the_managed_identity(bench: Bench, vault: Vault) -> None:
    source = bench.source(f"key_vault_key: {vault.url}/keys/clientapp", "managed_identity_client_id: '4444'")

    token = await source.acquire()
    source.renew()
    await _until(lambda: bench.sandbox.token_request_count == 2)

    assert _read(token.value)["azpacr"] == "2"
    assert vault.calls == [
        ("identity", "4444"),
        ("GET", "/certificates/clientapp?api-version=7.4"),
        ("POST", "/keys/clientapp/0001/sign?api-version=7.4"),
        ("POST", "/keys/clientapp/0001/sign?api-version=7.4"),
    ]


@pytest.mark.asyncio
async def test_a_vaults_certificate_is_read_again_once_it_has_expired(bench: Bench, vault: Vault) -> None:
    """A2: nobody has to restart the proxy after the vault has renewed it."""
    good = vault.certificate
    vault.certificate = self_signed(vault.key, "client", datetime.now(UTC) - timedelta(days=800))
    source = bench.source(f"key_vault_key: {vault.url}/keys/clientapp")
    with pytest.raises(CredentialRejected):
        await source.acquire()

    vault.certificate = good
    source.forgive()
    await source.acquire()

    assert [method for method, _ in vault.calls if method == "GET"] == ["GET", "GET"]


@pytest.mark.asyncio
async def test_a_vault_need_not_be_asked_for_a_certificate_that_is_here(bench: Bench, vault: Vault) -> None:
    source = bench.source(f"key_vault_key: {vault.url}/keys/clientapp", "certificate: clientapp.crt")

    await source.acquire()

    assert vault.calls == [("identity", ""), ("POST", "/keys/clientapp/sign?api-version=7.4")]


@pytest.mark.asyncio
async def test_a_vault_token_that_is_refused_is_replaced_once(bench: Bench, vault: Vault) -> None:
    vault.accepted = set()
    source = bench.source(f"key_vault_key: {vault.url}/keys/clientapp", "certificate: clientapp.crt")

    with pytest.raises(IdentityError, match="Key Vault Crypto User"):
        await source.acquire()

    assert [call[0] for call in vault.calls] == ["identity", "POST", "identity", "POST"]


@pytest.mark.asyncio
async def test_another_credential_may_reach_the_vault(bench: Bench, vault: Vault) -> None:
    sources = bench.sources(
        f"key_vault_key: {vault.url}/keys/clientapp",
        "key_vault_credential: other",
        other=("certificate: clientapp.pem",),
    )

    with pytest.raises(CredentialRejected) as caught:
        await sources.source_for(MINE, Target(scope=bench.sandbox.scope)).acquire()

    # The sandbox's tenant has no vaults, which shows that it was asked, by the other credential, for the right thing.
    assert caught.value.code == "AADSTS500011"
    assert dict(bench.sandbox.token_requests[0].form)["scope"] == "https://vault.azure.net/.default"


VAULT_FAULTS = [
    (403, "Key Vault Crypto User", False),
    (404, "no such key", False),
    (429, "answers 429", True),
    (503, "answers 503", True),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("status", "reason", "passing"), VAULT_FAULTS)
async def test_what_a_vault_refuses_is_named(
    status: int, reason: str, passing: bool, bench: Bench, vault: Vault
) -> None:
    vault.status = status
    source = bench.source(f"key_vault_key: {vault.url}/keys/clientapp")

    with pytest.raises(IdentityError, match=reason) as caught:
        await source.acquire()

    assert isinstance(caught.value, IdentityPlatformUnavailable) is passing
    assert bench.sandbox.token_request_count == 0


@pytest.mark.asyncio
async def test_a_vault_key_of_another_certificate_is_noticed_here(bench: Bench, vault: Vault) -> None:
    (bench.directory / "other.crt").write_bytes(bench.write_pair("other.pem"))
    source = bench.source(f"key_vault_key: {vault.url}/keys/clientapp", "certificate: other.crt")

    with pytest.raises(IdentityError, match="does not fit the certificate"):
        await source.acquire()

    assert bench.sandbox.token_request_count == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "reason"), [(400, "no system-assigned identity"), (404, "tries again"), (500, "500")]
)
async def test_a_machine_without_an_identity_is_told_so(status: int, reason: str, bench: Bench, vault: Vault) -> None:
    vault.identity_status = status
    source = bench.source(f"key_vault_key: {vault.url}/keys/clientapp")

    with pytest.raises(IdentityError, match=reason):
        await source.acquire()

    assert [call[0] for call in vault.calls] == ["identity"]


async def _until(condition: Callable[[], bool], limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
