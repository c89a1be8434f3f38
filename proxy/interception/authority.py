"""An interception CA as a value: issuing it, what it may sign, and its PEM form.

Does no I/O; time comes in as an argument, randomness from the operating system. No CA made here can sign for a host
outside its name constraints and be believed, and no repr shows its key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.errors import ConfigurationError
from proxy.interception.names import Constraints, subtrees_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.interception.names import Name

LIFE = timedelta(days=730)
"""Two years: long enough that clients are seldom asked to trust anew, short enough for a forgotten one to end."""

BACKDATE = timedelta(hours=1)
"""How far a certificate's life begins before it is made, for clients whose clocks run late."""

GROUP_BYTES = 1_024
"""How many bytes of names one issuer may sign for. Every handshake carries an issuer: this keeps it within three packets."""

_SIGN_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)

COMMON_NAME: Final = "apim-auth-proxy interception CA"
"""How the common name of every anchor begins."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """One of an interception CA's issuers: what signs leaves for some of the hosts. A `proxy.interception.signing.SigningCA`.

    Attributes:
        issuer: its certificate.
        key: the CA's one key.
        not_after: the end of the CA's life, in UTC.
        constraints: the names it may sign for.
    """

    issuer: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    not_after: datetime
    constraints: Constraints

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """See `SigningCA`."""
        return (self.issuer,)

    def permits(self, name: Name) -> bool:
        """See `SigningCA`."""
        return self.constraints.permits(name)


@dataclass(frozen=True, slots=True)
class InterceptionCA:
    """What clients trust, and what signs leaves below it.

    Attributes:
        anchor: the certificate clients trust. Its own key no longer exists, where we made it.
        issuers: the certificates leaves are signed under, each for a group of hosts; one of them is sent after each leaf.
        key: the issuers' private key.
        reason: why this CA was issued, a sentence for the operator.
        replaces: the fingerprint of the anchor that clients trusted before; empty for a first CA.
        constraints: the names it may sign for.

    Raises:
        ConfigurationError: an issuer has no name constraints.
    """

    anchor: x509.Certificate
    issuers: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    reason: str
    replaces: str = ""
    constraints: Constraints = field(init=False, repr=False, compare=False)
    _by_name: dict[Name, Issuer] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        issuers = [
            Issuer(issuer, self.key, self.not_after, Constraints.of_certificate(issuer)) for issuer in self.issuers
        ]
        # Read once: a certificate for many hosts takes milliseconds to parse.
        by_name = {name: issuer for issuer in issuers for name in issuer.constraints.names()}
        object.__setattr__(self, "constraints", Constraints.of_names(by_name))
        object.__setattr__(self, "_by_name", by_name)

    @property
    def fingerprint(self) -> str:
        """The anchor's SHA-256 fingerprint as openssl and browsers print it: pairs of hex digits, colons between."""
        return self.anchor.fingerprint(hashes.SHA256()).hex(":").upper()

    @property
    def not_after(self) -> datetime:
        """The end of its life, in UTC."""
        return min(certificate.not_valid_after_utc for certificate in (self.anchor, *self.issuers))

    @property
    def made_at(self) -> datetime:
        """When it was issued, in UTC."""
        return self.anchor.not_valid_before_utc + BACKDATE

    def permits(self, name: Name) -> bool:
        """Return whether one of the issuers may sign for a name; ``*.`` stands for all names below the rest."""
        return self.constraints.permits(name)

    def choose(self, name: Name, now: datetime) -> Issuer:  # noqa: ARG002  # as `Authority` has it
        """Return the issuer for a name. A CA alone is a `proxy.interception.signing.Authority`, too."""
        return next(
            (self._by_name[one] for one in subtrees_over(name) if one in self._by_name),
            next(iter(self._by_name.values())),
        )

    @property
    def identity(self) -> bytes:
        """See `proxy.interception.signing.Authority`."""
        return self.anchor_pem()

    def trusted_pem(self) -> bytes:
        """Return what clients are to trust."""
        return self.anchor_pem()

    def anchor_pem(self) -> bytes:
        """Return what clients are to trust: the anchor alone, no key."""
        return self.anchor.public_bytes(serialization.Encoding.PEM)


