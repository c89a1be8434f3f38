"""The endpoints of a machine's managed identities: the metadata service of a virtual machine (IMDS), and App Service's.

Does I/O (serves plain http on loopback, as the real ones do on a link-local address or inside of a container).

Source: Azure Instance Metadata Service 2018-02-01; App Service 2019-08-01. Numbers are strings; a request that others could
have made through a proxy or a web page is refused.
"""

from __future__ import annotations

import hmac
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import web

from proxy.sandbox.aadsts import AadstsError
from proxy.sandbox.faults import TokenEndpointFault, TokenFault
from proxy.sandbox.grants import find_resource
from proxy.sandbox.token_answers import strike
from proxy.sandbox.token_records import KEPT
from proxy.sandbox.tokens import DEFAULT_LIFETIME_S, KeyRing, TokenOrder, issue_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.sandbox.faults import Faults
    from proxy.sandbox.registrations import ClientApplication, Tenant
    from proxy.sandbox.tokens import Issuers

IMDS_PATH: Final = "/metadata/identity/oauth2/token"
APP_SERVICE_PATH: Final = "/msi/token"


@dataclass(frozen=True, slots=True)
class ManagedIdentities:
    """Who a machine is.

    Attributes:
        system: the service principal of its system-assigned identity; None: it has none.
        user_assigned: further ones, named by their client ids.
    """

    system: ClientApplication | None = None
    user_assigned: tuple[ClientApplication, ...] = ()

    def find(self, client_id: str | None) -> ClientApplication | None:
        """Return the identity that a request means."""
        if client_id is None:
            return self.system
        return next((each for each in self.user_assigned if each.client_id.lower() == client_id.lower()), None)


@dataclass(slots=True)
class ManagedIdentityRequest:
    """One request. `status` is set when it is answered.

    Attributes:
        endpoint: ``imds`` or ``app_service``.
        resource: what the token is for.
        client_id: of a user-assigned identity; None: the system-assigned one.
        status: the answer's HTTP status; None while pending, and 0 where the connection was broken on purpose.
    """

    endpoint: str
    resource: str
    client_id: str | None
    status: int | None = field(default=None)


class ManagedIdentityEndpoints:
    """Serves both endpoints of one machine.

    Attributes:
        identities: who the machine is; may be changed while it runs.
        requests: what came, oldest first, bounded.
    """

    def __init__(
        self,
        tenant: Tenant,
        key_ring: KeyRing,
        faults: Faults,
        issuers: Issuers,
        identities: ManagedIdentities,
        *,
        header: str,
        clock: Callable[[], float],
    ) -> None:
        """Prepare.

        Args:
            tenant: where the resources are registered.
            key_ring: signs.
            faults: the switches.
            issuers: of the tenant.
            identities: who the machine is.
            header: App Service's secret.
            clock: Unix seconds.
        """
        self.identities = identities
        self.requests: list[ManagedIdentityRequest] = []
        self._tenant = tenant
        self._key_ring = key_ring
        self._faults = faults
        self._issuers = issuers
        self._header = header
        self._clock = clock

    def application(self) -> web.Application:
        """Return a new aiohttp application that serves them."""
        application = web.Application()
        application.router.add_get(IMDS_PATH, self._imds)
        application.router.add_get(APP_SERVICE_PATH, self._app_service)
        return application

    async def _imds(self, request: web.Request) -> web.StreamResponse:
        # What no program can be made to send from afar: a server in between, or a browser, would show here.
        if request.headers.get("Metadata", "").lower() != "true" or "X-Forwarded-For" in request.headers:
            return _refuse(400, "bad_request_102", "Required metadata header not specified")
        return await self._answer(request, "imds", "2018-02-01")

    async def _app_service(self, request: web.Request) -> web.StreamResponse:
        given = request.headers.get("X-IDENTITY-HEADER", "")
        if not hmac.compare_digest(given.encode(), self._header.encode()):
            return web.json_response({"statusCode": 403, "message": "Forbidden", "correlationId": _id()}, status=403)
        return await self._answer(request, "app_service", "2019-08-01")

    async def _answer(self, request: web.Request, endpoint: str, version: str) -> web.StreamResponse:
        client_id = request.query.get("client_id")
        record = ManagedIdentityRequest(endpoint, request.query.get("resource", ""), client_id)
        self.requests.append(record)
        del self.requests[:-KEPT]
        fault = self._faults.take_managed_identity(client_id)
        try:
            response = await self._work(request, record, version, fault)
        except AadstsError as refusal:
            response = _refuse(refusal.status, refusal.error, str(refusal))
        record.status = 0 if fault is not None and fault.kind is TokenFault.DEAD else response.status
        return response

    async def _work(
        self, request: web.Request, record: ManagedIdentityRequest, version: str, fault: TokenEndpointFault | None
    ) -> web.StreamResponse:
        struck = None if fault is None else await strike(fault, request)
        if struck is not None:
            return struck
        if request.query.get("api-version") != version:
            return _refuse(400, "invalid_request", "The api-version is not one of this endpoint.")
        identity = self.identities.find(record.client_id)
        if identity is None:
            if record.endpoint == "imds":
                return _refuse(400, "invalid_request", "Identity not found")
            message = "Unable to load the proper Managed Identity."
            return web.json_response({"statusCode": 400, "message": message, "correlationId": _id()}, status=400)
        resource = find_resource(record.resource, self._tenant)
        now = self._clock()
        life_s = self._faults.token_lifetime_s or DEFAULT_LIFETIME_S
        order = TokenOrder(identity, resource, record.resource, "2", None, life_s)
        token = issue_token(order, self._key_ring.current, self._issuers, now)
        answer = {
            "access_token": token.access_token,
            "client_id": identity.client_id,
            "expires_on": str(token.expires_at),
            "not_before": str(token.not_before_at),
            "resource": record.resource,
            "token_type": "Bearer",
        }
        if record.endpoint == "imds":
            answer |= {"expires_in": str(life_s), "ext_expires_in": str(life_s)}
        return web.json_response(answer)


def _refuse(status: int, error: str, description: str) -> web.Response:
    return web.json_response({"error": error, "error_description": description}, status=status)


def _id() -> str:
    return str(uuid.uuid4())
