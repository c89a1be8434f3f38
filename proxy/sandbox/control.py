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

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final, Protocol

from aiohttp import web
from msgspec import UNSET, DecodeError, Meta, Struct, UnsetType, ValidationError, json, to_builtins
from msgspec.structs import asdict as fields_of

from proxy.sandbox.faults import AlwaysUnauthorized, ClaimsChallenge, Faults, Revocation, Times, TokenEndpointFault
from proxy.sandbox.token_records import TokenRequest, format_token_requests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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


_Lifetime = Annotated[int, Meta(ge=1, le=86_400 * 365)]
_Refresh = Annotated[int, Meta(ge=0)]
_Offset = Annotated[float, Meta(ge=-(10**9), le=10**9)]


class _FaultsChange(Struct, forbid_unknown_fields=True):
    token_endpoint: TokenEndpointFault | UnsetType | None = UNSET
    managed_identity: TokenEndpointFault | UnsetType | None = UNSET
    token_lifetime_s: _Lifetime | UnsetType | None = UNSET
    refresh_in_s: _Refresh | UnsetType | None = UNSET
    clock_offset_s: _Offset | UnsetType | None = UNSET
    always_unauthorized: AlwaysUnauthorized | UnsetType | None = UNSET
    revocation: Revocation | UnsetType | None = UNSET
    claims_challenge: ClaimsChallenge | UnsetType | None = UNSET


class _RevocationChange(Struct, forbid_unknown_fields=True):
    with_challenge: bool = False


class _ChallengeChange(Struct, forbid_unknown_fields=True):
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
        return web.json_response(to_builtins(self._sandbox.faults))

    async def _change_faults(self, request: web.Request) -> web.Response:
        change = json.decode(await request.read(), type=_FaultsChange)
        working = Faults()
        for name, value in fields_of(change).items():
            if value is not UNSET:
                setattr(self._sandbox.faults, name, getattr(working, name) if value is None else value)
        return await self._show_faults(request)

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self._sandbox.faults.clear()
        return await self._show_faults(request)

    async def _roll_signing_keys(self, _request: web.Request) -> web.Response:
        await self._sandbox.roll_signing_keys()
        return web.Response(status=204)

    async def _revoke(self, request: web.Request) -> web.Response:
        change = json.decode(await request.read() or b"{}", type=_RevocationChange)
        self._sandbox.revoke_issued_tokens(with_challenge=change.with_challenge)
        return await self._show_faults(request)

    async def _challenge(self, request: web.Request) -> web.Response:
        change = json.decode(await request.read() or b"{}", type=_ChallengeChange)
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
    except DecodeError as error:
        return web.json_response({"faults": [_explain(error)]}, status=400)


# As msgspec writes: "Expected `int` >= 1 - at `$.always_unauthorized.times`".
_WHERE: Final = re.compile(r" - at `\$\.?([^`]*)`$")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `([^`]*)`")
_LIMIT: Final = re.compile(r"[<>]=? -?[0-9.e]+")


def _explain(error: DecodeError) -> str:
    if not isinstance(error, ValidationError):
        return "The content is not JSON."
    text = str(error)
    found = _WHERE.search(text)
    where = found[1] if found else ""
    unknown = _UNKNOWN.match(text)
    if unknown:
        key = ".".join(part for part in (where, unknown[1]) if part)
        return f"{key}: there is no such key; GET /sandbox/faults shows them all."
    limit = _LIMIT.search(text)
    return f"{where or 'The content'}: this value is not possible here{f' (it has to be {limit[0]})' if limit else ''}."