def issue(hosts: Sequence[str], now: datetime, *, reason: str, replaces: str = "") -> InterceptionCA:
    """Make a new CA for these routed hosts, with new keys.

    No key is ever kept from one CA to the next: clients trust the anchor's certificate, so they must be asked again in
    any case, and a new key makes a copy of the old one worthless as soon as the old anchor is distrusted.

    Args:
        hosts: DNS names, ``*.`` wildcards or IP literals, without ports.
        now: an aware datetime.
        reason: why, a sentence without line breaks.
        replaces: the fingerprint of the anchor it takes the place of, if any.

    Raises:
        ConfigurationError: there is no host, or one is not a name.

    Source: RFC 5280 §4.1.2, §4.2.1.
    """
    constraints = Constraints.of_hosts(hosts)
    anchor_key, issuer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    short_id = x509.SubjectKeyIdentifier.from_public_key(anchor_key.public_key()).digest.hex()[:8]
    anchor_name = _common_name(f"{COMMON_NAME} {short_id}")
    anchor = (
        _ca_builder(anchor_key.public_key(), constraints, now, path_length=1)
        .subject_name(anchor_name)
        .issuer_name(anchor_name)
        .sign(anchor_key, hashes.SHA256())
    )
    issuers = tuple(
        _ca_builder(issuer_key.public_key(), group, now, path_length=0)
        # Names of their own, so that verifiers do not take one for another.
        .subject_name(
            _common_name(f"apim-auth-proxy interception issuer {short_id}" + (f" {number}" if number else ""))
        )
        .issuer_name(anchor_name)
        .add_extension(authority_key_identifier(anchor), critical=False)
        # In a CA certificate this limits the whole path: no client, code-signing or mail certificates either.
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(anchor_key, hashes.SHA256())
        for number, group in enumerate(constraints.split(GROUP_BYTES))
    )
    return InterceptionCA(anchor, issuers, issuer_key, reason, replaces)


def authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return the extension that points at this issuer by its own SKI (RFC 5280 §4.2.1.1)."""
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def format_bundle(ca: InterceptionCA) -> bytes:
    """Return the whole CA, private key included, as one PEM text with the reason before it (RFC 7468 §5.2)."""
    key = ca.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificates = (certificate.public_bytes(serialization.Encoding.PEM) for certificate in (*ca.issuers, ca.anchor))
    return f"Reason: {ca.reason}\nReplaces: {ca.replaces}\n".encode() + key + b"".join(certificates)


def parse_bundle(text: bytes) -> InterceptionCA:
    """Return the CA that `format_bundle` wrote.

    Raises:
        ConfigurationError: it is damaged: no key, fewer than two certificates, or a key of another certificate.
    """
    head, _, _ = text.partition(b"-----BEGIN")
    fields = dict(line.split(": ", 1) for line in head.decode("utf-8", "replace").splitlines() if ": " in line)
    try:
        key = serialization.load_pem_private_key(text, password=None)
        first, *others, anchor = x509.load_pem_x509_certificates(text)
        issuers = (first, *others)
        for issuer in issuers:
            issuer.verify_directly_issued_by(anchor)
    except Exception:  # noqa: BLE001 - whatever the parser found, the operator's next step is the same
        raise ConfigurationError("It does not hold a private key and the certificates that belong to it.") from None
    public_key = key.public_key()
    if not isinstance(key, ec.EllipticCurvePrivateKey) or any(one.public_key() != public_key for one in issuers):
        raise ConfigurationError("Its private key does not belong to its certificate.")
    return InterceptionCA(anchor, issuers, key, fields.get("Reason", ""), fields.get("Replaces", ""))


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _ca_builder(
    key: ec.EllipticCurvePublicKey, constraints: Constraints, now: datetime, *, path_length: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .public_key(key)
        .serial_number(x509.random_serial_number())  # 159 random bits; RFC 5280 §4.1.2.2 allows no more than 20 octets
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_SIGN_CERTIFICATES, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(constraints.extension(), critical=True)
    )
