"""The API Management gateway in front of the sandbox's API: subscription key, rate limit, validate-jwt, then the API.

Does I/O (answers requests, logs). Unlike the real gateway it says why it refuses: in its log, in `refusals`, and, to
a request with the field ``Sandbox-Explain: 1``, in the response field ``Sandbox-Explanation``. No token or key is
ever in any of them.
"""

from __future__ import annotations

import base64
import hmac
import json
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from aiohttp import web

from proxy.sandbox.tokens import ASKED_NBF_CLAIM, ISSUED_AT_CLAIM
from proxy.sandbox.validate_jwt import (
    OWNER_MESSAGE,
    Reason,
    RequiredClaim,
    TokenRefusedError,
    ValidateJwt,
    validate_jwt,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from multidict import MultiMapping

    from proxy.sandbox.faults import ClaimsChallenge, Faults

EXPLAIN_FIELD = "Sandbox-Explain"
EXPLANATION_FIELD = "Sandbox-Explanation"
SUBSCRIPTION_KEY_FIELD = "Ocp-Apim-Subscription-Key"
SUBSCRIPTION_KEY_PARAMETER = "subscription-key"

UNKNOWN_OPERATION = "/no-such-operation"
"""The one path no API has. Everything else is the API's, so that any client finds an answer."""

MISSING_KEY_MESSAGE = (
    "Access denied due to missing subscription key. "
    "Make sure to include subscription key when making requests to an API."
)
INVALID_KEY_MESSAGE = (
    "Access denied due to invalid subscription key. Make sure to provide a valid key for an active subscription."
)

_KEYS_KEPT_S = 3600.0  # how long the real gateway believes a key set it fetched
_REFUSALS_KEPT = 10_000

_log = logging.getLogger("proxy.sandbox.gateway")

ApiHandler = Callable[[web.BaseRequest, Mapping[str, object]], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The rate-limit policy: so many calls in any window of so many seconds."""

    calls: int
    period_s: float


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """How the API's owner configured the gateway.

    Attributes:
        subscription_required: whether requests need a subscription key.
        failed_validation_message: validate-jwt's message; None is the policy's own two, empty is no content.
        failed_validation_status: validate-jwt's status.
        required_claims: as validate-jwt's ``required-claims``.
        require_scheme: as validate-jwt's ``require-scheme``.
        clock_skew_s: as validate-jwt's ``clock-skew``; the real default is zero.
        key_refetch_interval_s: the least time between two fetches of the key set for an unknown ``kid``. The real
            gateway waits 300 s; zero lets a key roll-over be seen at once.
        rate_limit: None for no limit.
    """

    subscription_required: bool = True
    failed_validation_message: str | None = OWNER_MESSAGE
    failed_validation_status: int = 401
    required_claims: tuple[RequiredClaim, ...] = (RequiredClaim("roles", ("Orders.Read",)),)
    require_scheme: str = ""
    clock_skew_s: float = 0.0
    key_refetch_interval_s: float = 0.0
    rate_limit: RateLimit | None = None


@dataclass(frozen=True, slots=True)
class GatewayRefusal:
    """One refusal, for the record: `at` in Unix seconds, `path` without its query, `reason` one word."""

    at: float
    method: str
    path: str
    status: int
    reason: str
    explanation: str


class GatewayRefusalError(Exception):
    """The gateway answers instead of the API."""

    def __init__(
        self, status: int, message: str, reason: str, explanation: str, fields: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{reason}: {explanation}")
        self.status = status
        self.message = message
        self.reason = reason
        self.explanation = explanation
        self.fields = fields or {}


def format_content(status: int, message: str) -> bytes:
    """Return the gateway's error content, blanks and all as the real one sends it; empty for an empty message."""
    return f'{{ "statusCode": {status}, "message": {json.dumps(message)} }}'.encode() if message else b""


class Gateway:
    """Guards one API.

    Attributes:
        refusals: what was refused, oldest first, bounded.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        policy: ValidateJwt,
        *,
        api_url: str,
        subscription_key: str,
        fetch_keys: Callable[[], Mapping[str, rsa.RSAPublicKey]],
        authorization_url: str,
        faults: Faults,
        clock: Callable[[], float],
        api: ApiHandler,
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._api_url = api_url
        self._subscription_key = subscription_key
        self._fetch_keys = fetch_keys
        self._authorization_url = authorization_url
        self._faults = faults
        self._clock = clock
        self._api = api
        self._keys: Mapping[str, rsa.RSAPublicKey] = {}
        self._keys_fetched_at = -math.inf
        self._calls: deque[float] = deque()
        self.refusals: list[GatewayRefusal] = []

    def forget_keys(self) -> None:
        """Drop the cached key set, as an hour would."""
        self._keys_fetched_at = -math.inf

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request: the API's response, or the gateway's refusal."""
        try:
            claims = self.admit(request.method, request.raw_path, request.headers)
        except GatewayRefusalError as refusal:
            return self._format_refusal(request, refusal)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await self._api(request, claims)

    def admit(self, method: str, target: str, fields: MultiMapping[str]) -> Mapping[str, object]:
        """Return the claims of a request's token. The order is the real gateway's.

        Args:
            method: for the record.
            target: of the request, with its query, in which the key may stand.
            fields: by names in any case.

        Raises:
            GatewayRefusalError: it is refused; recorded and logged already.
        """
        try:
            return self._judge(target, fields)
        except GatewayRefusalError as refusal:
            self._record(method, target, refusal)
            raise

    def _judge(self, target: str, fields: MultiMapping[str]) -> Mapping[str, object]:
        path, _, query = target.partition("?")
        if path == UNKNOWN_OPERATION:
            raise GatewayRefusalError(
                404, "Resource not found", "OperationNotFound", f"no API has {UNKNOWN_OPERATION}."
            )
        if self._settings.subscription_required:
            self._check_subscription_key(fields, query)
        self._check_rate()
        self._check_faults()
        claims = self._validate(fields.getall("Authorization", []))
        self._check_revocation(claims)
        self._check_challenge(claims)
        return claims

    def _check_subscription_key(self, fields: MultiMapping[str], query: str) -> None:
        """Raise for a missing or wrong key. The query parameter counts only where the field is absent."""
        key = fields.get(SUBSCRIPTION_KEY_FIELD)
        if key is None:
            key = dict(parse_qsl(query)).get(SUBSCRIPTION_KEY_PARAMETER)
        if key and hmac.compare_digest(key.encode("utf-8", "surrogateescape"), self._subscription_key.encode()):
            return
        challenge = f'AzureApiManagementKey realm="{self._api_url}/",name="{SUBSCRIPTION_KEY_FIELD}",type="header"'
        message = INVALID_KEY_MESSAGE if key else MISSING_KEY_MESSAGE
        reason = "SubscriptionKeyInvalid" if key else "SubscriptionKeyNotFound"
        explanation = "its subscription key is not an active one." if key else "it carries no subscription key."
        raise GatewayRefusalError(401, message, reason, explanation, {"WWW-Authenticate": challenge})

    def _check_rate(self) -> None:
        limit, now = self._settings.rate_limit, self._clock()
        if limit is None:
            return
        while self._calls and self._calls[0] <= now - limit.period_s:
            self._calls.popleft()
        if len(self._calls) >= limit.calls:
            wait_s = max(1, math.ceil(self._calls[0] + limit.period_s - now))
            message = f"Rate limit is exceeded. Try again in {wait_s} seconds."
            explanation = f"more than {limit.calls} calls in {limit.period_s:g} s."
            raise GatewayRefusalError(429, message, "RateLimitExceeded", explanation, {"Retry-After": str(wait_s)})
        self._calls.append(now)

    def _check_faults(self) -> None:
        fault = self._faults.take_always_unauthorized()
        if fault is not None:
            raise self._unauthorized(
                "FaultSwitchedOn", "every token is refused for now.", challenge=fault.with_challenge
            )

    def _validate(self, field_values: list[str]) -> Mapping[str, object]:
        now = self._clock()
        if now >= self._keys_fetched_at + _KEYS_KEPT_S:
            self._refetch(now)
        try:
            try:
                return validate_jwt(field_values, self._policy, self._keys, now)
            except TokenRefusedError as refused:
                if refused.reason is not Reason.KEY_NOT_FOUND:
                    raise
                if now < self._keys_fetched_at + self._settings.key_refetch_interval_s:
                    raise
            self._refetch(now)
            return validate_jwt(field_values, self._policy, self._keys, now)
        except TokenRefusedError as refused:
            raise self._invalid_token(refused) from None

    def _refetch(self, now: float) -> None:
        self._keys = self._fetch_keys()
        self._keys_fetched_at = now

    def _invalid_token(self, refused: TokenRefusedError) -> GatewayRefusalError:
        message = self._settings.failed_validation_message
        if message is None:
            message = "JWT not present." if refused.reason is Reason.NOT_PRESENT else "Invalid JWT."
        status = self._settings.failed_validation_status
        return GatewayRefusalError(status, message, refused.reason, refused.explanation)

    def _check_revocation(self, claims: Mapping[str, object]) -> None:
        revocation = self._faults.revocation
        if revocation is None:
            return
        issued_at = claims.get(ISSUED_AT_CLAIM)
        if not isinstance(issued_at, int | float) or issued_at < revocation.before_at:
            raise self._unauthorized(
                "TokenRevoked", "the token was issued before the revocation.", challenge=revocation.with_challenge
            )

    def _unauthorized(self, reason: str, explanation: str, *, challenge: bool) -> GatewayRefusalError:
        """Return a refusal that looks like validate-jwt's, or like an API's own (RFC 6750 §3)."""
        settings = self._settings
        message = settings.failed_validation_message
        message = "Invalid JWT." if message is None else message
        if not challenge:
            return GatewayRefusalError(settings.failed_validation_status, message, reason, explanation)
        field = 'Bearer error="invalid_token", error_description="The access token is not accepted any more"'
        return GatewayRefusalError(401, message, reason, explanation, {"WWW-Authenticate": field})

    def _check_challenge(self, claims: Mapping[str, object]) -> None:
        challenge = self._faults.claims_challenge
        if challenge is None:
            return
        asked = claims.get(ASKED_NBF_CLAIM)
        if isinstance(asked, int) and asked >= challenge.nbf_at:
            return
        self._faults.take_claims_challenge()
        field = format_claims_challenge(challenge, self._authorization_url)
        explanation = f"the API wants a token asked for with a claims request for nbf {challenge.nbf_at} or later."
        raise GatewayRefusalError(
            401,
            "Continuous access evaluation resulted in a challenge.",
            "InsufficientClaims",
            explanation,
            {"WWW-Authenticate": field},
        )

    def _record(self, method: str, target: str, refusal: GatewayRefusalError) -> None:
        path = _printable(target.partition("?")[0])
        explanation = _printable(refusal.explanation)
        self.refusals.append(GatewayRefusal(self._clock(), method, path, refusal.status, refusal.reason, explanation))
        del self.refusals[:-_REFUSALS_KEPT]
        _log.warning("refused %s %s with %d: %s: %s", method, path, refusal.status, refusal.reason, explanation)

    def _format_refusal(self, request: web.BaseRequest, refusal: GatewayRefusalError) -> web.Response:
        content = format_content(refusal.status, refusal.message)
        response = web.Response(status=refusal.status, body=content, headers=refusal.fields)
        if content:
            response.content_type = "application/json"
        if request.headers.get(EXPLAIN_FIELD) == "1":
            response.headers[EXPLANATION_FIELD] = f"{refusal.reason}: {_printable(refusal.explanation)}"
        return response


def format_claims_challenge(challenge: ClaimsChallenge, authorization_url: str) -> str:
    """Return the WWW-Authenticate value of a claims challenge."""
    claims = {"access_token": {"nbf": {"essential": True, "value": str(challenge.nbf_at)}}}
    encoded = base64.b64encode(json.dumps(claims).encode()).decode()
    if not challenge.padded:
        encoded = encoded.rstrip("=")
    return f'Bearer realm="", authorization_uri="{authorization_url}", error="insufficient_claims", claims="{encoded}"'


def _printable(text: str) -> str:
    """Return text that may stand in one log line and in a field value, however hostile the claim it quotes."""
    return "".join(each if " " <= each <= "~" else "?" for each in text[:500])
