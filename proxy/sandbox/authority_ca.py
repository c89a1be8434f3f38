"""The sandbox's own certificate authority, its servers' TLS certificate and the TLS context made from them.

Pure but for `server_context`, which has to pass the key through a private temporary file because `ssl` takes no bytes.
The CA is constrained to loopback names (RFC 5280 §4.2.1.10), so trusting it trusts nothing else.
"""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence

GATEWAY_NAME = "contoso.azure-api.localhost"
"""A gateway name as real ones look. RFC 6761 §6.3 keeps everything under ``.localhost`` on this machine."""

_DNS_NAMES = ("localhost", GATEWAY_NAME)
_CA_LIFETIME = timedelta(days=825)  # what Apple's trust store allows at most
_LEAF_LIFETIME = timedelta(days=90)
_BACKDATED = timedelta(hours=1)  # a client whose clock is a little slow still accepts it


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A CA certificate and its key."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def private_key_pem(self) -> bytes:
        """The key as unencrypted PKCS#8 PEM."""
        return private_key_pem(self.private_key)


def private_key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return an unencrypted PKCS#8 PEM of an elliptic curve key."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def create_ca(now: datetime) -> CertificateAuthority:
    """Make a CA whose certificates can only be for this machine's loopback names and addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "apim-auth-proxy sandbox CA")])
    permitted: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(IPv4Network("127.0.0.0/8")),
        x509.IPAddress(IPv6Network("::1/128")),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return CertificateAuthority(certificate, key)


def is_usable(certificate: x509.Certificate, now: datetime, margin: timedelta = timedelta(days=1)) -> bool:
    """Return whether the certificate holds now and for the margin to come."""
    return certificate.not_valid_before_utc <= now and now + margin < certificate.not_valid_after_utc


def issue_server_certificate(ca: CertificateAuthority, now: datetime) -> tuple[x509.Certificate, bytes]:
    """Return a TLS server certificate for the loopback names, and its key as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in _DNS_NAMES]
    names += [x509.IPAddress(IPv4Address("127.0.0.1")), x509.IPAddress(IPv6Address("::1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(min(now + _LEAF_LIFETIME, ca.certificate.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.private_key.public_key()), critical=False)
        .sign(ca.private_key, hashes.SHA256())
    )
    return certificate, private_key_pem(key)


def server_context(ca: CertificateAuthority, *, more_protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """Return a TLS server context with a new certificate from the CA. Blocks on a small temporary file.

    Args:
        ca: issues the certificate.
        more_protocols: what is agreed on (RFC 7301) with clients that do not offer HTTP/1.1.
    """
    certificate, key_pem = issue_server_certificate(ca, datetime.now(UTC))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1", *more_protocols])
    with tempfile.TemporaryDirectory(prefix="sandbox-") as directory:  # 0700, RFC 5958 key inside never outlives this
        path = Path(directory) / "server.pem"
        path.write_bytes(key_pem + certificate.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(path)
    return context


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
