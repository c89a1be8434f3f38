"""Key and certificate files as openssl, keytool, ssh-keygen, Key Vault and editors write them: taken, or named."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from proxy.config.faults import ConfigurationFaults
from proxy.config.loading import load_settings
from proxy.config.source import FileSource
from proxy.dialing.trust import create_tls_context
from proxy.errors import ConfigurationError
from proxy.identity.certificate import load_certificate
from proxy.keys.pairs import read_pair
from proxy.keys.passwords import describe_oddity, read_password
from proxy.keys.tls import load_pair
from proxy.keys.trusted import read_trusted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PASSWORD: Final = "correct horse"


@dataclass(frozen=True)
class Pair:
    """Paths of one key pair in the forms that openssl writes.

    Attributes:
        directory: where they are, and where a test may put more.
        certificate: PEM.
        key: PEM, PKCS#8.
        pfx: certificate and key, without a password.
    """

    directory: Path
    certificate: Path
    key: Path
    pfx: Path

    def both(self) -> bytes:
        return self.certificate.read_bytes() + self.key.read_bytes()


def _run(*arguments: str | Path) -> None:
    done = subprocess.run([str(argument) for argument in arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def _make(directory: Path, *, kind: str = "rsa:2048") -> Pair:
    directory.mkdir()
    pair = Pair(directory, directory / "c.pem", directory / "k.pem", directory / "c.pfx")
    new_key = (
        ("-newkey", "rsa:2048") if kind == "rsa:2048" else ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    )
    _run("openssl", "req", "-x509", *new_key, "-nodes", "-keyout", pair.key, "-out", pair.certificate, "-days", "30",
         "-subj", "/CN=clientapp")  # fmt: skip
    _run(
        "openssl",
        "pkcs12",
        "-export",
        "-in",
        pair.certificate,
        "-inkey",
        pair.key,
        "-out",
        pair.pfx,
        "-passout",
        "pass:",
    )
    return pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return _make(tmp_path_factory.mktemp("keys") / "first")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return _make(tmp_path_factory.mktemp("keys") / "second")


def _trusted_form(pair: Pair, tmp: Path) -> bytes:
    _run("openssl", "x509", "-in", pair.certificate, "-trustout", "-addtrust", "clientAuth", "-out", tmp / "trusted")
    return (tmp / "trusted").read_bytes() + pair.key.read_bytes()


def _openssh_form(pair: Pair, tmp: Path) -> bytes:
    shutil.copy(pair.key, tmp / "ssh")
    (tmp / "ssh").chmod(0o600)
    _run("ssh-keygen", "-p", "-N", "", "-f", tmp / "ssh", "-o")
    assert (tmp / "ssh").read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    return pair.certificate.read_bytes() + (tmp / "ssh").read_bytes()


def _keytool_form(pair: Pair, tmp: Path) -> bytes:
    _run("openssl", "pkcs12", "-export", "-in", pair.certificate, "-inkey", pair.key, "-out", tmp / "in.p12", "-passout",
         f"pass:{PASSWORD}")  # fmt: skip
    _run("keytool", "-importkeystore", "-srckeystore", tmp / "in.p12", "-srcstorepass", PASSWORD, "-destkeystore",
         tmp / "out.p12", "-deststoretype", "PKCS12", "-deststorepass", PASSWORD)  # fmt: skip
    return (tmp / "out.p12").read_bytes()


TAKEN: Final[dict[str, Callable[[Pair, Path], bytes]]] = {
    "base64_of_pfx": lambda pair, _: base64.b64encode(pair.pfx.read_bytes()),
    "base64_of_pfx_in_lines": lambda pair, _: base64.encodebytes(pair.pfx.read_bytes()),
    "base64_of_base64_of_pfx": lambda pair, _: base64.b64encode(base64.b64encode(pair.pfx.read_bytes())),
    "base64_of_pem": lambda pair, _: base64.b64encode(pair.both()),
    "base64_of_pfx_in_utf16": lambda pair, _: base64.b64encode(pair.pfx.read_bytes()).decode().encode("utf-16"),
    "pem_in_utf16_as_powershell_writes_it": lambda pair, _: pair.both().decode().replace("\n", "\r\n").encode("utf-16"),
    "pem_in_utf16_big_endian": lambda pair, _: b"\xfe\xff" + pair.both().decode().encode("utf-16-be"),
    "pem_in_utf16_without_mark": lambda pair, _: pair.both().decode().encode("utf-16-le"),
    "pem_behind_byte_order_mark": lambda pair, _: b"\xef\xbb\xbf" + pair.both(),
    "pem_with_escaped_line_ends": lambda pair, _: json.dumps(pair.both().decode()).encode(),
    "pem_with_escaped_crlf": lambda pair, _: pair.both().replace(b"\n", b"\\r\\n"),
    "pem_on_one_line": lambda pair, _: b" ".join(pair.both().split(b"\n")),
    "pem_indented_as_in_yaml": lambda pair, _: b"\n".join(b"    " + line for line in pair.both().split(b"\n")),
    "x509_certificate": lambda pair, _: pair.both().replace(b" CERTIFICATE-", b" X509 CERTIFICATE-"),
    "trusted_certificate": _trusted_form,
    "openssh_key": _openssh_form,
    "pkcs12_of_keytool": _keytool_form,
}


@pytest.mark.parametrize("form", TAKEN)
def test_a_form_that_can_be_read_in_one_way_is_taken(form: str, pair: Pair, tmp_path: Path) -> None:
    """D1, by each reader: the credential's, and the one that lets TLS show the pair."""
    file = tmp_path / "clientapp.pem"
    file.write_bytes(TAKEN[form](pair, tmp_path))
    der = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
    password = PASSWORD.encode() if form == "pkcs12_of_keytool" else None

    assert load_certificate(file, None, password).chain_der == (der,)
    load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), read_pair(file, None, password), file)


