"""The form of a certificate or key file: brought into PEM or DER where that is unambiguous, else named. Reads files.

Whatever is refused is refused with the command that converts it, and never with a byte of the file.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from typing import TYPE_CHECKING, Final

from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

# A chain of ten 4096-bit certificates and a key stays under 32 KiB; the system's whole list of roots under 300 KiB.
FILE_LIMIT_BYTES: Final = 1_048_576

_BEGIN: Final = b"-----BEGIN "
# RFC 7468 §3. The content may have the header lines of RFC 1421 §4.6.
PEM_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_LABEL: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
# A value of JSON, of an environment variable or of a Kubernetes manifest that was written out as it is quoted.
_ESCAPED_LINE_END: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----\\[rn]")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/\s]+={0,2}\s*")
_LENGTH: Final = rb"(?:[\x00-\x7f]|\x80|\x81.|\x82..|\x83...|\x84....)"
# RFC 7292 §4: PFX ::= SEQUENCE { version INTEGER {v3(3)}, …
PFX_START: Final = re.compile(rb"\x30" + _LENGTH + rb"\x02\x01\x03", re.DOTALL)
# RFC 5652 §3 and §5.1: ContentInfo ::= SEQUENCE { contentType id-signedData, …
_PKCS7_START: Final = re.compile(rb"\x30" + _LENGTH + rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02", re.DOTALL)
_PKCS7_LABELS: Final = {b"PKCS7", b"CMS", b"PKCS #7 SIGNED DATA"}
_UTF16: Final = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}

# How a file begins, what it then is, and what to do; {file} is the file's quoted name.
_FOREIGN: Final = (
    (
        b"\xfe\xed\xfe\xed",
        "a Java key store (JKS)",
        "convert it: keytool -importkeystore -srckeystore {file} -destkeystore clientapp.pfx -deststoretype PKCS12",
    ),
    (
        b"\xce\xce\xce\xce",
        "a Java key store (JCEKS)",
        (
            "convert it: keytool -importkeystore -srckeystore {file} -srcstoretype JCEKS -destkeystore clientapp.pfx "
            "-deststoretype PKCS12"
        ),
    ),
    (b"PuTTY-User-Key-File", "a key of PuTTY", "convert it: puttygen {file} -O private-openssh -o clientapp.key"),
    (b"PK\x03\x04", "a ZIP archive", "unpack it: unzip {file}"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it: gunzip --keep {file}"),
    (b"Salted__", "encrypted by `openssl enc`", "decrypt it with the command and password it was encrypted with"),
    (b"ssh-", "a public SSH key", "name a certificate, as `apim-auth-proxy cert new` makes one"),
    (b"ecdsa-sha2-", "a public SSH key", "name a certificate, as `apim-auth-proxy cert new` makes one"),
    (b"<RSAKeyValue", "a key in the XML form of .NET", "export the certificate with its key as PFX"),
    (b"<", "XML or a web page", "download the file itself, as PEM or PFX"),
    (
        b"{",
        "JSON",
        (
            "write the value alone; for a secret of Key Vault: az keyvault secret show --vault-name VAULT --name NAME "
            "--query value --output tsv > clientapp.pfx.b64"
        ),
    ),
)


def read_file(file: Path) -> bytes:
    """Return the content of a file of certificates or keys, as PEM or DER where it has one of the known forms.

    Raises:
        ConfigurationError: it cannot be read, is too large, or has a form that is known and of no use.
    """
    return to_plain_form(read_plain(file), file)


def read_plain(file: Path) -> bytes:
    """Return the content of a small file as it is.

    Raises:
        ConfigurationError: it cannot be read, or is too large.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise unreadable(file, error) from None
    if len(data) > FILE_LIMIT_BYTES:
        raise ConfigurationError(
            f"{file}: larger than {FILE_LIMIT_BYTES} bytes, so not a certificate or key; name another file."
        )
    return data


