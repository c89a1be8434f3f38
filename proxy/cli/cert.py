"""`cert new`, `cert show`: the certificate that proves who the proxy is. Writes and reads files."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxy.cli.options import json_option
from proxy.cli.terminal import say, write_json, write_rows
from proxy.doctor.certificate_report import read_certificate
from proxy.errors import ConfigurationError
from proxy.identity.certificate import load_certificate
from proxy.identity.certificate_creation import create_certificate
from proxy.keys.passwords import read_password

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.doctor.certificate_report import CertificateReport
    from proxy.identity.certificate import PublicCertificate

_FILE = click.Path(path_type=Path, dir_okay=False)
_EXISTING = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group()
def cert() -> None:
    """Create or show the certificate that the proxy signs in with."""


@cert.command(short_help="Create an RSA key and a self-signed certificate.")
@click.option(
    "--subject-name",
    default="clientapp",
    show_default=True,
    metavar="NAME",
    help="The common name, to recognise it by.",
)
@click.option("--days", type=click.IntRange(1, 36_500), default=365, show_default=True, help="How long it is valid.")
@click.option(
    "--key-bits", type=click.Choice(["2048", "3072", "4096"]), default="2048", show_default=True, help="RSA key size."
)
@click.option(
    "--out-certificate", type=_FILE, default=Path("clientapp.crt"), show_default=True, metavar="FILE", help="PEM."
)
@click.option(
    "--out-key", type=_FILE, default=Path("clientapp.key"), show_default=True, metavar="FILE", help="PEM, mode 0600."
)
@click.option("--password-file", type=_EXISTING, metavar="FILE", help="Encrypt the key with the password in this file.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@json_option
def new(
    subject_name: str,
    days: int,
    key_bits: str,
    out_certificate: Path,
    out_key: Path,
    password_file: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Create an RSA key and a self-signed certificate, and say which file to upload."""
    if out_certificate.absolute() == out_key.absolute():
        raise click.UsageError("--out-certificate and --out-key name one file; only the certificate is to be uploaded.")
    for file in (out_certificate, out_key):
        if file.exists() and not force:
            raise click.ClickException(f"{file} exists already. Name another file, or overwrite it with --force.")
    try:
        password = read_password(password_file)
        now = datetime.now(UTC)
        certificate_pem, key_pem = create_certificate(subject_name, days, int(key_bits), now, password)
    except ConfigurationError as problem:
        raise click.ClickException(problem.detail) from None
    _write_files([(out_key, key_pem, 0o600), (out_certificate, certificate_pem, 0o644)], replace=force)
    made = load_certificate(out_certificate, out_key, password)
    if as_json:
        write_json({"certificate": str(out_certificate), "private_key": str(out_key), **_facts(made)})
    else:
        write_rows(
            [
                ("certificate", f"{out_certificate} (upload this one)"),
                ("private key", f"{out_key} (mode 0600; it stays here)"),
                *_rows(made),
            ]
        )
    _say_what_next(out_certificate, out_key, password_file)


@cert.command(short_help="Show a certificate, with its thumbprints.")
@click.argument("file", type=_EXISTING)
@click.option("--private-key", type=_EXISTING, metavar="FILE", help="The key's file, if FILE does not contain it.")
@click.option(
    "--password-file", type=_EXISTING, metavar="FILE", help="File with the password of an encrypted key or PFX."
)
@json_option
def show(file: Path, private_key: Path | None, password_file: Path | None, as_json: bool) -> None:
    """Show a certificate: subject, validity, key, and the thumbprints as the Azure portal shows them.

    FILE is PEM, DER or PFX. Exits with 1 if it cannot be used: it has expired, or does not match its key.
    """
    try:
        report = read_certificate(file, private_key, read_password(password_file), datetime.now(UTC))
    except ConfigurationError as problem:
        raise click.ClickException(problem.detail) from None
    if as_json:
        write_json(
            {
                "file": str(file),
                **_facts(report.certificate),
                "days_left": report.days_left,
                "private_key": report.private_key,
                "problems": list(report.problems),
            }
        )
    else:
        write_rows([("file", str(file)), *_rows(report.certificate, report)])
    for sentence in report.problems:
        say(f"Error: {sentence}")
    sys.exit(1 if report.problems else 0)


def _rows(certificate: PublicCertificate, report: CertificateReport | None = None) -> list[tuple[str, str]]:
    validity = f"{certificate.not_before:%Y-%m-%d} to {certificate.not_after:%Y-%m-%d}"
    key = ""
    if report is not None:
        left = f"{report.days_left} days left" if report.days_left >= 0 else "expired"
        validity += f" ({left})"
        key = {"not here": "not in this file; name it with --private-key to see whether it fits"}.get(
            report.private_key, report.private_key
        )
    return [
        ("subject", certificate.subject),
        ("valid", validity),
        ("key", f"RSA {certificate.key_bits} bits"),
        ("private key fits" if key == "fits" else "private key", "yes" if key == "fits" else key),
        ("SHA-1 thumbprint", certificate.sha1_hex),
        ("SHA-256 thumbprint", certificate.sha256_hex),
        ("x5t", f"{certificate.x5t} (SHA-1 in base64url, for RS256 assertions)"),
        ("x5t#S256", f"{certificate.x5t_s256} (SHA-256 in base64url, for PS256 assertions)"),
    ]


def _facts(certificate: PublicCertificate) -> dict[str, object]:
    return {
        "subject": certificate.subject,
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
        "key_type": "RSA",
        "key_bits": certificate.key_bits,
        "sha1": certificate.sha1_hex,
        "sha256": certificate.sha256_hex,
        "x5t": certificate.x5t,
        "x5t#S256": certificate.x5t_s256,
    }


def _say_what_next(certificate: Path, key: Path, password_file: Path | None) -> None:
    say("")
    say("Upload the certificate (never the key) to the application's registration:")
    say("  Entra ID > App registrations > your client > Certificates & secrets > Certificates > Upload certificate")
    say(f"  or: az ad app credential reset --id CLIENT_ID --cert {shlex.quote(f'@{certificate}')} --append")
    say("The portal then lists the SHA-1 thumbprint above. In the configuration, under the credential:")
    say(f"  certificate: {certificate}")
    say(f"  private_key: {key}")
    if password_file is not None:
        say(f"  password_file: {password_file}")


def _write_files(files: Sequence[tuple[Path, bytes, int]], *, replace: bool) -> None:
    """Write files that nobody else can read at any moment of it: all of them, or none. Existing ones are replaced whole.

    Args:
        files: each with its content and mode.
        replace: whether existing ones are replaced; an error otherwise.

    Raises:
        click.ClickException: one of them cannot be written; what was there before is still there.
    """
    begun: list[Path] = []
    try:
        for file, content, mode in files:
            target = file.with_name(f".{file.name}.{secrets.token_hex(4)}") if replace else file
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            begun.append(target)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
        if replace:
            for target, (file, _, _) in zip(begun, files, strict=True):
                target.replace(file)
    except BaseException as problem:
        # A full disk leaves half a file, which the next attempt would take for somebody's key.
        for target in begun:
            target.unlink(missing_ok=True)
        if isinstance(problem, OSError):
            raise click.ClickException(
                f"{file} cannot be written: {problem.strerror}. Check its directory, or name another file."
            ) from None
        raise
