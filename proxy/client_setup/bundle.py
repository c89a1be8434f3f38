"""The system's roots and the interception CA in one file, as PEM and as a Java truststore. Reads and writes files.

Invariants: the files hold certificates only, never a key; each is replaced whole, and left alone where it is right already.
"""

from __future__ import annotations

import os
import secrets
import ssl
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from proxy.client_setup.variables import PHP_SETTINGS, TRUSTSTORE_PASSWORD, WGETRC
from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BUNDLE: Final = "bundle.pem"
TRUSTSTORE: Final = "truststore.p12"

# Where systems keep their roots, for a Python that was built elsewhere; the list is Go's (crypto/x509/root_linux.go), and macOS'.
_PLACES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_MARK: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was written.

    Attributes:
        pem: all roots.
        truststore: the same as PKCS#12.
        roots: how many of them are the system's.
    """

    pem: Path
    truststore: Path
    roots: int


def write_bundle(directory: Path, anchors: bytes, environ: Mapping[str, str]) -> Bundle:
    """Write the merged bundle and the truststore, mode 0644, and return where they are.

    Args:
        directory: has to exist.
        anchors: PEM: what clients are to trust beside the system's roots.
        environ: ``SSL_CERT_FILE`` names the system's roots where it is set, unless it is our own bundle.

    Raises:
        ConfigurationError: a file cannot be written, or is somebody else's.
    """
    pem, truststore = directory / BUNDLE, directory / TRUSTSTORE
    if pem.exists() and not truststore.exists():
        raise ConfigurationError(
            f"{pem} is there, and apim-auth-proxy has not made it, so it is not replaced. Move it away, or let `state_directory` "
            "name a directory that is the proxy's alone."
        )
    roots = list(dict.fromkeys(_read_roots(pem, environ)))
    merged = list(dict.fromkeys([*split_pem(anchors), *roots]))
    content = b"".join(merged)
    try:
        if not (truststore.exists() and _is_there(pem, content)):
            store = pkcs12.serialize_java_truststore(
                list(_entries(merged)), BestAvailableEncryption(TRUSTSTORE_PASSWORD.encode())
            )
            _write(truststore, store)
            _write(pem, content)  # last: it is what says that both are current
        _write_settings(directory, pem)
    except OSError as error:
        raise ConfigurationError(
            f"{pem} cannot be written: {error.strerror or 'the system gives no reason'}. Clients need it; let this user write "
            "the state_directory."
        ) from None
    return Bundle(pem, truststore, len(roots))


def split_pem(content: bytes) -> list[bytes]:
    """Return the certificates of a PEM file without what stands between them, each with a line feed at its end."""
    found = []
    for part in content.split(_MARK)[1:]:
        body, end, _ = part.partition(_END)
        if end:
            found.append(_MARK + body.replace(b"\r\n", b"\n") + _END + b"\n")
    return found


def _read_roots(own: Path, environ: Mapping[str, str]) -> Iterator[bytes]:
    paths = ssl.get_default_verify_paths()
    for place in (environ.get("SSL_CERT_FILE"), paths.openssl_cafile, *_PLACES):
        # Under `exec`, the variable names what an earlier run of ours wrote.
        if place and Path(place).name != own.name and (content := _read(Path(place))):
            yield from split_pem(content)
            return
    # Windows, and a macOS without a file: what Python finds in the system's store.
    for der in ssl.create_default_context().get_ca_certs(binary_form=True):
        yield ssl.DER_cert_to_PEM_cert(der).encode("ascii")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _entries(certificates: list[bytes]) -> Iterator[pkcs12.PKCS12Certificate]:
    for number, pem in enumerate(certificates):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about roots older than today's rules, which are the system's affair
                certificate = x509.load_pem_x509_certificate(pem)
        except ValueError:
            continue  # malformed by today's rules; Java would refuse the whole store for it
        yield pkcs12.PKCS12Certificate(certificate, f"root-{number}".encode("ascii"))


def _is_there(path: Path, content: bytes) -> bool:
    return _read(path) == content


def _write_settings(directory: Path, pem: Path) -> None:
    """Write settings that name the bundle, for wget (wgetrc) and PHP (a directory of .ini files)."""
    php = directory / PHP_SETTINGS
    php.mkdir(mode=0o755, exist_ok=True)
    quoted = str(pem).replace("\\", "\\\\").replace('"', '\\"')
    settings = {
        directory / WGETRC: f"ca_certificate = {pem}\n",
        php / "apim-auth-proxy.ini": f'curl.cainfo = "{quoted}"\nopenssl.cafile = "{quoted}"\n',
    }
    for path, text in settings.items():
        if not _is_there(path, text.encode()):
            _write(path, text.encode())


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o644) if hasattr(os, "fchmod") else None  # whatever the umask
            file.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
