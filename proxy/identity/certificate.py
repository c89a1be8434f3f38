"""The files of a key pair, read, judged and thumbprinted. Reads files; everything else is a function of bytes.

A certificate out of its dates is read like any other: `PublicCertificate.date_problem` judges it whenever it is to be used.

Invariants: a `ClientCertificate` has an RSA key of at least 2048 bits that fits its certificate, and its ``repr`` shows
no key. Every refusal is a `ConfigurationError` that names the file, and never carries a library's own text.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from proxy.errors import ConfigurationError
from proxy.keys.forms import read_file
from proxy.keys.pairs import certificate_damaged, key_damaged, parse_certificates, read_pair

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from proxy.keys.pairs import KeyPair

# Entra ID refuses shorter keys (AADSTS700027, AADSTS50032); so does NIST SP 800-131A.
MINIMUM_KEY_BITS = 2048
# What a key signs to show that it can; never sent anywhere.
_PROBE = b"is the private key what its public half says?"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicCertificate:
    """The public half: what a token endpoint knows of us.

    Attributes:
        chain_der: DER bytes, the leaf first, then as many issuers as the file held, each certifying the one before.
        subject: RFC 4514 text.
        not_before: UTC.
        not_after: UTC.
        x5t: base64url, unpadded, of the SHA-1 digest of the leaf (RFC 7515 §4.1.7).
        x5t_s256: base64url, unpadded, of its SHA-256 digest (RFC 7515 §4.1.8).
        sha1_hex: upper-case, as the Azure portal prints it.
        sha256_hex: upper-case, as the Azure portal prints it.
        key_bits: size of the RSA modulus.
        file: where it was read from; None where it came from a vault, which may hold another one by now.
    """

    chain_der: tuple[bytes, ...] = field(repr=False)
    subject: str
    not_before: datetime
    not_after: datetime
    x5t: str
    x5t_s256: str
    sha1_hex: str
    sha256_hex: str
    key_bits: int
    file: Path | None = None

    def date_problem(self, now: datetime) -> str | None:
        """Return why the certificate cannot be used at that moment, and what to do; None where its dates allow it."""
        which = f"{self.file}: the certificate" if self.file is not None else f"The certificate {self.sha1_hex}"
        if now > self.not_after:
            return (
                f"{which} expired on {self.not_after:%Y-%m-%d %H:%M} UTC; make and upload a new one"
                " (`apim-auth-proxy cert new`), or correct this machine's clock."
            )
        if now < self.not_before:
            return f"{which} is not valid before {self.not_before:%Y-%m-%d %H:%M} UTC; wait, or correct this machine's clock."
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate(PublicCertificate):
    """A certificate with its private key; immutable, and never shown with the key."""

    _private_key: RSAPrivateKey = field(repr=False)

    def sign(self, signing_input: bytes, algorithm: str) -> bytes:
        """Return the JWS signature of the input.

        Args:
            signing_input: RFC 7515 §5.1: the encoded header and claims, joined by a dot.
            algorithm: ``PS256`` or ``RS256`` (RFC 7518 §3.3, §3.5).
        """
        return bytes(jwt.get_algorithm_by_name(algorithm).sign(signing_input, self._private_key))


def verify_signature(certificate: PublicCertificate, signature: bytes, signing_input: bytes, algorithm: str) -> bool:
    """Whether a JWS signature fits the input and the certificate; arguments as `ClientCertificate.sign`."""
    public_key = x509.load_der_x509_certificate(certificate.chain_der[0]).public_key()
    return isinstance(public_key, RSAPublicKey) and bool(
        jwt.get_algorithm_by_name(algorithm).verify(signing_input, public_key, signature)
    )


def load_certificate(certificate: Path, private_key: Path | None, password: bytes | None) -> ClientCertificate:
    """Read a certificate and its private key.

    Args:
        certificate: PEM (a chain is allowed, in any order) or PFX/PKCS#12.
        private_key: PEM or DER; None: the key is in ``certificate``.
        password: for an encrypted key or PFX; ignored where nothing is encrypted.

    Raises:
        ConfigurationError: a file cannot be read or used, named with the reason and what to do.
    """
    try:
        return _assemble(certificate, private_key, password)
    except (ValueError, UnsupportedAlgorithm):  # cryptography decodes names and dates only when they are looked at.
        raise certificate_damaged(certificate) from None


def _assemble(certificate: Path, private_key: Path | None, password: bytes | None) -> ClientCertificate:
    pair = read_pair(certificate, private_key, password)
    rsa_key = _require_rsa(pair.key, private_key or certificate)
    _require_sound(rsa_key, private_key or certificate)
    public = _describe(pair.leaf, pair.certificates, certificate)
    return ClientCertificate(
        **{name: getattr(public, name) for name in public.__dataclass_fields__}, _private_key=rsa_key
    )


def describe_certificate(pair: KeyPair, file: Path) -> PublicCertificate:
    """Return the public half of a pair with a key of any kind, as TLS takes it; ``key_bits`` is 0 where it is not RSA.

    Raises:
        ConfigurationError: the certificate is damaged.
    """
    try:
        return _describe(pair.leaf, pair.certificates, file)
    except (ValueError, UnsupportedAlgorithm):
        raise certificate_damaged(file) from None


def load_public_certificate(certificate: Path) -> PublicCertificate:
    """Read a certificate whose private key lives elsewhere; the first one in the file is the leaf.

    Raises:
        ConfigurationError: as `load_certificate`.
    """
    certificates = parse_certificates(read_file(certificate), certificate)
    leaf = certificates[0]
    try:
        if not isinstance(leaf.public_key(), RSAPublicKey):
            raise _not_rsa(certificate)
        return _describe(leaf, certificates, certificate)
    except (ValueError, UnsupportedAlgorithm):
        raise certificate_damaged(certificate) from None


def parse_public_certificate(der: bytes) -> PublicCertificate:
    """Return the public half from one certificate's DER bytes.

    Raises:
        ValueError: not a certificate, or not with an RSA key.
    """
    leaf = x509.load_der_x509_certificate(der)
    if not isinstance(leaf.public_key(), RSAPublicKey):
        raise ValueError("not an RSA certificate")  # noqa: TRY004 -- one error for whatever is wrong with the bytes
    return _describe(leaf, [leaf], None)


def _not_rsa(file: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{file}: the key is not RSA, and Entra ID takes RSA keys only (AADSTS5002738);"
        " make a pair with `apim-auth-proxy cert new`."
    )


def _require_rsa(key: PrivateKeyTypes, file: Path) -> RSAPrivateKey:
    if not isinstance(key, RSAPrivateKey):
        raise _not_rsa(file)
    if key.key_size < MINIMUM_KEY_BITS:
        raise ConfigurationError(
            f"{file}: the RSA key has {key.key_size} bits, and Entra ID wants {MINIMUM_KEY_BITS} or more"
            " (AADSTS700027); make a pair with `apim-auth-proxy cert new`."
        )
    return key


def _require_sound(key: RSAPrivateKey, file: Path) -> None:
    """Raise where the key does not sign as its public half says.

    OpenSSL's own check also proves the primes to be primes, which costs 35 ms of each start (RSA-2048; 200 ms with 4096), and tells
    nothing about a key that a certificate was made with.
    """
    padding = PKCS1v15()
    try:
        key.public_key().verify(key.sign(_PROBE, padding, hashes.SHA256()), _PROBE, padding, hashes.SHA256())
    except (InvalidSignature, ValueError):
        raise key_damaged(file) from None


def _order_chain(leaf: x509.Certificate, certificates: Iterable[x509.Certificate]) -> list[x509.Certificate]:
    """Order as RFC 7515 §4.1.6 wants: each certificate certifies the one before it; strangers are left out."""
    chain = [leaf]
    rest = [one for one in certificates if one != leaf]
    while chain[-1].issuer != chain[-1].subject:
        issuer = next((one for one in rest if one.subject == chain[-1].issuer), None)
        if issuer is None:
            break
        rest.remove(issuer)
        chain.append(issuer)
    return chain


def _describe(leaf: x509.Certificate, certificates: Iterable[x509.Certificate], file: Path | None) -> PublicCertificate:
    # SHA-1 here is a name for the certificate that RFC 7515 §4.1.7 and the Azure portal fix, not a safeguard.
    sha1 = leaf.fingerprint(hashes.SHA1())  # noqa: S303
    sha256 = leaf.fingerprint(hashes.SHA256())
    public_key = leaf.public_key()
    return PublicCertificate(
        chain_der=tuple(one.public_bytes(serialization.Encoding.DER) for one in _order_chain(leaf, certificates)),
        subject=leaf.subject.rfc4514_string(),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        x5t=_base64url(sha1),
        x5t_s256=_base64url(sha256),
        sha1_hex=binascii.hexlify(sha1).decode("ascii").upper(),
        sha256_hex=binascii.hexlify(sha256).decode("ascii").upper(),
        key_bits=public_key.key_size if isinstance(public_key, RSAPublicKey) else 0,
        file=file,
    )


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
