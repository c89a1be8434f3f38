"""The sandbox as a whole: starts and stops the identity platform and the gateway on loopback.

Does I/O (listens, over TLS). One event loop's thread only. Everything a test wants to see or change is an attribute.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from aiohttp import web

from proxy.sandbox import echo_api
from proxy.sandbox.authority_ca import server_context
from proxy.sandbox.control import Control
from proxy.sandbox.directory import SandboxFacts, write_directory
from proxy.sandbox.discovery import Origins
from proxy.sandbox.faults import ClaimsChallenge, Faults, Revocation
from proxy.sandbox.gateway import Gateway, GatewayRefusal
from proxy.sandbox.grpc_service import HTTP_2, GrpcService, has_grpc
from proxy.sandbox.identity_platform import IdentityPlatform
from proxy.sandbox.keys import SandboxKeys, create_keys
from proxy.sandbox.managed_identities import APP_SERVICE_PATH, ManagedIdentities, ManagedIdentityEndpoints
from proxy.sandbox.ports import BACKLOG, bind, listen
from proxy.sandbox.registrations import (
    ClientApplication,
    FederatedCredential,
    ResourceApplication,
    Tenant,
    register_certificate,
)
from proxy.sandbox.settings import (
    API_APP_ID,
    API_URI,
    API_V1_APP_ID,
    API_V1_URI,
    EXCHANGE_APP_ID,
    EXCHANGE_URI,
    ROLE,
    SYSTEM_IDENTITY,
    USER_IDENTITY,
    SandboxSettings,
)
from proxy.sandbox.tokens import KeyRing, create_signing_key
from proxy.sandbox.validate_jwt import ValidateJwt

if TYPE_CHECKING:
    import ssl
    from pathlib import Path
    from types import TracebackType

    from proxy.sandbox.managed_identities import ManagedIdentityRequest
    from proxy.sandbox.token_records import TokenRequest

CLIENT_OBJECT_ID = "55555555-5555-5555-5555-555555555555"

_HEAD_LIMIT_BYTES = 131_072  # more than any client in front of it accepts: the sandbox must not be what refuses
_SHUTDOWN_S = 0.1  # a sandbox owes its clients no draining
_ROUNDS = 100  # of the event loop, to see the end of a connection: three are enough
# For a client that is still sending: a reset would take the response away from one that is slow to read it (RFC 9112 §9.6).
_LINGER_S = 5.0


class Sandbox:
    """A local identity platform, API Management gateway and API.

    Use as an async context manager, or call `start` and `close`. URLs and `ca_pem` exist once it has started.

    Attributes:
        tenant: the registrations; may be changed while it runs.
        faults: the switches for what goes wrong.
        key_ring: the keys that sign access tokens.
        identity_url: origin of the identity platform, the ``authority`` of a credential.
        api_url: origin of the API behind the gateway.
        machine_url: origin of the machine's managed identity endpoints, as ``AZURE_POD_IDENTITY_AUTHORITY_HOST`` names it.
        identity_header: the secret of the App Service form.
        subscription_key: the active one.
        scope: what to ask a token for the API with (version 2 tokens).
        scope_v1: the same for the API with version 1 tokens.
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self.settings = SandboxSettings() if settings is None else settings
        self.tenant_id = self.settings.tenant_id
        self.client_id = self.settings.client_id
        self.tenant = Tenant(self.settings.tenant_id, self.settings.domain)
        self.faults = Faults()
        self.scope = f"{API_URI}/.default"
        self.scope_v1 = f"{API_V1_URI}/.default"
        self.subscription_key = self.settings.subscription_key or secrets.token_hex(16)
        self.identity_url = ""
        self.api_url = ""
        self.machine_url = ""
        self.identity_header = self.settings.identity_header or secrets.token_hex(16)
        self._runners: dict[str, web.BaseRunner] = {}
        self._kept: socket.socket | None = None
        self._grpc: tuple[asyncio.Server, GrpcService] | None = None

    def now(self) -> float:
        """Return the sandbox's time, Unix seconds: the clock, and what a fault puts on top of it."""
        return self.settings.clock() + self.faults.clock_offset_s

    # Life

    async def start(self) -> None:
        """Make keys where none were given, register the applications, and listen.

        Raises:
            SandboxError: a port is taken.
        """
        self._has_grpc = has_grpc()
        self._keys, self._tls, self._api_tls = await asyncio.to_thread(self._prepare)
        self.key_ring = KeyRing(self._keys.signing_keys)
        with contextlib.ExitStack() as sockets:
            identity_socket = sockets.enter_context(listen(self.settings.identity_port))
            api_socket = sockets.enter_context(listen(self.settings.api_port))
            self._identity_port = _port(identity_socket)
            self.identity_url = f"https://localhost:{self._identity_port}"
            self.api_url = f"https://localhost:{_port(api_socket)}"
            machine_socket = sockets.enter_context(listen(self.settings.machine_port))
            self.machine_url = f"http://127.0.0.1:{_port(machine_socket)}"
            self._register()
            self._identity = self._build_identity_platform()
            self._gateway = self._build_gateway()
            self._machine = self._build_machine()
            try:
                await self._serve_identity_platform(identity_socket)
                await self._serve_gateway(api_socket)
                await self._serve_machine(machine_socket)
            except BaseException:
                await self.close()
                raise
            sockets.pop_all()  # the servers own them from here on

    async def close(self) -> None:
        """Stop listening and break what is left of connections. May be called twice."""
        grpc, self._grpc = self._grpc, None
        if grpc is not None:
            front, service = grpc
            front.close()
            await service.close()
        while self._runners:
            _, runner = self._runners.popitem()
            await _clean_up(runner)
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close_identity_platform(self) -> None:
        """Stop only the identity platform: connections to it are refused from now on, and its port stays taken."""
        await _clean_up(self._runners.pop("identity"))
        self._kept = bind(self._identity_port)

    async def open_identity_platform(self) -> None:
        """Serve the identity platform again, on the same port with the same state."""
        kept, self._kept = self._kept, None
        await self._serve_identity_platform(listen(self._identity_port) if kept is None else kept)

    # What there is to see

    @property
    def token_endpoint(self) -> str:
        """The tenant's version 2 token endpoint."""
        return f"{self.identity_url}/{self.tenant_id}/oauth2/v2.0/token"

    @property
    def authority(self) -> str:
        """The identity platform's origin and tenant, as MSAL wants it."""
        return f"{self.identity_url}/{self.tenant_id}"

    @property
    def control_url(self) -> str:
        """Where the control endpoints are."""
        return f"{self.identity_url}/sandbox"

    @property
    def ca_pem(self) -> str:
        """The CA certificate to trust."""
        return self._keys.ca.certificate_pem.decode()

    @property
    def keys(self) -> SandboxKeys:
        """The key material in use."""
        return self._keys

    @property
    def client_certificate_pem(self) -> str:
        """The client application's certificate."""
        return self._keys.client.certificate_pem.decode()

    @property
    def client_private_key_pem(self) -> str:
        """The client application's private key."""
        return self._keys.client.private_key_pem.decode()

    @property
    def token_requests(self) -> list[TokenRequest]:
        """What came to the token endpoints, oldest first."""
        return self._identity.token_requests

    @property
    def token_request_count(self) -> int:
        """How many token requests there ever were."""
        return self._identity.token_request_count

    @property
    def identity_endpoint(self) -> str:
        """Where ``IDENTITY_ENDPOINT`` points, in App Service's form."""
        return f"{self.machine_url}{APP_SERVICE_PATH}"

    @property
    def machine(self) -> ManagedIdentityEndpoints:
        """The managed identity endpoints, whose identities may be changed."""
        return self._machine

    @property
    def managed_identity_requests(self) -> list[ManagedIdentityRequest]:
        """What came to the managed identity endpoints, oldest first."""
        return self._machine.requests

    @property
    def refusals(self) -> list[GatewayRefusal]:
        """What the gateway refused, oldest first."""
        return self._gateway.refusals

    def write_directory(
        self, directory: Path, proxy_address: str = "127.0.0.1:8080", admin_address: str = "127.0.0.1:9901"
    ) -> None:
        """Write configuration, keys and description for users (see `proxy.sandbox.directory`). Blocks on small files.

        Raises:
            SandboxError: the directory cannot be written to.
        """
        facts = SandboxFacts(
            tenant_id=self.tenant_id,
            client_id=self.client_id,
            identity_url=self.identity_url,
            token_endpoint=self.token_endpoint,
            scope=self.scope,
            api_url=self.api_url,
            subscription_key=self.subscription_key,
            keys=self._keys,
            machine_url=self.machine_url,
            identity_endpoint=self.identity_endpoint,
            identity_header=self.identity_header,
            managed_identity_client_id=USER_IDENTITY[0],
        )
        write_directory(facts, directory, proxy_address=proxy_address, admin_address=admin_address)

    # What there is to change, beside `tenant` and `faults`

    async def roll_signing_keys(self) -> None:
        """Sign with a new key and publish the old one no more. The gateway fetches the key set anew."""
        now = datetime.fromtimestamp(self.now(), UTC)
        self.key_ring.roll(await asyncio.to_thread(create_signing_key, now))
        self._gateway.forget_keys()

    def revoke_issued_tokens(self, *, with_challenge: bool = False) -> None:
        """Have the gateway refuse every access token issued before this moment."""
        self.faults.revocation = Revocation(self.now(), with_challenge)

    def challenge_claims(self, *, times: int | None = None, padded: bool = True) -> None:
        """Have the API ask for access tokens obtained with a claims request for an ``nbf`` of now."""
        self.faults.claims_challenge = ClaimsChallenge(int(self.now()), times, padded)

    # How it is built

    def _prepare(self) -> tuple[SandboxKeys, ssl.SSLContext, ssl.SSLContext]:
        keys = self.settings.keys or create_keys(datetime.now(UTC), datetime.fromtimestamp(self.settings.clock(), UTC))
        tls = server_context(keys.ca)
        return keys, tls, server_context(keys.ca, more_protocols=(HTTP_2,)) if self._has_grpc else tls

    def _register(self) -> None:
        certificate = register_certificate(self._keys.client.certificate)
        roles = dict.fromkeys((self.client_id, SYSTEM_IDENTITY[0], USER_IDENTITY[0]), (ROLE,))
        issuer = Origins(self.identity_url).issuers(self.tenant_id).v2
        trusted = tuple(FederatedCredential(issuer, subject) for _, subject in (SYSTEM_IDENTITY, USER_IDENTITY))
        self.tenant.register_client(
            ClientApplication(self.client_id, CLIENT_OBJECT_ID, (certificate,), federated=trusted)
        )
        self.tenant.register_resource(ResourceApplication(EXCHANGE_APP_ID, (EXCHANGE_URI,), 2))
        self.tenant.register_resource(ResourceApplication(API_APP_ID, (API_URI,), 2, roles))
        self.tenant.register_resource(ResourceApplication(API_V1_APP_ID, (API_V1_URI,), 1, roles))
        for client in self.settings.clients:
            self.tenant.register_client(client)
        for resource in self.settings.resources:
            self.tenant.register_resource(resource)

    def _build_identity_platform(self) -> IdentityPlatform:
        return IdentityPlatform(
            self.tenant,
            self.key_ring,
            self.faults,
            Origins(self.identity_url, (f"https://127.0.0.1:{self._identity_port}",)),
            clock=self.now,
            tolerance_s=self.settings.assertion_tolerance_s,
            strict_audience=self.settings.strict_audience,
            error_separator=self.settings.error_separator,
        )

    def _build_machine(self) -> ManagedIdentityEndpoints:
        return ManagedIdentityEndpoints(
            self.tenant,
            self.key_ring,
            self.faults,
            Origins(self.identity_url).issuers(self.tenant_id),
            ManagedIdentities(ClientApplication(*SYSTEM_IDENTITY), (ClientApplication(*USER_IDENTITY),)),
            header=self.identity_header,
            clock=self.now,
        )

    def _build_gateway(self) -> Gateway:
        issuers = Origins(self.identity_url).issuers(self.tenant_id)
        policy = ValidateJwt(
            audiences=frozenset({API_APP_ID, API_URI, API_V1_APP_ID, API_V1_URI}),
            issuers=frozenset({issuers.v1, issuers.v2}),
            required_claims=self.settings.gateway.required_claims,
            require_scheme=self.settings.gateway.require_scheme,
            clock_skew_s=self.settings.gateway.clock_skew_s,
        )
        return Gateway(
            self.settings.gateway,
            policy,
            api_url=self.api_url,
            subscription_key=self.subscription_key,
            fetch_keys=self.key_ring.public_keys,
            authorization_url=f"{self.identity_url}/common/oauth2/authorize",
            faults=self.faults,
            clock=self.now,
            api=echo_api.answer,
        )

    async def _serve_identity_platform(self, listening: socket.socket) -> None:
        application = self._identity.application()
        application.add_subapp("/sandbox", Control(self).application())
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await self._run("identity", runner, listening)

    async def _serve_gateway(self, listening: socket.socket) -> None:
        # The low-level server: no routing, so that the target stays as it came.
        server = web.Server(
            self._gateway.handle,
            access_log=None,
            auto_decompress=False,
            lingering_time=_LINGER_S,
            max_line_size=_HEAD_LIMIT_BYTES,
            max_field_size=_HEAD_LIMIT_BYTES,
            max_headers=1_000,
        )
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)
        if not self._has_grpc:
            await self._run("api", runner, listening)
            return
        self._runners["api"] = runner
        await runner.setup()
        service = GrpcService(self._gateway, server)
        front = await asyncio.get_running_loop().create_server(
            service.accept, sock=listening, ssl=self._api_tls, backlog=BACKLOG
        )
        self._grpc = front, service

    async def _serve_machine(self, listening: socket.socket) -> None:
        runner = web.AppRunner(self._machine.application(), access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await self._run("machine", runner, listening, is_plain=True)

    async def _run(
        self, name: str, runner: web.BaseRunner, listening: socket.socket, *, is_plain: bool = False
    ) -> None:
        self._runners[name] = runner
        await runner.setup()
        tls = None if is_plain else self._tls
        await web.SockSite(runner, listening, ssl_context=tls, backlog=BACKLOG).start()


async def _clean_up(runner: web.BaseRunner) -> None:
    """Stop a server and break its connections, without waiting for clients to take part in the end of their TLS.

    By their sockets: aiohttp closes a transport twice, and after that CPython 3.11.2 cannot abort one that speaks TLS
    (python/cpython#98539, mended in 3.11.4).
    """
    server = runner.server
    transports = [] if server is None else [each.transport for each in server.connections]
    sockets = [each.get_extra_info("socket") for each in transports if each is not None]
    connections = [each for each in sockets if each is not None]
    await runner.cleanup()
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    # The loop sees the end of each in its next rounds, and closes the socket.
    for _ in range(_ROUNDS):
        if all(connection.fileno() < 0 for connection in connections):
            break
        await asyncio.sleep(0)


def _port(listening: socket.socket) -> int:
    port: int = listening.getsockname()[1]
    return port
