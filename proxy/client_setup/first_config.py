"""The commented configuration that `init` writes. Pure: does no I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class FirstConfig:
    """What is known when somebody begins.

    Attributes:
        tenant_id: GUID or domain.
        client_id: the application's id, or ``${CLIENT_ID}`` where it is not registered yet.
        host: of the API, ``host`` or ``host:port``.
        scope: the API's identifier URI and ``/.default``.
        certificate: the certificate's file; None where a managed identity takes its place.
        private_key: the key's file; None where it is in the certificate's.
        listen: the forward listener's address.
        admin: the admin site's address.
        authority: the identity platform, where it is not Microsoft's.
        ca_file: trusted for the API and the authority, besides the system's roots.
        dial: where to connect for the API; None for the host itself.
        subscription_key: sent with each request; None for none.
        state_directory: None for the default.
        cloud: of the identity platform; None for the public one.
        managed_identity: ``system`` or a client id, which is the credential itself.
        federated_managed_identity: ``system`` or a client id, which the application trusts.
    """

    tenant_id: str
    client_id: str
    host: str
    scope: str
    certificate: str | None
    private_key: str | None
    listen: str = "127.0.0.1:8080"
    admin: str = "127.0.0.1:9901"
    authority: str | None = None
    ca_file: str | None = None
    dial: str | None = None
    subscription_key: str | None = None
    state_directory: str | None = None
    cloud: str | None = None
    managed_identity: str | None = None
    federated_managed_identity: str | None = None


_UNREGISTERED: Final = "       # the az commands that `init` printed write the application's client ID here"


def format_first_config(first: FirstConfig) -> str:
    """Return the file; every value from outside is quoted as JSON, which is YAML too."""
    quote = json.dumps
    lines = [
        "# Configuration of apim-auth-proxy. Check it with `apim-auth-proxy check`. The project's config.example.yaml has",
        "# every key with its unit, default and meaning; `apim-auth-proxy config schema` prints a JSON Schema for editors.",
        "",
        "listeners:",
        f"  - address: {quote(first.listen)}       # where HTTP_PROXY and HTTPS_PROXY of your programs point",
        "    mode: forward",
        "",
        *_format_credential(first),
    ]
    if first.cloud is not None and first.managed_identity is None:
        lines.append(f"    cloud: {first.cloud}       # decides which sign-in host is used")
    if first.authority is not None:
        lines.append(f"    authority: {quote(first.authority)}")
    if first.ca_file is not None:
        lines.append(f"    ca_file: {quote(first.ca_file)}")
    lines += [
        "",
        "# Which hosts get a token, and for what.",
        "routes:",
        f"  - hosts: [{quote(first.host)}]",
        "    credential: api-client",
        f"    scope: {quote(first.scope)}       # the API's identifier URI followed by /.default",
    ]
    if first.subscription_key is not None:
        lines.append(f"    set_headers: {{ Ocp-Apim-Subscription-Key: {quote(first.subscription_key)} }}")
    else:
        lines.append(
            '    # set_headers: { Ocp-Apim-Subscription-Key: "${SUBSCRIPTION_KEY}" }   # if the API requires one'
        )
    if first.dial is not None:
        lines.append(f"    dial: {quote(first.dial)}")
    if first.ca_file is not None:
        lines.append(f"    ca_file: {quote(first.ca_file)}")
    lines += ["", "# Health checks, metrics and a status page.", "admin:", f"  address: {quote(first.admin)}"]
    if first.state_directory is not None:
        lines += ["", "# Where the interception CA is kept.", f"state_directory: {quote(first.state_directory)}"]
    return "\n".join(lines) + "\n"


def _format_credential(first: FirstConfig) -> list[str]:
    quote = json.dumps
    if first.managed_identity is not None:
        return [
            "# Who the proxy is to the identity platform: this machine's managed identity, which has neither key nor certificate.",
            "credentials:",
            "  api-client:",
            f"    managed_identity: {quote(first.managed_identity)}",
        ]
    lines = [
        "# How the proxy signs in to the identity platform: an application and the "
        + ("certificate registered for it." if first.certificate else "managed identity that it trusts."),
        "credentials:",
        "  api-client:",
        f"    tenant_id: {quote(first.tenant_id)}",
        f"    client_id: {quote(first.client_id)}" + (_UNREGISTERED if "${" in first.client_id else ""),
    ]
    if first.federated_managed_identity is not None:
        lines.append(f"    federated_managed_identity: {quote(first.federated_managed_identity)}")
    if first.certificate is not None:
        lines.append(f"    certificate: {quote(first.certificate)}")
    if first.private_key is not None:
        lines.append(f"    private_key: {quote(first.private_key)}       # stays on this machine")
    return lines
