"""A certificate with the private key that fits it, out of one file or two. Reads files.

Every refusal is a `ConfigurationError` that names the file, and never carries a library's own text.
"""

from __future__ import annotations

import base64
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from proxy.errors import ConfigurationError
from proxy.keys.forms import PEM_BLOCK, PFX_START, first_element, list_labels, read_file
from proxy.keys.passwords import describe_oddity

if TYPE_CHECKING:
    import re
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes


@dataclass(frozen=True, slots=True)
class KeyNames:
    """What the keys of the configuration are called, for messages."""

    private_key: str = "private_key"
    password_file: str = "password_file"  # noqa: S105  # the name of a key of the configuration


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key.

    Attributes:
        leaf: the certificate that the key fits.
        certificates: all that the file holds, in its order.
        key: of any kind.
    """

    leaf: x509.Certificate
    certificates: tuple[x509.Certificate, ...] = field(repr=False)
    key: PrivateKeyTypes = field(repr=False)


def read_pair(
    certificate: Path, private_key: Path | None, password: bytes | None, names: KeyNames | None = None
) -> KeyPair:
    """Read a certificate and the private key that fits it, whatever stands beside them.

    Args:
        certificate: PEM (a chain is allowed, in any order), DER, or PFX/PKCS#12.
        private_key: PEM, DER or OpenSSH's form; None: the key is in ``certificate``.
        password: for an encrypted key or PFX; ignored where nothing is encrypted.
        names: of the keys that say so in the configuration.

    Raises:
        ConfigurationError: a file cannot be read or used, named with the reason and what to do.
    """
    names = names or KeyNames()
    data = read_file(certificate)
    keys: list[PrivateKeyTypes]
    if PFX_START.match(data):
        key, certificates = _parse_pfx(data, password, certificate, names)
        keys = [key]
        if private_key is not None:
            keys = _parse_keys(read_file(private_key), password, private_key, names)
    else:
        certificates = parse_certificates(data, certificate)
        key_file = private_key or certificate
        keys = _parse_keys(data if private_key is None else read_file(private_key), password, key_file, names)
    for key in keys:
        fitting = [one for one in certificates if one.public_key() == key.public_key()]
        if fitting:
            # A certificate renewed over the same key may stand beside its predecessor.
            leaf = max(fitting, key=lambda one: one.not_valid_after_utc)
            return KeyPair(leaf, tuple(certificates), key)
    which = "the private key" if len(keys) == 1 else f"none of the {len(keys)} private keys"
    where = f"{which} in {'it' if private_key is None else private_key}"
    verb = ("does not fit" if len(keys) == 1 else "fits") + " "
    what = "the certificate" if len(certificates) == 1 else "any certificate in it"
    raise ConfigurationError(f"{certificate}: {where} {verb}{what}; name the key the certificate was made with.")


def parse_certificates(data: bytes, file: Path) -> list[x509.Certificate]:
    """Return the certificates in what `read_file` returned, in its order; at least one.

    Raises:
        ConfigurationError: there is none, or one is damaged.
    """
    blocks = [block for block in PEM_BLOCK.finditer(data) if block.group(1) in (b"CERTIFICATE", b"TRUSTED CERTIFICATE")]
    try:
        if not blocks and data[:1] == b"\x30":
            return [x509.load_der_x509_certificate(data)]
        certificates = [_load_certificate(block) for block in blocks]
    except ValueError:
        raise certificate_damaged(file) from None
    if not certificates:
        raise ConfigurationError(
            f"{file}: no certificate in it{_describe_rest(data)}; a PEM file with a CERTIFICATE block or a PFX (PKCS#12) file "
            "is wanted."
        )
    return certificates


def certificate_damaged(file: Path) -> ConfigurationError:
    """Return what is to be raised where a certificate in a file cannot be decoded."""
    return ConfigurationError(f"{file}: the certificate in it is damaged; export it again.")


def key_damaged(file: Path) -> ConfigurationError:
    """Return what is to be raised where a private key in a file cannot be used."""
    return ConfigurationError(
        f"{file}: the private key in it is damaged, or of a kind that is not known; export it again."
    )


def _load_certificate(block: re.Match[bytes]) -> x509.Certificate:
    if block.group(1) == b"CERTIFICATE":
        return x509.load_pem_x509_certificate(block.group())
    return x509.load_der_x509_certificate(first_element(base64.b64decode(block.group(2))))


def _describe_rest(data: bytes) -> str:
    """Return what is in a PEM file instead of what was looked for."""
    labels = list(dict.fromkeys(list_labels(data)))
    if not labels:
        return ""
    whole = {block.group(1).decode("ascii") for block in PEM_BLOCK.finditer(data)}
    if not whole:
        return f", only the beginning of a PEM block ({labels[0]}) whose end is missing"
    return f", only {' and '.join(labels)}"


def _parse_keys(data: bytes, password: bytes | None, file: Path, names: KeyNames) -> list[PrivateKeyTypes]:
    """Return the keys in a file that can be opened, in its order; at least one."""
    blocks = [block for block in PEM_BLOCK.finditer(data) if block.group(1).endswith(b"PRIVATE KEY")]
    if not blocks:
        if data[:1] == b"\x30" and not list_labels(data):
            return [_parse_der_key(data, password, file, names)]
        raise ConfigurationError(
            f"{file}: no private key in it{_describe_rest(data)}; name the key's file with `{names.private_key}`,"
            " or put its PEM block beside the certificate."
        )
    keys: list[PrivateKeyTypes] = []
    problems: list[ConfigurationError] = []
    for block in blocks:
        try:
            keys.append(_parse_pem_key(block, password, file, names))
        except ConfigurationError as problem:
            problems.append(problem)
    if not keys:
        raise problems[0]
    return keys


def _parse_pem_key(block: re.Match[bytes], password: bytes | None, file: Path, names: KeyNames) -> PrivateKeyTypes:
    label, text = block.group(1), block.group()
    if label == b"OPENSSH PRIVATE KEY":
        return _parse_openssh_key(text, file)
    encrypted = label == b"ENCRYPTED PRIVATE KEY" or b"ENCRYPTED" in text
    if encrypted and password is None:
        raise _password_missing(file, names)
    try:
        return serialization.load_pem_private_key(
            text, password if encrypted else None, unsafe_skip_rsa_key_validation=True
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise (_password_wrong(file, password, names) if encrypted else key_damaged(file)) from None


def _parse_openssh_key(text: bytes, file: Path) -> PrivateKeyTypes:
    """Return the key, where it is not encrypted: OpenSSH's encryption takes a package that nothing else here needs."""
    try:
        key = serialization.load_ssh_private_key(text, None, unsafe_skip_rsa_key_validation=True)
    except (TypeError, UnsupportedAlgorithm):
        quoted = shlex.quote(str(file))
        raise ConfigurationError(
            f"{file}: an encrypted key in OpenSSH's own form; convert a copy of it: "
            f"cp {quoted} clientapp.key && ssh-keygen -p -m PKCS8 -f clientapp.key."
        ) from None
    except ValueError:
        raise key_damaged(file) from None
    return key


