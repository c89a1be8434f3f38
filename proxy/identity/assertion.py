"""The client assertion (RFC 7523): JOSE header, claims, and the bytes to be signed. Does no I/O.

Invariants: an assertion lives at most ten minutes, names its key, and carries integer times.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.identity.certificate import PublicCertificate

# RFC 7523 §3 asks for a short life; Entra ID's page asks for five to ten minutes.
LIFETIME_S = 600
# nbf and iat lie this far in the past, for a clock that is a little fast. Part of the ten minutes, not on top of them.
BACKDATING_S = 120


@dataclass(frozen=True, slots=True)
class AssertionOptions:
    """How an assertion is made, apart from its key.

    Attributes:
        algorithm: ``PS256`` (names the key by x5t#S256) or ``RS256`` (by x5t, as AD FS and older platforms need).
        send_certificate_chain: put the chain into ``x5c`` (RFC 7515 §4.1.6).
    """

    algorithm: str = "PS256"
    send_certificate_chain: bool = False


def format_header(certificate: PublicCertificate, options: AssertionOptions) -> dict[str, object]:
    """Return the JOSE header (RFC 7515 §4.1)."""
    header: dict[str, object] = {"alg": options.algorithm, "typ": "JWT"}
    if options.algorithm == "RS256":
        header["x5t"] = certificate.x5t
    else:
        header["x5t#S256"] = certificate.x5t_s256
    if options.send_certificate_chain:
        # Standard base64 with padding and without line breaks, unlike every other member (RFC 7515 §4.1.6).
        header["x5c"] = [base64.b64encode(der).decode("ascii") for der in certificate.chain_der]
    return header


def format_claims(client_id: str, audience: str, now: float, jti: str) -> dict[str, object]:
    """Return the claims (RFC 7523 §3).

    Args:
        client_id: issuer and subject.
        audience: one string; Entra ID refuses a list (AADSTS50027).
        now: Unix seconds by the identity platform's clock, as far as it is known.
        jti: fresh for every assertion.
    """
    issued_at = int(now) - BACKDATING_S
    return {
        "aud": audience,
        "iss": client_id,
        "sub": client_id,
        "jti": jti,
        "nbf": issued_at,
        "iat": issued_at,
        "exp": issued_at + LIFETIME_S,
    }


def format_signing_input(header: Mapping[str, object], claims: Mapping[str, object]) -> bytes:
    """Return the bytes that are signed (RFC 7515 §5.1)."""
    return _encode(header) + b"." + _encode(claims)


def join_signature(signing_input: bytes, signature: bytes) -> str:
    """Return the assertion in compact form (RFC 7515 §7.1)."""
    return (signing_input + b"." + _base64url(signature)).decode("ascii")


def _encode(members: Mapping[str, object]) -> bytes:
    return _base64url(json.dumps(members, separators=(",", ":")).encode())


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
