"""A local stand-in for Microsoft Entra ID, Azure API Management and an API, for demo, tests and users' own CI.

It listens on loopback over TLS with a CA of its own, verifies client assertions for real, and imports nothing else of
this package. In a test:

    async with Sandbox() as sandbox:
        sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SLOW, delay_s=2, times=1)
        ...
        assert len(sandbox.token_requests) == 1

Where to find what, from the outside in:

    serving             the command: run until stopped
    server              `Sandbox`: start, stop, see, change; ports are what it listens on
    settings, keys      how it is set up
    directory           the files it writes for a proxy or for MSAL
    identity_platform   HTTP of the identity platform; discovery has its documents, token_answers what it sends
    grants              decides a token request; assertions and federation verify the proof; registrations is what is registered
    managed_identities  the endpoints that a machine in Azure has for its own identities
    tokens, aadsts      access tokens; refusals
    gateway             HTTP of API Management; validate_jwt decides about a token
    echo_api            the API; grpc_service is the same for gRPC, where grpcio is installed
    faults, control     what can go wrong, and the switches
"""

from proxy.sandbox.faults import (
    AlwaysUnauthorized,
    ClaimsChallenge,
    Faults,
    Revocation,
    TokenEndpointFault,
    TokenFault,
)
from proxy.sandbox.gateway import GatewayRefusal, GatewaySettings, RateLimit
from proxy.sandbox.keys import ClientCertificate, SandboxKeys, create_client_certificate, create_keys
from proxy.sandbox.managed_identities import ManagedIdentities
from proxy.sandbox.ports import lasting_ports
from proxy.sandbox.registrations import (
    ClientApplication,
    FederatedCredential,
    ResourceApplication,
    Tenant,
    register_certificate,
)
from proxy.sandbox.server import Sandbox
from proxy.sandbox.serving import serve
from proxy.sandbox.settings import SandboxError, SandboxSettings
from proxy.sandbox.token_records import TokenRequest
from proxy.sandbox.validate_jwt import RequiredClaim

__all__ = [
    "AlwaysUnauthorized",
    "ClaimsChallenge",
    "ClientApplication",
    "ClientCertificate",
    "Faults",
    "FederatedCredential",
    "GatewayRefusal",
    "GatewaySettings",
    "ManagedIdentities",
    "RateLimit",
    "RequiredClaim",
    "ResourceApplication",
    "Revocation",
    "Sandbox",
    "SandboxError",
    "SandboxKeys",
    "SandboxSettings",
    "Tenant",
    "TokenEndpointFault",
    "TokenFault",
    "TokenRequest",
    "create_client_certificate",
    "create_keys",
    "lasting_ports",
    "register_certificate",
    "serve",
]
