"""Leaves: what they say, how long they live, for whom they are made, and that strict verifiers accept them."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from proxy.errors import ConfigurationError
from proxy.interception.authority import InterceptionCA, issue
from proxy.interception.leaf import Leaf, mint

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG_HOST = ".".join(["a" * 40] * 3) + ".apis.contoso.com"
HOSTS = ["contoso.azure-api.net", "*.apis.contoso.com", "10.1.2.3", "2001:db8::1"]
SIGNED_HOSTS = ["contoso.azure-api.net", "orders.apis.contoso.com", LONG_HOST, "10.1.2.3", "[2001:db8::1]"]


@pytest.fixture(scope="module")
def ca() -> InterceptionCA:
    return issue(HOSTS, NOW, reason="created")


def _common_names(leaf: Leaf) -> list[str | bytes]:
    return [attribute.value for attribute in leaf.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


@pytest.mark.parametrize("host", SIGNED_HOSTS)
def test_a_leaf_says_what_rfc_5280_asks_of_it(ca: InterceptionCA, host: str) -> None:
    leaf = mint(ca, host, NOW)
    extensions = leaf.certificate.extensions
    assert {extension.oid for extension in extensions if extension.critical} == {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
    }
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    issuer_key = ca.issuers[0].extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == issuer_key
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest != issuer_key
    leaf.certificate.verify_directly_issued_by(ca.issuers[0])


def test_a_leaf_names_its_host_and_nothing_else(ca: InterceptionCA) -> None:
    for host in SIGNED_HOSTS:
        names = mint(ca, host, NOW).certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        try:
            expected: x509.GeneralName = x509.IPAddress(ip_address(host.strip("[]")))
        except ValueError:
            expected = x509.DNSName(host)
        assert list(names) == [expected]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("orders.apis.contoso.com", "*.apis.contoso.com"),
        ("v2.orders.apis.contoso.com", "*.orders.apis.contoso.com"),
        ("apis.contoso.com", "apis.contoso.com"),
        ("contoso.azure-api.net", "contoso.azure-api.net"),
        ("a_b.apis.contoso.com", "a_b.apis.contoso.com"),
        ("10.1.2.3", "10.1.2.3"),
        ("a.single", "a.single"),
    ],
)
def test_a_leaf_below_a_wildcard_route_is_good_for_its_siblings(host: str, name: str) -> None:
    leaf = mint(issue([*HOSTS, "*.single"], NOW, reason="created"), host, NOW, {"apis.contoso.com", "single"})
    names = leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert leaf.name == name
    assert [str(entry.value) for entry in names] == [name]


def test_only_a_dns_name_that_fits_becomes_the_common_name(ca: InterceptionCA) -> None:
    assert _common_names(mint(ca, "contoso.azure-api.net", NOW)) == ["contoso.azure-api.net"]
    assert _common_names(mint(ca, LONG_HOST, NOW)) == []
    assert _common_names(mint(ca, "10.1.2.3", NOW)) == []


def test_every_leaf_has_its_own_key_and_serial_number(ca: InterceptionCA) -> None:
    one, other = (mint(ca, "contoso.azure-api.net", NOW) for _ in range(2))
    assert one.certificate.public_key() != other.certificate.public_key()
    assert one.certificate.serial_number != other.certificate.serial_number


def test_a_leaf_lives_a_week_and_never_longer_than_its_ca(ca: InterceptionCA) -> None:
    later = NOW + timedelta(days=30)
    leaf = mint(ca, "contoso.azure-api.net", later)
    assert leaf.certificate.not_valid_before_utc == later - timedelta(hours=1)
    assert leaf.not_after == later + timedelta(days=7)
    assert mint(ca, "contoso.azure-api.net", ca.not_after - timedelta(days=1)).not_after == ca.not_after
    first_minute = mint(ca, "contoso.azure-api.net", NOW - timedelta(minutes=30))
    assert first_minute.certificate.not_valid_before_utc == ca.issuers[0].not_valid_before_utc


def test_what_is_minted_after_the_end_of_the_ca_has_ended_with_it(ca: InterceptionCA) -> None:
    leaf = mint(ca, "contoso.azure-api.net", ca.not_after + timedelta(days=1))
    assert leaf.certificate.not_valid_before_utc == leaf.not_after == ca.not_after


@pytest.mark.parametrize(
    "host", ["login.microsoftonline.com", "azure-api.net", "10.1.2.4", "::1", "*.apis.contoso.com"]
)
def test_nothing_is_minted_for_a_host_that_is_not_routed(ca: InterceptionCA, host: str) -> None:
    with pytest.raises(ConfigurationError):
        mint(ca, host, NOW)


def test_a_certificate_without_constraints_is_no_ca_of_ours(ca: InterceptionCA) -> None:
    leaf = mint(ca, "contoso.azure-api.net", NOW)
    assert isinstance(leaf.key, ec.EllipticCurvePrivateKey)
    with pytest.raises(ConfigurationError, match="name constraints"):
        mint(InterceptionCA(ca.anchor, (leaf.certificate,), leaf.key, "created"), "contoso.azure-api.net", NOW)


def test_no_repr_shows_the_key(ca: InterceptionCA) -> None:
    assert "key" not in repr(mint(ca, "contoso.azure-api.net", NOW)).lower()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command here")
@pytest.mark.parametrize("host", SIGNED_HOSTS)
def test_openssl_verifies_every_leaf_strictly(ca: InterceptionCA, host: str, tmp_path: Path) -> None:
    leaf = mint(ca, host, NOW)
    for name, certificate in (("anchor", ca.anchor), ("issuer", ca.issuers[0]), ("leaf", leaf.certificate)):
        (tmp_path / name).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    bare = host.strip("[]")
    flag = "-verify_hostname" if bare[0].isalpha() else "-verify_ip"
    at = str(int(NOW.timestamp()))
    strictly = ["openssl", "verify", "-x509_strict", "-check_ss_sig", "-purpose", "sslserver", "-attime", at]
    done = subprocess.run(
        [*strictly, flag, bare, "-CAfile", "anchor", "-untrusted", "issuer", "leaf"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "leaf: OK\n", done.stderr
