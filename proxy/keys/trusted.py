"""Files of certificates to trust. Reads files."""

from __future__ import annotations

import shlex
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.errors import ConfigurationError
from proxy.keys.forms import PEM_BLOCK, PFX_START, read_file

if TYPE_CHECKING:
    from pathlib import Path

# RFC 7468 §5.1, and OpenSSL's own label for certificates with trust settings.
_LABELS = (b"CERTIFICATE", b"TRUSTED CERTIFICATE")


@dataclass(frozen=True, slots=True)
class TrustedCertificates:
    """The certificates of a file.

    Attributes:
        file: where they were read from.
        key: of the configuration, which names the file.
        content: the file's, in its plain form: what changes when another certificate is trusted.
        bodies: the Base64 text of each certificate, without white space.
    """

    file: Path
    key: str
    content: bytes
    bodies: tuple[bytes, ...]

    def add_to(self, context: ssl.SSLContext) -> None:
        """Trust them in a context.

        Raises:
            ConfigurationError: OpenSSL finds one damaged.
        """
        try:
            if b"BEGIN TRUSTED CERTIFICATE" in self.content:
                context.load_verify_locations(cafile=self.file)  # the one way in which OpenSSL reads trust settings
            else:
                pem = b"".join(
                    b"-----BEGIN CERTIFICATE-----\n%b\n-----END CERTIFICATE-----\n" % _wrap(body)
                    for body in self.bodies
                )
                context.load_verify_locations(cadata=pem.decode("ascii"))
        except (OSError, ValueError):  # ssl.SSLError is an OSError
            raise ConfigurationError(
                f"{self.file} cannot be used as {self.key}: a certificate in it is damaged; export it again."
            ) from None


def read_trusted(file: Path, key: str) -> TrustedCertificates:
    """Return the certificates of a file: PEM, DER or PKCS#7.

    Args:
        file: what the configuration names.
        key: by this key.

    Raises:
        ConfigurationError: the file cannot be read, or holds no certificate.
    """
    try:
        data = read_file(file)
    except ConfigurationError as problem:
        raise ConfigurationError(f"{file} cannot be used as {key}. {problem.detail}") from None
    if PFX_START.match(data):
        raise ConfigurationError(
            f"{file} cannot be used as {key}: it is a PFX (PKCS#12) file. Write its certificates as PEM: "
            f"openssl pkcs12 -in {shlex.quote(str(file))} -nokeys -out ca.pem"
        )
    if data[:1] == b"\x30":
        try:
            data = ssl.DER_cert_to_PEM_cert(data).encode("ascii")
        except ValueError:
            data = b""
    bodies = tuple(b"".join(one.group(2).split()) for one in PEM_BLOCK.finditer(data) if one.group(1) in _LABELS)
    if not bodies:
        raise ConfigurationError(
            f"{file} cannot be used as {key}: it must be a readable PEM file with at least one certificate."
        )
    return TrustedCertificates(file, key, data, bodies)


def _wrap(body: bytes) -> bytes:
    return b"\n".join(body[at : at + 64] for at in range(0, len(body), 64))
