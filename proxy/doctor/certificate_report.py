"""One certificate for people: whose, how long, which key, and its thumbprints in every form in use. Reads files.

Unlike `proxy.identity.certificate`, which refuses what cannot be used, this shows it and says what is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.doctor.findings import days_left
from proxy.errors import ConfigurationError
from proxy.identity.certificate import load_certificate, load_public_certificate
from proxy.keys.forms import holds_private_key, read_file

if TYPE_CHECKING:
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
    problems = []
    try:
        certificate, has_key = _load(file, private_key, password)
    except ConfigurationError as problem:
        certificate, has_key = load_public_certificate(file), False
        problems.append(problem.detail)
    date_problem = certificate.date_problem(now)
    if date_problem is not None:
        problems.append(date_problem)
    is_alone = private_key is None and not _holds_key(file)
    key = "fits" if has_key else "not here" if is_alone else "cannot be used"
    return CertificateReport(file, certificate, days_left(certificate.not_after, now), key, tuple(problems))


def _load(file: Path, private_key: Path | None, password: bytes | None) -> tuple[PublicCertificate, bool]:
    """Return the certificate, and whether its key was there, which then fits."""
    if private_key is None and not _holds_key(file):
        return load_public_certificate(file), False
    return load_certificate(file, private_key, password), True


def _holds_key(file: Path) -> bool:
    return holds_private_key(read_file(file))