@pytest.mark.parametrize("outform", ["pem", "der"])
def test_certificates_of_pkcs7_are_taken_and_a_missing_key_is_said(outform: str, pair: Pair, tmp_path: Path) -> None:
    """D1: PKCS#7 holds certificates and never a key."""
    bundle = tmp_path / "c.p7b"
    _run("openssl", "crl2pkcs7", "-nocrl", "-certfile", pair.certificate, "-outform", outform, "-out", bundle)

    assert load_certificate(bundle, pair.key, None).subject == "CN=clientapp"
    assert read_trusted(bundle, "ca_file").bodies == read_trusted(pair.certificate, "ca_file").bodies
    with pytest.raises(ConfigurationError, match=r"no private key in it, only CERTIFICATE; .*`private_key`"):
        load_certificate(bundle, None, None)


def _jks(pair: Pair, tmp: Path, kind: str) -> bytes:
    _keytool_form(pair, tmp)
    _run("keytool", "-importkeystore", "-srckeystore", tmp / "in.p12", "-srcstorepass", PASSWORD, "-destkeystore",
         tmp / "store", "-deststoretype", kind, "-deststorepass", PASSWORD)  # fmt: skip
    return (tmp / "store").read_bytes()


def _encrypted_openssh(pair: Pair, tmp: Path) -> bytes:
    _openssh_form(pair, tmp)
    _run("ssh-keygen", "-p", "-N", PASSWORD, "-f", tmp / "ssh", "-o")
    return pair.certificate.read_bytes() + (tmp / "ssh").read_bytes()


def _request(pair: Pair, tmp: Path) -> bytes:
    _run("openssl", "req", "-new", "-key", pair.key, "-subj", "/CN=x", "-out", tmp / "csr")
    return (tmp / "csr").read_bytes() + pair.key.read_bytes()


NAMED: Final[dict[str, tuple[Callable[[Pair, Path], bytes], str]]] = {
    "jks": (lambda pair, tmp: _jks(pair, tmp, "JKS"), r"a Java key store \(JKS\); convert it: keytool -importkeystore -src"),
    "jks_in_base64": (lambda pair, tmp: base64.b64encode(_jks(pair, tmp, "JKS")), r"a Java key store \(JKS\)"),
    "jceks": (lambda pair, tmp: _jks(pair, tmp, "JCEKS"), "-srcstoretype JCEKS"),
    "encrypted_openssh_key": (_encrypted_openssh, "encrypted key in OpenSSH's own form; .*ssh-keygen -p -m PKCS8 -f clientapp.key"),
    "certificate_request": (_request, "no certificate in it, only CERTIFICATE REQUEST and PRIVATE KEY"),
    "cut_pem": (lambda pair, _: pair.certificate.read_bytes()[:300], r"only the beginning of a PEM block \(CERTIFICATE\)"),
    "putty": (lambda *_: b"PuTTY-User-Key-File-3: ssh-rsa\r\n", "a key of PuTTY; convert it: puttygen"),
    "public_ssh_key": (lambda *_: b"ssh-rsa AAAAB3NzaC1yc2E x@y", "a public SSH key"),
    "answer_of_az": (lambda *_: json.dumps({"value": "MIIJ"}).encode(), "JSON; .*--query value --output tsv"),
    "web_page": (lambda *_: b"<!DOCTYPE html><html>", "XML or a web page"),
    "zip": (lambda *_: b"PK\x03\x04....", "a ZIP archive; unpack it: unzip"),
}  # fmt: skip