def to_plain_form(data: bytes, file: Path) -> bytes:
    r"""Return PEM or DER bytes; those of no known form as they are.

    Taken: UTF-16 and byte order marks, Base64 of any other form (a secret of Key Vault), PEM whose line ends are written as
    ``\n`` or lost, ``X509 CERTIFICATE``, PKCS#7.

    Raises:
        ConfigurationError: the form is known and cannot be taken.
    """
    data = _decode_text(data)
    start = data.lstrip()[:64]
    for beginning, what, advice in _FOREIGN:
        if start.startswith(beginning):
            raise ConfigurationError(f"{file}: {what}; {advice.format(file=shlex.quote(str(file)))}.")
    if _BEGIN in data:
        return _tidy_pem(data, file)
    if _BASE64.fullmatch(data):
        decoded = _decode_base64(data)
        # Shorter each time, so this ends.
        return data if decoded is None else to_plain_form(decoded, file)
    return _extract_pkcs7(data, file) if _PKCS7_START.match(data) else data


def list_labels(data: bytes) -> list[str]:
    """Return the labels of all PEM blocks that begin in the data."""
    return [label.decode("ascii") for label in _LABEL.findall(data)]


def holds_private_key(data: bytes) -> bool:
    """Return whether there may be a private key in what `read_file` returned: not in PEM without one, nor in a DER certificate."""
    if _BEGIN in data:
        return b"PRIVATE KEY-----" in data
    return not _is_der_certificate(data)


def first_element(der: bytes) -> bytes:
    """Return the first DER element of several: the certificate of OpenSSL's TRUSTED CERTIFICATE, without what is behind it."""
    octets = der[1] & 0x7F if len(der) > 1 and der[1] & 0x80 else 0
    length = int.from_bytes(der[2 : 2 + octets], "big") if octets else der[1] if len(der) > 1 else 0
    return der[: 2 + octets + length]


def _decode_text(data: bytes) -> bytes:
    encoding = _UTF16.get(data[:2]) or ("utf-16-le" if data.startswith(_BEGIN.decode().encode("utf-16-le")) else None)
    if encoding is None:
        return data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode(encoding).removeprefix("\ufeff").encode("utf-8")
    except UnicodeDecodeError:
        return data


def _decode_base64(data: bytes) -> bytes | None:
    """Return what is encoded, where it is DER, a key store or PEM; None where it only looks like Base64."""
    try:
        decoded = base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error:
        return None
    known = (b"\x30", b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce", b"-----", b"MI", b"\xff\xfe", b"\xfe\xff")
    return decoded if decoded.startswith(known) or _BEGIN in decoded else None


def _tidy_pem(data: bytes, file: Path) -> bytes:
    """Return the PEM blocks as every library reads them, one behind the other."""
    if _ESCAPED_LINE_END.search(data):
        for escaped in (b"\\r\\n", b"\\n", b"\\r"):
            data = data.replace(escaped, b"\n")
    blocks = [_tidy_block(block.group(1), block.group(2), file) for block in PEM_BLOCK.finditer(data)]
    return b"".join(blocks) or data


def _tidy_block(label: bytes, content: bytes, file: Path) -> bytes:
    text = b"".join(content.split())
    if b":" in content or not _BASE64.fullmatch(text):  # headers of RFC 1421, or damage that the parser is to find
        lines = b"\n".join(line.strip() for line in content.strip().splitlines())
        return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, lines, label)
    if label in _PKCS7_LABELS:
        return _extract_pkcs7(_decode_base64(text) or b"", file)
    if label == b"X509 CERTIFICATE":
        label = b"CERTIFICATE"
    lines = b"\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, lines, label)


def _extract_pkcs7(der: bytes, file: Path) -> bytes:
    """Return the certificates of a PKCS#7 bundle, which never holds a key."""
    # Whoever loads a configuration comes by this module, and many need nothing of the library.
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  # as it says
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs7  # noqa: PLC0415  # likewise

    try:
        certificates = pkcs7.load_der_pkcs7_certificates(der)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{file}: the PKCS#7 data in it is damaged; export it again.") from None
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _is_der_certificate(data: bytes) -> bool:
    """Return whether the data begins like a certificate: SEQUENCE { SEQUENCE { [0] version, … (RFC 5280 §4.1)."""
    return re.match(rb"\x30" + _LENGTH + rb"\x30" + _LENGTH + rb"\xa0\x03\x02\x01", data, re.DOTALL) is not None


def unreadable(file: Path, error: OSError) -> ConfigurationError:
    """Return what is to be raised where a file cannot be looked at."""
    why = {
        FileNotFoundError: "does not exist",
        PermissionError: "may not be read by this user",
        IsADirectoryError: "is a directory",
    }.get(type(error), "cannot be read")
    return ConfigurationError(f"{file}: the file {why}; correct the path or the file's owner and mode.")
