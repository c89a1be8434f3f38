"""The documents a client finds everything else by: OpenID configuration of both versions, and instance discovery.

Does no I/O. URLs inside always hold the tenant's GUID, whatever name the client asked by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.sandbox.tokens import Issuers

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Origins:
    """Where the identity platform is reached.

    Attributes:
        advertised: the origin all documents name, e.g. ``https://localhost:8443``.
        aliases: further origins that reach the same server.
    """

    advertised: str
    aliases: tuple[str, ...] = ()

    def issuers(self, tenant_id: str) -> Issuers:
        """Return the tenant's issuers. They are this server's own: a sandbox token must never look like a real one."""
        return Issuers(tenant_id, v1=f"{self.advertised}/{tenant_id}/", v2=f"{self.advertised}/{tenant_id}/v2.0")

    def token_endpoint(self, tenant_id: str) -> str:
        """Return the tenant's version 2 token endpoint."""
        return f"{self.advertised}/{tenant_id}/oauth2/v2.0/token"

    def assertion_audiences(self, names: Sequence[str], *, strict: bool) -> frozenset[str]:
        """Return every ``aud`` of a client assertion that means this platform.

        Args:
            names: the tenant's GUID first, then its domains.
            strict: take only the two token endpoints as the documents name them, and neither the issuer nor an alias.
        """
        advertised = {f"{self.advertised}/{names[0]}/oauth2/{path}" for path in ("v2.0/token", "token")}
        if strict:
            return frozenset(advertised)
        tolerated = {
            f"{origin}/{name}/{path}"
            for origin in (self.advertised, *self.aliases)
            for name in names
            for path in ("oauth2/v2.0/token", "oauth2/token", "v2.0")
        }
        return frozenset(advertised | tolerated)


def format_openid_configuration_v2(origins: Origins, tenant_id: str, *, shared: bool) -> dict[str, object]:
    """Return the version 2 document; `shared` is for ``/common``, whose issuer is a template."""
    segment = "common" if shared else tenant_id
    base = f"{origins.advertised}/{segment}"
    return {
        "token_endpoint": f"{base}/oauth2/v2.0/token",
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "jwks_uri": f"{base}/discovery/v2.0/keys",
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": origins.issuers("{tenantid}" if shared else tenant_id).v2,
        "request_uri_parameter_supported": False,
        "userinfo_endpoint": f"{origins.advertised}/oidc/userinfo",
        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
        "http_logout_supported": True,
        "frontchannel_logout_supported": True,
        "end_session_endpoint": f"{base}/oauth2/v2.0/logout",
        "claims_supported": [
            "sub",
            "iss",
            "aud",
            "exp",
            "iat",
            "auth_time",
            "acr",
            "nonce",
            "ver",
            "at_hash",
            "c_hash",
        ],
        "kerberos_endpoint": f"{base}/kerberos",
        "tenant_region_scope": None if shared else "EU",
    } | _cloud(origins)


def format_openid_configuration_v1(origins: Origins, tenant_id: str, *, shared: bool) -> dict[str, object]:
    """Return the version 1 document; `shared` is for ``/common``, whose issuer is a template."""
    base = f"{origins.advertised}/{'common' if shared else tenant_id}"
    return {
        "token_endpoint": f"{base}/oauth2/token",
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "jwks_uri": f"{origins.advertised}/common/discovery/keys",
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "token id_token", "token"],
        "scopes_supported": ["openid"],
        "issuer": origins.issuers("{tenantid}" if shared else tenant_id).v1,
        "microsoft_multi_refresh_token": True,
        "authorization_endpoint": f"{base}/oauth2/authorize",
        "device_authorization_endpoint": f"{base}/oauth2/devicecode",
        "http_logout_supported": True,
        "frontchannel_logout_supported": True,
        "end_session_endpoint": f"{base}/oauth2/logout",
        "claims_supported": [
            "sub",
            "iss",
            "aud",
            "exp",
            "iat",
            "auth_time",
            "acr",
            "nonce",
            "ver",
            "at_hash",
            "c_hash",
        ],
        "check_session_iframe": f"{base}/oauth2/checksession",
        "userinfo_endpoint": f"{base}/openid/userinfo",
        "kerberos_endpoint": f"{base}/kerberos",
        "tenant_region_scope": None if shared else "EU",
    } | _cloud(origins)


def _cloud(origins: Origins) -> dict[str, object]:
    host = origins.advertised.removeprefix("https://")
    return {
        "cloud_instance_name": host,
        "cloud_graph_host_name": host,
        "msgraph_host": host,
        "rbac_url": f"{origins.advertised}/rbac",
    }


def format_instance(origins: Origins, authorization_path: str, api_version: str) -> dict[str, object]:
    """Return the answer of instance discovery for one of our hosts.

    Which document it leads to follows the path of the authorization endpoint asked about, not the API version.
    """
    segments = authorization_path.strip("/").split("/")
    version_path = "/v2.0" if "v2.0" in segments else ""
    hosts = [origin.removeprefix("https://") for origin in (origins.advertised, *origins.aliases)]
    names = hosts + sorted({host.rpartition(":")[0] for host in hosts})  # MSAL asks, and caches, without the port
    return {
        "tenant_discovery_endpoint": (
            f"{origins.advertised}/{segments[0]}{version_path}/.well-known/openid-configuration"
        ),
        "api-version": api_version,
        "metadata": [{"preferred_network": hosts[0], "preferred_cache": hosts[0], "aliases": names}],
    }
