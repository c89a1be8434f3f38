"""What a 401 is about: the token, its claims, or something that no other token would cure."""

from __future__ import annotations

import base64
import json

import pytest

from proxy.policy.refusal import Refusal, Verdict, decode_claims, judge_refusal

CLAIMS = '{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}'
ENCODED = base64.b64encode(CLAIMS.encode())

TOKEN = Verdict(Refusal.TOKEN)
CERTAINLY_THE_TOKEN = Verdict(Refusal.TOKEN, certain=True)
NOT_THE_TOKEN = Verdict(Refusal.NOT_THE_TOKEN)


@pytest.mark.parametrize(
    ("challenges", "verdict"),
    [
        ([b"Bearer"], TOKEN),
        ([b'Bearer realm="api"'], TOKEN),
        ([b'Bearer error="invalid_token"'], CERTAINLY_THE_TOKEN),
        ([b'bEARER ERROR="Invalid_Token"'], CERTAINLY_THE_TOKEN),
        ([b"Bearer error=invalid_token"], CERTAINLY_THE_TOKEN),
        ([b'Basic realm="a", Bearer error="invalid_token"'], CERTAINLY_THE_TOKEN),
        ([b'Bearer error="insufficient_scope"'], NOT_THE_TOKEN),
        ([b'Bearer error="invalid_request"'], NOT_THE_TOKEN),
        ([b'Bearer error="insufficient_claims", claims="' + ENCODED + b'"'], Verdict(Refusal.CLAIMS, CLAIMS)),
        ([b'Bearer error="insufficient_claims", claims=' + ENCODED.rstrip(b"=")], Verdict(Refusal.CLAIMS, CLAIMS)),
        ([b'Bearer error="insufficient_claims"'], NOT_THE_TOKEN),
        ([b'Bearer error="insufficient_claims", claims="?"'], NOT_THE_TOKEN),
        ([b'Basic realm="a"'], NOT_THE_TOKEN),
        ([b"Bearerish"], NOT_THE_TOKEN),
        ([b'AzureApiManagementKey realm="a"'], NOT_THE_TOKEN),
        # The key is checked before any policy, so a Bearer challenge beside it says nothing.
        ([b'Bearer error="invalid_token"', b'azureapimanagementkey realm="a"'], NOT_THE_TOKEN),
        ([b'Basic realm="a"', b'Bearer error="invalid_token"'], CERTAINLY_THE_TOKEN),
    ],
)
def test_a_challenge_says_what_is_at_fault(challenges: list[bytes], verdict: Verdict) -> None:
    assert judge_refusal(challenges, b"") == verdict


@pytest.mark.parametrize(
    ("content", "verdict"),
    [
        (b"", TOKEN),
        (b" \r\n", TOKEN),
        (b'{"statusCode": 401, "message": "Unauthorized. Access token is missing or invalid."}', TOKEN),
        (b'{"statusCode": 401, "message": "An owner\'s own words"}', TOKEN),
        (b'{"statusCode": 401, "message": "Access denied due to missing Subscription Key."}', NOT_THE_TOKEN),
        (b'{"statusCode": 401, "message": "subscription KEY"}', NOT_THE_TOKEN),
        (b'{"statusCode": 401}', NOT_THE_TOKEN),
        (b'{"statusCode": 401, "message": "a", "more": 1}', NOT_THE_TOKEN),
        (b'["statusCode", "message"]', NOT_THE_TOKEN),
        (b"no JSON", NOT_THE_TOKEN),
        (b"\xff", NOT_THE_TOKEN),
    ],
)
def test_without_a_challenge_the_content_says_it(content: bytes, verdict: Verdict) -> None:
    assert judge_refusal([], content) == verdict


@pytest.mark.parametrize("text", ['{"a":1}', '{"a":12}', '{"a":123}', '{"a":"?>?>?>"}', '{"a":"ÿÿÿ"}'])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("is_padded", [True, False])
def test_claims_come_in_either_alphabet_padded_or_not(text: str, encode: object, is_padded: bool) -> None:
    assert callable(encode)
    encoded = encode(text.encode())
    assert decode_claims(encoded if is_padded else encoded.rstrip(b"=")) == text


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"!",
        b"a",
        base64.b64encode(b"[1]"),
        base64.b64encode(b"\xff\xfe"),
        base64.b64encode(b"{"),
        b"{}",
        b"e30=\n",
    ],
)
def test_what_is_no_object_in_json_is_no_claims(encoded: bytes) -> None:
    assert decode_claims(encoded) is None


def test_claims_are_bounded() -> None:
    """A challenge's claims go into a token request: an upstream must not make it as long as it likes."""
    longest = base64.b64encode(json.dumps({"a": "x" * 3_063}).encode())
    assert len(longest) == 4_096
    assert decode_claims(longest) is not None
    assert decode_claims(longest + b"====") is None
