"""An organisation's own intermediate CA, which signs leaves in place of one that we make. Reads files.

Leaves are signed by the intermediate itself: a CA of ours between them would lie in memory beside the key that made it, and protect
nothing. So a path length of 0 is what it should have. Every fault is a `ConfigurationError` that names the file.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from proxy.config.privacy import Exposure, describe_way_out, judge_file
from proxy.errors import ConfigurationError
from proxy.interception.names import is_wildcard, parse_name
from proxy.interception.subtrees import Subtrees
from proxy.keys.pairs import KeyNames, read_pair
from proxy.keys.passwords import read_password

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from proxy.config.settings import InterceptionSettings
    from proxy.interception.names import Name
    from proxy.interception.signing import SigningKey

_NAMES: Final = KeyNames("interception.ca_private_key", "interception.ca_password_file")
# NIST SP 800-131A, and what every client still accepts.
_MINIMUM_RSA_BITS: Final = 2_048
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@dataclass(frozen=True, slots=True)
class OrganisationCA:
    """The intermediate with its key, and what is above it as far as the file goes.

    Attributes:
        certificates: the intermediate first, then what is above it in order; perhaps up to the root.
        key: of the intermediate.
    """

    certificates: tuple[x509.Certificate, ...]
    key: SigningKey = field(repr=False)
    _subtrees: tuple[Subtrees, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_subtrees", tuple(map(Subtrees.of_certificate, self.certificates)))

    @property
    def issuer(self) -> x509.Certificate:
        """The certificate that leaves are signed under."""
        return self.certificates[0]

    @property
    def root(self) -> x509.Certificate | None:
        """The root, where the file holds it."""
        last = self.certificates[-1]
        return last if last.subject == last.issuer else None

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What clients are sent behind the leaf: all but the root, which they have (RFC 8446 §4.4.2)."""
        return self.certificates if self.root is None else self.certificates[:-1]

    @property
    def not_after(self) -> datetime:
        """The earliest end of all the certificates, in UTC."""
        return min(certificate.not_valid_after_utc for certificate in self.certificates)

    @property
    def fingerprint(self) -> str:
        """The intermediate's SHA-256 fingerprint: pairs of hex digits, colons between."""
        return self.issuer.fingerprint(hashes.SHA256()).hex(":").upper()

    @property
    def is_bounded(self) -> bool:
        """Whether name constraints keep a thief of its key from posing as any host."""
        return any(one.are_bounded for one in self._subtrees)

    @property
    def identity(self) -> bytes:
        """See `proxy.interception.signing.Authority`."""
        return _pem(self.certificates)

    def permits(self, name: Name) -> bool:
        """Return whether no certificate of the chain stands against a leaf of this name."""
        return all(one.permits(name) for one in self._subtrees)

    def date_problem(self, now: datetime) -> str | None:
        """Return why clients refuse what it signs at that moment, where that is due to dates, and what to do."""
        for certificate in self.certificates:
            what = f"The certificate {certificate.subject.rfc4514_string()!r} of the interception CA"
            if now >= certificate.not_valid_after_utc:
                return (
                    f"{what} ended on {certificate.not_valid_after_utc:%Y-%m-%d}, so clients refuse what it signs; have it"
                    " renewed, and replace the file."
                )
            if now < certificate.not_valid_before_utc:
                return (
                    f"{what} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, so clients refuse"
                    " what it signs; wait, or correct this machine's clock."
                )
        return None

    def choose(self, name: Name, now: datetime) -> OrganisationCA:  # noqa: ARG002  # as `Authority` has it
        """Return itself: there is no other."""
        return self

    def trusted_pem(self) -> bytes:
        """Return the topmost certificate of the file: the root, where it is there."""
        return _pem(self.certificates[-1:])


