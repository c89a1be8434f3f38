"""Each spoiled token request is refused with the HTTP status, `error` and AADSTS code of the real service."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import NameOID

from proxy.sandbox import ClientApplication, ResourceApplication, Sandbox, register_certificate

if TYPE_CHECKING:
    import aiohttp

OTHER_ID = "99999999-9999-9999-9999-999999999999"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@cache
def other_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def weak_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 1024)  # noqa: S505 - too short on purpose


def certificate_for(
    key: rsa.RSAPrivateKey, *, starts: timedelta = timedelta(days=-1), ends: timedelta = timedelta(days=1)
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now + starts).not_valid_after(now + ends).sign(key, hashes.SHA256())


@dataclass
class Attempt:
    """A token request before it is put together; a case spoils one thing of it."""

    sandbox: Sandbox
    header: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    form: dict[str, str] = field(default_factory=dict)
    key: rsa.RSAPrivateKey | None = None
    path: str = ""
    method: str = "POST"
    body: bytes | None = None
    content_type: str = "application/x-www-form-urlencoded"
    assertion: str | None = None

    def __post_init__(self) -> None:
        now = int(time.time())
        client = self.sandbox.keys.client
        self.key = client.private_key
        self.path = f"/{self.sandbox.tenant_id}/oauth2/v2.0/token"
        digest = client.certificate.fingerprint(hashes.SHA256())
        self.header = {"alg": "PS256", "typ": "JWT", "x5t#S256": base64url(digest)}
        self.claims = {
            "aud": self.sandbox.token_endpoint,
            "iss": self.sandbox.client_id,
            "sub": self.sandbox.client_id,
            "jti": "1",
            "nbf": now,
            "exp": now + 600,
        }
        self.form = {
            "grant_type": "client_credentials",
            "client_id": self.sandbox.client_id,
            "scope": self.sandbox.scope,
            "client_assertion_type": ASSERTION_TYPE,
        }

    def use(self, key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> None:
        """Register another certificate, and sign with its key."""
        known = self.sandbox.tenant.client(self.sandbox.client_id)
        assert known is not None
        self.sandbox.tenant.register_client(replace(known, certificates=(register_certificate(certificate),)))
        self.key = key
        self.header["x5t#S256"] = base64url(certificate.fingerprint(hashes.SHA256()))

    def sign(self) -> str:
        signing_input = ".".join(base64url(json.dumps(each).encode()) for each in (self.header, self.claims))
        return f"{signing_input}.{base64url(self._signature(signing_input.encode()))}"

    def _signature(self, signing_input: bytes) -> bytes:
        assert self.key is not None
        match self.header.get("alg"):
            case "RS256":
                return self.key.sign(signing_input, padding.PKCS1v15(), hashes.SHA256())
            case "ES256":
                signature = ec.generate_private_key(ec.SECP256R1()).sign(signing_input, ec.ECDSA(hashes.SHA256()))
                r, s = utils.decode_dss_signature(signature)
                return r.to_bytes(32) + s.to_bytes(32)
            case "HS256":
                return hmac.new(b"secret", signing_input, hashlib.sha256).digest()
            case "none":
                return b""
            case _:
                scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
                return self.key.sign(signing_input, scheme, hashes.SHA256())

    async def send(self, client: aiohttp.ClientSession) -> tuple[int, dict[str, Any]]:
        url = self.sandbox.identity_url + self.path
        form = {"client_assertion": self.sign() if self.assertion is None else self.assertion} | self.form
        data: Any = form if self.body is None else self.body
        headers = {} if self.body is None else {"Content-Type": self.content_type}
        if self.method == "GET":
            data = None
        async with client.request(self.method, url, data=data, headers=headers) as response:
            answer: dict[str, Any] = await response.json()
            return response.status, answer


Spoil = Callable[[Attempt], object]


def drop(part: str, name: str) -> Spoil:
    return lambda attempt: getattr(attempt, part).pop(name)


def put(part: str, **values: object) -> Spoil:
    return lambda attempt: getattr(attempt, part).update(values)


def assign(**values: object) -> Spoil:
    def spoil(attempt: Attempt) -> None:
        for name, value in values.items():
            setattr(attempt, name, value)

    return spoil


def shifted(claim: str, seconds: float) -> Spoil:
    return lambda attempt: attempt.claims.update({claim: time.time() + seconds})


def with_certificate(key: Callable[[], rsa.RSAPrivateKey], **dates: timedelta) -> Spoil:
    return lambda attempt: attempt.use(key(), certificate_for(key(), **dates))


def with_tenant(segment: str) -> Spoil:
    return lambda attempt: setattr(attempt, "path", f"/{segment}/oauth2/v2.0/token")


def as_the_secret(secret: str | None) -> Spoil:
    def spoil(attempt: Attempt) -> None:
        attempt.sandbox.tenant.register_client(
            ClientApplication(attempt.sandbox.client_id, OTHER_ID, secrets=("right",))
        )
        attempt.body = "&".join(
            f"{name}={value}"
            for name, value in {
                "grant_type": "client_credentials",
                "client_id": attempt.sandbox.client_id,
                "scope": attempt.sandbox.scope,
                **({} if secret is None else {"client_secret": secret}),
            }.items()
        ).encode()

    return spoil


def on_the_v1_endpoint(**fields: str) -> Spoil:
    def spoil(attempt: Attempt) -> None:
        attempt.path = f"/{attempt.sandbox.tenant_id}/oauth2/token"
        attempt.form.pop("scope")
        attempt.form.update(fields)

    return spoil


def without_service_principal(attempt: Attempt) -> None:
    known = attempt.sandbox.tenant.client(attempt.sandbox.client_id)
    assert known is not None
    attempt.sandbox.tenant.register_client(replace(known, object_id=None))


def with_assignment_required(attempt: Attempt) -> None:
    attempt.sandbox.tenant.register_resource(ResourceApplication(OTHER_ID, ("api://closed",), assignment_required=True))
    attempt.form["scope"] = "api://closed/.default"


def with_the_text_hashed(attempt: Attempt) -> None:
    """The classic mistake: base64url of the hex text, not of the bytes."""
    text = attempt.sandbox.keys.client.certificate.fingerprint(hashes.SHA256()).hex().upper()
    attempt.header["x5t#S256"] = base64url(text.encode())


def with_pkcs1_under_a_pss_name(attempt: Attempt) -> None:
    attempt.header["alg"] = "RS256"
    signature = attempt.sign().rpartition(".")[2]
    attempt.header["alg"] = "PS256"
    attempt.assertion = f"{attempt.sign().rpartition('.')[0]}.{signature}"


def with_another_key(attempt: Attempt) -> None:
    attempt.key = other_key()


def with_common_in_aud(attempt: Attempt) -> None:
    attempt.claims["aud"] = f"{attempt.sandbox.identity_url}/common/oauth2/v2.0/token"


def with_a_line_break(attempt: Attempt) -> None:
    assertion = attempt.sign()
    attempt.assertion = f"{assertion[:40]}\r\n{assertion[40:]}"


def with_altered_claims(attempt: Attempt) -> None:
    header, _, signature = attempt.sign().split(".")
    claims = base64url(json.dumps(attempt.claims | {"jti": "2"}).encode())
    attempt.assertion = f"{header}.{claims}.{signature}"


INVALID_CLIENT = (401, "invalid_client")
INVALID_REQUEST = (400, "invalid_request")
INVALID_SCOPE = (400, "invalid_scope")
INVALID_RESOURCE = (400, "invalid_resource")

CASES = [
    # The certificate and the signature
    ("wrong-key", with_another_key, INVALID_CLIENT, 700027),
    ("altered-claims", with_altered_claims, INVALID_CLIENT, 700027),
    ("pkcs1-under-pss-name", with_pkcs1_under_a_pss_name, INVALID_CLIENT, 700027),
    ("unknown-thumbprint", put("header", **{"x5t#S256": base64url(bytes(32))}), INVALID_CLIENT, 700027),
    ("hex-text-thumbprint", with_the_text_hashed, INVALID_CLIENT, 700027),
    ("unreadable-thumbprint", put("header", **{"x5t#S256": "***"}), INVALID_CLIENT, 700027),
    ("sha256-under-x5t", lambda attempt: attempt.header.update(x5t=attempt.header.pop("x5t#S256")), INVALID_CLIENT, 700027),
    ("no-thumbprint", drop("header", "x5t#S256"), INVALID_CLIENT, 5002723),
    ("key-too-short", with_certificate(weak_key), INVALID_CLIENT, 700027),
    ("certificate-expired", with_certificate(other_key, ends=timedelta(hours=-1)), INVALID_CLIENT, 700027),
    ("certificate-not-yet-valid", with_certificate(other_key, starts=timedelta(hours=1)), INVALID_CLIENT, 700027),
    # The algorithm
    ("alg-es256", put("header", alg="ES256"), INVALID_CLIENT, 5002738),
    ("alg-hs256", put("header", alg="HS256"), INVALID_CLIENT, 5002738),
    ("alg-none", put("header", alg="none"), INVALID_CLIENT, 5002738),
    ("alg-missing", drop("header", "alg"), INVALID_REQUEST, 50027),
    # The claims
    ("wrong-aud", put("claims", aud="https://login.example.com/token"), INVALID_CLIENT, 700023),
    ("common-in-aud", with_common_in_aud, INVALID_CLIENT, 700023),
    ("aud-array", lambda attempt: attempt.claims.update(aud=[attempt.claims["aud"]]), INVALID_REQUEST, 50027),
    ("no-aud", drop("claims", "aud"), INVALID_REQUEST, 90014),
    ("wrong-iss", put("claims", iss=OTHER_ID), INVALID_CLIENT, 700021),
    ("wrong-iss-and-sub", put("claims", iss=OTHER_ID, sub=OTHER_ID), INVALID_CLIENT, 700021),
    ("no-iss", drop("claims", "iss"), INVALID_REQUEST, 90014),
    ("wrong-sub", put("claims", sub=OTHER_ID), INVALID_CLIENT, 50048),
    ("no-sub", drop("claims", "sub"), INVALID_REQUEST, 90014),
    ("exp-in-the-past", shifted("exp", -301), INVALID_CLIENT, 700024),
    ("no-exp", drop("claims", "exp"), INVALID_REQUEST, 90014),
    ("exp-no-number", put("claims", exp="tomorrow"), INVALID_REQUEST, 50027),
    ("exp-not-finite", put("claims", exp="inf"), INVALID_REQUEST, 50027),
    ("exp-boolean", put("claims", exp=True), INVALID_REQUEST, 50027),
    ("nbf-in-the-future", shifted("nbf", 330), INVALID_CLIENT, 700024),
    ("nbf-in-milliseconds", lambda attempt: attempt.claims.update(nbf=int(time.time() * 1000)), INVALID_CLIENT, 700024),
    ("nbf-beyond-the-calendar", put("claims", nbf=1e300), INVALID_CLIENT, 700024),
    # The shape of the assertion
    ("two-segments", assign(assertion="e30.e30"), INVALID_REQUEST, 50027),
    ("not-base64url", assign(assertion="e30.e!0.e30"), INVALID_REQUEST, 50027),
    ("impossible-length", assign(assertion="e30.e.e30"), INVALID_REQUEST, 50027),
    ("claims-no-object", assign(assertion="e30.WzFd.e30"), INVALID_REQUEST, 50027),
    ("claims-no-json", assign(assertion="e30.e30x.e30"), INVALID_REQUEST, 50027),
    ("pasted-line-break", with_a_line_break, INVALID_REQUEST, 50027),
    # The form
    ("wrong-assertion-type", put("form", client_assertion_type="urn:ietf:params:oauth:client-assertion-"), INVALID_REQUEST, 90011),
    ("no-assertion-type", drop("form", "client_assertion_type"), INVALID_REQUEST, 900144),
    ("empty-assertion", assign(assertion=""), INVALID_REQUEST, 900144),
    ("json-body", assign(body=b'{"grant_type": "client_credentials"}', content_type="application/json"), INVALID_REQUEST, 900144),
    ("not-ascii-body", assign(body=b"grant_type=\xff"), INVALID_REQUEST, 9002313),
    ("field-twice", assign(body=b"grant_type=client_credentials&grant_type=client_credentials"), INVALID_REQUEST, 9002313),
    ("get", assign(method="GET"), INVALID_REQUEST, 900561),
    ("no-grant-type", drop("form", "grant_type"), INVALID_REQUEST, 900144),
    ("wrong-grant-type", put("form", grant_type="password"), (400, "unsupported_grant_type"), 70003),
    ("no-client-id", drop("form", "client_id"), INVALID_REQUEST, 900144),
    ("no-proof", as_the_secret(None), INVALID_CLIENT, 7000216),
    ("wrong-secret", as_the_secret("wrong"), INVALID_CLIENT, 7000215),
    ("claims-no-json-request", put("form", claims="{"), INVALID_REQUEST, 90013),
    # Who asks, and where
    ("unknown-tenant", with_tenant(OTHER_ID), INVALID_REQUEST, 90002),
    ("unknown-domain", with_tenant("fabrikam.example"), INVALID_REQUEST, 90002),
    ("tenant-no-name", with_tenant("contoso"), INVALID_REQUEST, 900023),
    ("tenant-placeholder", with_tenant("{TenantID}"), INVALID_REQUEST, 90013),
    ("common", with_tenant("common"), INVALID_REQUEST, 9001023),
    ("unknown-client", put("form", client_id=OTHER_ID), (400, "unauthorized_client"), 700016),
    ("no-service-principal", without_service_principal, INVALID_CLIENT, 7000229),
    # What is asked for
    ("no-scope", drop("form", "scope"), INVALID_REQUEST, 90014),
    ("empty-scope", put("form", scope=""), INVALID_SCOPE, 28003),
    ("scope-not-default", put("form", scope="User.Read"), INVALID_SCOPE, 1002012),
    ("scope-bare-default", put("form", scope="/.default"), INVALID_SCOPE, 1002012),
    ("scope-malformed", put("form", scope='api://"orders"/.default'), INVALID_SCOPE, 70011),
    ("scope-of-two-resources", put("form", scope="api://orders/.default api://orders-v1/.default"), INVALID_REQUEST, 700022),
    ("unknown-resource", put("form", scope="api://nothing/.default"), INVALID_RESOURCE, 500011),
    ("doubled-scheme", put("form", scope="https://api://orders/.default"), INVALID_RESOURCE, 500011),
    ("resource-on-v2", put("form", resource="api://orders"), INVALID_REQUEST, 901002),
    ("no-resource-on-v1", on_the_v1_endpoint(), INVALID_RESOURCE, 50001),
    ("unknown-resource-on-v1", on_the_v1_endpoint(resource="api://nothing"), INVALID_RESOURCE, 500011),
    ("assignment-required", with_assignment_required, (400, "invalid_grant"), 501051),
]  # fmt: skip


@pytest.mark.asyncio
@pytest.mark.parametrize(("spoil", "answered", "code"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
async def test_a_spoiled_request_is_refused_as_the_real_service_does(
    sandbox: Sandbox, client: aiohttp.ClientSession, spoil: Spoil, answered: tuple[int, str], code: int
) -> None:
    attempt = Attempt(sandbox)
    spoil(attempt)
    status, answer = await attempt.send(client)
    assert answer["error_codes"] == [code], answer
    assert (status, answer["error"]) == answered
    assert answer["error_description"].startswith(f"AADSTS{code}: ")
    assert "access_token" not in answer


ACCEPTED: list[tuple[str, Spoil]] = [
    ("as-it-is", lambda _attempt: None),
    ("rs256-with-x5t", lambda attempt: attempt.header.update(alg="RS256", x5t=sha1_of(attempt), **{"x5t#S256": ""})),
    ("kid-alone", lambda attempt: assign(header={"alg": "RS256", "kid": sha1_of(attempt)})(attempt)),
    ("padded-thumbprint", lambda attempt: attempt.header.update({"x5t#S256": attempt.header["x5t#S256"] + "="})),
    ("exp-as-string", lambda attempt: attempt.claims.update(exp=str(attempt.claims["exp"]))),
    ("exp-as-float", shifted("exp", 600)),
    ("no-nbf", drop("claims", "nbf")),
    ("x5c-as-string", put("header", x5c="MIIC")),
    ("extra-claims", put("claims", tenant_region="EU")),
    ("exp-just-past", shifted("exp", -290)),
    ("nbf-just-ahead", shifted("nbf", 290)),
    ("exp-in-2029", put("claims", exp=1862842300)),
    ("aud-is-issuer", lambda attempt: attempt.claims.update(aud=f"{attempt.sandbox.authority}/v2.0")),
    ("aud-of-v1", lambda attempt: attempt.claims.update(aud=f"{attempt.sandbox.authority}/oauth2/token")),
    ("aud-by-address", lambda attempt: attempt.claims.update(aud=attempt.claims["aud"].replace("localhost", "127.0.0.1"))),
    ("tenant-by-domain", with_tenant("contoso.example")),
    ("scope-by-app-id", put("form", scope="33333333-3333-3333-3333-333333333333/.default")),
    ("right-secret", as_the_secret("right")),
    ("v1-endpoint", on_the_v1_endpoint(resource="api://orders")),
    ("second-certificate", with_certificate(other_key)),
]  # fmt: skip


def sha1_of(attempt: Attempt) -> str:
    return base64url(attempt.sandbox.keys.client.certificate.fingerprint(hashes.SHA1()))  # noqa: S303 - x5t is SHA-1


@pytest.mark.asyncio
@pytest.mark.parametrize("vary", [pytest.param(case[1], id=case[0]) for case in ACCEPTED])
async def test_what_real_clients_vary_is_accepted(sandbox: Sandbox, client: aiohttp.ClientSession, vary: Spoil) -> None:
    attempt = Attempt(sandbox)
    vary(attempt)
    status, answer = await attempt.send(client)
    assert status == 200, answer
    assert answer["token_type"] == "Bearer"


@pytest.mark.asyncio
async def test_the_same_assertion_is_accepted_twice(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    """MSAL reuses an assertion for nine minutes."""
    attempt = Attempt(sandbox)
    attempt.assertion = attempt.sign()
    assert [(await attempt.send(client))[0] for _ in range(2)] == [200, 200]


@pytest.mark.asyncio
async def test_a_refusal_names_thumbprint_and_server_time_for_a_doctor(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    wrong_key = Attempt(sandbox, key=None)
    wrong_key.key = other_key()
    _, answer = await wrong_key.send(client)
    thumbprint = sandbox.keys.client.certificate.fingerprint(hashes.SHA256()).hex().upper()
    assert f"Thumbprint of key used by client: '{thumbprint}'" in answer["error_description"]
    assert "Found key 'Start=" in answer["error_description"]

    late = Attempt(sandbox)
    late.claims["exp"] = 1_500_000_000
    late.claims.pop("nbf")
    earliest = datetime.now(UTC)
    _, answer = await late.send(client)
    days = {f"Current time: {moment:%Y-%m-%d}" for moment in (earliest, datetime.now(UTC))}
    assert any(day in answer["error_description"] for day in days)
    assert "valid from 1970-01-01T00:00:00Z" in answer["error_description"]
    assert "expiry time of assertion 2017-07-14T02:40:00Z" in answer["error_description"]
