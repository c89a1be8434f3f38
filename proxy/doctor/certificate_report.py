"""One certificate for people: whose, how long, which key, and its thumbprints in every form in use. Reads files.

Unlike `proxy.identity.certificate`, which refuses what cannot be used, this shows it and says what is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from proxy.doctor.findings import days_left
from proxy.errors import ConfigurationError
from proxy.identity.certificate import load_certificate, load_public_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from proxy.identity.certificate import PublicCertificate


@dataclass(frozen=True, slots=True)
class CertificateReport:
    """What there is to say about one certificate.

    Attributes:
        file: where it was read from.
        certificate: its public half.
        days_left: whole days to its end; negative once it is past.
        private_key: ``fits``, ``not here`` or ``cannot be used`` (a problem says why).
        problems: what keeps it from being used, each a sentence with what to do; empty where nothing does.
    """

    file: Path
    certificate: PublicCertificate
    days_left: int
    private_key: str
    problems: tuple[str, ...]


def read_certificate(file: Path, private_key: Path | None, password: bytes | None, now: datetime) -> CertificateReport:
    """Return the report on a certificate, usable or not.

    Args:
        file: PEM, DER or PFX.
        private_key: the key's file, where it is not in `file`.
        password: of an encrypted key or PFX.
        now: aware.

    Raises:
        ConfigurationError: there is no RSA certificate to be read in the file.
    """
    try:
        certificate, has_key = _load(file, private_key, password, now)
        problems: tuple[str, ...] = ()
    except ConfigurationError as problem:
        certificate, has_key = _load_regardless(file, private_key, password, problem)
        problems = (problem.detail,)
    is_alone = private_key is None and not _holds_key(file)
    key = "fits" if has_key else "not here" if is_alone else "cannot be used"
    return CertificateReport(file, certificate, days_left(certificate.not_after, now), key, problems)


def _load(
    file: Path, private_key: Path | None, password: bytes | None, now: datetime
) -> tuple[PublicCertificate, bool]:
    """Return the certificate, and whether its key was there, which then fits."""
    if private_key is None and not _holds_key(file):
        return load_public_certificate(file, now=now), False
    return load_certificate(file, private_key, password, now=now), True


def _load_regardless(
    file: Path, private_key: Path | None, password: bytes | None, problem: ConfigurationError
) -> tuple[PublicCertificate, bool]:
    """Return the certificate at a time it is valid at, with its key if that fits, else alone; else raise the problem."""
    moments = list(_starts(file, password))
    for moment in moments:
        try:
            return _load(file, private_key, password, moment)
        except ConfigurationError:
            continue
    for moment in moments:
        try:
            return load_public_certificate(file, now=moment), False
        except ConfigurationError:
            continue
    raise problem


def _holds_key(file: Path) -> bool:
    data = _read(file)
    if b"-----BEGIN" in data:
        return b"PRIVATE KEY-----" in data
    try:
        x509.load_der_x509_certificate(data)
    except ValueError:
        return True  # a PFX, or nothing that can be read, which loading it then says
    return False


def _starts(file: Path, password: bytes | None) -> Iterator[datetime]:
    """Yield the first moment of each certificate in the file."""
    data = _read(file)
    try:
        if b"-----BEGIN" in data:
            certificates = x509.load_pem_x509_certificates(data)
        else:
            bundle = pkcs12.load_pkcs12(data, password)
            certificates = [item.certificate for item in (bundle.cert, *bundle.additional_certs) if item is not None]
    except ValueError:
        try:
            certificates = [x509.load_der_x509_certificate(data)]
        except ValueError:
            return
    for certificate in certificates:
        yield certificate.not_valid_before_utc


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        raise ConfigurationError(
            f"{file}: the file cannot be read; correct the path or the file's owner and mode."
        ) from None
