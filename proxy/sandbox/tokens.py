"""Signing keys, access tokens of both versions, and the key set that verifies them (RFC 7517).

Does no I/O; time comes in as an argument. What goes into a token follows the resource application's version, never the
endpoint the client used.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.sandbox.registrations import ClientApplication, ResourceApplication

BACKDATED_S = 300
"""How far ``iat`` and ``nbf`` lie before the moment of issue, as the real service has it."""

DEFAULT_LIFETIME_S = 3599

ISSUED_AT_CLAIM = "sandbox_issued_at"
"""Unix seconds of issue, to the microsecond: ``iat`` is whole seconds and back-dated, too coarse to revoke by."""

ASKED_NBF_CLAIM = "sandbox_asked_nbf"
"""The ``nbf`` that the token request's ``claims`` asked for: proof that a claims challenge was answered."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An RSA key with a self-signed certificate; `kid` is the certificate's SHA-1 thumbprint, as Entra has it."""

    private_key: rsa.RSAPrivateKey
    certificate: x509.Certificate
    kid: str


def create_signing_key(now: datetime) -> SigningKey:
    """Make a signing key. Costs some 50 ms of CPU."""
    private_key = rsa.generate_private_key(65537, 2048)
    return signing_key(private_key, self_signed(private_key, "apim-auth-proxy sandbox token signing", now))


def signing_key(private_key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> SigningKey:
    """Return the key with the name clients find it by."""
    thumbprint = certificate.fingerprint(hashes.SHA1())  # noqa: S303 - RFC 7515 §4.1.7 defines x5t as SHA-1
    return SigningKey(private_key, certificate, base64url(thumbprint))


def self_signed(private_key: rsa.RSAPrivateKey, common_name: str, now: datetime) -> x509.Certificate:
    """Return a self-signed certificate valid for a year from an hour ago."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private_key, hashes.SHA256())
    )


class KeyRing:
    """The keys published now. The first one signs."""

    def __init__(self, keys: tuple[SigningKey, ...]) -> None:
        self.keys = keys

    @property
    def current(self) -> SigningKey:
        """The key that signs."""
        return self.keys[0]

    def roll(self, key: SigningKey) -> None:
        """Sign with a new key from now on and stop publishing the old one."""
        self.keys = (key, *self.keys[1:])

    def public_keys(self) -> Mapping[str, rsa.RSAPublicKey]:
        """Return what verifies, by ``kid``."""
        return {key.kid: key.private_key.public_key() for key in self.keys}


def format_jwks(keys: tuple[SigningKey, ...], issuer: str | None) -> dict[str, object]:
    """Return the JWK set. Version 2 sets name each key's issuer; version 1 sets pass None."""
    return {"keys": [_format_jwk(key, issuer) for key in keys]}


def _format_jwk(key: SigningKey, issuer: str | None) -> dict[str, object]:
    numbers = key.private_key.public_key().public_numbers()
    der = key.certificate.public_bytes(serialization.Encoding.DER)
    members: dict[str, object] = {
        "kty": "RSA",
        "use": "sig",
        "kid": key.kid,
        "x5t": key.kid,
        "n": base64url(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)),
        "e": base64url(numbers.e.to_bytes(3)),
        "x5c": [base64.b64encode(der).decode()],
    }
    if issuer is not None:
        members["issuer"] = issuer
    return members


@dataclass(frozen=True, slots=True)
class Issuers:
    """The issuer of each token version. Version 1's ends in a slash, version 2's does not, as in Entra."""

    tenant_id: str
    v1: str
    v2: str


@dataclass(frozen=True, slots=True)
class TokenOrder:
    """Everything that decides what an access token says.

    Attributes:
        client: who asks.
        resource: the API it is for.
        audience: the API by the name the client used.
        authenticated_by: ``1`` for a secret, ``2`` for a certificate.
        asked_nbf: the ``nbf`` of the request's ``claims``; None without.
        lifetime_s: whole seconds the client is told.
    """

    client: ClientApplication
    resource: ResourceApplication
    audience: str
    authenticated_by: str
    asked_nbf: int | None
    lifetime_s: int = DEFAULT_LIFETIME_S


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """An access token and its two times, Unix seconds."""

    access_token: str
    not_before_at: int
    expires_at: int

    def __repr__(self) -> str:
        return f"IssuedToken(<redacted>, expires_at={self.expires_at})"


def issue_token(order: TokenOrder, key: SigningKey, issuers: Issuers, now: float) -> IssuedToken:
    """Return a signed access token.

    It holds a second longer than the client is told, so that a token used at its last stated moment still passes a
    gateway that allows no clock skew.
    """
    not_before_at = int(now) - BACKDATED_S
    expires_at = int(now) + order.lifetime_s + 1
    claims: dict[str, object] = {
        "iat": not_before_at,
        "nbf": not_before_at,
        "exp": expires_at,
        "oid": order.client.object_id,
        "sub": order.client.object_id,
        "tid": issuers.tenant_id,
        "uti": secrets.token_urlsafe(16),
        "rh": f"1.{secrets.token_urlsafe(24)}.",
        "aio": secrets.token_urlsafe(27),
        ISSUED_AT_CLAIM: round(now, 6),
    }
    roles = order.resource.roles.get(order.client.client_id, ())
    if roles:
        claims["roles"] = list(roles)
    if order.asked_nbf is not None:
        claims[ASKED_NBF_CLAIM] = order.asked_nbf
    headers: dict[str, object] = {"kid": key.kid}
    if order.resource.token_version == 1:
        headers["x5t"] = key.kid
        claims |= {
            "aud": order.audience,
            "iss": issuers.v1,
            "idp": issuers.v1,
            "appid": order.client.client_id,
            "appidacr": order.authenticated_by,
            "ver": "1.0",
        }
    else:
        claims |= {
            "aud": order.resource.app_id,
            "iss": issuers.v2,
            "azp": order.client.client_id,
            "azpacr": order.authenticated_by,
            "ver": "2.0",
        }
    return IssuedToken(jwt.encode(claims, key.private_key, "RS256", headers), not_before_at, expires_at)


def base64url(raw: bytes) -> str:
    """Return unpadded base64url (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