def _parse_der_key(data: bytes, password: bytes | None, file: Path, names: KeyNames) -> PrivateKeyTypes:
    for attempt in dict.fromkeys((None, password)):
        try:
            return serialization.load_der_private_key(data, attempt, unsafe_skip_rsa_key_validation=True)
        except TypeError:  # Encrypted, and no password given.
            if password is None:
                raise _password_missing(file, names) from None
        except (ValueError, UnsupportedAlgorithm):
            if attempt is not None:
                raise _password_wrong(file, password, names) from None
    raise key_damaged(file)


def _parse_pfx(
    data: bytes, password: bytes | None, file: Path, names: KeyNames
) -> tuple[PrivateKeyTypes, list[x509.Certificate]]:
    # Tools disagree whether "no password" is the empty string or none at all (RFC 7292 §B.1), so both are tried.
    for attempt in dict.fromkeys((password, None, b"")):
        try:
            bundle = pkcs12.load_pkcs12(data, attempt)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        certificates = [item.certificate for item in (bundle.cert, *bundle.additional_certs) if item is not None]
        if bundle.key is None:
            raise ConfigurationError(f"{file}: the PFX file holds no private key; export it again with its key.")
        if not certificates:
            raise ConfigurationError(
                f"{file}: the PFX file holds no certificate; export it again with its certificate."
            )
        return bundle.key, certificates
    raise _password_missing(file, names) if password is None else _password_wrong(file, password, names)


def _password_missing(file: Path, names: KeyNames) -> ConfigurationError:
    return ConfigurationError(
        f"{file}: encrypted, and no password is configured; name a file that holds it with `{names.password_file}`."
    )


def _password_wrong(file: Path, password: bytes | None, names: KeyNames) -> ConfigurationError:
    oddity = None if password is None else describe_oddity(password)
    hint = f"check `{names.password_file}`" if oddity is None else f"`{names.password_file}`: {oddity}"
    return ConfigurationError(f"{file}: the password does not open it, or the file is damaged; {hint}.")
