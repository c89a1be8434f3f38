"""What an access token says is read without being believed, and only what Entra ID means by it is judged."""

from __future__ import annotations

import base64
import json

import pytest

from proxy.doctor.claims import decode_access_token, judge_claims
from proxy.doctor.findings import Level

GUID = "33333333-3333-3333-3333-333333333333"


def token(claims: object, header: object = None) -> str:
    parts = (header or {"alg": "RS256"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join((*encoded, "c2lnbmF0dXJl"))


@pytest.mark.parametrize(
    "value",
    ["", "opaque", "a.b", "a.b.c", "a.b.c.d", "....", token([1, 2]), token("text"), token({}).replace("ey", "é", 1)],
)
def test_what_is_no_jwt_is_opaque(value: str) -> None:
    assert decode_access_token(value) is None


def test_header_and_claims_are_decoded_without_padding() -> None:
    decoded = decode_access_token(token({"aud": "a", "roles": ["r", 1]}))
    assert decoded is not None
    assert decoded.header == {"alg": "RS256"}
    assert decoded.roles == ("r",)
    assert (decoded.text("aud"), decoded.text("iss")) == ("a", "")


def test_a_hostile_claim_stays_one_printable_line() -> None:
    decoded = decode_access_token(token({"aud": "a\r\nerror: \x1b[31m" + "x" * 1_000}))
    assert decoded is not None
    assert decoded.text("aud").isprintable()
    assert len(decoded.text("aud")) <= 200


JUDGED = {
    "right, version 2": ({"aud": GUID, "ver": "2.0", "roles": ["r"]}, "api://orders/.default", []),
    "right, version 1": ({"aud": "api://orders", "ver": "1.0", "roles": ["r"]}, "api://orders/.default", []),
    "trailing slash": ({"aud": "https://a/", "ver": "1.0", "roles": ["r"]}, "https://a/.default", []),
    "scope by GUID": ({"aud": GUID, "ver": "2.0", "roles": ["r"]}, f"api://{GUID}/.default", []),
    "no roles": ({"aud": GUID, "ver": "2.0"}, "api://orders/.default", ["no roles"]),
    "empty roles": ({"aud": GUID, "ver": "2.0", "roles": []}, "api://orders/.default", ["no roles"]),
    "another audience": ({"aud": "api://x", "ver": "1.0", "roles": ["r"]}, "api://orders/.default", ["aud api://x"]),
    "another GUID": ({"aud": "44", "ver": "2.0", "roles": ["r"]}, f"api://{GUID}/.default", ["aud 44"]),
    "both": ({"aud": "api://x", "ver": "1.0"}, "api://orders/.default", ["no roles", "aud api://x"]),
}


@pytest.mark.parametrize("name", JUDGED)
def test_roles_and_audience_are_judged(name: str) -> None:
    claims, scope, expected = JUDGED[name]
    decoded = decode_access_token(token(claims))
    assert decoded is not None
    first, *others = judge_claims("credential a", decoded, scope, 3_600, is_entra=True)
    assert first.level is Level.OK
    assert "good for 60 min" in first.message
    assert [finding.level for finding in others] == [Level.WARNING] * len(expected)
    for finding, part in zip(others, expected, strict=True):
        assert part in finding.message
        assert finding.advice


def test_other_servers_tokens_are_shown_and_not_judged() -> None:
    decoded = decode_access_token(token({"aud": "x"}))
    assert decoded is not None
    assert [finding.level for finding in judge_claims("a", decoded, "orders.read", 60, is_entra=False)] == [Level.OK]
