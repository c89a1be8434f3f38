"""Verify a client assertion (RFC 7523 §3) as the identity platform does, over the bytes as they were received.

Does no I/O; time comes in as an argument. Tolerant where real client libraries differ (padded segments, numbers as
floats or strings, missing ``nbf`` and ``iat``, a reused ``jti``), strict in everything that proves who is asking.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from proxy.sandbox.aadsts import AadstsError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from proxy.sandbox.registrations import ClientApplication, RegisteredCertificate

TOLERANCE_S = 300.0
"""How far the two clocks may be apart. The usual tolerance of the platform's libraries; the service states none."""

MINIMUM_KEY_BITS = 2048

_HASHES: Mapping[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_RSA_ALGORITHM = re.compile(r"(RS|PS)(256|384|512)")
_SECTION_CHARACTERS = re.compile(r"[A-Za-z0-9_-]*={0,2}")


@dataclass(frozen=True, slots=True)
class Assertion:
    """A JWT taken apart, nothing in it believed yet.

    Attributes:
        header: the JOSE header.
        claims: the claims.
        signing_input: the first two segments as received, padding and all (RFC 7515 §5.2).
        signature: the decoded third segment.
    """

    header: Mapping[str, object]
    claims: Mapping[str, object]
    signing_input: bytes
    signature: bytes


def parse_assertion(text: str) -> Assertion:
    """Return the parts of a compact JWS.

    Raises:
        AadstsError: 50027, it is not one.
    """
    segments = text.split(".")
    if len(segments) != 3:
        raise AadstsError(50027, f"The client assertion is not a JWT: it has {len(segments)} segments where 3 belong.")
    header = _decode_object(segments[0], "header")
    claims = _decode_object(segments[1], "claims")
    signature = decode_segment(segments[2])
    if signature is None:
        raise AadstsError(50027, "The client assertion is not a JWT: its signature is not base64url.")
    return Assertion(header, claims, f"{segments[0]}.{segments[1]}".encode(), signature)


def decode_segment(text: str) -> bytes | None:
    """Return the bytes of base64url text with or without padding; None where it is not base64url."""
    if _SECTION_CHARACTERS.fullmatch(text) is None:
        return None
    bare = text.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None


def verify_assertion(
    assertion: Assertion,
    client: ClientApplication,
    *,
    audiences: Collection[str],
    now: float,
    tolerance_s: float = TOLERANCE_S,
) -> RegisteredCertificate:
    """Return the registered certificate whose key signed the assertion.

    Args:
        assertion: as received.
        client: who claims to have signed it.
        audiences: the values of ``aud`` that mean this platform.
        now: the server's clock, Unix seconds.
        tolerance_s: how far the clocks may be apart.

    Raises:
        AadstsError: with the code for the first thing that is wrong.
    """
    family, digest = _algorithm(assertion.header)
    thumbprint, certificate = _find_certificate(assertion.header, client)
    _check_certificate(certificate, thumbprint, now)
    _check_signature(assertion, certificate, thumbprint, family, digest)
    _check_parties(assertion.claims, client, audiences)
    _check_times(assertion.claims, now, tolerance_s)
    return certificate


def _decode_object(segment: str, what: str) -> Mapping[str, object]:
    raw = decode_segment(segment)
    if raw is None:
        raise AadstsError(50027, f"The client assertion is not a JWT: its {what} segment is not base64url.")
    try:
        value: object = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise AadstsError(50027, f"The client assertion is not a JWT: its {what} segment is not a JSON object.")
    return value


def _algorithm(header: Mapping[str, object]) -> tuple[str, hashes.HashAlgorithm]:
    name = header.get("alg")
    if not isinstance(name, str):
        raise AadstsError(50027, "The client assertion is not a JWT: its header names no algorithm.")
    matched = _RSA_ALGORITHM.fullmatch(name)
    if matched is None:
        allowed = "RS256, RS384, RS512, PS256, PS384, PS512"
        raise AadstsError(5002738, f"The client assertion's algorithm '{name[:20]}' is not one of {allowed}.")
    return matched[1], _HASHES[matched[2]]


def _find_certificate(header: Mapping[str, object], client: ClientApplication) -> tuple[str, RegisteredCertificate]:
    """Return the thumbprint as upper-case hex, as the portal prints it, and the certificate it belongs to."""
    name = next((each for each in ("x5t#S256", "x5t", "kid") if header.get(each)), None)
    if name is None:
        raise AadstsError(
            5002723, "The client assertion's header names no certificate: it has neither x5t, x5t#S256 nor kid."
        )
    value = str(header[name])
    digest = decode_segment(value)
    if digest is None:
        raise _key_error("The key was not found.", value[:100])
    thumbprint = digest.hex().upper()
    for certificate in client.certificates:
        if digest == (certificate.sha256 if name == "x5t#S256" else certificate.sha1):
            return thumbprint, certificate
    raise _key_error("The key was not found.", thumbprint)


def _check_certificate(certificate: RegisteredCertificate, thumbprint: str, now: float) -> None:
    at = datetime.fromtimestamp(now, UTC)
    if at > certificate.certificate.not_valid_after_utc:
        raise _key_error("The key used is expired.", thumbprint, certificate)
    if at < certificate.certificate.not_valid_before_utc:
        raise _key_error("The key used is not valid yet.", thumbprint, certificate)
    key = certificate.certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise _key_error("The key is not an RSA key.", thumbprint, certificate)
    if key.key_size < MINIMUM_KEY_BITS:
        reason = f"The RSA key size {key.key_size} is less than {MINIMUM_KEY_BITS} bits."
        raise _key_error(reason, thumbprint, certificate)


def _check_signature(
    assertion: Assertion,
    certificate: RegisteredCertificate,
    thumbprint: str,
    family: str,
    digest: hashes.HashAlgorithm,
) -> None:
    key = certificate.certificate.public_key()
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    if family == "PS":  # RFC 7518 §3.5: the salt is as long as the hash
        scheme = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
    try:
        if not isinstance(key, rsa.RSAPublicKey):
            raise InvalidSignature
        key.verify(assertion.signature, assertion.signing_input, scheme, digest)
    except InvalidSignature:
        raise _key_error("The key was found, but the signature did not match.", thumbprint, certificate) from None


def _key_error(reason: str, thumbprint: str, certificate: RegisteredCertificate | None = None) -> AadstsError:
    """Return a 700027 in the layout that tools parse: reason, thumbprint, the found key's validity."""
    found = ""
    if certificate is not None:
        start, end = certificate.certificate.not_valid_before_utc, certificate.certificate.not_valid_after_utc
        found = f", Found key 'Start={start:%m/%d/%Y %H:%M:%S}, End={end:%m/%d/%Y %H:%M:%S}'"
    return AadstsError(
        700027,
        "The signature of the client assertion cannot be accepted. "
        f"[Reason - {reason}, Thumbprint of key used by client: '{thumbprint}'{found}]",
    )


def _check_parties(claims: Mapping[str, object], client: ClientApplication, audiences: Collection[str]) -> None:
    issuer, subject, audience = (_text_claim(claims, name) for name in ("iss", "sub", "aud"))
    if issuer.lower() != client.client_id.lower():
        raise AadstsError(700021, f"The client assertion is from '{issuer[:100]}', not from the client of the request.")
    if subject.lower() != issuer.lower():
        raise AadstsError(50048, "The client assertion's sub is not the same as its iss.")
    if audience not in audiences:
        raise AadstsError(
            700023, f"The client assertion is meant for '{audience[:200]}', which is not this tenant's token endpoint."
        )


def _text_claim(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name)
    if value is None:
        raise AadstsError(90014, f"The required field '{name}' is missing from the client assertion.")
    if not isinstance(value, str):
        raise AadstsError(50027, f"The client assertion is not acceptable: its {name} is not a string.")
    return value


def _check_times(claims: Mapping[str, object], now: float, tolerance_s: float) -> None:
    ends_at = _time_claim(claims, "exp")
    if ends_at is None:
        raise AadstsError(90014, "The required field 'exp' is missing from the client assertion.")
    starts_at = _time_claim(claims, "nbf")
    if ends_at <= now - tolerance_s or (starts_at is not None and starts_at > now + tolerance_s):
        raise AadstsError(
            700024,
            "The client assertion is outside its time range. "
            f"Current time: {_format_instant(now)}, assertion valid from {_format_instant(starts_at or 0)}, "
            f"expiry time of assertion {_format_instant(ends_at)}.",
        )


def _time_claim(claims: Mapping[str, object], name: str) -> float | None:
    """Return a NumericDate; libraries send it as an integer, a float or a string of either."""
    value = claims.get(name)
    if value is None:
        return None
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if not math.isfinite(number):
        raise AadstsError(50027, f"The client assertion is not acceptable: its {name} is not a time.")
    return number


def _format_instant(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at:.0f} seconds after 1970, beyond the calendar"
