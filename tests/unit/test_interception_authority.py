"""The interception CA as a value: what its certificates say, and its PEM form."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from proxy.errors import ConfigurationError
from proxy.interception.authority import InterceptionCA, format_bundle, issue, parse_bundle
from proxy.interception.leaf import mint
from proxy.interception.names import Constraints, parse_name

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOSTS = ["contoso.azure-api.net", "*.apis.contoso.com", "10.1.2.3"]


@pytest.fixture(scope="module")
def ca() -> InterceptionCA:
    return issue(HOSTS, NOW, reason="created")


@pytest.mark.parametrize(("which", "path_length"), [("anchor", 1), ("issuer", 0)])
def test_each_ca_certificate_says_what_rfc_5280_asks_of_it(ca: InterceptionCA, which: str, path_length: int) -> None:
    certificate = ca.anchor if which == "anchor" else ca.issuers[0]
    extensions = certificate.extensions
    critical = {extension.oid for extension in extensions if extension.critical}
    assert critical == {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.NAME_CONSTRAINTS}
    assert extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, path_length)
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert usage.crl_sign
    assert not usage.digital_signature
    constraints = extensions.get_extension_for_class(x509.NameConstraints).value
    assert constraints.permitted_subtrees == [
        x509.DNSName("apis.contoso.com"),
        x509.DNSName("contoso.azure-api.net"),
        x509.IPAddress(IPv4Network("10.1.2.3/32")),
    ]
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    assert certificate.not_valid_after_utc == NOW + timedelta(days=730)
    assert isinstance(key := certificate.public_key(), ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)


def test_the_issuer_is_bound_to_its_anchor_and_to_server_certificates(ca: InterceptionCA) -> None:
    ca.issuers[0].verify_directly_issued_by(ca.anchor)
    subject_key = ca.anchor.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    authority_key = ca.issuers[0].extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert authority_key == subject_key
    usages = ca.issuers[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_the_anchors_key_is_not_kept(ca: InterceptionCA) -> None:
    """Java does not hold a trust anchor to its own constraints, so that key could sign for any host there."""
    assert ca.key.public_key() == ca.issuers[0].public_key()
    assert ca.key.public_key() != ca.anchor.public_key()
    assert format_bundle(ca).count(b"PRIVATE KEY-----\n") == 2  # one BEGIN, one END


def test_two_cas_share_no_key_subject_or_serial_number(ca: InterceptionCA) -> None:
    other = issue(HOSTS, NOW, reason="created")
    for mine, theirs in ((ca.anchor, other.anchor), (ca.issuers[0], other.issuers[0])):
        assert mine.public_key() != theirs.public_key()
        assert mine.subject != theirs.subject
        assert mine.serial_number != theirs.serial_number


def test_no_repr_shows_the_key(ca: InterceptionCA) -> None:
    assert "key" not in repr(ca).lower()


def test_the_bundle_gives_back_the_same_ca(ca: InterceptionCA) -> None:
    issued = issue(HOSTS, NOW, reason="re-issued because route a.example was added", replaces=ca.fingerprint)
    again = parse_bundle(format_bundle(issued))
    assert (again.anchor, again.issuers) == (issued.anchor, issued.issuers)
    assert again.key.private_numbers() == issued.key.private_numbers()
    assert (again.reason, again.replaces) == (issued.reason, ca.fingerprint)
    assert again.constraints == Constraints.of_hosts(HOSTS)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_a_damaged_bundle_is_refused_whatever_is_wrong_with_it(ca: InterceptionCA) -> None:
    bundle = format_bundle(ca)
    key_end = bundle.index(b"-----BEGIN CERTIFICATE")
    other = issue(HOSTS, NOW, reason="created")
    damaged = {
        "empty": b"",
        "binary": b"\xff\x00" * 50,
        "cut short": bundle[:-100],
        "no key": bundle[key_end:],
        "no certificates": bundle[:key_end],
        "one certificate": bundle[:key_end] + ca.anchor_pem(),
        "key of another": _key_pem(other.key) + bundle[key_end:],
        "anchor of another": bundle[: bundle.rindex(b"-----BEGIN CERTIFICATE")] + other.anchor_pem(),
    }
    for what, text in damaged.items():
        with pytest.raises(ConfigurationError):
            pytest.fail(f"accepted: {what} {parse_bundle(text)}")


def test_many_hosts_share_an_anchor_and_each_handshake_carries_few_of_them() -> None:
    """G4: with one issuer for 1,000 hosts every handshake took 22 kB."""
    hosts = [f"api-{number}.contoso-{number % 7}.azure-api.net" for number in range(1_000)] + ["10.1.2.3", "fd00::1"]
    ca = issue(hosts, NOW, reason="created")
    assert ca.constraints == Constraints.of_hosts(hosts)
    assert len({issuer.subject for issuer in ca.issuers}) == len(ca.issuers)
    for host in hosts:
        signer = ca.choose(parse_name(host), NOW)
        assert signer.permits(parse_name(host))
        leaf = mint(ca, host, NOW)
        shown = [leaf.certificate, *leaf.chain]
        assert sum(len(one.public_bytes(serialization.Encoding.DER)) for one in shown) < 3_000
    again = parse_bundle(format_bundle(ca))
    assert (again.anchor, again.issuers, again.constraints) == (ca.anchor, ca.issuers, ca.constraints)


def test_the_issuer_of_one_group_may_not_sign_for_another() -> None:
    ca = issue([f"{number}.{'long' * 10}.example" for number in range(60)], NOW, reason="created")
    assert len(ca.issuers) > 2
    for issuer in ca.issuers:
        others = [other for other in ca.issuers if other is not issuer]
        names = {name for other in others for name in Constraints.of_certificate(other).domains}
        assert not any(Constraints.of_certificate(issuer).permits(name) for name in names)
