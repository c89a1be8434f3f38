"""Reading key pairs: what is accepted, what is refused and how, and that a key never shows."""

from __future__ import annotations

import base64
import hashlib
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from proxy.errors import ConfigurationError
from proxy.identity.certificate import (
    ClientCertificate,
    load_certificate,
    load_public_certificate,
)
from proxy.identity.certificate_creation import create_certificate
from proxy.keys.passwords import read_password

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PASSWORD = b"correct horse"


@dataclass(frozen=True)
class Pair:
    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Material:
    """Made once: making RSA keys is what takes the time here."""

    good: Pair
    other: Pair
    weak: Pair
    elliptic: Pair
    edwards: Pair
    root: bytes
    leaf: Pair


def _issue(key: object, signer: object, subject: str, issuer: str, algorithm: hashes.SHA256 | None = None) -> bytes:
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())  # type: ignore[attr-defined] # any kind of key
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=30))
        .sign(signer, algorithm)  # type: ignore[arg-type] # any kind of key
    )
    return built.public_bytes(serialization.Encoding.PEM)


def _pem(key: object) -> bytes:
    return bytes(
        key.private_bytes(  # type: ignore[attr-defined] # any kind of key
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@pytest.fixture(scope="module")
def material() -> Material:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 -- the weak key to be refused
    elliptic = ec.generate_private_key(ec.SECP256R1())
    edwards = ed25519.Ed25519PrivateKey.generate()
    leaf = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return Material(
        good=Pair(*create_certificate("client", 30, 2048, NOW)),
        other=Pair(*create_certificate("other", 30, 2048, NOW)),
        weak=Pair(_issue(weak, weak, "weak", "weak", hashes.SHA256()), _pem(weak)),
        elliptic=Pair(_issue(elliptic, elliptic, "ec", "ec", hashes.SHA256()), _pem(elliptic)),
        edwards=Pair(_issue(edwards, edwards, "ed", "ed"), _pem(edwards)),
        root=_issue(elliptic, elliptic, "root", "root", hashes.SHA256()),
        leaf=Pair(_issue(leaf, elliptic, "leaf", "root", hashes.SHA256()), _pem(leaf)),
    )


def _encrypted(key: bytes) -> bytes:
    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSWORD),
    )


def _legacy_encrypted(key: bytes) -> bytes:
    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(PASSWORD),
    )


def _pfx(pair: Pair, password: bytes | None, *, key: bool = True, certificate: bool = True) -> bytes:
    return pkcs12.serialize_key_and_certificates(
        b"client",
        serialization.load_pem_private_key(pair.key, None) if key else None,  # type: ignore[arg-type] # always RSA here
        x509.load_pem_x509_certificate(pair.certificate) if certificate else None,
        None,
        serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password),
    )


def _der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


Files = Callable[[Material], tuple[bytes, bytes | None]]

ACCEPTED: dict[str, tuple[Files, bytes | None]] = {
    "one_pem_file": (lambda m: (m.good.certificate + m.good.key, None), None),
    "key_before_certificate": (lambda m: (m.good.key + m.good.certificate, None), None),
    "two_pem_files": (lambda m: (m.good.certificate, m.good.key), None),
    "bag_attributes_between": (
        lambda m: (b"Bag Attributes\n x: y\n" + m.good.certificate + b"Key Attributes\n" + m.good.key, None),
        None,
    ),
    "encrypted_key": (lambda m: (m.good.certificate + _encrypted(m.good.key), None), PASSWORD),
    "encrypted_key_in_its_own_file": (lambda m: (m.good.certificate, _encrypted(m.good.key)), PASSWORD),
    "legacy_encrypted_key": (lambda m: (m.good.certificate, _legacy_encrypted(m.good.key)), PASSWORD),
    "password_not_needed": (lambda m: (m.good.certificate + m.good.key, None), PASSWORD),
    "pfx": (lambda m: (_pfx(m.good, None), None), None),
    "pfx_encrypted": (lambda m: (_pfx(m.good, PASSWORD), None), PASSWORD),
    "pfx_password_not_needed": (lambda m: (_pfx(m.good, None), None), PASSWORD),
    "der_certificate_and_pem_key": (lambda m: (_der(m.good.certificate), m.good.key), None),
    "der_certificate_and_der_key": (
        lambda m: (
            _der(m.good.certificate),
            serialization.load_pem_private_key(m.good.key, None).private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        ),
        None,
    ),
    "crlf_lines": (lambda m: ((m.good.certificate + m.good.key).replace(b"\n", b"\r\n"), None), None),
    "strangers_in_the_file": (lambda m: (m.other.certificate + m.good.certificate + m.good.key, None), None),
}

