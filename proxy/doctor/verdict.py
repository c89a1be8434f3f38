"""Whose a response is, and what it is about: the gateway on the token, the gateway on the subscription key, or the API itself.

Does no I/O. Source: API Management's documented error bodies, RFC 6750 §3; the 401 is judged by `proxy.policy.refusal`, as the
relay judges it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from proxy.doctor.claims import GRANT_A_ROLE
from proxy.doctor.findings import error, ok, warning
from proxy.policy.refusal import Refusal, judge_refusal

if TYPE_CHECKING:
    from proxy.dialing.http_exchange import Response
    from proxy.doctor.claims import DecodedToken
    from proxy.doctor.findings import Finding

SUBSCRIPTION_KEY_FIELD: Final = "ocp-apim-subscription-key"
_COMPARE: Final = (
    "Compare aud, iss and roles with the audiences, issuers and required-claims of the API's validate-jwt policy; "
    "`apim-auth-proxy token --config FILE --host HOST --claims` shows them all."
)
_VERSION_1: Final = (
    "It is a version 1 token, whose iss differs from version 2's: let the policy's openid-config and issuers take it, "
    "or set `requestedAccessTokenVersion: 2` on the API's registration."
)


def judge_response(
    subject: str, response: Response, token: DecodedToken | None, field_names: frozenset[str], *, is_entra: bool
) -> Finding:
    """Return what an API's response to a request with an access token says about the configuration.

    Args:
        subject: of the finding.
        response: what came.
        token: what the request carried; None for one that is no JWT.
        field_names: lower-case names of the fields the route sets.
        is_entra: whether the token is Microsoft Entra ID's.
    """
    status, gateway = response.status, _gateway_message(response.content)
    if status == 401:
        return _judge_401(subject, response, token, field_names, is_entra=is_entra)
    if status == 403:
        return _judge_403(subject, gateway, token, is_entra=is_entra)
    if status == 404 and gateway is not None:
        return warning(
            subject,
            "API Management answers 404: no API or operation of it has this path, so the token was not looked at.",
            "Name a path that exists with --path, such as --path /orders/health.",
            status=status,
        )
    if status == 407:
        return error(
            subject, "A proxy answers 407 in the API's place.", "Let `dial` name the gateway itself.", status=status
        )
    if status == 429:
        return warning(
            subject, "It answers 429: too many requests.", "Try again later; the token was not judged.", status=status
        )
    if status >= 500:
        whose = "API Management answers" if gateway is not None else "It answers"
        return warning(
            subject,
            f"{whose} {status}, a fault of its own.",
            "A gateway that cannot fetch its policy's openid-config answers 500 to every token: ask its operator for the trace.",
            status=status,
        )
    return ok(subject, f"It answers {status}: the token was accepted.", status=status)


def _judge_401(
    subject: str, response: Response, token: DecodedToken | None, field_names: frozenset[str], *, is_entra: bool
) -> Finding:
    challenges = response.values(b"www-authenticate")
    if any(b"azureapimanagementkey" in challenge.lower() for challenge in challenges):
        return _judge_key(subject, response.content, field_names)
    verdict = judge_refusal(challenges, response.content)
    if verdict.refusal is Refusal.CLAIMS:
        return error(
            subject,
            "The API answers 401 with a claims challenge: continuous access evaluation wants a newer token.",
            "The proxy answers such challenges by itself. If this stays, a policy of the tenant blocks the client.",
            status=401,
            cause="claims_challenge",
        )
    if verdict.refusal is Refusal.NOT_THE_TOKEN:
        return error(
            subject,
            "The API itself answers 401, not the gateway, and does not blame the token.",
            "The gateway let the request in: see the API's own documentation on what else it wants.",
            status=401,
            cause="api",
        )
    who = "API Management's policy" if not challenges else "The API"
    message, advice = f"{who} refuses the access token with 401.", _COMPARE
    if token is not None:
        message += f" It has aud {token.text('aud') or '(none)'}, iss {token.text('iss') or '(none)'}"
        message += f", roles {', '.join(token.roles) or '(none)'}."
        if is_entra and not token.roles:
            advice = f"The missing role is the likely cause. {GRANT_A_ROLE}"
        elif token.text("ver") == "1.0":
            advice = f"{_VERSION_1} {_COMPARE}"
    return error(subject, message, advice, status=401, cause="token")


def _judge_key(subject: str, content: bytes, field_names: frozenset[str]) -> Finding:
    message = (_gateway_message(content) or "").lower()
    if SUBSCRIPTION_KEY_FIELD in field_names and "missing" not in message:
        return error(
            subject,
            "API Management refuses the subscription key with 401; it has not looked at the token yet.",
            "Take the key of an active subscription of this very API: API Management > Subscriptions > Show/hide keys.",
            status=401,
            cause="subscription_key_invalid",
        )
    return error(
        subject,
        "API Management wants a subscription key and answers 401; it has not looked at the token yet.",
        'Add it to the route: set_headers: { Ocp-Apim-Subscription-Key: "${ORDERS_SUBSCRIPTION_KEY}" }.'
        " Some APIs take it under another name: see its settings in API Management.",
        status=401,
        cause="subscription_key_missing",
    )


def _judge_403(subject: str, gateway: str | None, token: DecodedToken | None, *, is_entra: bool) -> Finding:
    if gateway is not None and "quota" in gateway.lower():
        return error(
            subject,
            "API Management answers 403: the subscription's quota is used up.",
            "Wait until it is replenished, or have it raised.",
            status=403,
            cause="quota",
        )
    who = "API Management's policy" if gateway is not None else "The API itself"
    if is_entra and token is not None and not token.roles:
        advice = f"The token has no roles, which is the likely cause. {GRANT_A_ROLE}"
    elif gateway is not None:
        advice = "Look for ip-filter, check-header or quota in the API's policies; this machine's address may not be allowed."
    else:
        roles = ", ".join(token.roles) if token is not None else ""
        advice = (
            f"The token was accepted, but does not give enough access. Its roles: {roles or '(none)'}. "
            "Ask which role the API requires."
        )
    return error(subject, f"{who} answers 403.", advice, status=403, cause="gateway" if gateway is not None else "api")


def _gateway_message(content: bytes) -> str | None:
    """Return the message of API Management's own error body, or None for a body of anyone else's."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or set(body) != {"statusCode", "message"}:
        return None
    return str(body["message"])
