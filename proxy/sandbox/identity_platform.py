"""The identity platform: token endpoints, key sets and discovery documents of one tenant, as an aiohttp application.

Does I/O (serves HTTP). What it decides is decided in `proxy.sandbox.grants`; this module reads requests and writes
answers.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from proxy.sandbox import discovery
from proxy.sandbox.aadsts import AadstsError, Exchange, format_error
from proxy.sandbox.faults import Faults, TokenEndpointFault, TokenFault
from proxy.sandbox.grants import Platform, Version, check_tenant, decide_grant, is_guid, parse_form, peek_assertion
from proxy.sandbox.token_answers import cut, format_answer, spoil_answer, strike
from proxy.sandbox.token_records import KEPT, TokenRequest, record_token_request
from proxy.sandbox.tokens import DEFAULT_LIFETIME_S, KeyRing, format_jwks, issue_token

if TYPE_CHECKING:
    from proxy.sandbox.discovery import Origins
    from proxy.sandbox.registrations import Tenant

_SHARED = frozenset({"common", "organizations"})
_CONTENT_LIMIT = 1_048_576

_TOKEN_FIELDS = {
    "Cache-Control": "no-store, no-cache",
    "Pragma": "no-cache",
    "Expires": "-1",
    "P3P": 'CP="DSP CUR OTPi IND OTRi ONL FIN"',
    "x-ms-ests-server": "apim-auth-proxy sandbox",
}
"""As the real service has them, but for Strict-Transport-Security, which would bind all ports of localhost."""

_TOKEN_COOKIES = {"fpc": "sandbox", "x-ms-gateway-slice": "estsfd", "stsservicecookie": "estsfd"}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class IdentityPlatform:
    """Serves one tenant.

    Attributes:
        token_requests: what came to the token endpoints, oldest first, bounded.
        token_request_count: how many there ever were.
    """

    def __init__(
        self,
        tenant: Tenant,
        key_ring: KeyRing,
        faults: Faults,
        origins: Origins,
        *,
        clock: Callable[[], float],
        tolerance_s: float,
        strict_audience: bool,
        error_separator: str,
    ) -> None:
        self._tenant = tenant
        self._key_ring = key_ring
        self._faults = faults
        self._origins = origins
        self._clock = clock
        self._error_separator = error_separator
        names = (tenant.tenant_id, tenant.domain)
        audiences = origins.assertion_audiences(names, strict=strict_audience)
        self._platform = Platform(tenant, audiences, tolerance_s, key_ring.public_keys)
        self.token_requests: list[TokenRequest] = []
        self.token_request_count = 0

    def application(self) -> web.Application:
        """Return a new aiohttp application that serves this platform."""
        application = web.Application(client_max_size=_CONTENT_LIMIT, middlewares=[self._refusals])
        application.on_response_prepare.append(self._date)
        tenant = "/{tenant:[^/]+}"
        add = application.router.add_route
        add("*", f"{tenant}/oauth2/v2.0/token", self._token_v2)
        add("*", f"{tenant}/oauth2/token", self._token_v1)
        add("GET", "/common/discovery/instance", self._instance)
        add("GET", f"{tenant}/v2.0/.well-known/openid-configuration", self._openid_configuration_v2)
        add("GET", f"{tenant}/.well-known/openid-configuration", self._openid_configuration_v1)
        add("GET", f"{tenant}/discovery/v2.0/keys", self._keys_v2)
        add("GET", f"{tenant}/discovery/keys", self._keys_v1)
        return application

    async def _date(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = formatdate(self._clock(), usegmt=True)

    @web.middleware
    async def _refusals(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except AadstsError as refusal:
            return self._format_refusal(request, refusal)

    def _format_refusal(self, request: web.Request, refusal: AadstsError) -> web.Response:
        asked = request.headers.get("client-request-id", "")
        correlation_id = asked if is_guid(asked) else str(uuid.uuid4())
        exchange = Exchange(str(uuid.uuid4()), correlation_id, self._clock())
        error = format_error(refusal, exchange, identity_url=self._origins.advertised, separator=self._error_separator)
        response = web.json_response(error, status=refusal.status)
        _dress(request, response, exchange.trace_id)
        return response

    # Token endpoints

    async def _token_v2(self, request: web.Request) -> web.StreamResponse:
        return await self._token(request, 2)

    async def _token_v1(self, request: web.Request) -> web.StreamResponse:
        return await self._token(request, 1)

    async def _token(self, request: web.Request, version: Version) -> web.StreamResponse:
        if request.method != "POST":
            raise AadstsError(900561, f"The token endpoint takes POST; this request was a {request.method}.")
        form = parse_form(request.content_type, await request.read())
        record = record_token_request(
            self._clock(), request.path, request.headers.get("client-request-id"), form, peek_assertion(form)
        )
        self._keep(record)
        fault = self._faults.take_token_endpoint(form.get("client_id"))
        try:
            response = await self._answer(request, version, form, fault)
        except AadstsError as refusal:
            record.status, record.outcome = refusal.status, f"AADSTS{refusal.code}"
            raise
        kind = TokenFault.SLOW if fault is None else fault.kind
        record.status = 0 if kind in {TokenFault.DEAD, TokenFault.CUT} else response.status
        record.outcome = "issued" if kind is TokenFault.SLOW else f"fault: {kind}"
        return response

    async def _answer(
        self, request: web.Request, version: Version, form: Mapping[str, str], fault: TokenEndpointFault | None
    ) -> web.StreamResponse:
        if fault is not None:
            struck = await strike(fault, request)
            if struck is not None:
                return struck
        now = self._clock()
        order = decide_grant(request.match_info["tenant"], version, form, self._platform, now)
        order = replace(order, lifetime_s=self._faults.token_lifetime_s or DEFAULT_LIFETIME_S)
        issuers = self._origins.issuers(self._tenant.tenant_id)
        token = issue_token(order, self._key_ring.current, issuers, now)
        answer = format_answer(order, token, version, self._faults.refresh_in_s)
        content = json.dumps(answer).encode() if fault is None else spoil_answer(fault.kind, answer)
        if fault is not None and fault.kind is TokenFault.CUT:
            return await cut(request, content)
        response = web.Response(body=content, content_type="application/json", charset="utf-8")
        _dress(request, response, str(uuid.uuid4()))
        return response

    def _keep(self, record: TokenRequest) -> None:
        self.token_requests.append(record)
        self.token_request_count += 1
        del self.token_requests[:-KEPT]

    # Documents

    async def _openid_configuration_v2(self, request: web.Request) -> web.Response:
        shared = self._is_shared(request)
        document = discovery.format_openid_configuration_v2(self._origins, self._tenant.tenant_id, shared=shared)
        return _document(document)

    async def _openid_configuration_v1(self, request: web.Request) -> web.Response:
        shared = self._is_shared(request)
        document = discovery.format_openid_configuration_v1(self._origins, self._tenant.tenant_id, shared=shared)
        return _document(document)

    async def _keys_v2(self, request: web.Request) -> web.Response:
        issuers = self._origins.issuers("{tenantid}" if self._is_shared(request) else self._tenant.tenant_id)
        return _document(format_jwks(self._key_ring.keys, issuers.v2))

    async def _keys_v1(self, request: web.Request) -> web.Response:
        self._is_shared(request)
        return _document(format_jwks(self._key_ring.keys, None))

    def _is_shared(self, request: web.Request) -> bool:
        """Return whether the request is for ``/common`` and its like; refuse unknown tenants."""
        segment = request.match_info["tenant"]
        if segment.lower() in _SHARED:
            return True
        try:
            check_tenant(segment, self._tenant)
        except AadstsError as refusal:
            if refusal.code == 90002:  # here the real service names the error differently than at the token endpoint
                raise AadstsError(90002, refusal.sentence, error="invalid_tenant") from None
            raise
        return False

    async def _instance(self, request: web.Request) -> web.Response:
        endpoint = urlsplit(request.query.get("authorization_endpoint", ""))
        ours = {urlsplit(origin).hostname for origin in (self._origins.advertised, *self._origins.aliases)}
        if endpoint.hostname not in ours:
            raise AadstsError(50049, "The authority host is not one of this platform.")
        version = "1.0" if request.query.get("api-version") == "1.0" else "1.1"
        return _document(discovery.format_instance(self._origins, endpoint.path, version))


def _document(document: dict[str, object]) -> web.Response:
    fields = {"Cache-Control": "max-age=86400, private", "Access-Control-Allow-Origin": "*"}
    return web.json_response(document, headers=fields)


def _dress(request: web.Request, response: web.Response, trace_id: str) -> None:
    """Add the fields and cookies of the real service's token endpoint."""
    response.headers.update(_TOKEN_FIELDS)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["x-ms-request-id"] = trace_id
    if request.headers.get("return-client-request-id", "").lower() == "true":
        response.headers["client-request-id"] = request.headers.get("client-request-id", "")
    for name, value in _TOKEN_COOKIES.items():
        response.set_cookie(name, value, path="/", secure=True, httponly=True, samesite="None")