REFUSED: dict[str, tuple[Files, bytes | None, str]] = {
    "empty": (lambda _: (b"", None), None, "no certificate in it"),
    "text": (lambda _: (b"hello", None), None, "no certificate in it"),
    "no_certificate": (lambda m: (m.good.key, None), None, "no certificate in it"),
    "no_key": (lambda m: (m.good.certificate, None), None, "no private key in it"),
    "no_key_in_key_file": (lambda m: (m.good.certificate, m.good.certificate), None, "no private key in it"),
    "empty_key_file": (lambda m: (m.good.certificate, b""), None, "no private key in it"),
    "key_of_another": (lambda m: (m.good.certificate, m.other.key), None, "does not fit the certificate"),
    "key_fits_none_of_chain": (
        lambda m: (m.leaf.certificate + m.root, m.other.key),
        None,
        "does not fit any certificate",
    ),
    "elliptic_key": (lambda m: (m.elliptic.certificate + m.elliptic.key, None), None, "not RSA"),
    "edwards_key": (lambda m: (m.edwards.certificate + m.edwards.key, None), None, "not RSA"),
    "short_key": (lambda m: (m.weak.certificate + m.weak.key, None), None, "1024 bits"),
    "password_missing": (
        lambda m: (m.good.certificate + _encrypted(m.good.key), None),
        None,
        "no password is configured",
    ),
    "password_wrong": (lambda m: (m.good.certificate + _encrypted(m.good.key), None), b"no", "password does not open"),
    "legacy_password_missing": (lambda m: (m.good.certificate, _legacy_encrypted(m.good.key)), None, "no password is"),
    "legacy_password_wrong": (
        lambda m: (m.good.certificate, _legacy_encrypted(m.good.key)),
        b"no",
        "password does not",
    ),
    "pfx_password_missing": (lambda m: (_pfx(m.good, PASSWORD), None), None, "no password is configured"),
    "pfx_password_wrong": (lambda m: (_pfx(m.good, PASSWORD), None), b"no", "password does not open"),
    "pfx_without_key": (lambda m: (_pfx(m.good, None, key=False), None), None, "no private key"),
    "pfx_without_certificate": (lambda m: (_pfx(m.good, None, certificate=False), None), None, "no certificate"),
    "pfx_cut": (lambda m: (_pfx(m.good, None)[:-100], None), PASSWORD, "damaged"),
    "certificate_damaged": (
        lambda m: (m.good.certificate.replace(b"MII", b"AAA", 1) + m.good.key, None),
        None,
        "damaged",
    ),
    "key_damaged": (lambda m: (m.good.certificate + m.good.key.replace(b"MII", b"AAA", 1), None), None, "damaged"),
    "der_rubbish": (lambda m: (b"\x30\x82\x01\x00" + b"x" * 20, m.good.key), None, "damaged"),
    "der_key_rubbish": (lambda m: (m.good.certificate, b"\x30\x82\x01\x00" + b"x" * 20), None, "damaged"),
    "too_large": (lambda _: (b"x" * 1_048_577, None), None, "larger than"),
}


