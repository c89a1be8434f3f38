"""What an administrator registers in a tenant: client applications with their certificates, and resource applications.

Does no I/O. `Tenant` may be changed while the sandbox runs (certificate rotation, a role granted); the values in it are
immutable, so a change replaces a registration whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cryptography.hazmat.primitives import hashes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography import x509


@dataclass(frozen=True, slots=True)
class RegisteredCertificate:
    """A certificate uploaded to a client application, with the digests a JOSE header names it by.

    Attributes:
        certificate: the certificate.
        sha1: the 20 bytes of ``x5t`` (RFC 7515 §4.1.7).
        sha256: the 32 bytes of ``x5t#S256`` (RFC 7515 §4.1.8).
    """

    certificate: x509.Certificate
    sha1: bytes
    sha256: bytes


def register_certificate(certificate: x509.Certificate) -> RegisteredCertificate:
    """Return the certificate with its digests."""
    sha1 = certificate.fingerprint(hashes.SHA1())  # noqa: S303 - RFC 7515 §4.1.7 defines x5t as SHA-1
    return RegisteredCertificate(certificate, sha1, certificate.fingerprint(hashes.SHA256()))


@dataclass(frozen=True, slots=True)
class FederatedCredential:
    """Another identity whose tokens an application takes for its own proof; each part is compared exactly.

    Attributes:
        issuer: ``iss`` of its tokens.
        subject: ``sub``: of a managed identity, its service principal's object id.
        audience: what its tokens have to be for.
    """

    issuer: str
    subject: str
    audience: str = "api://AzureADTokenExchange"


@dataclass(frozen=True, slots=True)
class ClientApplication:
    """An application that asks for tokens in its own name.

    Attributes:
        client_id: the application id.
        object_id: the service principal's object id, which becomes ``oid`` and ``sub``; None where that
            was never made (AADSTS7000229).
        certificates: its credentials; any of them may sign.
        secrets: client secrets, accepted too.
        federated: identities whose tokens are accepted as well.
    """

    client_id: str
    object_id: str | None
    certificates: tuple[RegisteredCertificate, ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)
    federated: tuple[FederatedCredential, ...] = ()


@dataclass(frozen=True, slots=True)
class ResourceApplication:
    """An API that tokens are issued for.

    Attributes:
        app_id: the application id, ``aud`` of version 2 tokens.
        identifier_uris: the App ID URIs a scope may name it by; the application id always works.
        token_version: the version of its tokens, whatever endpoint the client used.
        roles: app roles granted, by client id.
        assignment_required: whether a client without a role is refused (AADSTS501051) rather than given a bare token.
    """

    app_id: str
    identifier_uris: tuple[str, ...]
    token_version: Literal[1, 2] = 2
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    assignment_required: bool = False


class Tenant:
    """A directory: its names and the applications registered in it."""

    def __init__(self, tenant_id: str, domain: str) -> None:
        self.tenant_id = tenant_id
        self.domain = domain
        self._clients: dict[str, ClientApplication] = {}
        self._resources: dict[str, ResourceApplication] = {}

    def register_client(self, client: ClientApplication) -> None:
        """Add a client application, or replace the one with the same client id."""
        self._clients[client.client_id.lower()] = client

    def register_resource(self, resource: ResourceApplication) -> None:
        """Add a resource application, or replace the one with the same application id."""
        self._resources[resource.app_id.lower()] = resource

    def is_named(self, segment: str) -> bool:
        """Return whether a URL's tenant segment means this tenant: by GUID or by verified domain."""
        return segment.lower() in {self.tenant_id.lower(), self.domain.lower()}

    def client(self, client_id: str) -> ClientApplication | None:
        """Return the client application of that id."""
        return self._clients.get(client_id.lower())

    def resource(self, name: str) -> ResourceApplication | None:
        """Return the resource application of that application id or App ID URI, which is compared exactly."""
        by_id = self._resources.get(name.lower())
        if by_id is not None:
            return by_id
        return next((each for each in self._resources.values() if name in each.identifier_uris), None)

    def audience(self, name: str) -> str:
        """Return the ``aud`` of version 2 tokens for a resource of that name; the name itself where there is none."""
        resource = self.resource(name)
        return name if resource is None else resource.app_id
