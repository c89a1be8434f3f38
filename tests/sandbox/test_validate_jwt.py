"""validate-jwt lets in exactly the tokens its policy describes, and knows the reason for every other."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from proxy.sandbox import RequiredClaim, SandboxKeys
from proxy.sandbox.validate_jwt import Reason, TokenRefusedError, ValidateJwt, validate_jwt

NOW = 1_800_000_000.0
POLICY = ValidateJwt(
    audiences=frozenset({"api-id", "api://orders"}),
    issuers=frozenset({"https://issuer/v2.0", "https://issuer/"}),
    required_claims=(RequiredClaim("roles", ("Orders.Read",)),),
)
CLAIMS: dict[str, Any] = {
    "aud": "api-id",
    "iss": "https://issuer/v2.0",
    "exp": NOW + 1,
    "nbf": NOW - 300,
    "roles": ["Orders.Read", "Orders.Write"],
}

Check = Callable[..., Any]


@pytest.fixture
def check(keys: SandboxKeys) -> Check:
    """Validate a token made of the usual claims and the changes given; None removes a claim."""

    def run(
        policy: ValidateJwt = POLICY, *, now: float = NOW, alg: str = "RS256", kid: str = "one", **changes: Any
    ) -> Any:
        claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
        key = keys.signing_keys[0].private_key
        access_token = jwt.encode(claims, key, alg, {"kid": kid})
        return validate_jwt([f"Bearer {access_token}"], policy, {"one": key.public_key()}, now)

    return run


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="as-it-is"),
        pytest.param({"aud": "api://orders"}, id="other-audience"),
        pytest.param({"aud": ["x", "api-id"]}, id="audience-among-several"),
        pytest.param({"iss": "https://issuer/"}, id="v1-issuer"),
        pytest.param({"nbf": None}, id="no-nbf"),
        pytest.param({"alg": "PS256"}, id="ps256"),
        pytest.param({"roles": "Orders.Read"}, id="one-role-as-string"),
    ],
)
def test_a_token_that_fits_the_policy_passes(check: Check, changes: dict[str, Any]) -> None:
    assert check(**changes)["exp"] == NOW + 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"aud": "other"}, Reason.AUDIENCE, id="audience"),
        pytest.param({"aud": None}, Reason.AUDIENCE, id="no-audience"),
        pytest.param({"iss": "https://issuer"}, Reason.ISSUER, id="issuer-without-slash"),
        pytest.param({"iss": None}, Reason.ISSUER, id="no-issuer"),
        pytest.param({"exp": NOW}, Reason.EXPIRED, id="expires-now"),
        pytest.param({"exp": None}, Reason.EXPIRED, id="no-expiry"),
        pytest.param({"nbf": NOW + 1}, Reason.EXPIRED, id="not-yet"),
        pytest.param({"roles": None}, Reason.CLAIM_NOT_FOUND, id="no-role"),
        pytest.param({"roles": ["Orders.Write"]}, Reason.CLAIM_VALUE, id="other-role"),
        pytest.param({"roles": "Orders.Read Orders.Write"}, Reason.CLAIM_VALUE, id="roles-in-one-string"),
        pytest.param({"kid": "two"}, Reason.KEY_NOT_FOUND, id="unknown-key"),
        pytest.param({"alg": "RS384"}, Reason.SIGNATURE, id="algorithm-not-supported"),
    ],
)
def test_a_token_that_does_not_fit_is_refused_with_the_reason(
    check: Check, changes: dict[str, Any], reason: Reason
) -> None:
    with pytest.raises(TokenRefusedError) as refused:
        check(**changes)
    assert refused.value.reason is reason


def test_a_signature_of_another_key_is_refused(keys: SandboxKeys) -> None:
    access_token = jwt.encode(CLAIMS, keys.signing_keys[1].private_key, "RS256", {"kid": "one"})
    published = {"one": keys.signing_keys[0].private_key.public_key()}
    with pytest.raises(TokenRefusedError) as refused:
        validate_jwt([f"Bearer {access_token}"], POLICY, published, NOW)
    assert refused.value.reason is Reason.SIGNATURE


def test_clock_skew_widens_both_ends(check: Check) -> None:
    lenient = ValidateJwt(POLICY.audiences, POLICY.issuers, clock_skew_s=10)
    assert check(lenient, exp=NOW - 9, nbf=NOW + 10)
    with pytest.raises(TokenRefusedError):
        check(lenient, exp=NOW - 10)


def test_match_any_and_separator_read_a_scope_string(check: Check) -> None:
    scopes = RequiredClaim("scp", ("read", "write"), match="any", separator=" ")
    policy = ValidateJwt(POLICY.audiences, POLICY.issuers, (scopes,))
    assert check(policy, scp="openid write")
    with pytest.raises(TokenRefusedError):
        check(policy, scp="openid")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        pytest.param([], Reason.NOT_PRESENT, id="none"),
        pytest.param([" "], Reason.NOT_PRESENT, id="blank"),
        pytest.param(["Bearer a.b.c", "Bearer a.b.c"], Reason.MALFORMED, id="two-fields"),
        pytest.param(["Bearer nonsense"], Reason.MALFORMED, id="no-jwt"),
        pytest.param(["Basic dXNlcjpwYXNz"], Reason.MALFORMED, id="basic"),
    ],
)
def test_what_is_no_single_token_is_refused(values: list[str], reason: Reason) -> None:
    with pytest.raises(TokenRefusedError) as refused:
        validate_jwt(values, POLICY, {}, time.time())
    assert refused.value.reason is reason


def test_a_required_scheme_is_required(keys: SandboxKeys) -> None:
    policy = ValidateJwt(POLICY.audiences, POLICY.issuers, require_scheme="Bearer")
    key = keys.signing_keys[0].private_key
    access_token = jwt.encode(CLAIMS, key, "RS256", {"kid": "one"})
    published = {"one": key.public_key()}
    assert validate_jwt([f"bearer {access_token}"], policy, published, NOW)
    with pytest.raises(TokenRefusedError) as refused:
        validate_jwt([access_token], policy, published, NOW)
    assert refused.value.reason is Reason.NOT_PRESENT
