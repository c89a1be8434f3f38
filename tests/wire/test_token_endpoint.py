"""The token endpoint client over real TLS sockets: what it sends, what it makes of answers, and what it refuses to do."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import jwt
import pytest
import pytest_asyncio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from proxy.config.loading import load_settings
from proxy.errors import ConfigurationError, CredentialRejected, IdentityError, IdentityPlatformUnavailable
from proxy.identity.assertion import AssertionOptions
from proxy.identity.certificate import load_certificate
from proxy.identity.certificate_creation import create_certificate
from proxy.identity.credential import Credential, Target
from proxy.identity.proof.signed_assertion import CertificateSigner, SignedAssertion
from proxy.identity.sources import TokenSources
from proxy.identity.token_endpoint import TokenEndpoint
from proxy.sandbox import Sandbox, SandboxKeys, SandboxSettings, TokenEndpointFault, TokenFault, create_keys

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = json.dumps({"token_type": "Bearer", "expires_in": 3599, "access_token": "the-token"}).encode()
FORM = {"grant_type": "client_credentials", "client_id": "me", "client_assertion": "a.b.c", "scope": "api://x/.default"}


@dataclass
class RawServer:
    """A TLS server that reads one request a connection and answers with given bytes."""

    url: str
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(ca: trustme.CA, tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    return file


@asynccontextmanager
async def _serve(
    ca: trustme.CA,
    reply: Reply,
    name: str = "localhost",
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> AsyncIterator[RawServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(name, not_before=not_before, not_after=not_after).configure_cert(context)
    server = RawServer("")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.rstrip().split("\r\n")
            fields = {key.lower(): value.strip() for key, _, value in (one.partition(":") for one in lines)}
            body = await reader.readexactly(int(fields.get("content-length", "0")))
            server.requests.append((line, fields, body))
            await reply(writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    server.url = f"https://localhost:{listener.sockets[0].getsockname()[1]}/tenant/oauth2/v2.0/token"
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


def _bytes(*parts: bytes, pause_s: float = 0) -> Reply:
    async def reply(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return reply


def _response(content: bytes, status: str = "200 OK", *fields: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *fields, "", ""]
    return "\r\n".join(head).encode() + content


async def _request(endpoint: TokenEndpoint) -> str:
    return (await endpoint.request(FORM, "11111111-1111-1111-1111-111111111111")).access_token


@pytest.mark.asyncio
async def test_the_request_is_a_form_post_that_says_who_sends_it(ca: trustme.CA, ca_file: Path) -> None:
    async with _serve(ca, _bytes(_response(TOKEN))) as server:
        assert await _request(TokenEndpoint(server.url, ca_file=ca_file)) == "the-token"

    line, fields, body = server.requests[0]
    assert line == "POST /tenant/oauth2/v2.0/token HTTP/1.1"
    assert fields["content-type"] == "application/x-www-form-urlencoded"
    assert fields["accept"] == "application/json"
    assert fields["user-agent"].startswith("apim-auth-proxy/")
    assert fields["client-request-id"] == "11111111-1111-1111-1111-111111111111"
    assert "authorization" not in fields
    assert {name: values[0] for name, values in parse_qs(body.decode(), strict_parsing=True).items()} == FORM


@pytest.mark.asyncio
async def test_no_cookie_is_kept(ca: trustme.CA, ca_file: Path) -> None:
    async with _serve(ca, _bytes(_response(TOKEN, "200 OK", "Set-Cookie: fpc=1; path=/"))) as server:
        endpoint = TokenEndpoint(server.url, ca_file=ca_file)
        await endpoint.request(FORM, "1")
        await _request(endpoint)

    assert len(server.requests) == 2
    assert "cookie" not in server.requests[1][1]


@pytest.mark.asyncio
async def test_no_redirect_is_followed_with_a_credential(ca: trustme.CA, ca_file: Path) -> None:
    async with _serve(ca, _bytes(_response(TOKEN))) as target:
        redirect = _response(b"", "307 Temporary Redirect", f"Location: {target.url}")
        async with _serve(ca, _bytes(redirect)) as server:
            with pytest.raises(IdentityPlatformUnavailable) as caught:
                await _request(TokenEndpoint(server.url, ca_file=ca_file))

    assert caught.value.code == "redirected"
    assert target.requests == []


@pytest.mark.asyncio
async def test_no_proxy_is_taken_from_the_environment(
    ca: trustme.CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async with _serve(ca, _bytes(_response(TOKEN))) as server:
        assert await _request(TokenEndpoint(server.url, ca_file=ca_file)) == "the-token"


FAULTS: dict[str, tuple[Reply, str]] = {
    "closed_without_an_answer": (_bytes(b""), "connection_cut"),
    "not_http": (_bytes(b"220 mail.example.com ESMTP\r\n\r\n"), "connection_cut"),
    "cut_in_the_head": (_bytes(b"HTTP/1.1 200 OK\r\nContent-"), "connection_cut"),
    "cut_in_the_content": (_bytes(_response(TOKEN)[:-5]), "connection_cut"),
    "over_a_mebibyte": (_bytes(_response(b"x" * 1_048_577)), "answer_too_large"),
    "endless": (_bytes(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 65_536] * 32), "answer_too_large"),
    "a_small_answer_that_unpacks_to_more_than_a_mebibyte": (
        _bytes(_response(gzip.compress(b" " * 8_000_000), "200 OK", "Content-Encoding: gzip")),
        "answer_too_large",
    ),
    "slow_head": (_bytes(b"HTTP/1.1 ", b"200 OK", pause_s=2), "timeout"),
    "slow_content": (_bytes(*[bytes([byte]) for byte in _response(TOKEN)], pause_s=0.05), "timeout"),
    "server_error": (_bytes(_response(b"", "502 Bad Gateway")), "http_502"),
    "throttled": (
        _bytes(_response(b"Too Many Requests", "429 Too Many Requests", "Retry-After: 60")),
        "too_many_requests",
    ),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_on_the_wire_is_one_error_in_bounded_time(name: str, ca: trustme.CA, ca_file: Path) -> None:
    reply, code = FAULTS[name]
    async with _serve(ca, reply) as server:
        began = time.monotonic()
        with pytest.raises(IdentityPlatformUnavailable) as caught:
            await _request(TokenEndpoint(server.url, ca_file=ca_file, timeout_s=1 if code == "timeout" else 30))

    assert caught.value.code == code
    assert len(server.requests) == 1
    assert time.monotonic() - began < 60
    assert caught.value.__cause__ is None
    assert "a.b.c" not in caught.value.detail


@pytest.mark.asyncio
async def test_a_compressed_answer_is_understood(ca: trustme.CA, ca_file: Path) -> None:
    async with _serve(ca, _bytes(_response(gzip.compress(TOKEN), "200 OK", "Content-Encoding: gzip"))) as server:
        assert await _request(TokenEndpoint(server.url, ca_file=ca_file)) == "the-token"


TODAY = datetime.now(UTC)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "from_day", "to_day", "is_trusted", "code", "words"),
    [
        pytest.param("localhost", -9, 9, False, "tls_untrusted", "`ca_file`", id="issuer"),
        pytest.param("other.example", -9, 9, True, "tls_wrong_name", "is for other names", id="name"),
        pytest.param("localhost", -9, -2, True, "tls_expired", "has expired", id="expired"),
        pytest.param("localhost", 2, 9, True, "tls_not_yet_valid", "not valid yet", id="not yet valid"),
    ],
)
async def test_a_certificate_that_does_not_hold_gets_no_credential_and_is_told_by_its_fault(
    name: str, from_day: int, to_day: int, is_trusted: bool, code: str, words: str, ca: trustme.CA, ca_file: Path
) -> None:
    """D8: as `check --online` tells them."""
    dates = [TODAY + timedelta(days=days) for days in (from_day, to_day)]
    async with _serve(ca, _bytes(_response(TOKEN)), name, *dates) as server:
        with pytest.raises(IdentityPlatformUnavailable) as caught:
            await _request(TokenEndpoint(server.url, ca_file=ca_file if is_trusted else None))

    assert caught.value.code == code
    assert words in caught.value.detail
    assert server.requests == []


@pytest.mark.asyncio
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_certificate_that_the_endpoint_refuses_in_the_handshake_is_told(
    version: ssl.TLSVersion, ca: trustme.CA, ca_file: Path
) -> None:
    """RFC 8705: with TLS 1.3 the refusal comes behind the client's handshake."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(tls)
    ca.configure_trust(tls)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.maximum_version = version
    shown = ssl.create_default_context(cafile=str(ca_file))
    trustme.CA().issue_cert("stranger.example.test").configure_cert(shown)

    def answer(listener: socket.socket) -> None:
        # A thread: asyncio's server resets the connection before its alert is out.
        accepted, _ = listener.accept()
        with contextlib.suppress(OSError), tls.wrap_socket(accepted, server_side=True) as connection:
            connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = asyncio.create_task(asyncio.to_thread(answer, listener))
        endpoint = TokenEndpoint(f"https://localhost:{listener.getsockname()[1]}/token", ca_file=ca_file)
        with pytest.raises(IdentityPlatformUnavailable) as caught:
            await endpoint.request({"grant_type": "client_credentials"}, "id", tls=shown)
        await served
    assert caught.value.code == "client_certificate_refused"


