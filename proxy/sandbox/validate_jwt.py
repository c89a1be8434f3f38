"""API Management's validate-jwt policy: which access tokens it lets in, and the reason it keeps to itself otherwise.

Does no I/O; time and keys come in as arguments. Follows the policy reference: any audience, any issuer, every
required claim, and a clock skew of zero unless configured.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import jwt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric import rsa
    from jwt.types import Options

OWNER_MESSAGE = "Unauthorized. Access token is missing or invalid."
"""What nearly every owner puts into failed-validation-error-message."""

_ALGORITHMS = ["RS256", "RS512", "PS256"]
# Whatever concerns the claims is checked here, one reason each; the library checks the signature.
_SIGNATURE_ONLY: Options = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class Reason(enum.StrEnum):
    """The reasons of ``context.LastError``."""

    NOT_PRESENT = "TokenNotPresent"
    MALFORMED = "JwtInvalid"
    KEY_NOT_FOUND = "TokenSignatureKeyNotFound"
    SIGNATURE = "TokenSignatureInvalid"
    EXPIRED = "TokenExpired"
    AUDIENCE = "TokenAudienceNotAllowed"
    ISSUER = "TokenIssuerNotAllowed"
    CLAIM_NOT_FOUND = "TokenClaimNotFound"
    CLAIM_VALUE = "TokenClaimValueNotAllowed"


class TokenRefusedError(Exception):
    """The policy does not let the token in. `explanation` says why, in words, without the token."""

    def __init__(self, reason: Reason, explanation: str) -> None:
        super().__init__(f"{reason}: {explanation}")
        self.reason = reason
        self.explanation = explanation


@dataclass(frozen=True, slots=True)
class RequiredClaim:
    """A ``claim`` element: `match` says whether all values have to be in the token, or any of them.

    A `separator` splits a string claim into several values, as ``scp`` needs it.
    """

    name: str
    values: tuple[str, ...]
    match: Literal["all", "any"] = "all"
    separator: str = ""


@dataclass(frozen=True, slots=True)
class ValidateJwt:
    """The policy's attributes and children.

    Attributes:
        audiences: allowed ``aud`` values; empty allows any.
        issuers: allowed ``iss`` values.
        required_claims: each has to pass.
        require_scheme: the scheme word demanded before the token; empty demands none and strips any.
        clock_skew_s: for ``exp`` and ``nbf``.
    """

    audiences: frozenset[str]
    issuers: frozenset[str]
    required_claims: tuple[RequiredClaim, ...] = ()
    require_scheme: str = ""
    clock_skew_s: float = 0.0


def validate_jwt(
    field_values: Sequence[str], policy: ValidateJwt, keys: Mapping[str, rsa.RSAPublicKey], now: float
) -> Mapping[str, object]:
    """Return the token's claims.

    Args:
        field_values: the value of every ``Authorization`` field line.
        policy: what to hold the token against.
        keys: the issuer's public keys by ``kid``.
        now: the gateway's clock, Unix seconds.

    Raises:
        TokenRefusedError: the token does not pass.
    """
    access_token = _find_token(field_values, policy.require_scheme)
    claims = _verify_signature(access_token, keys)
    _check_times(claims, now, policy.clock_skew_s)
    _check_issuer_and_audience(claims, policy)
    for required in policy.required_claims:
        _check_claim(claims, required)
    return claims


def _find_token(field_values: Sequence[str], require_scheme: str) -> str:
    if not field_values or not field_values[0].strip():
        raise TokenRefusedError(Reason.NOT_PRESENT, "the request carries no Authorization field.")
    if len(field_values) > 1:
        raise TokenRefusedError(Reason.MALFORMED, f"the request carries {len(field_values)} Authorization fields.")
    scheme, _, rest = field_values[0].strip().rpartition(" ")
    if require_scheme and scheme.strip().lower() != require_scheme.lower():
        raise TokenRefusedError(Reason.NOT_PRESENT, f"the Authorization field's scheme is not {require_scheme}.")
    return rest


def _verify_signature(access_token: str, keys: Mapping[str, rsa.RSAPublicKey]) -> Mapping[str, object]:
    try:
        header = jwt.get_unverified_header(access_token)
        algorithm, kid = str(header.get("alg")), str(header.get("kid"))
        if algorithm not in _ALGORITHMS:
            raise TokenRefusedError(Reason.SIGNATURE, f"the token's algorithm {algorithm} is not one of {_ALGORITHMS}.")
        if kid not in keys:
            raise TokenRefusedError(Reason.KEY_NOT_FOUND, f"no published key has the token's kid {kid}.")
        claims: dict[str, object] = jwt.decode(access_token, keys[kid], [algorithm], options=_SIGNATURE_ONLY)
    except jwt.InvalidSignatureError:
        raise TokenRefusedError(Reason.SIGNATURE, "the token's signature does not match the key it names.") from None
    except jwt.PyJWTError:
        raise TokenRefusedError(Reason.MALFORMED, "what the Authorization field holds is not a signed JWT.") from None
    return claims


def _check_times(claims: Mapping[str, object], now: float, clock_skew_s: float) -> None:
    expires_at, not_before_at = claims.get("exp"), claims.get("nbf")
    if not isinstance(expires_at, int | float):
        raise TokenRefusedError(Reason.EXPIRED, "the token has no expiration time.")
    if now >= expires_at + clock_skew_s:
        raise TokenRefusedError(
            Reason.EXPIRED, f"the token expired at {expires_at:.0f}, and it is {now:.0f} by the gateway's clock."
        )
    if isinstance(not_before_at, int | float) and now < not_before_at - clock_skew_s:
        raise TokenRefusedError(
            Reason.EXPIRED, f"the token holds from {not_before_at:.0f}, and it is {now:.0f} by the gateway's clock."
        )


def _check_issuer_and_audience(claims: Mapping[str, object], policy: ValidateJwt) -> None:
    issuer = claims.get("iss")
    if issuer not in policy.issuers:
        raise TokenRefusedError(
            Reason.ISSUER, f"the token's iss is {issuer}; the policy allows {_list(policy.issuers)}."
        )
    audience = claims.get("aud")
    named = {str(each) for each in audience} if isinstance(audience, list) else {str(audience)}
    if policy.audiences and not named & policy.audiences:
        raise TokenRefusedError(
            Reason.AUDIENCE, f"the token's aud is {_list(named)}; the policy allows {_list(policy.audiences)}."
        )


def _check_claim(claims: Mapping[str, object], required: RequiredClaim) -> None:
    value = claims.get(required.name)
    if value is None:
        raise TokenRefusedError(
            Reason.CLAIM_NOT_FOUND,
            f"the token has no {required.name} claim; the policy wants {_list(required.values)}.",
        )
    if isinstance(value, list):
        present = {str(each) for each in value}
    else:
        present = set(str(value).split(required.separator)) if required.separator else {str(value)}
    wanted = set(required.values)
    passes = wanted <= present if required.match == "all" else bool(wanted & present)
    if not passes:
        raise TokenRefusedError(
            Reason.CLAIM_VALUE,
            f"the token's {required.name} claim is {_list(present)}; "
            f"the policy wants {required.match} of {_list(wanted)}.",
        )


def _list(values: Sequence[str] | frozenset[str] | set[str]) -> str:
    return ", ".join(sorted(values))