def load_organisation_ca(settings: InterceptionSettings, hosts: Sequence[str]) -> OrganisationCA | None:
    """Read an organisation's intermediate and judge it, but for its dates; None where none is configured.

    Args:
        settings: which files.
        hosts: the routed hosts, which it has to be able to sign for.

    Raises:
        ConfigurationError: it cannot be used, and why.
    """
    file = settings.ca_certificate
    if file is None:
        return None
    _refuse_open_key(settings.ca_private_key or file)
    try:
        pair = read_pair(file, settings.ca_private_key, read_password(settings.ca_password_file), _NAMES)
        certificates = pair.certificates
        for position, certificate in enumerate(certificates):
            _judge(certificate, position, file)
        for below, above in itertools.pairwise(certificates):
            _judge_link(below, above, file)
    except ValueError:  # of a certificate, some things are parsed only when they are looked at
        raise ConfigurationError(
            f"{file} holds damaged certificates. It needs the intermediate first, and then what is above it."
        ) from None
    key = _judge_key(pair.key, settings.ca_private_key or file)
    if key.public_key() != certificates[0].public_key():
        raise ConfigurationError(
            f"The key in {settings.ca_private_key or file} does not belong to the first certificate in {file}, which has to be the "
            "intermediate's."
        )
    ca = OrganisationCA(certificates, key)
    _require_hosts(ca, hosts, file)
    return ca


def _judge(certificate: x509.Certificate, position: int, file: Path) -> None:
    """Raise for what RFC 5280 §4.2 and §6.1.4 have verifiers refuse in a CA of this place in a path, 0 the lowest."""
    what = f"The certificate {certificate.subject.rfc4514_string()!r} in {file}"
    basic = _find(certificate, x509.BasicConstraints)
    is_root = (
        position > 0 and certificate.subject == certificate.issuer
    )  # its extensions are not what verifiers go by (§6.1)
    usage = _find(certificate, x509.KeyUsage)
    purposes = _find(certificate, x509.ExtendedKeyUsage)
    server_purposes = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if basic is None or not basic.ca:
        problem = (
            "is not a CA's (basicConstraints has no CA:TRUE), so nobody believes what it signs; name an intermediate CA"
        )
    elif not is_root and (usage is None or not usage.key_cert_sign):
        problem = "may not sign certificates (keyUsage has no keyCertSign); have an intermediate issued that may"
    elif not is_root and purposes is not None and not server_purposes & set(purposes):
        problem = "is not for servers (extendedKeyUsage has no serverAuth); have one issued without that limit, or with serverAuth"
    elif basic.path_length is not None and basic.path_length < position:
        problem = f"allows {basic.path_length} CAs below it (pathlen), and the file has {position}; have it issued anew"
    elif not is_root and _find(certificate, x509.SubjectKeyIdentifier) is None:
        problem = "has no subjectKeyIdentifier, which strict clients insist on (RFC 5280 §4.2.1.2); have it issued anew"
    elif certificate.subject != certificate.issuer and _find(certificate, x509.AuthorityKeyIdentifier) is None:
        problem = (
            "has no authorityKeyIdentifier, which strict clients insist on (RFC 5280 §4.2.1.1); have it issued anew"
        )
    else:
        return
    raise ConfigurationError(f"{what} {problem}.")


def _judge_link(below: x509.Certificate, above: x509.Certificate, file: Path) -> None:
    try:
        below.verify_directly_issued_by(above)
    except Exception:  # noqa: BLE001  # whatever does not fit, the remedy is the same
        raise ConfigurationError(
            f"In {file}, {below.subject.rfc4514_string()!r} was not issued by {above.subject.rfc4514_string()!r}, which stands "
            "behind it. The order is: the intermediate, the CA that issued it, and so on."
        ) from None


def _require_hosts(ca: OrganisationCA, hosts: Sequence[str], file: Path) -> None:
    missing = [
        host for host in hosts if not ca.permits(f"*.{parse_name(host[2:])}" if is_wildcard(host) else parse_name(host))
    ]
    if missing:
        raise ConfigurationError(
            f"The name constraints of the CA in {file} do not permit {', '.join(missing)}, so clients would refuse what it signs "
            "for that. Have one issued that permits the routed hosts, or remove the route."
        )


def _refuse_open_key(file: Path) -> None:
    if judge_file(file) is Exposure.OPEN:
        raise ConfigurationError(
            f"{file} is open to other users of this machine, and whoever has a CA's key can pose as other hosts; "
            f"{describe_way_out(file)}."
        )


def _judge_key(key: PrivateKeyTypes, file: Path) -> SigningKey:
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _MINIMUM_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES):
        return key
    raise ConfigurationError(
        f"The key in {file} is of a kind that not every client accepts. Use RSA of {_MINIMUM_RSA_BITS} bits or more, or a curve: "
        "P-256, P-384 or P-521."
    )


def _find(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)
