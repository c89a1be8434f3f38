"""A response is attributed to whoever gave it: the gateway on the token, the gateway on the key, the API itself."""

from __future__ import annotations

import json

import pytest

from proxy.dialing.http_exchange import Response
from proxy.doctor.claims import DecodedToken
from proxy.doctor.findings import Level
from proxy.doctor.verdict import judge_response

KEY_CHALLENGE = b'AzureApiManagementKey realm="https://a.example/",name="Ocp-Apim-Subscription-Key",type="header"'
WITH_ROLE = DecodedToken({}, {"aud": "api", "iss": "https://sts", "ver": "2.0", "roles": ["Orders.Read"]})
WITHOUT_ROLE = DecodedToken({}, {"aud": "api", "iss": "https://sts", "ver": "2.0"})
VERSION_1 = DecodedToken({}, {"aud": "api", "iss": "https://sts", "ver": "1.0", "roles": ["Orders.Read"]})


def gateway(status: int, message: str, challenge: bytes | None = None) -> Response:
    content = json.dumps({"statusCode": status, "message": message}).encode()
    return Response(status, () if challenge is None else ((b"www-authenticate", challenge),), content)


def api(status: int, challenge: bytes | None = None, content: bytes = b"no") -> Response:
    return Response(status, () if challenge is None else ((b"www-authenticate", challenge),), content)


ROWS = {
    "accepted": (api(200), WITH_ROLE, Level.OK, "the token was accepted"),
    "no content": (api(204, content=b""), WITH_ROLE, Level.OK, "204"),
    "a path the API does not have": (api(404), WITH_ROLE, Level.OK, "the token was accepted"),
    "a path the gateway does not have": (
        gateway(404, "Resource not found"), WITH_ROLE, Level.WARNING, "token was not looked at",
    ),
    "owner's message": (
        gateway(401, "Unauthorized. Access token is missing or invalid."), WITH_ROLE, Level.ERROR, "policy refuses the access",
    ),
    "default message": (gateway(401, "Invalid JWT."), WITH_ROLE, Level.ERROR, "policy refuses the access token"),
    "no message": (api(401, content=b""), WITH_ROLE, Level.ERROR, "policy refuses the access token"),
    "no role": (gateway(401, "Invalid JWT."), WITHOUT_ROLE, Level.ERROR, "missing role is the likely cause"),
    "version 1": (gateway(401, "Invalid JWT."), VERSION_1, Level.ERROR, "requestedAccessTokenVersion"),
    "opaque token": (gateway(401, "Invalid JWT."), None, Level.ERROR, "policy refuses the access token"),
    "invalid_token": (api(401, b'Bearer error="invalid_token"'), WITH_ROLE, Level.ERROR, "The API refuses the access token"),
    "Basic": (api(401, b'Basic realm="x"'), WITH_ROLE, Level.ERROR, "The API itself answers 401"),
    "plain 401": (api(401), WITH_ROLE, Level.ERROR, "The API itself answers 401"),
    "missing key": (
        gateway(401, "Access denied due to missing subscription key", KEY_CHALLENGE), WITH_ROLE, Level.ERROR, "wants a subscr",
    ),
    "invalid key": (
        gateway(401, "Access denied due to invalid subscription key", KEY_CHALLENGE), WITH_ROLE, Level.ERROR, "refuses the subs",
    ),
    "quota": (gateway(403, "Out of call volume quota."), WITH_ROLE, Level.ERROR, "quota is used up"),
    "gateway's 403": (gateway(403, "Forbidden"), WITH_ROLE, Level.ERROR, "ip-filter"),
    "API's 403": (api(403), WITH_ROLE, Level.ERROR, "The API itself answers 403"),
    "API's 403, no role": (api(403), WITHOUT_ROLE, Level.ERROR, "no roles"),
    "proxy's 407": (api(407), WITH_ROLE, Level.ERROR, "A proxy answers 407"),
    "429": (gateway(429, "Rate limit is exceeded."), WITH_ROLE, Level.WARNING, "too many requests"),
    "gateway's 500": (gateway(500, "Internal server error"), WITH_ROLE, Level.WARNING, "API Management answers 500"),
    "API's 503": (api(503), WITH_ROLE, Level.WARNING, "It answers 503"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_response_has_one_verdict(name: str) -> None:
    response, token, level, said = ROWS[name]
    fields = frozenset({"ocp-apim-subscription-key"})
    finding = judge_response("host a", response, token, fields, is_entra=True)
    assert finding.level is level
    assert said in f"{finding.message} {finding.advice}"
    assert (level is Level.OK) is (finding.advice == "")


def test_a_claims_challenge_is_told_from_a_refusal() -> None:
    challenge = b'Bearer error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnt9fQ=="'
    finding = judge_response("host a", api(401, challenge), WITH_ROLE, frozenset(), is_entra=True)
    assert finding.facts["cause"] == "claims_challenge"


def test_a_key_that_the_route_does_not_set_is_missing_whatever_the_client_sent() -> None:
    refusal = gateway(401, "Access denied due to invalid subscription key.", KEY_CHALLENGE)
    finding = judge_response("host a", refusal, WITH_ROLE, frozenset(), is_entra=True)
    assert finding.facts["cause"] == "subscription_key_missing"


def test_roles_are_no_matter_of_other_servers_tokens() -> None:
    finding = judge_response("host a", gateway(401, "Invalid JWT."), WITHOUT_ROLE, frozenset(), is_entra=False)
    assert "role is the likely cause" not in finding.advice
