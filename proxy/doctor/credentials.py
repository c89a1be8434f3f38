"""Whether a credential can prove who the proxy is: its files, its keys, its dates. Reads the files.

What an identity platform makes of it is for `proxy.doctor.online`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.config.settings import ClientAuthentication
from proxy.config.source import is_there
from proxy.dialing.trust import create_tls_context
from proxy.doctor.findings import days_left, error, ok, warning
from proxy.errors import ConfigurationError
from proxy.identity.certificate import load_certificate, load_public_certificate
from proxy.identity.managed_identity import SYSTEM
from proxy.identity.proof.building import list_certificates, list_proof_files, load_tls_certificate
from proxy.keys.passwords import read_password

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from proxy.config.settings import CertificateSettings, CredentialSettings
    from proxy.doctor.findings import Finding
    from proxy.identity.certificate import PublicCertificate

EXPIRY_WARNINGS_DAYS: Final = (1, 7, 14, 30)
"""Days before a certificate's end at which it is warned of; the last gives time for a change with an approval."""

_ROTATE: Final = (
    "Create a new pair with `apim-auth-proxy cert new`, upload its certificate in addition to the old one, then change the "
    "configuration."
)


def check_credential(name: str, settings: CredentialSettings, now: datetime) -> Iterator[Finding]:
    """Yield what there is to say about a credential without asking its token endpoint.

    Args:
        name: its key in the configuration.
        settings: the credential; files that do not exist are passed over, because loading the configuration reports them.
        now: aware.
    """
    subject = f"credential {name}"
    if settings.client_authentication is ClientAuthentication.TLS:
        yield from _check_tls(subject, settings, now)
    elif settings.signer_command or settings.key_vault_key is not None:
        if settings.certificate is not None and is_there(settings.certificate):
            yield from _check_public(subject, settings.certificate, now)
    else:
        yield from _check_certificates(subject, list_certificates(settings), now)
    if settings.key_vault_key is not None:
        yield ok(subject, f"It signs with a key that stays in its vault, {settings.key_vault_key}.")
    if settings.federated_token_file is not None:
        yield ok(subject, f"It proves itself by the token in {settings.federated_token_file}.")
    if settings.managed_identity is not None:
        yield ok(subject, f"It is {_describe_identity(settings.managed_identity)} itself, without an application.")
    if settings.federated_managed_identity is not None:
        who = _describe_identity(settings.federated_managed_identity)
        yield ok(subject, f"It proves itself by a token of {who}, which its application has to trust.")
    if settings.client_secret is not None:
        yield warning(
            subject,
            "It proves itself by a client secret, which travels with every token request.",
            "A certificate never leaves this machine: `apim-auth-proxy cert new`.",
        )
    if settings.ca_file is not None and is_there(settings.ca_file):
        yield check_ca_file(subject, settings.ca_file)


def _check_tls(subject: str, settings: CredentialSettings, now: datetime) -> Iterator[Finding]:
    if settings.certificate is None or not all(is_there(file) for file in list_proof_files(settings)):
        return
    try:
        found = load_tls_certificate(settings).public
    except ConfigurationError as problem:
        yield error(subject, problem.detail)
        return
    yield ok(
        subject,
        f"Certificate {found.subject} is shown in TLS handshakes with the token endpoint, and to upstreams that ask; its key fits.",
    )
    yield _show_thumbprints(subject, found)
    date_problem = found.date_problem(now)
    yield (
        error(subject, date_problem)
        if date_problem is not None
        else judge_end(subject, found.not_after, now, "Have a new one issued, and put it in the place of the old one.")
    )


def _describe_identity(which: str) -> str:
    return f"this machine's {f'managed identity {which}' if which != SYSTEM else 'system-assigned managed identity'}"


def _check_certificates(subject: str, listed: Sequence[CertificateSettings], now: datetime) -> Iterator[Finding]:
    """Yield findings on each pair of a credential; one out of its dates is left out, as long as another one is not."""
    findings: list[Finding] = []
    usable, out_of_date = 0, []
    for index, entry in enumerate(listed):
        name = subject if len(listed) == 1 else f"{subject}, certificates[{index}]"
        files = [file for file in (entry.certificate, entry.private_key, entry.password_file) if file is not None]
        if not all(is_there(file) for file in files):
            continue
        try:
            password = read_password(entry.password_file)
            loaded = load_certificate(entry.certificate, entry.private_key, password)
        except ConfigurationError as problem:
            findings.append(error(name, problem.detail))
        else:
            date_problem = loaded.date_problem(now)
            if date_problem is not None:
                out_of_date.append((name, date_problem))
            else:
                usable += 1
                findings += [_describe(name, loaded, "and its key fits"), _show_thumbprints(name, loaded)]
                findings.append(judge_expiry(name, loaded, now))
    yield from findings
    for name, detail in out_of_date:
        yield warning(name, detail, "It is left out; the other one is used.") if usable else error(name, detail)


def _check_public(subject: str, certificate: Path, now: datetime) -> Iterator[Finding]:
    try:
        loaded = load_public_certificate(certificate)
    except ConfigurationError as problem:
        yield error(subject, problem.detail)
        return
    date_problem = loaded.date_problem(now)
    if date_problem is not None:
        yield error(subject, date_problem)
        return
    yield _describe(subject, loaded, "whose key is held elsewhere")
    yield _show_thumbprints(subject, loaded)
    yield judge_expiry(subject, loaded, now)


def _describe(subject: str, certificate: PublicCertificate, of_its_key: str) -> Finding:
    return ok(
        subject,
        f"Certificate {certificate.subject}, RSA {certificate.key_bits} bits, {of_its_key}.",
        certificate_subject=certificate.subject,
        key_bits=certificate.key_bits,
    )


def _show_thumbprints(subject: str, certificate: PublicCertificate) -> Finding:
    return ok(
        subject,
        f"Thumbprints as the portal shows them: SHA-1 {certificate.sha1_hex}, SHA-256 {certificate.sha256_hex}.",
        sha1=certificate.sha1_hex,
        sha256=certificate.sha256_hex,
        x5t=certificate.x5t,
        x5t_s256=certificate.x5t_s256,
    )


def judge_expiry(subject: str, certificate: PublicCertificate, now: datetime) -> Finding:
    """Return what there is to say about the end of a certificate that proves who the proxy is."""
    return judge_end(subject, certificate.not_after, now, _ROTATE)


def judge_end(subject: str, end: datetime, now: datetime, advice: str) -> Finding:
    """Return what there is to say about a certificate's end.

    Args:
        subject: of the finding.
        end: of the certificate's life.
        now: aware.
        advice: what to do in time.
    """
    days = days_left(end, now)
    threshold = next((limit for limit in EXPIRY_WARNINGS_DAYS if days <= limit), None)
    if days < 0:
        return error(subject, f"The certificate expired on {end:%Y-%m-%d}.", advice, days_left=days)
    if threshold is None:
        return ok(subject, f"The certificate is valid until {end:%Y-%m-%d}, {days} days from now.", days_left=days)
    when = {0: "within a day", 1: "tomorrow"}.get(days, f"in {days} days")
    return warning(
        subject, f"The certificate expires {when}, on {end:%Y-%m-%d}.", advice, days_left=days, threshold=threshold
    )


def check_ca_file(subject: str, ca_file: Path) -> Finding:
    """Return whether a file of trusted roots can be used."""
    try:
        create_tls_context(ca_file)
    except ConfigurationError as problem:
        return error(subject, problem.detail)
    return ok(subject, f"{ca_file} contains certificates, which are trusted in addition to the system's roots.")
