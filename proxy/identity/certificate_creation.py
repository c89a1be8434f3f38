"""A new key and a self-signed certificate for it, as `cert new` hands out. Does no I/O.

Entra ID looks at the key (RSA, 2048 bits or more) and the dates; subject, issuer and extensions are for people.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from proxy.errors import ConfigurationError
from proxy.identity.certificate import MINIMUM_KEY_BITS

# RSA signing time grows with the cube of the size; no identity platform is known to take more.
MAXIMUM_KEY_BITS = 8192
# Entra ID refuses a certificate before its start: a clock that is a little fast must not cost the first minutes.
_BACKDATING = timedelta(minutes=5)
# X.520 upper bound of a common name (RFC 5280, ub-common-name).
_SUBJECT_LIMIT = 64


def create_certificate(
    subject_name: str, days: int, key_bits: int, now: datetime, password: bytes | None = None
) -> tuple[bytes, bytes]:
    """Return the certificate and its private key, both PEM.

    Args:
        subject_name: the common name, 1 to 64 characters.
        days: validity from now.
        key_bits: 2048 to 8192.
        now: aware.
        password: encrypts the key (PKCS#8, AES-256); None leaves it in clear text.

    Raises:
        ConfigurationError: an argument is out of range.
    """
    if not 1 <= len(subject_name) <= _SUBJECT_LIMIT:
        raise ConfigurationError(
            f"A subject name has 1 to {_SUBJECT_LIMIT} characters; this one has {len(subject_name)}."
        )
    if not 1 <= days <= 36_500:
        raise ConfigurationError(f"A certificate is valid for 1 to 36500 days, not {days}.")
    if not MINIMUM_KEY_BITS <= key_bits <= MAXIMUM_KEY_BITS:
        raise ConfigurationError(f"An RSA key has {MINIMUM_KEY_BITS} to {MAXIMUM_KEY_BITS} bits, not {key_bits}.")
    key = rsa.generate_private_key(public_exponent=65_537, key_size=key_bits)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject_name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATING)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signing_only(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    encryption = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption),
    )


def _signing_only() -> x509.KeyUsage:
    return x509.KeyUsage(
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
