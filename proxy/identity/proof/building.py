"""From settings to proofs: reads the files a credential names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.identity.assertion import AssertionOptions
from proxy.identity.certificate import load_certificate, read_password
from proxy.identity.proof.signed_assertion import CertificateSigner, SignedAssertion

if TYPE_CHECKING:
    from datetime import datetime

    from proxy.config.settings import CredentialSettings
    from proxy.identity.proof.interface import Proof


def create_proofs(settings: CredentialSettings, *, now: datetime | None = None) -> list[Proof]:
    """Return the proofs of a credential, in order of preference.

    Raises:
        ConfigurationError: a file cannot be read or used.
    """
    options = AssertionOptions(settings.assertion_algorithm.value, settings.send_certificate_chain)
    password = read_password(settings.password_file)
    certificate = load_certificate(settings.certificate, settings.private_key, password, now=now)
    return [SignedAssertion(CertificateSigner(certificate), options)]
