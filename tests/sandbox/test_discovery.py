"""The documents a client finds everything else by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import aiohttp

    from proxy.sandbox import Sandbox


async def get(client: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    async with client.get(url) as response:
        document: dict[str, Any] = await response.json()
        return response.status, document


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["guid", "domain"])
async def test_documents_name_the_tenant_by_its_guid(
    sandbox: Sandbox, client: aiohttp.ClientSession, name: str
) -> None:
    segment = sandbox.tenant_id if name == "guid" else sandbox.tenant.domain
    base = f"{sandbox.identity_url}/{sandbox.tenant_id}"
    well_known = ".well-known/openid-configuration"
    _, v2 = await get(client, f"{sandbox.identity_url}/{segment}/v2.0/{well_known}")
    _, v1 = await get(client, f"{sandbox.identity_url}/{segment}/{well_known}")
    assert (v2["token_endpoint"], v2["issuer"]) == (sandbox.token_endpoint, f"{base}/v2.0")
    assert (v1["token_endpoint"], v1["issuer"]) == (f"{base}/oauth2/token", f"{base}/")
    assert v2["authorization_endpoint"] == f"{base}/oauth2/v2.0/authorize"
    assert v2["jwks_uri"] == f"{base}/discovery/v2.0/keys"
    assert v1["jwks_uri"] == f"{sandbox.identity_url}/common/discovery/keys"


@pytest.mark.asyncio
async def test_the_shared_document_has_a_template_for_issuer(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    _, document = await get(client, f"{sandbox.identity_url}/common/v2.0/.well-known/openid-configuration")
    assert document["issuer"] == f"{sandbox.identity_url}/{{tenantid}}/v2.0"


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["{tenant}/discovery/v2.0/keys", "{tenant}/discovery/keys", "common/discovery/keys"])
async def test_each_key_path_publishes_every_key(sandbox: Sandbox, client: aiohttp.ClientSession, path: str) -> None:
    _, document = await get(client, f"{sandbox.identity_url}/{path.format(tenant=sandbox.tenant_id)}")
    keys = document["keys"]
    assert [key["kid"] for key in keys] == [key.kid for key in sandbox.key_ring.keys]
    assert len(keys) >= 2
    assert all(key["x5t"] == key["kid"] and key["kty"] == "RSA" and key["e"] == "AQAB" for key in keys)
    assert all(("issuer" in key) == ("v2.0" in path) for key in keys)


@pytest.mark.asyncio
async def test_an_unknown_tenant_has_no_documents(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    unknown = "99999999-9999-9999-9999-999999999999"
    status, error = await get(client, f"{sandbox.identity_url}/{unknown}/v2.0/.well-known/openid-configuration")
    assert (status, error["error"], error["error_codes"]) == (400, "invalid_tenant", [90002])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("endpoint", "document"),
    [
        ("{tenant}/oauth2/v2.0/authorize", "{tenant}/v2.0/.well-known/openid-configuration"),
        ("{tenant}/oauth2/authorize", "{tenant}/.well-known/openid-configuration"),
    ],
    ids=["v2", "v1"],
)
async def test_instance_discovery_leads_to_the_tenants_document(
    sandbox: Sandbox, client: aiohttp.ClientSession, endpoint: str, document: str
) -> None:
    """MSAL asks without the port."""
    asked = f"https://localhost/{endpoint.format(tenant=sandbox.tenant_id)}"
    url = f"{sandbox.identity_url}/common/discovery/instance?api-version=1.0&authorization_endpoint={asked}"
    _, answer = await get(client, url)
    expected = f"{sandbox.identity_url}/{document.format(tenant=sandbox.tenant_id)}"
    assert answer["tenant_discovery_endpoint"] == expected
    assert "localhost" in answer["metadata"][0]["aliases"]


@pytest.mark.asyncio
async def test_instance_discovery_knows_no_other_host(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    asked = "https://login.example.com/common/oauth2/authorize"
    url = f"{sandbox.identity_url}/common/discovery/instance?api-version=1.0&authorization_endpoint={asked}"
    status, error = await get(client, url)
    assert (status, error["error"], error["error_codes"]) == (400, "invalid_instance", [50049])
