"""A short-lived server certificate for one host, as clients see it inside CONNECT.

Does no I/O; time comes in as an argument. A leaf never outlives its CA, and is never made for a name its CA may not
sign.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.errors import ConfigurationError
from proxy.interception.authority import BACKDATE, authority_key_identifier
from proxy.interception.names import parse_name, wildcard_over
from proxy.interception.signing import sign

if TYPE_CHECKING:
    from collections.abc import Collection

    from proxy.interception.signing import Authority

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
    """A certificate, its key, and the certificates that go with it in the handshake.

    Attributes:
        name: what it is for: the host, or a wildcard that stands for the host and its siblings.
        certificate: the leaf.
        chain: the issuer, and what is above it less the anchor.
        key: the leaf's own.
    """

    name: str
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(repr=False)

    @property
    def not_after(self) -> datetime:
        """The end of its life, in UTC."""
        return self.certificate.not_valid_after_utc

    def pem(self) -> bytes:
        """Return private key, leaf and chain, in the order OpenSSL loads them. A secret."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        shown = (self.certificate, *self.chain)
        return key + b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in shown)


def mint(
    authority: Authority, host: str, now: datetime, apexes: Collection[str] = (), key: rsa.RSAPrivateKey | None = None
) -> Leaf:
    """Return a new leaf for a host, with an ECDSA key of its own unless one is given.

    A key for each leaf costs 20 µs of the 2 ms that a new TLS context takes, so there is no reason to share one.

    Args:
        authority: what signs it.
        host: a DNS name or an IP literal, without a port; not a wildcard.
        now: an aware datetime.
        apexes: of the wildcard routes: a host below one of them gets a wildcard leaf, good for its siblings as well.
        key: the leaf's, for a client that takes RSA only.

    Raises:
        ConfigurationError: the host is not a name, or the CA may not sign for it.

    Source: RFC 5280 §4.2.1, RFC 9525 §4.
    """
    name = parse_name(host)
    ca = authority.choose(name, now)
    if not ca.permits(name):
        raise ConfigurationError(
            f"The interception CA may not sign for {host}: its name constraints do not permit that host. "
            "Reload or restart the proxy so that it prepares one that may, and let clients trust that."
        )
    if isinstance(name, str):
        wildcard = wildcard_over(name, apexes)
        name = wildcard if wildcard is not None and ca.permits(wildcard) else name
    # A CA out of its dates signs all the same: the client then says what is wrong, which nobody else can tell it.
    not_after = min(now + LIFE, ca.not_after)
    not_before = min(max(now - BACKDATE, ca.issuer.not_valid_before_utc), not_after)
    own_key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(_subject(name if isinstance(name, str) else None))
        .issuer_name(ca.issuer.subject)
        .public_key(own_key.public_key())
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
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own_key.public_key()), critical=False)
        .add_extension(authority_key_identifier(ca.issuer), critical=False)
    )
    return Leaf(str(name), sign(builder, ca.key), ca.chain, own_key)


def _subject(domain: str | None) -> x509.Name:
    """Return a subject for people to read; clients go by the SAN.

    An address never becomes a common name: verifiers that hold the common name to the constraints read it as a DNS
    name.
    """
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "apim-auth-proxy")]
    if domain is not None and len(domain) <= _MAX_COMMON_NAME:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, domain))
    return x509.Name(attributes)
