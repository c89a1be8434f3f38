"""The client assertion: its header, claims and signature, judged by PyJWT as a verifier of its own."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from proxy.identity.assertion import (
    AssertionOptions,
    format_claims,
    format_header,
    format_signing_input,
    join_signature,
)
from proxy.identity.certificate import ClientCertificate, load_certificate
from proxy.identity.certificate_creation import create_certificate

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
AUDIENCE = "https://login.example.com/tenant/oauth2/v2.0/token"


@pytest.fixture(scope="module")
def pem() -> tuple[bytes, bytes]:
    return create_certificate("client", 30, 2048, NOW)


@pytest.fixture
def certificate(pem: tuple[bytes, bytes], tmp_path: Path) -> ClientCertificate:
    file = tmp_path / "clientapp.pem"
    file.write_bytes(pem[0] + pem[1])
    return load_certificate(file, None, None)


def _sign(certificate: ClientCertificate, options: AssertionOptions | None = None) -> str:
    options = options or AssertionOptions()
    claims = format_claims("the-client", AUDIENCE, NOW.timestamp(), "one")
    signing_input = format_signing_input(format_header(certificate, options), claims)
    return join_signature(signing_input, certificate.sign(signing_input, options.algorithm))


@pytest.mark.parametrize("algorithm", ["PS256", "RS256"])
def test_the_signature_verifies_under_the_certificate(
    algorithm: str, certificate: ClientCertificate, pem: tuple[bytes, bytes]
) -> None:
    assertion = _sign(certificate, AssertionOptions(algorithm))

    public_key = x509.load_pem_x509_certificate(pem[0]).public_key()
    assert isinstance(public_key, RSAPublicKey)
    claims = jwt.decode(assertion, public_key, algorithms=[algorithm], audience=AUDIENCE, options={"verify_exp": False})
    assert claims["iss"] == claims["sub"] == "the-client"
    assert claims["jti"] == "one"


@pytest.mark.parametrize(
    ("algorithm", "member", "digest"),
    [("PS256", "x5t#S256", "sha256"), ("RS256", "x5t", "sha1")],
)
def test_the_header_names_the_key_by_the_thumbprint_that_goes_with_the_algorithm(
    algorithm: str, member: str, digest: str, certificate: ClientCertificate, pem: tuple[bytes, bytes]
) -> None:
    header = jwt.get_unverified_header(_sign(certificate, AssertionOptions(algorithm)))

    der = ssl.PEM_cert_to_DER_cert(pem[0].decode())
    expected = base64.urlsafe_b64encode(hashlib.new(digest, der, usedforsecurity=False).digest()).rstrip(b"=").decode()
    assert header == {"alg": algorithm, "typ": "JWT", member: expected}


def test_the_chain_goes_along_only_when_asked_for(certificate: ClientCertificate) -> None:
    assert "x5c" not in jwt.get_unverified_header(_sign(certificate))

    header = jwt.get_unverified_header(_sign(certificate, AssertionOptions(send_certificate_chain=True)))

    assert [base64.b64decode(one, validate=True) for one in header["x5c"]] == list(certificate.chain_der)


def test_times_are_integers_back_dated_and_ten_minutes_apart_at_most() -> None:
    now = 1_780_000_000.9

    claims = format_claims("client", AUDIENCE, now, "one")

    assert all(type(claims[name]) is int for name in ("nbf", "iat", "exp"))
    assert int(str(claims["nbf"])) < now - 60
    assert now + 300 < int(str(claims["exp"])) <= int(str(claims["nbf"])) + 600


def test_segments_are_unpadded_compact_json(certificate: ClientCertificate) -> None:
    assertion = _sign(certificate)

    assert "=" not in assertion
    header, claims, _ = (base64.urlsafe_b64decode(part + "==") for part in assertion.split("."))
    assert b" " not in header + claims
    assert isinstance(json.loads(claims)["aud"], str)
