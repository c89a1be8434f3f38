"""An organisation's intermediate: made with the documented commands, believed by OpenSSL, and each unfit one refused in words."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec.structs import replace

from proxy.config.settings import InterceptionSettings
from proxy.errors import ConfigurationError
from proxy.interception.leaf import mint
from proxy.interception.organisation import OrganisationCA, load_organisation_ca

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

NOW = datetime.now(UTC)
HOSTS = ["contoso.azure-api.net", "*.apis.contoso.com"]
PAGE = Path(__file__).parents[2] / "docs" / "interception-ca.md"
PEM = serialization.Encoding.PEM


@dataclass(slots=True)
class Authority:
    """A CA of the organisation, as its own people would have it."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes


def make_ca(  # what can be wrong with one
    name: str,
    issuer: Authority | None,
    *,
    is_ca: bool = True,
    signs: bool = True,
    path_length: int | None = None,
    days: tuple[int, int] = (-1, 100),
    constraints: x509.NameConstraints | None = None,
    purpose: x509.ObjectIdentifier | None = None,
    has_key_id: bool = True,
    has_issuer_id: bool = True,
    key: CertificateIssuerPrivateKeyTypes | None = None,
) -> Authority:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    others = dict.fromkeys(
        [
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ],
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(is_ca, path_length if is_ca else None), critical=True)
        .add_extension(
            x509.KeyUsage(**others, digital_signature=not signs, key_cert_sign=signs, crl_sign=signs), critical=True
        )
    )
    if has_key_id:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    if issuer is not None and has_issuer_id:
        issuer_id = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False
        )
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) and issuer is None else hashes.SHA256()
    return Authority(builder.sign(issuer.key if issuer else key, digest), key)


ROOT = make_ca("Contoso Root", None)


def write(
    directory: Path,
    authority: Authority,
    *above: Authority,
    password: bytes | None = None,
    key: Authority | None = None,
) -> InterceptionSettings:
    """Puts certificates and key into files as an administrator would."""
    file, key_file = directory / "intermediate.pem", directory / "intermediate.key"
    file.write_bytes(b"".join(one.certificate.public_bytes(PEM) for one in (authority, *above)))
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        protection = serialization.BestAvailableEncryption(password)
    key_file.touch(0o600)
    key_file.write_bytes((key or authority).key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, protection))
    return InterceptionSettings(ca_certificate=file, ca_private_key=key_file)


def load(settings: InterceptionSettings, hosts: list[str] = HOSTS) -> OrganisationCA:
    found = load_organisation_ca(settings, hosts)
    assert found is not None
    return found