@pytest.mark.asyncio
async def test_a_port_without_tls_is_told() -> None:
    """D8: the fifth cause."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/token"
        with pytest.raises(IdentityPlatformUnavailable) as caught:
            await _request(TokenEndpoint(url))

    assert caught.value.code == "tls_failed"
    assert "something that is not TLS" in caught.value.detail


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://127.0.0.1:1/token", "connection_failed"),
        ("https://does-not-exist.invalid/token", "name_not_resolved"),
    ],
)
async def test_an_endpoint_that_cannot_be_reached_is_told_apart(url: str, code: str) -> None:
    with pytest.raises(IdentityPlatformUnavailable) as caught:
        await _request(TokenEndpoint(url))

    assert caught.value.code == code


@pytest.mark.parametrize("url", ["http://login.example.com/token", "ftp://x/y", "https://", "token"])
def test_only_https_is_talked_to(url: str) -> None:
    with pytest.raises(ConfigurationError, match="https"):
        TokenEndpoint(url)


def test_a_ca_file_that_is_none_is_named(tmp_path: Path) -> None:
    rubbish = tmp_path / "ca.pem"
    rubbish.write_text("hello")

    for file in (rubbish, tmp_path / "absent.pem"):
        with pytest.raises(ConfigurationError, match=file.name):
            TokenEndpoint("https://login.example.com/token", ca_file=file)


@pytest.mark.asyncio
async def test_the_platforms_clock_is_measured_from_its_date(ca: trustme.CA, ca_file: Path) -> None:
    date = "Date: Thu, 28 May 2026 20:26:40 GMT"
    async with _serve(ca, _bytes(_response(TOKEN, "200 OK", date))) as server:
        endpoint = TokenEndpoint(server.url, ca_file=ca_file, wall_clock=lambda: 1_780_000_000.0 - 90)
        await _request(endpoint)

    assert endpoint.clock_skew_s == pytest.approx(90, abs=1)


# Against a verifier that is not ours: PyJWT, as any OAuth 2.0 server might use it.


@pytest.mark.asyncio
@pytest.mark.parametrize("algorithm", ["PS256", "RS256"])
async def test_another_oauth_server_accepts_the_assertion(
    algorithm: str, ca: trustme.CA, ca_file: Path, tmp_path: Path
) -> None:
    certificate, key = create_certificate("client", 1, 2048, datetime.now(UTC))
    pem = tmp_path / "clientapp.pem"
    pem.write_bytes(certificate + key)
    public_key = x509.load_pem_x509_certificate(certificate).public_key()
    assert isinstance(public_key, RSAPublicKey)
    judged: list[dict[str, object]] = []

    async def verify(writer: asyncio.StreamWriter) -> None:
        form = parse_qs(server.requests[-1][2].decode(), strict_parsing=True)
        assert form["client_assertion_type"] == ["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"]
        claims = jwt.decode(
            form["client_assertion"][0],
            public_key,
            algorithms=[algorithm],
            audience="https://login.example.com",
            issuer="my-client",
            options={"require": ["exp", "iat", "nbf", "jti", "aud", "iss", "sub"]},
        )
        judged.append(claims)
        writer.write(_response(TOKEN))

    async with _serve(ca, verify) as server:
        credential = Credential(
            "other",
            client_id="my-client",
            endpoint=TokenEndpoint(server.url, ca_file=ca_file),
            proofs=[SignedAssertion(CertificateSigner(load_certificate(pem, None, None)), AssertionOptions(algorithm))],
            audience="https://login.example.com",
        )
        sources = TokenSources({"other": credential})
        token = await sources.source_for("other", Target(scope="read")).acquire()
        await sources.close()

    assert token.value == "the-token"
    assert judged[0]["sub"] == "my-client"


# Against the sandbox, configured as a user would.


@pytest.fixture(scope="module")
def keys() -> SandboxKeys:
    return create_keys(datetime.now(UTC))


@pytest_asyncio.fixture
async def sandbox(keys: SandboxKeys) -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(keys=keys)) as running:
        yield running


@pytest_asyncio.fixture
async def sources(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[TokenSources]:
    sandbox.write_directory(tmp_path)
    built = TokenSources.from_settings(load_settings(tmp_path / "config.yaml", {"HOME": str(tmp_path)}))
    yield built
    await built.close()


def _pair(sources: TokenSources) -> tuple[str, Target]:
    (statistics,) = sources.statistics().sources
    return statistics.credential, Target(scope=statistics.target)


@pytest.mark.asyncio
async def test_a_token_is_obtained_with_the_written_configuration(sandbox: Sandbox, sources: TokenSources) -> None:
    source = sources.source_for(*_pair(sources))
    ready_before = sources.ready

    await sources.warm_up()

    token = source.peek(time.monotonic())
    assert token is not None
    claims = jwt.decode(token.value, options={"verify_signature": False})
    assert claims["azp"] == sandbox.client_id
    assert (ready_before, sources.ready) == (False, True)
    assert await source.acquire() is token
    assert sandbox.token_request_count == 1
    before = time.monotonic()
    (statistics,) = sources.statistics().sources
    assert statistics.refresh_in_s is not None
    assert token.refresh_at_mono - time.monotonic() <= statistics.refresh_in_s <= token.refresh_at_mono - before
    (credential,) = sources.statistics().credentials.values()
    assert credential.requests == {("ok", ""): 1}
    assert credential.proof_in_use.startswith("certificate ")


@pytest.mark.asyncio
@pytest.mark.parametrize("count", [100, 10_000])
async def test_concurrent_first_requests_on_two_routes_make_one_token_request(
    count: int, sandbox: Sandbox, sources: TokenSources
) -> None:
    pair = _pair(sources)
    routes = [sources.source_for(*pair), sources.source_for(*pair)]

    tokens = await asyncio.gather(*(routes[number % 2].acquire() for number in range(count)))

    assert len(set(map(id, tokens))) == 1
    assert sandbox.token_request_count == 1


SANDBOX_FAULTS = {
    TokenFault.TOO_MANY_REQUESTS: (IdentityPlatformUnavailable, "too_many_requests"),
    TokenFault.SERVER_ERROR_JSON: (IdentityPlatformUnavailable, "AADSTS90033"),
    TokenFault.SERVER_ERROR_EMPTY: (IdentityPlatformUnavailable, "http_502"),
    TokenFault.BAD_REQUEST_HTML: (CredentialRejected, None),
    TokenFault.MALFORMED_JSON: (IdentityPlatformUnavailable, "malformed_answer"),
    TokenFault.NO_ACCESS_TOKEN: (IdentityPlatformUnavailable, "no_access_token"),
    TokenFault.WRONG_TOKEN_TYPE: (IdentityPlatformUnavailable, "wrong_token_type"),
    TokenFault.EXPIRES_IN_NEGATIVE: (IdentityPlatformUnavailable, "expires_in_invalid"),
    TokenFault.EXPIRES_IN_WORD: (IdentityPlatformUnavailable, "expires_in_invalid"),
    TokenFault.OVERSIZE: (IdentityPlatformUnavailable, "answer_too_large"),
    TokenFault.CUT: (IdentityPlatformUnavailable, "connection_cut"),
    TokenFault.DEAD: (IdentityPlatformUnavailable, "connection_cut"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", SANDBOX_FAULTS)
async def test_each_fault_of_the_platform_is_one_error_and_passes(
    fault: TokenFault, sandbox: Sandbox, sources: TokenSources
) -> None:
    kind, code = SANDBOX_FAULTS[fault]
    throttled = fault is TokenFault.TOO_MANY_REQUESTS
    sandbox.faults.token_endpoint = TokenEndpointFault(fault, times=1, retry_after="1" if throttled else None)
    source = sources.source_for(*_pair(sources))

    with pytest.raises(IdentityError) as caught:
        await source.acquire()
    source.forgive()
    if throttled:
        # As long as it was told, and a random part, so that not all who were told so come back at once.
        assert caught.value.retry_after_s in (1, 2)
        await asyncio.sleep(caught.value.retry_after_s + 0.1)
    token = await source.acquire()

    assert isinstance(caught.value, kind)
    assert code is None or caught.value.code == code
    assert token.value
    assert token.value not in repr(token)
    assert sandbox.token_request_count == 2


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "fault", [TokenFault.EXPIRES_IN_STRING, TokenFault.EXPIRES_IN_MISSING, TokenFault.EXPIRES_IN_ABSURD]
)
async def test_an_odd_life_is_read_or_bounded(fault: TokenFault, sandbox: Sandbox, sources: TokenSources) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(fault)
    source = sources.source_for(*_pair(sources))

    token = await source.acquire()

    # Added, not subtracted: the difference of two clock readings is rounded, and may come out a hair above the bound.
    assert token.obtained_at_mono < token.expires_at_mono <= token.obtained_at_mono + 100_800


@pytest.mark.asyncio
async def test_a_certificate_the_platform_does_not_know_is_explained(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.write_directory(tmp_path)
    certificate, key = create_certificate("stranger", 1, 2048, datetime.now(UTC))
    (tmp_path / "clientapp.pem").write_bytes(certificate + key)
    sources = TokenSources.from_settings(load_settings(tmp_path / "config.yaml", {"HOME": str(tmp_path)}))

    with pytest.raises(CredentialRejected) as caught:
        await sources.source_for(*_pair(sources)).acquire()
    await sources.close()

    assert caught.value.code == "AADSTS700027"
    assert "not registered with this application" in caught.value.detail
    assert "az ad app credential reset" in caught.value.detail
    assert caplog.text.count("AADSTS700027") == 1
    assert caught.value.retry_after_s in range(1, 6)  # five seconds, less jitter and what has passed