def _load(material: Material, files: Files, password: bytes | None, directory: Path) -> ClientCertificate:
    certificate, key = files(material)
    certificate_file = directory / "clientapp.pem"
    certificate_file.write_bytes(certificate)
    key_file = None
    if key is not None:
        key_file = directory / "clientapp.key"
        key_file.write_bytes(key)
    return load_certificate(certificate_file, key_file, password)


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_usable_pair_is_loaded_whatever_its_form(name: str, material: Material, tmp_path: Path) -> None:
    files, password = ACCEPTED[name]

    loaded = _load(material, files, password, tmp_path)

    expected = x509.load_pem_x509_certificate(material.good.certificate)
    assert loaded.chain_der == (expected.public_bytes(serialization.Encoding.DER),)
    signature = loaded.sign(b"input", "RS256")
    public_key = expected.public_key()
    assert isinstance(public_key, rsa.RSAPublicKey)
    public_key.verify(signature, b"input", padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize("name", REFUSED)
def test_an_unusable_pair_is_refused_with_its_file_and_reason(name: str, material: Material, tmp_path: Path) -> None:
    files, password, reason = REFUSED[name]

    with pytest.raises(ConfigurationError) as caught:
        _load(material, files, password, tmp_path)

    assert str(tmp_path) in caught.value.detail
    assert reason in caught.value.detail
    assert caught.value.__cause__ is None
    assert "correct horse" not in caught.value.detail


@pytest.mark.parametrize("wrong", ["d", "dmp1", "dmq1", "iqmp"])
def test_a_key_with_one_wrong_number_is_refused_or_signs_as_ever(
    wrong: str, material: Material, tmp_path: Path
) -> None:
    """It never gives away a signature made with it: those can tell its factors (Boneh, DeMillo, Lipton 1997)."""
    sound = serialization.load_pem_private_key(material.good.key, None)
    assert isinstance(sound, rsa.RSAPrivateKey)
    numbers = sound.private_numbers()
    values = {name: getattr(numbers, name) for name in ("p", "q", "d", "dmp1", "dmq1", "iqmp")}
    values[wrong] += 2
    damaged = rsa.RSAPrivateNumbers(public_numbers=numbers.public_numbers, **values)
    file = tmp_path / "clientapp.pem"
    file.write_bytes(material.good.certificate + _pem(damaged.private_key(unsafe_skip_rsa_key_validation=True)))
    try:
        loaded = load_certificate(file, None, None)
    except ConfigurationError as refused:
        assert "the private key in it is damaged" in refused.detail  # noqa: PT017 -- one of two outcomes
    else:
        sound.public_key().verify(loaded.sign(b"input", "RS256"), b"input", padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize(
    ("days", "reason"),
    [(31, "expired on 2026-07-01"), (-1, "not valid before 2026-06-01")],
    ids=["expired", "not_yet_valid"],
)
def test_a_certificate_outside_its_dates_is_read_and_judged(
    days: int, reason: str, material: Material, tmp_path: Path
) -> None:
    """A2, A3: dates are no fault of the file."""
    file = tmp_path / "clientapp.pem"
    file.write_bytes(material.good.certificate + material.good.key)

    loaded = load_certificate(file, None, None)

    assert loaded.date_problem(NOW) is None
    problem = loaded.date_problem(NOW + timedelta(days=days))
    assert problem is not None
    assert f"{file}: the certificate" in problem
    assert reason in problem


def test_the_leaf_is_the_certificate_that_fits_the_key_and_the_chain_is_put_in_order(
    material: Material, tmp_path: Path
) -> None:
    file = tmp_path / "chain.pem"
    file.write_bytes(material.root + material.other.certificate + material.leaf.certificate + material.leaf.key)

    loaded = load_certificate(file, None, None)

    assert loaded.subject == "CN=leaf"
    assert loaded.chain_der == (_der(material.leaf.certificate), _der(material.root))


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.pem: the file does not exist"):
        load_certificate(tmp_path / "absent.pem", None, None)
    with pytest.raises(ConfigurationError, match="is a directory"):
        load_certificate(tmp_path, None, None)


def test_thumbprints_are_digests_of_the_der_bytes_in_both_forms(material: Material, tmp_path: Path) -> None:
    loaded = _load(material, ACCEPTED["one_pem_file"][0], None, tmp_path)
    der = _der(material.good.certificate)

    assert loaded.sha1_hex == hashlib.sha1(der, usedforsecurity=False).hexdigest().upper()
    assert loaded.sha256_hex == hashlib.sha256(der).hexdigest().upper()
    assert base64.urlsafe_b64decode(loaded.x5t + "=") == hashlib.sha1(der, usedforsecurity=False).digest()
    assert base64.urlsafe_b64decode(loaded.x5t_s256 + "=") == hashlib.sha256(der).digest()
    assert (len(loaded.x5t), len(loaded.x5t_s256)) == (27, 43)


def test_the_key_does_not_show(material: Material, tmp_path: Path) -> None:
    loaded = _load(material, ACCEPTED["one_pem_file"][0], None, tmp_path)

    assert "key=" not in repr(loaded)
    assert "RSAPrivateKey" not in repr(loaded)


def test_a_public_certificate_needs_no_key(material: Material, tmp_path: Path) -> None:
    file = tmp_path / "public.pem"
    file.write_bytes(material.good.certificate)

    assert load_public_certificate(file).subject == "CN=client"
    file.write_bytes(material.elliptic.certificate)
    with pytest.raises(ConfigurationError, match="not RSA"):
        load_public_certificate(file)


@pytest.mark.parametrize(
    ("written", "password"),
    [(b"secret\n", b"secret"), (b"secret\r\n", b"secret"), (b"secret", b"secret"), (b" a b \n\n", b" a b \n")],
    ids=["newline", "crlf", "bare", "only_the_last"],
)
def test_a_password_file_loses_its_last_newline_only(written: bytes, password: bytes, tmp_path: Path) -> None:
    file = tmp_path / "pass"
    file.write_bytes(written)

    assert read_password(file) == password


def test_an_empty_password_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pass"
    file.write_bytes(b"\n")

    with pytest.raises(ConfigurationError, match="is empty"):
        read_password(file)
    assert read_password(None) is None


def test_a_created_pair_is_one_that_openssl_accepts(tmp_path: Path) -> None:
    certificate, key = create_certificate("my client", 365, 2048, NOW, b"pass word")
    file = tmp_path / "new.pem"
    file.write_bytes(certificate + key)

    loaded = load_certificate(file, None, b"pass word")

    assert loaded.subject == "CN=my client"
    assert loaded.not_after == NOW + timedelta(days=365)
    assert loaded.not_before < NOW
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha1"], input=certificate, capture_output=True, check=True
    )
    assert shown.stdout.decode().strip().rpartition("=")[2].replace(":", "") == loaded.sha1_hex


@pytest.mark.parametrize(
    ("name", "days", "bits"),
    [("", 1, 2048), ("x" * 65, 1, 2048), ("x", 0, 2048), ("x", 40_000, 2048), ("x", 1, 1024), ("x", 1, 16_384)],
)
def test_a_pair_nobody_would_accept_is_not_created(name: str, days: int, bits: int) -> None:
    with pytest.raises(ConfigurationError):
        create_certificate(name, days, bits, NOW)
