"""Decides what a 401 response is about: the access token, its claims, or something that no other token would cure. Pure.

API Management checks the subscription key before any policy, and says so in a challenge of its own scheme; its validate-jwt
policy refuses without any challenge, in a JSON object of two members, with a default message or its owner's, or with none.
An API's own 401 looks like neither. Source: RFC 6750 §3, RFC 9470 §3, and API Management's documented error bodies.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

# RFC 9110 §11.6.1; enough to find the parameters of one Bearer challenge.
_BEARER: Final = re.compile(rb"(?:^|,)\s*bearer(?=[\s,]|$)", re.IGNORECASE)
_KEY_SCHEME: Final = re.compile(rb"(?:^|,)\s*azureapimanagementkey(?=[\s,]|$)", re.IGNORECASE)
_PARAMETER: Final = re.compile(rb'\b(error|claims)\s*=\s*(?:"([^"]*)"|([^\s,"]+))', re.IGNORECASE)
# Claims requests seen in practice are under 300 bytes; this bounds what goes into a token request.
_CLAIMS_BYTES: Final = 4_096


class Refusal(Enum):
    """What a 401 is about."""

    NOT_THE_TOKEN = "not_the_token"  # noqa: S105  # a word, not a secret
    TOKEN = "token"  # noqa: S105  # likewise
    CLAIMS = "claims"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a 401 is about.

    Attributes:
        refusal: that.
        claims: those it asks for, as JSON text; None where it asks for none.
        certain: whether it names the token as the fault, so that even a new one is to blame.
    """

    refusal: Refusal
    claims: str | None = None
    certain: bool = False


def judge_refusal(challenges: Sequence[bytes], content: bytes) -> Verdict:
    """Judges a 401 response to a request that carried an access token.

    Args:
        challenges: the values of WWW-Authenticate, in order.
        content: the response's content, as far as it was short enough to be looked at.
    """
    for challenge in challenges:
        if _KEY_SCHEME.search(challenge):
            return Verdict(Refusal.NOT_THE_TOKEN)
    for challenge in challenges:
        if _BEARER.search(challenge):
            return _judge_bearer(challenge)
    if challenges:
        return Verdict(Refusal.NOT_THE_TOKEN)
    return _judge_content(content)


def _judge_bearer(challenge: bytes) -> Verdict:
    parameters = {name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(challenge)}
    error = parameters.get(b"error", b"").lower()
    if error == b"insufficient_claims":
        claims = decode_claims(parameters.get(b"claims", b""))
        return Verdict(Refusal.CLAIMS, claims) if claims else Verdict(Refusal.NOT_THE_TOKEN)
    if error in (b"", b"invalid_token"):
        return Verdict(Refusal.TOKEN, certain=error != b"")
    return Verdict(Refusal.NOT_THE_TOKEN)  # insufficient_scope, invalid_request: a new token would say the same


def decode_claims(encoded: bytes) -> str | None:
    """Return the JSON text of a challenge's claims: base64 or base64url, padded or not; None if it is not that."""
    if not encoded or len(encoded) > _CLAIMS_BYTES:
        return None
    standard = encoded.replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    try:
        text = base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True).decode()
        claims = json.loads(text)
    except (binascii.Error, ValueError):
        return None
    return text if isinstance(claims, dict) else None


def _judge_content(content: bytes) -> Verdict:
    """Judges a 401 without a challenge by its content: empty, or the gateway's own object, and not about the key."""
    if not content.strip():
        return Verdict(Refusal.TOKEN)
    try:
        body = json.loads(content)
    except ValueError:
        return Verdict(Refusal.NOT_THE_TOKEN)
    if not isinstance(body, dict) or set(body) != {"statusCode", "message"}:
        return Verdict(Refusal.NOT_THE_TOKEN)
    if "subscription key" in str(body["message"]).lower():
        return Verdict(Refusal.NOT_THE_TOKEN)
    return Verdict(Refusal.TOKEN)
