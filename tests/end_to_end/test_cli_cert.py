"""`cert new` and `cert show` through the real command line: files, modes, thumbprints as others compute them, refusals."""

from __future__ import annotations

import json
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import pkcs12

from proxy.identity.certificate_creation import create_certificate
from tests.end_to_end.programs import COMMAND, Finished, run_program

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(UTC)


def sha1_hex(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303  # a name for it, as the portal prints it


def cert(directory: Path, *arguments: str) -> Finished:
    return run_program([COMMAND, "cert", *arguments], directory=directory)


def test_a_new_pair_is_private_shown_and_ready_to_upload(tmp_path: Path) -> None:
    done = cert(tmp_path, "new", "--subject-name", "orders batch", "--days", "90", "--key-bits", "3072", "--json")
    made = json.loads(done.stdout)
    certificate = x509.load_pem_x509_certificate((tmp_path / "clientapp.crt").read_bytes())
    assert done.status == 0
    assert stat.S_IMODE((tmp_path / "clientapp.key").stat().st_mode) == 0o600
    assert made["sha1"] == sha1_hex(certificate)
    assert made["sha256"] == certificate.fingerprint(hashes.SHA256()).hex().upper()
    assert (made["subject"], made["key_bits"]) == ("CN=orders batch", 3072)
    assert timedelta(days=89) < certificate.not_valid_after_utc - NOW < timedelta(days=91)
    assert "Certificates & secrets" in done.stderr
    assert "az ad app credential reset" in done.stderr
    assert b"PRIVATE KEY" not in done.stdout
    assert "PRIVATE KEY" not in done.stderr


def test_the_thumbprints_are_those_openssl_prints(tmp_path: Path) -> None:
    assert cert(tmp_path, "new").status == 0
    shown = json.loads(cert(tmp_path, "show", "clientapp.crt", "--json").stdout)
    for digest, name in (("-sha1", "sha1"), ("-sha256", "sha256")):
        printed = subprocess.run(
            ["openssl", "x509", "-in", tmp_path / "clientapp.crt", "-noout", "-fingerprint", digest],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        assert shown[name] == printed.strip().rpartition("=")[2].replace(":", "")
    assert (len(shown["x5t"]), len(shown["x5t#S256"])) == (27, 43)


def test_nothing_is_overwritten_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "clientapp.key").write_bytes(b"precious")
    refused = cert(tmp_path, "new")
    assert refused.status == 1
    assert "--force" in refused.stderr
    assert (tmp_path / "clientapp.key").read_bytes() == b"precious"
    assert not (tmp_path / "clientapp.crt").exists()
    forced = cert(tmp_path, "new", "--force")
    assert forced.status == 0
    assert b"PRIVATE KEY" in (tmp_path / "clientapp.key").read_bytes()
    assert stat.S_IMODE((tmp_path / "clientapp.key").stat().st_mode) == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clientapp.crt", "clientapp.key"]


def test_a_password_encrypts_the_key(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("correct horse\n", encoding="ascii")
    done = cert(tmp_path, "new", "--password-file", "secret")
    assert done.status == 0, done.stderr
    key = (tmp_path / "clientapp.key").read_bytes()
    assert b"ENCRYPTED" in key
    assert isinstance(serialization.load_pem_private_key(key, b"correct horse"), RSAPrivateKey)
    assert "password_file: secret" in done.stderr
    locked = cert(tmp_path, "show", "clientapp.crt", "--private-key", "clientapp.key", "--json")
    assert (locked.status, json.loads(locked.stdout)["private_key"]) == (1, "cannot be used")
    assert "password_file" in locked.stderr
    opened = cert(
        tmp_path, "show", "clientapp.crt", "--private-key", "clientapp.key", "--password-file", "secret", "--json"
    )
    assert (opened.status, json.loads(opened.stdout)["private_key"]) == (0, "fits")


def test_an_expired_certificate_is_shown_and_fails(tmp_path: Path) -> None:
    certificate, key = create_certificate("old", 10, 2048, NOW - timedelta(days=20))
    loaded = x509.load_pem_x509_certificate(certificate)
    private_key = serialization.load_pem_private_key(key, None)
    assert isinstance(private_key, RSAPrivateKey)
    pfx = pkcs12.serialize_key_and_certificates(
        b"old", private_key, loaded, None, serialization.BestAvailableEncryption(b"pass")
    )
    (tmp_path / "old.pfx").write_bytes(pfx)
    (tmp_path / "old.pem").write_bytes(certificate + key)
    (tmp_path / "pass").write_bytes(b"pass")
    for arguments in (["old.pem"], ["old.pfx", "--password-file", "pass"]):
        done = cert(tmp_path, "show", *arguments)
        assert done.status == 1
        assert "expired" in done.stderr
        assert "(expired)" in done.stdout.decode()
        assert sha1_hex(loaded) in done.stdout.decode()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["new", "--days", "0"], 2, "--days"),
        (["new", "--key-bits", "1024"], 2, "--key-bits"),
        (["new", "--subject-name", "x" * 65], 1, "64 characters"),
        (["new", "--out-key", "same", "--out-certificate", "same"], 2, "name one file"),
        (["new", "--out-key", "no/such/directory/key"], 1, "Check its directory"),
        (["show", "nothing.pem"], 2, "nothing.pem"),
        (["show", "text"], 1, "no certificate in it"),
        (["show"], 2, "FILE"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    (tmp_path / "text").write_bytes(b"-----BEGIN NOTHING-----\n")
    done = cert(tmp_path, *arguments)
    assert done.status == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == b""
