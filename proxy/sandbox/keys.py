"""The sandbox's key material: its CA, the client application's certificate, the token signing keys. Does no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from proxy.sandbox.authority_ca import CertificateAuthority, create_ca
from proxy.sandbox.tokens import SigningKey, create_signing_key, self_signed

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509

SIGNING_KEYS = 2
"""How many are published: the one in use, and one more, so that clients have to choose by ``kid``."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What the client application signs its assertions with."""

    private_key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def private_key_pem(self) -> bytes:
        """The key as unencrypted PKCS#8 PEM."""
        return rsa_key_pem(self.private_key)


@dataclass(frozen=True, slots=True)
class SandboxKeys:
    """All keys of one sandbox. Several sandboxes may share them, which saves tests the time to make them."""

    ca: CertificateAuthority
    client: ClientCertificate
    signing_keys: tuple[SigningKey, ...]


def create_keys(now: datetime, sandbox_now: datetime | None = None) -> SandboxKeys:
    """Make everything new. Costs some 200 ms of CPU, most of it for RSA.

    Args:
        now: the real time, by which clients verify TLS.
        sandbox_now: the sandbox's time, by which it verifies its client's certificate; the real time if not given.
    """
    inside = now if sandbox_now is None else sandbox_now
    return SandboxKeys(create_ca(now), create_client_certificate(inside), create_signing_keys(inside))


def create_client_certificate(now: datetime) -> ClientCertificate:
    """Make the client application's certificate: RSA 2048, self-signed, a year."""
    private_key = rsa.generate_private_key(65537, 2048)
    return ClientCertificate(private_key, self_signed(private_key, "apim-auth-proxy sandbox client", now))


def create_signing_keys(now: datetime) -> tuple[SigningKey, ...]:
    """Make the keys that tokens are signed with."""
    return tuple(create_signing_key(now) for _ in range(SIGNING_KEYS))


def rsa_key_pem(key: rsa.RSAPrivateKey) -> bytes:
    """Return an unencrypted PKCS#8 PEM of an RSA key."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
