"""What signs leaves, as an interface: a CA we made, several of them during a rotation, or an organisation's own. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509

    from proxy.interception.names import Name

SigningKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_SHORT_CURVE_BITS: Final = 256


class SigningCA(Protocol):
    """One CA certificate with its key."""

    @property
    def issuer(self) -> x509.Certificate:
        """The certificate that leaves are signed under."""

    @property
    def key(self) -> SigningKey:
        """The issuer's private key."""

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What clients are sent behind the leaf: the issuer first, never the anchor."""

    @property
    def not_after(self) -> datetime:
        """The end of its life, in UTC: the earliest of its certificates'."""

    def permits(self, name: Name) -> bool:
        """Return whether verifiers accept a leaf of this name; ``*.`` stands for all names below the rest."""


class Authority(Protocol):
    """What signs at present."""

    @property
    def not_after(self) -> datetime:
        """When clients that trust what they should can no longer be served, in UTC."""

    def choose(self, name: Name, now: datetime) -> SigningCA:
        """Return the CA that is to sign for a name; it may not be able to, which is for the caller to see."""

    @property
    def identity(self) -> bytes:
        """What is another where anything else signs, or is to be trusted."""

    def trusted_pem(self) -> bytes:
        """Return what clients are to trust: certificates as PEM, no key."""


def sign(builder: x509.CertificateBuilder, key: SigningKey) -> x509.Certificate:
    """Return the certificate, signed with a digest that fits the key (RFC 5758 §3.2: as long as the curve)."""
    is_long = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size > _SHORT_CURVE_BITS
    return builder.sign(key, hashes.SHA384() if is_long else hashes.SHA256())
