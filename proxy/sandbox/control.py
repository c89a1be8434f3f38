"""The control endpoints under ``/sandbox`` on the identity platform's port: switch faults, read what was recorded.

Does I/O (serves HTTP). Whoever reaches the port may use them; it is on loopback, and nothing here gives a credential
away.

    GET    /sandbox/faults            the switches
    POST   /sandbox/faults            {"token_lifetime_s": 5, "token_endpoint": {"kind": "slow", "delay_s": 2}}
                                      what is named is set, null switches off, the rest stays
    DELETE /sandbox/faults            everything works again
    POST   /sandbox/signing-keys      sign with a new key, the old one is published no more
    POST   /sandbox/revocation        refuse the access tokens issued up to now; {"with_challenge": true}
    POST   /sandbox/claims-challenge  ask for tokens with an nbf of now; {"times": 1}
    GET    /sandbox/token-requests    {"count": N, "requests": [...]}
    GET    /sandbox/managed-identity-requests  {"requests": [...]}
    GET    /sandbox/gateway-refusals  {"refusals": [...]}
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.sandbox.faults import AlwaysUnauthorized, ClaimsChallenge, Faults, Revocation, Times, TokenEndpointFault
from proxy.sandbox.token_records import TokenRequest, format_token_requests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from proxy.sandbox.gateway import GatewayRefusal
    from proxy.sandbox.managed_identities import ManagedIdentityRequest


class Controlled(Protocol):
    """What the control endpoints reach; the sandbox itself."""

    faults: Faults

    @property
    def token_requests(self) -> list[TokenRequest]:
        """The record of token requests."""

    @property
    def token_request_count(self) -> int:
        """How many there ever were."""

    @property
    def managed_identity_requests(self) -> list[ManagedIdentityRequest]:
        """The record of requests to the managed identity endpoints."""

    @property
    def refusals(self) -> list[GatewayRefusal]:
        """The record of the gateway's refusals."""

    async def roll_signing_keys(self) -> None:
        """Sign with a new key."""

    def revoke_issued_tokens(self, *, with_challenge: bool = False) -> None:
        """Refuse the tokens issued up to now."""

    def challenge_claims(self, *, times: int | None = None, padded: bool = True) -> None:
        """Ask for tokens newer than now."""


class _Change(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


class _FaultsChange(_Change):
    token_endpoint: TokenEndpointFault | None = None
    managed_identity: TokenEndpointFault | None = None
    token_lifetime_s: int | None = Field(default=None, ge=1, le=86_400 * 365)
    refresh_in_s: int | None = Field(default=None, ge=0)
    clock_offset_s: float | None = Field(default=None, ge=-(10**9), le=10**9)
    always_unauthorized: AlwaysUnauthorized | None = None
    revocation: Revocation | None = None
    claims_challenge: ClaimsChallenge | None = None


class _RevocationChange(_Change):
    with_challenge: bool = False


class _ChallengeChange(_Change):
    times: Times | None = None
    padded: bool = True


class Control:
    """Serves the control endpoints."""

    def __init__(self, sandbox: Controlled) -> None:
        self._sandbox = sandbox

    def application(self) -> web.Application:
        """Return a new aiohttp application, to be mounted under ``/sandbox``."""
        application = web.Application(middlewares=[_explain_faulty_change])
        add = application.router.add_route
        add("GET", "/faults", self._show_faults)
        add("POST", "/faults", self._change_faults)
        add("DELETE", "/faults", self._clear_faults)
        add("POST", "/signing-keys", self._roll_signing_keys)
        add("POST", "/revocation", self._revoke)
        add("POST", "/claims-challenge", self._challenge)
        add("GET", "/token-requests", self._show_token_requests)
        add("GET", "/managed-identity-requests", self._show_managed_identity_requests)
        add("GET", "/gateway-refusals", self._show_refusals)
        return application

    async def _show_faults(self, _request: web.Request) -> web.Response:
        return web.json_response(asdict(self._sandbox.faults))

    async def _change_faults(self, request: web.Request) -> web.Response:
        change = _FaultsChange.model_validate_json(await request.read())
        working = Faults()
        for name in change.model_fields_set:
            value = getattr(change, name)
            setattr(self._sandbox.faults, name, getattr(working, name) if value is None else value)
        return await self._show_faults(request)

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self._sandbox.faults.clear()
        return await self._show_faults(request)

    async def _roll_signing_keys(self, _request: web.Request) -> web.Response:
        await self._sandbox.roll_signing_keys()
        return web.Response(status=204)

    async def _revoke(self, request: web.Request) -> web.Response:
        change = _RevocationChange.model_validate_json(await request.read() or b"{}")
        self._sandbox.revoke_issued_tokens(with_challenge=change.with_challenge)
        return await self._show_faults(request)

    async def _challenge(self, request: web.Request) -> web.Response:
        change = _ChallengeChange.model_validate_json(await request.read() or b"{}")
        self._sandbox.challenge_claims(times=change.times, padded=change.padded)
        return await self._show_faults(request)

    async def _show_token_requests(self, _request: web.Request) -> web.Response:
        return web.json_response(format_token_requests(self._sandbox.token_requests, self._sandbox.token_request_count))

    async def _show_managed_identity_requests(self, _request: web.Request) -> web.Response:
        return web.json_response({"requests": [asdict(each) for each in self._sandbox.managed_identity_requests]})

    async def _show_refusals(self, _request: web.Request) -> web.Response:
        return web.json_response({"refusals": [asdict(each) for each in self._sandbox.refusals]})


@web.middleware
async def _explain_faulty_change(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ValidationError as error:
        faults = [_explain(dict(each)) for each in error.errors(include_url=False, include_input=False)]
        return web.json_response({"faults": faults}, status=400)


def _explain(fault: Mapping[str, object]) -> str:
    where = ".".join(str(each) for each in fault["loc"]) if isinstance(fault["loc"], tuple) else ""
    if fault["type"] == "json_invalid":
        return "The content is not JSON."
    if fault["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"{where}: there is no such key; GET /sandbox/faults shows them all."
    allowed = fault.get("ctx")
    hint = f" ({json.dumps(allowed, default=str)})" if allowed else ""
    return f"{where or 'The content'}: this value is not possible here{hint}."