@pytest.mark.parametrize("form", NAMED)
def test_a_form_that_is_of_no_use_is_named_with_the_way_out(form: str, pair: Pair, tmp_path: Path) -> None:
    """D1: by its name, with the file's, and with a command that gets on."""
    make, message = NAMED[form]
    file = tmp_path / "client app.pem"
    file.write_bytes(make(pair, tmp_path))

    with pytest.raises(ConfigurationError, match=message) as caught:
        load_certificate(file, None, PASSWORD.encode())
    assert caught.value.detail.startswith(f"{file}: ")


def test_the_command_for_an_openssh_key_converts_it(pair: Pair, tmp_path: Path) -> None:
    """D1: what is advised works: the converted copy is taken with the same password."""
    (tmp_path / "both").write_bytes(_encrypted_openssh(pair, tmp_path))
    _run("ssh-keygen", "-p", "-m", "PKCS8", "-P", PASSWORD, "-N", PASSWORD, "-f", tmp_path / "ssh")

    assert load_certificate(pair.certificate, tmp_path / "ssh", PASSWORD.encode()).subject == "CN=clientapp"


@pytest.mark.parametrize("order", ["second", "third_behind_one_that_is_encrypted", "in_a_file_of_its_own"])
def test_the_key_that_fits_is_found_behind_others(order: str, pair: Pair, other: Pair, tmp_path: Path) -> None:
    """D2."""
    file, keys = tmp_path / "clientapp.pem", tmp_path / "keys.pem"
    fitting, stranger = pair.key.read_bytes(), other.key.read_bytes()
    _run("openssl", "pkcs8", "-topk8", "-in", other.key, "-passout", "pass:unknown", "-out", tmp_path / "locked")
    between = (tmp_path / "locked").read_bytes() if order.startswith("third") else b""
    keys.write_bytes(stranger + between + fitting)
    file.write_bytes(pair.certificate.read_bytes() + keys.read_bytes())

    loaded = load_certificate(file, keys if order == "in_a_file_of_its_own" else None, None)

    assert loaded.subject == "CN=clientapp"


def test_keys_of_which_none_fits_are_counted(pair: Pair, other: Pair, tmp_path: Path) -> None:
    """D2."""
    file = tmp_path / "clientapp.pem"
    file.write_bytes(pair.certificate.read_bytes() + other.key.read_bytes() * 2)

    with pytest.raises(ConfigurationError, match="none of the 2 private keys in it fits the certificate;"):
        load_certificate(file, None, None)


ODD: Final[dict[str, tuple[bytes, str]]] = {
    "byte_order_mark": (b"\xef\xbb\xbf" + PASSWORD.encode() + b"\n", "begins with a byte order mark"),
    "utf16": (PASSWORD.encode("utf-16"), "is UTF-16"),
    "two_line_ends": (PASSWORD.encode() + b"\n\n", "ends in more than one line end"),
    "trailing_blank": (PASSWORD.encode() + b" \n", "begins or ends with a blank"),
    "leading_tab": (b"\t" + PASSWORD.encode(), "begins or ends with a blank"),
    "quotes": (b'"' + PASSWORD.encode() + b'"\n', "stands in quotes"),
    "two_lines": (PASSWORD.encode() + b"\nsecond\n", "holds several lines"),
}


@pytest.mark.parametrize("oddity", ODD)
@pytest.mark.parametrize("form", ["pem", "pfx"])
def test_what_is_odd_about_a_password_file_is_said(oddity: str, form: str, pair: Pair, tmp_path: Path) -> None:
    """D3: where the password does not open the key, and without telling it."""
    written, message = ODD[oddity]
    (tmp_path / "pass").write_bytes(written)
    _run("openssl", "pkcs8", "-topk8", "-in", pair.key, "-passout", f"pass:{PASSWORD}", "-out", tmp_path / "locked.pem")
    _run("openssl", "pkcs12", "-export", "-in", pair.certificate, "-inkey", pair.key, "-out", tmp_path / "locked.pfx",
         "-passout", f"pass:{PASSWORD}")  # fmt: skip
    certificate = pair.certificate if form == "pem" else tmp_path / "locked.pfx"
    key = tmp_path / "locked.pem" if form == "pem" else None

    with pytest.raises(ConfigurationError, match=message) as caught:
        load_certificate(certificate, key, read_password(tmp_path / "pass"))
    assert "`password_file`" in caught.value.detail
    assert PASSWORD not in caught.value.detail


