"""A short-lived server certificate for one host, as clients see it inside CONNECT.

Does no I/O; time comes in as an argument. A leaf never outlives its CA, and is never made for a name its CA may not
sign.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.errors import ConfigurationError
from proxy.interception.authority import BACKDATE, authority_key_identifier
from proxy.interception.names import parse_name

if TYPE_CHECKING:
    from proxy.interception.authority import InterceptionCA

LIFE = timedelta(days=7)
"""Short, for nobody can revoke one; long enough that a client's wrong clock seldom matters."""

_MAX_COMMON_NAME = 64  # RFC 5280 appendix A.1, ub-common-name

_SIGN_HANDSHAKES = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate for one host, its key, and the issuer that goes with it in the handshake."""

    certificate: x509.Certificate
    issuer: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def not_after(self) -> datetime:
        """The end of its life, in UTC."""
        return self.certificate.not_valid_after_utc

    def pem(self) -> bytes:
        """Return private key, leaf and issuer, in the order OpenSSL loads them. A secret."""
        return (
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + self.certificate.public_bytes(serialization.Encoding.PEM)
            + self.issuer.public_bytes(serialization.Encoding.PEM)
        )


def mint(ca: InterceptionCA, host: str, now: datetime) -> Leaf:
    """Return a new leaf for a host, with a key of its own.

    A key for each leaf costs 20 µs of the 2 ms that a new TLS context takes, so there is no reason to share one.

    Args:
        ca: what signs it.
        host: a DNS name or an IP literal, without a port; not a wildcard.
        now: an aware datetime.

    Raises:
        ConfigurationError: the host is not a name, the CA may not sign for it, or the CA has ended.

    Source: RFC 5280 §4.2.1, RFC 9525 §4.
    """
    name = parse_name(host)
    if not ca.constraints.permits(name):
        raise ConfigurationError(
            f"The interception CA may not sign for {host}: it was issued before that host was routed. "
            "Reload or restart the proxy so that it issues a new one, and let clients trust that."
        )
    not_before = max(now - BACKDATE, ca.issuer.not_valid_before_utc)
    not_after = min(now + LIFE, ca.not_after)
    if now >= not_after:
        raise ConfigurationError(
            f"The interception CA ended on {not_after:%Y-%m-%d}. Restart the proxy so that it issues a new one, "
            "and let clients trust that."
        )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_subject(name if isinstance(name, str) else None))
        .issuer_name(ca.issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_SIGN_HANDSHAKES, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) if isinstance(name, str) else x509.IPAddress(name)]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority_key_identifier(ca.issuer), critical=False)
        .sign(ca.key, hashes.SHA256())
    )
    return Leaf(certificate, ca.issuer, key)


def _subject(domain: str | None) -> x509.Name:
    """Return a subject for people to read; clients go by the SAN.

    An address never becomes a common name: verifiers that hold the common name to the constraints read it as a DNS
    name.
    """
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "apim-auth-proxy")]
    if domain is not None and len(domain) <= _MAX_COMMON_NAME:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, domain))
    return x509.Name(attributes)