def verify(ca: OrganisationCA, host: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Has OpenSSL judge a leaf, given the root alone and what the proxy sends."""
    leaf = mint(ca, host, NOW, {"apis.contoso.com"})
    (directory / "leaf").write_bytes(leaf.certificate.public_bytes(PEM))
    (directory / "chain").write_bytes(b"".join(one.public_bytes(PEM) for one in leaf.chain))
    (directory / "root").write_bytes(ROOT.certificate.public_bytes(PEM))
    command = ["openssl", "verify", "-purpose", "sslserver", "-verify_hostname", host]
    return subprocess.run(
        [*command, "-CAfile", "root", "-untrusted", "chain", "leaf"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command here")


@needs_openssl
def test_the_documented_commands_make_one_that_serves(tmp_path: Path) -> None:
    """Executed as they stand in the page, with a root that the organisation has."""
    (tmp_path / "root.pem").write_bytes(ROOT.certificate.public_bytes(PEM))
    (tmp_path / "root.key").write_bytes(
        ROOT.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (script,) = re.findall(r"^```sh intermediate\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    settings = InterceptionSettings(
        ca_certificate=tmp_path / "intermediate.pem", ca_private_key=tmp_path / "intermediate.key"
    )
    ca = load_organisation_ca(settings, HOSTS)
    assert ca is not None
    assert ca.is_bounded
    assert ca.root == ROOT.certificate
    for host in ("contoso.azure-api.net", "orders.apis.contoso.com", "v2.orders.apis.contoso.com"):
        assert verify(ca, host, tmp_path).stdout == "leaf: OK\n"
    with pytest.raises(ConfigurationError, match=r"do not permit fabrikam\.example"):
        load_organisation_ca(settings, [*HOSTS, "fabrikam.example"])


def _kinds() -> Iterator[object]:
    curves: list[ec.EllipticCurve] = [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]
    yield from (pytest.param(lambda curve=curve: ec.generate_private_key(curve), id=curve.name) for curve in curves)
    yield pytest.param(lambda: rsa.generate_private_key(65537, 2048), id="rsa-2048")


@needs_openssl
@pytest.mark.parametrize("make_key", list(_kinds()))
def test_every_kind_of_key_signs_what_openssl_believes(tmp_path: Path, make_key: object) -> None:
    assert callable(make_key)
    upper = make_ca("Contoso Issuing", ROOT, path_length=1)
    ca = load(write(tmp_path, make_ca("Contoso Proxies", upper, path_length=0, key=make_key()), upper))
    assert len(ca.chain) == 2, "without the root in the file, everything in it is sent"
    assert verify(ca, "contoso.azure-api.net", tmp_path).stdout == "leaf: OK\n"
    assert "key" not in repr(ca).lower()


def test_the_root_is_exported_and_never_sent(tmp_path: Path) -> None:
    ca = load(write(tmp_path, make_ca("Contoso Proxies", ROOT, path_length=0), ROOT))
    assert ca.chain == (ca.issuer,)
    assert ca.trusted_pem() == ROOT.certificate.public_bytes(PEM)
    assert b"PRIVATE" not in ca.trusted_pem()
    assert mint(ca, "contoso.azure-api.net", NOW).chain == (ca.issuer,)
    assert not ca.is_bounded


def test_an_encrypted_key_is_opened_with_the_password_file(tmp_path: Path) -> None:
    settings = write(tmp_path, make_ca("Contoso Proxies", ROOT), password=b"open sesame")
    with pytest.raises(
        ConfigurationError, match=r"encrypted, and no password is configured; .* `interception\.ca_password_file`"
    ):
        load(settings)
    password = tmp_path / "password"
    password.write_text("wrong\n")
    with_password = replace(settings, ca_password_file=password)
    with pytest.raises(ConfigurationError, match="does not open it") as caught:
        load(with_password)
    assert "wrong" not in caught.value.detail
    password.write_text("open sesame\n")
    assert load(with_password).permits("contoso.azure-api.net")


UNFIT = {
    "no CA": ({"is_ca": False}, "is not a CA's"),
    "may not sign": ({"signs": False}, "no keyCertSign"),
    "for mail": ({"purpose": ExtendedKeyUsageOID.EMAIL_PROTECTION}, "no serverAuth"),
    "without a key identifier": ({"has_key_id": False}, "no subjectKeyIdentifier"),
    "without the issuer's": ({"has_issuer_id": False}, "no authorityKeyIdentifier"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_an_unfit_certificate_is_refused_with_the_reason(tmp_path: Path, what: str) -> None:
    changes, words = UNFIT[what]
    settings = write(tmp_path, make_ca("Contoso Proxies", ROOT, **changes))  # type: ignore[arg-type]  # of several types
    with pytest.raises(ConfigurationError, match=words) as caught:
        load(settings)
    assert str(tmp_path) in caught.value.detail
    assert "CN=Contoso Proxies" in caught.value.detail


@pytest.mark.parametrize(("days", "words"), [((-10, -1), "ended on"), ((1, 10), "is not valid before")])
def test_one_out_of_its_dates_is_no_fault_of_the_configuration(
    tmp_path: Path, days: tuple[int, int], words: str
) -> None:
    """A2: what it signs is out of its dates as well, which the client says."""
    ca = load(write(tmp_path, make_ca("Contoso Proxies", ROOT, days=days)))

    problem = ca.date_problem(NOW)
    assert problem is not None
    assert words in problem
    leaf = mint(ca, "contoso.azure-api.net", NOW)
    assert not leaf.certificate.not_valid_before_utc <= NOW <= leaf.certificate.not_valid_after_utc
    assert ca.date_problem(NOW + timedelta(days=days[1]) - timedelta(hours=1)) is None


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    fit, other = make_ca("Contoso Proxies", ROOT), make_ca("Other", None)
    with pytest.raises(ConfigurationError, match=r"does not (fit the|belong to the first) certificate"):
        load(write(tmp_path, fit, key=other))
    with pytest.raises(ConfigurationError, match="was not issued by 'CN=Other'"):
        load(write(tmp_path, fit, other))
    narrow = make_ca("Contoso Narrow", ROOT, path_length=0)
    with pytest.raises(ConfigurationError, match=r"allows 0 CAs below it \(pathlen\), and the file has 1"):
        load(write(tmp_path, make_ca("Contoso Proxies", narrow), narrow))
    settings = write(tmp_path, fit)
    assert settings.ca_private_key is not None
    settings.ca_private_key.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load(settings)
    settings.ca_private_key.chmod(0o600)
    settings.ca_private_key.write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match=r"no private key in it; .*`interception\.ca_private_key`"):
        load(settings)
    assert settings.ca_certificate is not None
    settings.ca_certificate.write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match="no certificate in it"):
        load(settings)


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP256K1()), ed25519.Ed25519PrivateKey.generate()], ids=["curve", "ed25519"]
)
def test_a_key_that_not_every_client_accepts_is_refused(tmp_path: Path, key: CertificateIssuerPrivateKeyTypes) -> None:
    with pytest.raises(ConfigurationError, match="not every client accepts"):
        load(write(tmp_path, make_ca("Contoso Proxies", ROOT, key=key)))


@pytest.mark.parametrize(
    ("permitted", "excluded", "host", "fits"),
    [
        pytest.param(["contoso.com"], [], "api.contoso.com", True, id="below"),
        pytest.param(["contoso.com"], [], "*.contoso.com", True, id="wildcard-below"),
        pytest.param(["api.contoso.com"], [], "*.contoso.com", False, id="wildcard-wider"),
        pytest.param([".contoso.com"], [], "api.contoso.com", True, id="dot-below"),
        pytest.param([".contoso.com"], [], "contoso.com", False, id="dot-itself"),
        pytest.param([".contoso.com"], [], "*.contoso.com", True, id="dot-wildcard"),
        pytest.param(["contoso.com"], [], "evilcontoso.com", False, id="suffix-that-is-no-subtree"),
        pytest.param([""], [], "api.contoso.com", True, id="everything"),
        pytest.param([], ["hr.contoso.com"], "api.contoso.com", True, id="beside-excluded"),
        pytest.param([], ["hr.contoso.com"], "x.hr.contoso.com", False, id="excluded"),
        pytest.param([], ["hr.contoso.com"], "*.contoso.com", False, id="wildcard-over-excluded"),
        pytest.param(["10.0.0.0/8"], [], "10.1.2.3", True, id="address"),
        pytest.param(["10.0.0.0/8"], [], "192.0.2.1", False, id="other-address"),
        pytest.param(["10.0.0.0/8"], [], "api.contoso.com", True, id="names-not-spoken-of"),
        pytest.param([], ["0.0.0.0/0"], "10.1.2.3", False, id="no-addresses"),
    ],
)
def test_constraints_of_whoever_wrote_them_are_understood(
    tmp_path: Path, permitted: list[str], excluded: list[str], host: str, fits: bool
) -> None:
    constraints = x509.NameConstraints(_subtrees(permitted), _subtrees(excluded))
    settings = write(tmp_path, make_ca("Contoso Proxies", ROOT, constraints=constraints))
    if fits:
        load(settings, [host])
        return
    with pytest.raises(ConfigurationError, match=f"do not permit {re.escape(host)}"):
        load(settings, [host])


def _subtrees(texts: list[str]) -> list[x509.GeneralName] | None:
    return [x509.IPAddress(ip_network(text)) if "/" in text else x509.DNSName(text) for text in texts] or None


def test_a_constraint_anywhere_above_counts(tmp_path: Path) -> None:
    upper = make_ca("Contoso Issuing", ROOT, constraints=x509.NameConstraints([x509.DNSName("fabrikam.com")], None))
    with pytest.raises(ConfigurationError, match="do not permit"):
        load(write(tmp_path, make_ca("Contoso Proxies", upper), upper))


def test_no_leaf_outlives_what_is_above_it(tmp_path: Path) -> None:
    ca = load(write(tmp_path, make_ca("Contoso Proxies", ROOT, days=(-1, 3)), ROOT))
    assert mint(ca, "contoso.azure-api.net", NOW).not_after == ca.issuer.not_valid_after_utc
