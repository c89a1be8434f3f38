"""Those who trust the same share a TLS context, and nobody else does."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest
import trustme

from proxy.dialing.trust import create_tls_context
from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    """One root certificate."""
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


def test_those_who_trust_the_same_share_a_context(ca_file: Path) -> None:
    first = create_tls_context(ca_file)
    assert create_tls_context(ca_file) is first
    assert create_tls_context(None) is not first
    assert len(create_tls_context(None).get_ca_certs()) == len(first.get_ca_certs()) - 1


def test_a_file_of_the_same_content_by_another_name_is_the_same(ca_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(ca_file.read_bytes())
    first = create_tls_context(ca_file)
    assert create_tls_context(other) is first


def test_changed_roots_are_trusted_from_then_on_and_the_old_ones_no_more(ca_file: Path) -> None:
    before = create_tls_context(ca_file)
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    after = create_tls_context(ca_file)
    assert after is not before
    assert len(after.get_ca_certs()) == len(before.get_ca_certs())
    assert after.get_ca_certs() != before.get_ca_certs()


def test_changed_roots_of_the_system_are_trusted_from_then_on(
    ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    before = create_tls_context(None)
    assert create_tls_context(None) is before
    both = ca_file.read_bytes() + trustme.CA().cert_pem.bytes()
    ca_file.write_bytes(both)
    assert (len(before.get_ca_certs()), len(create_tls_context(None).get_ca_certs())) == (1, 2)


def test_a_context_goes_with_the_last_who_uses_it(ca_file: Path) -> None:
    context = create_tls_context(ca_file)
    reference = weakref.ref(context)
    del context
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_without_a_certificate_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(
            ConfigurationError,
            match=r"ca\.pem cannot be used as ca_file: (it must be a readable PEM|a certificate in it is damaged)",
        ):
            create_tls_context(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.pem cannot be used as upstream_proxy\.ca_file"):
        create_tls_context(tmp_path / "none.pem", "upstream_proxy.ca_file")