def test_a_password_that_opens_the_key_may_be_odd(pair: Pair, tmp_path: Path) -> None:
    """D3: oddities are named, never removed: they may be meant."""
    _run("openssl", "pkcs8", "-topk8", "-in", pair.key, "-passout", "pass: a ", "-out", tmp_path / "locked.pem")

    assert load_certificate(pair.certificate, tmp_path / "locked.pem", b" a ").subject == "CN=clientapp"
    assert describe_oddity(b"correct horse") is None


@pytest.mark.parametrize("kind", ["rsa:2048", "ec"])
def test_tls_shows_a_pair_of_any_kind_from_a_pfx(kind: str, tmp_path: Path) -> None:
    made = _make(tmp_path / "pair", kind=kind)

    load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), read_pair(made.pfx, None, None), made.pfx)


def test_roots_are_read_in_the_same_forms(pair: Pair, tmp_path: Path) -> None:
    """D1's sibling: ca_file, client_ca."""
    file = tmp_path / "ca.pem"
    for form in ("pem_in_utf16_as_powershell_writes_it", "pem_with_escaped_line_ends", "x509_certificate"):
        file.write_bytes(TAKEN[form](pair, tmp_path))
        create_tls_context(file)
    file.write_bytes(ssl.PEM_cert_to_DER_cert(pair.certificate.read_text()))
    create_tls_context(file)
    file.write_bytes(pair.pfx.read_bytes())
    with pytest.raises(
        ConfigurationError, match=r"cannot be used as ca_file: it is a PFX .*openssl pkcs12 -in .* -nokeys"
    ):
        create_tls_context(file)


def test_loading_a_configuration_needs_no_cryptography() -> None:
    """It costs a twentieth of a second at each start of `env`, `explain` and `exec`."""
    program = "import sys, proxy.config.loading; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


CONFIGURATION: Final = """\
listeners: [{{address: "127.0.0.1:0"}}]
credentials: {{c: {{tenant_id: contoso.com, client_id: c, certificate: {certificate}}}}}
routes: [{{hosts: [a.example], credential: c, scope: api://a/.default{more}}}]
state_directory: state
"""


def test_a_public_certificate_holds_no_secret(pair: Pair, tmp_path: Path) -> None:
    """F5: everybody may read it; that its key is missing is said by whoever needs the key."""
    (tmp_path / "config.yaml").write_text(CONFIGURATION.format(certificate="clientapp.crt", more=""))
    for content, is_secret in (
        (pair.certificate.read_bytes(), False),
        (pair.both(), True),
        (pair.pfx.read_bytes(), True),
    ):
        (tmp_path / "clientapp.crt").write_bytes(content)
        (tmp_path / "clientapp.crt").chmod(0o644)
        if is_secret:
            with pytest.raises(ConfigurationFaults, match="holds a secret"):
                load_settings(FileSource(tmp_path / "config.yaml"), {})
        else:
            load_settings(FileSource(tmp_path / "config.yaml"), {})


def test_a_missing_private_key_is_reported_once_and_nothing_else_is(pair: Pair, tmp_path: Path) -> None:
    """F5, through the command line."""
    (tmp_path / "config.yaml").write_text(CONFIGURATION.format(certificate=pair.certificate, more=""))

    checked = subprocess.run(
        [sys.executable, "-m", "proxy", "check", "--config", tmp_path / "config.yaml"], capture_output=True, text=True
    )

    said = checked.stdout + checked.stderr
    assert checked.returncode == 1
    assert said.count("no private key in it") == 1
    assert "name the key's file with `private_key`" in " ".join(said.split())
    assert "chmod" not in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("key", "home"),
    [
        ("client_secret", "under `credentials`"),
        ("tenant_id", "under `credentials`"),
        ("connect_s", "under `timeouts`"),
        ("client_ca", "under `listeners.tls`"),
    ],
)
def test_a_key_in_the_wrong_section_is_sent_to_its_own(key: str, home: str, pair: Pair, tmp_path: Path) -> None:
    """E9."""
    (tmp_path / "config.yaml").write_text(CONFIGURATION.format(certificate=pair.pfx, more=f", {key}: x"))
    pair.pfx.chmod(0o600)

    with pytest.raises(ConfigurationFaults) as caught:
        load_settings(FileSource(tmp_path / "config.yaml"), {})
    assert [fault.message for fault in caught.value.faults] == [f"there is no such key here; it belongs {home}"]
