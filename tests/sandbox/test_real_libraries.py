"""The unmodified msal and azure-identity packages take the sandbox for the real service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import azure.identity
import azure.identity.aio
import jwt
import msal
import pytest
from azure.core.exceptions import ClientAuthenticationError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from proxy.sandbox import Sandbox, create_client_certificate
from proxy.sandbox.settings import SYSTEM_IDENTITY, USER_IDENTITY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

V1_CLAIMS = {"appid", "appidacr", "idp"}
V2_CLAIMS = {"azp", "azpacr"}


@pytest.fixture
def directory(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sandbox's files; requests, under msal, lets this variable win over what its caller says."""
    sandbox.write_directory(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    return tmp_path


def pem_credential(directory: Path) -> dict[str, str]:
    return {
        "private_key": (directory / "clientapp.key").read_text(),
        "public_certificate": (directory / "clientapp.crt").read_text(),
    }


def pfx_credential(directory: Path) -> dict[str, str]:
    key = serialization.load_pem_private_key((directory / "clientapp.key").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    certificate = x509.load_pem_x509_certificate((directory / "clientapp.crt").read_bytes())
    encryption = serialization.BestAvailableEncryption(b"opensesame")
    path = directory / "clientapp.pfx"
    path.write_bytes(pkcs12.serialize_key_and_certificates(b"client", key, certificate, None, encryption))
    return {"private_key_pfx_path": str(path), "passphrase": "opensesame"}


def thumbprint_credential(directory: Path) -> dict[str, str]:
    certificate = x509.load_pem_x509_certificate((directory / "clientapp.crt").read_bytes())
    return {
        "private_key": (directory / "clientapp.key").read_text(),
        "thumbprint": certificate.fingerprint(hashes.SHA1()).hex().upper(),  # noqa: S303 - x5t is SHA-1
    }


def decoded(access_token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(access_token, options={"verify_signature": False})
    return claims


def msal_application(sandbox: Sandbox, credential: object, **more: Any) -> Any:
    return msal.ConfidentialClientApplication(
        sandbox.client_id, authority=sandbox.authority, client_credential=credential, **more
    )


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("credential", "algorithm", "named_by"),
    [
        pytest.param(pem_credential, "PS256", "x5t#S256", id="pem"),
        pytest.param(pfx_credential, "PS256", "x5t#S256", id="pfx"),
        pytest.param(thumbprint_credential, "RS256", "x5t", id="legacy-thumbprint"),
    ],
)
async def test_msal_obtains_tokens_of_both_versions(
    sandbox: Sandbox, directory: Path, credential: Callable[[Path], object], algorithm: str, named_by: str
) -> None:
    def acquire() -> tuple[Any, Any]:
        application = msal_application(sandbox, credential(directory), instance_discovery=False)
        return tuple(application.acquire_token_for_client([scope]) for scope in (sandbox.scope, sandbox.scope_v1))

    v2, v1 = await asyncio.to_thread(acquire)
    assert decoded(v2["access_token"]).keys() & (V1_CLAIMS | V2_CLAIMS) == V2_CLAIMS
    assert decoded(v1["access_token"]).keys() & (V1_CLAIMS | V2_CLAIMS) == V1_CLAIMS
    assert [each.outcome for each in sandbox.token_requests] == ["issued", "issued"]
    header = sandbox.token_requests[0].assertion_header
    assert header is not None
    assert header["alg"] == algorithm
    assert header.keys() & {"x5t", "x5t#S256"} == {named_by}


@pytest.mark.asyncio
async def test_msal_finds_the_tenant_through_our_instance_discovery(sandbox: Sandbox, directory: Path) -> None:
    instance_discovery = f"{sandbox.identity_url}/common/discovery/instance"

    def acquire() -> Any:
        application = msal_application(sandbox, pem_credential(directory), instance_discovery=instance_discovery)
        return application.acquire_token_for_client([sandbox.scope])

    assert "access_token" in await asyncio.to_thread(acquire)


@pytest.mark.asyncio
async def test_msal_finds_the_tenant_by_its_domain(sandbox: Sandbox, directory: Path) -> None:
    def acquire() -> Any:
        return msal.ConfidentialClientApplication(
            sandbox.client_id,
            authority=f"{sandbox.identity_url}/{sandbox.tenant.domain}",
            client_credential=pem_credential(directory),
            instance_discovery=False,
        ).acquire_token_for_client([sandbox.scope])

    assert "access_token" in await asyncio.to_thread(acquire)


@pytest.mark.asyncio
@pytest.mark.usefixtures("directory")
async def test_msal_hears_why_it_is_refused(sandbox: Sandbox) -> None:
    other = create_client_certificate(sandbox.keys.client.certificate.not_valid_before_utc)
    credential = {
        "private_key": other.private_key_pem.decode(),
        "public_certificate": other.certificate_pem.decode(),
    }

    def acquire() -> Any:
        application = msal_application(sandbox, credential, instance_discovery=False)
        return application.acquire_token_for_client([sandbox.scope])

    answer = await asyncio.to_thread(acquire)
    assert answer["error"] == "invalid_client"
    assert answer["error_codes"] == [700027]
    assert other.certificate.fingerprint(hashes.SHA256()).hex().upper() in answer["error_description"]


@pytest.mark.asyncio
async def test_azure_identity_obtains_tokens_of_both_versions(sandbox: Sandbox, directory: Path) -> None:
    def acquire() -> list[str]:
        with azure.identity.CertificateCredential(
            sandbox.tenant_id,
            sandbox.client_id,
            str(directory / "clientapp.pem"),
            authority=sandbox.identity_url,
            disable_instance_discovery=True,
            connection_verify=str(directory / "ca.pem"),
        ) as credential:
            return [credential.get_token(scope).token for scope in (sandbox.scope, sandbox.scope_v1)]

    v2, v1 = await asyncio.to_thread(acquire)
    assert (decoded(v2)["ver"], decoded(v1)["ver"]) == ("2.0", "1.0")


@pytest.mark.asyncio
async def test_azure_identity_async_obtains_tokens_of_both_versions(sandbox: Sandbox, directory: Path) -> None:
    """It signs over padded segments, which only verifies over the bytes as they were received."""
    credential = azure.identity.aio.CertificateCredential(
        sandbox.tenant_id,
        sandbox.client_id,
        str(directory / "clientapp.pem"),
        authority=sandbox.identity_url,
        connection_verify=str(directory / "ca.pem"),
    )
    async with credential:
        v2, v1 = [await credential.get_token(scope) for scope in (sandbox.scope, sandbox.scope_v1)]
    assert (decoded(v2.token)["ver"], decoded(v1.token)["ver"]) == ("2.0", "1.0")


@pytest.mark.asyncio
async def test_azure_identity_async_hears_why_it_is_refused(sandbox: Sandbox, directory: Path) -> None:
    credential = azure.identity.aio.CertificateCredential(
        sandbox.tenant_id,
        sandbox.client_id,
        str(directory / "clientapp.pem"),
        authority=sandbox.identity_url,
        connection_verify=str(directory / "ca.pem"),
    )
    async with credential:
        with pytest.raises(ClientAuthenticationError, match="AADSTS500011"):
            await credential.get_token("api://no-such-api/.default")


@pytest.mark.asyncio
@pytest.mark.parametrize("form", ["imds", "app_service"])
async def test_azure_identity_takes_the_machine_for_one_in_azure(
    sandbox: Sandbox, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IMDS_ENDPOINT", "MSI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", sandbox.machine_url)
    if form == "app_service":
        monkeypatch.setenv("IDENTITY_ENDPOINT", sandbox.identity_endpoint)
        monkeypatch.setenv("IDENTITY_HEADER", sandbox.identity_header)

    def acquire() -> list[str]:
        tokens = []
        for client_id in (None, USER_IDENTITY[0]):
            with azure.identity.ManagedIdentityCredential(client_id=client_id) as credential:
                tokens.append(credential.get_token(sandbox.scope).token)
        return tokens

    system, user = await asyncio.to_thread(acquire)

    assert [decoded(token)["azp"] for token in (system, user)] == [SYSTEM_IDENTITY[0], USER_IDENTITY[0]]
    assert [request.endpoint for request in sandbox.managed_identity_requests][-2:] == [form, form]


@pytest.mark.asyncio
@pytest.mark.usefixtures("directory")
async def test_msal_exchanges_a_managed_identitys_token_for_the_applications(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", sandbox.machine_url)
    monkeypatch.delenv("IDENTITY_ENDPOINT", raising=False)

    def acquire() -> Any:
        with azure.identity.ManagedIdentityCredential() as identity:
            assertion = identity.get_token("api://AzureADTokenExchange/.default").token
        application = msal_application(sandbox, {"client_assertion": lambda: assertion}, instance_discovery=False)
        return application.acquire_token_for_client([sandbox.scope])

    answer = await asyncio.to_thread(acquire)
    assert decoded(answer["access_token"])["azp"] == sandbox.client_id
