"""A token from an authorization server that is not ours, which verifies private_key_jwt by the letter of RFC 7523."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jwt
import pytest
import pytest_asyncio
import trustme
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.end_to_end.leaks import KNOWN
from tests.end_to_end.programs import Configuration, run_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Answer, Curl
    from tests.end_to_end.programs import ProxyProgram

pytestmark = pytest.mark.asyncio

CLIENT_ID = "urn:contoso:clientapp"
ISSUER = "https://login.contoso.test/realms/orders"
SCOPE = "orders.read orders.write"
ACCESS_TOKEN = "opaque-0123456789abcdef~+/="
KNOWN["an opaque access token"] = ACCESS_TOKEN
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LONGEST_LIFE_S = 600


@dataclass
class Realm:
    """An authorization server and the API that takes its tokens, on one origin.

    Attributes:
        certificate: of the one client.
        origin: set once it listens.
        seen: the JWT ids used; each counts once (RFC 7523 §3).
        refusals: why token requests were refused.
        calls: fields of the API's requests that the proxy sets.
    """

    certificate: x509.Certificate
    origin: str = ""
    seen: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    calls: list[list[str]] = field(default_factory=list)

    async def answer_token_request(self, request: web.Request) -> web.Response:
        """RFC 6749 §4.4.2, §5; RFC 7521 §4.2; RFC 7523 §2.2, §3."""
        assert request.content_type == "application/x-www-form-urlencoded"
        assert "Authorization" not in request.headers, "one way of client authentication a request (RFC 6749 §2.3)"
        pairs = list((await request.post()).items())
        form = {name: value for name, value in pairs if isinstance(value, str)}
        assert len(form) == len(pairs), "no parameter twice (RFC 6749 §3.2)"
        try:
            self._verify(form)
        except jwt.InvalidTokenError as error:
            self.refusals.append(f"{type(error).__name__}: {error}")
            return web.json_response({"error": "invalid_client", "error_description": "no such proof"}, status=401)
        self.forms.append(form)
        if form.get("scope") != SCOPE:
            return web.json_response({"error": "invalid_scope"}, status=400)
        # Entra ID writes Bearer and a number; others, as allowed, write it in lower case and leave the scope out.
        return web.json_response({"access_token": ACCESS_TOKEN, "token_type": "bearer", "expires_in": 300})

    def _verify(self, form: dict[str, str]) -> None:
        assert form["grant_type"] == "client_credentials"
        assert form["client_assertion_type"] == ASSERTION_TYPE
        assertion = form["client_assertion"]
        header = jwt.get_unverified_header(assertion)
        thumbprint = jwt.utils.base64url_encode(self.certificate.fingerprint(hashes.SHA256())).decode()
        if header.get("x5t#S256") != thumbprint:
            raise jwt.InvalidKeyError("no certificate has this thumbprint")
        claims = jwt.decode(
            assertion,
            self.certificate.public_key(),  # type: ignore[arg-type]  # an RSA key
            algorithms=["PS256"],
            audience=ISSUER,
            issuer=CLIENT_ID,
            options={"require": ["iss", "sub", "aud", "exp", "jti"], "strict_aud": True},
        )
        if claims["sub"] != CLIENT_ID or form.get("client_id", CLIENT_ID) != CLIENT_ID:
            raise jwt.InvalidTokenError("iss, sub and client_id differ")
        if claims["exp"] > time.time() + LONGEST_LIFE_S:
            raise jwt.InvalidTokenError("it lives too long")
        if claims["jti"] in self.seen:
            raise jwt.InvalidTokenError("it was used before")
        self.seen.append(claims["jti"])

    async def answer_call(self, request: web.Request) -> web.Response:
        """RFC 6750 §3."""
        self.calls.append(request.headers.getall("Authorization", []))
        if self.calls[-1] != [f"Bearer {ACCESS_TOKEN}"]:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="orders"'})
        return web.json_response({"orders": [1, 2, 3]})


@pytest.fixture
def certificate_file(tmp_path: Path) -> Path:
    """A self-signed client certificate as openssl makes one, with its key in a file of its own."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed here")
    key, certificate = tmp_path / "client.key", tmp_path / "client.pem"
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=clientapp"]
    done = run_program(["openssl", "req", *made, "-keyout", key, "-out", certificate])
    assert done.status == 0, done.stderr
    key.chmod(0o600)
    return certificate


@pytest.fixture
def certificate(certificate_file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate_file.read_bytes())


@pytest_asyncio.fixture
async def realm(tmp_path: Path, certificate: x509.Certificate) -> AsyncIterator[Realm]:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(tls)
    realm = Realm(certificate)
    application = web.Application()
    application.router.add_post("/realms/orders/token", realm.answer_token_request)
    application.router.add_route("*", "/{path:.*}", realm.answer_call)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    realm.origin = f"https://localhost:{runner.addresses[0][1]}"
    yield realm
    await runner.cleanup()


@pytest.fixture
def settings(realm: Realm, certificate_file: Path, tmp_path: Path) -> Configuration:
    return {
        "listeners": [{"address": "127.0.0.1:0"}],
        "credentials": {
            "other": {
                "token_endpoint": f"{realm.origin}/realms/orders/token",
                "assertion_audience": ISSUER,
                "ca_file": str(tmp_path / "ca.pem"),
                "client_id": CLIENT_ID,
                "certificate": str(certificate_file),
                "private_key": str(certificate_file.with_suffix(".key")),
                "token_parameters": {"audience": "https://orders.contoso.test"},
                "lazy": True,
            }
        },
        "routes": [
            {
                "hosts": [realm.origin.removeprefix("https://")],
                "credential": "other",
                "scope": SCOPE,
                "ca_file": str(tmp_path / "ca.pem"),
            }
        ],
        "admin": {"address": "127.0.0.1:0"},
        "state_directory": "state",
    }


async def call(curl: Curl, proxy: ProxyProgram, realm: Realm) -> Answer:
    return await asyncio.to_thread(curl, "--proxy", proxy.forward, realm.origin.replace("https", "http") + "/orders")


async def test_its_token_works(realm: Realm, settings: Configuration, start_proxy: StartProxy, curl: Curl) -> None:
    proxy = await asyncio.to_thread(start_proxy, settings)

    for _ in range(3):
        answer = await call(curl, proxy, realm)
        assert (answer.status, answer.content) == (200, b'{"orders": [1, 2, 3]}')
    assert realm.refusals == []
    assert len(realm.seen) == len(realm.forms) == 1
    assert realm.forms[0]["audience"] == "https://orders.contoso.test"


async def test_its_refusal_is_the_answer_and_nothing_reaches_the_api(
    realm: Realm, settings: Configuration, start_proxy: StartProxy, curl: Curl
) -> None:
    settings["credentials"]["other"]["assertion_audience"] = "https://elsewhere.test"  # type: ignore[index]  # ours
    proxy = await asyncio.to_thread(start_proxy, settings)

    answer = await call(curl, proxy, realm)
    assert answer.status == 502
    assert answer.problem["code"] == "invalid_client"
    assert "no such proof" in str(answer.problem["detail"])
    assert len(realm.refusals) == 1
    assert realm.calls == []
