"""The keys of a credential: what belongs to which, and what each becomes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from proxy.config.faults import ConfigurationFaults
from proxy.config.loading import load_settings
from proxy.errors import ConfigurationError, IdentityError
from proxy.identity.certificate import load_public_certificate
from proxy.identity.certificate_creation import create_certificate
from proxy.identity.credential import Credential, Target
from proxy.identity.proof.key_vault import VaultKey, parse_vault_key
from proxy.identity.sources import TokenSources, resource_url, token_url

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.settings import Settings

TENANT = "11111111-1111-1111-1111-111111111111"


def _load(directory: Path, credential: list[str], target: str = "scope: api://orders/.default") -> Settings:
    lines = [
        "listeners:",
        "  - address: 127.0.0.1:8080",
        "state_directory: state",
        "credentials:",
        "  other:",
        f"    tenant_id: {TENANT}",
        "    client_id: other",
        "    federated_token_file: token",
        "  mine:",
        "    client_id: me",
        *[f"    {line}" for line in credential],
        "routes:",
        "  - hosts: [api.example.com]",
        "    credential: mine",
        *([f"    {target}"] if target else []),
    ]
    file = directory / "config.yaml"
    file.write_text("\n".join(lines))
    return load_settings(file, {"HOME": str(directory)}, check_files=False)


CERTIFICATE = [f"tenant_id: {TENANT}", "certificate: c.pem"]
VAULT = [f"tenant_id: {TENANT}", "key_vault_key: https://v.vault.azure.net/keys/k"]

BAD: dict[str, tuple[list[str], str, str]] = {
    "no_proof": ([f"tenant_id: {TENANT}"], "mine", "how does it prove who it is"),
    "identity_and_application": (
        ["managed_identity: system"],
        "mine.client_id",
        "federated_managed_identity",
    ),
    "federated_and_certificate": (
        [*CERTIFICATE, "federated_managed_identity: system"],
        "mine.federated_managed_identity",
        "remove one",
    ),
    "tls_for_entra": ([*CERTIFICATE, "client_authentication: tls"], "mine.tenant_id", "knows no such clients"),
    "tls_without_certificate": (
        ["token_endpoint: https://a.example/token", "client_authentication: tls"],
        "mine.client_authentication",
        "add certificate",
    ),
    "tls_and_assertion": (
        [
            "token_endpoint: https://a.example/token",
            "client_authentication: tls",
            "certificate: c",
            "assertion_audience: x",
        ],
        "mine.assertion_audience",
        "no assertion is sent",
    ),
    "two_proofs": ([*CERTIFICATE, "client_secret: x"], "mine.client_secret", "certificate already says"),
    "certificate_twice": ([*CERTIFICATE, "certificates: [{certificate: d.pem}]"], "mine.certificates", "remove one"),
    "federated_and_secret": (
        [f"tenant_id: {TENANT}", "federated_token_file: t", "client_secret: x"],
        "mine.client_secret",
        "remove one",
    ),
    "key_without_certificate": ([*VAULT, "private_key: k.pem"], "mine.private_key", "this key needs certificate"),
    "key_beside_signer": (
        [*CERTIFICATE, "signer_command: [x]", "private_key: k"],
        "mine.private_key",
        "signer command holds",
    ),
    "signer_without_certificate": (
        [f"tenant_id: {TENANT}", "federated_token_file: t", "signer_command: [x]"],
        "mine.signer_command",
        "this key needs certificate",
    ),
    "signer_and_vault": ([*VAULT, "certificate: c", "signer_command: [x]"], "mine.signer_command", "both sign"),
    "vault_user_without_vault": (
        [*CERTIFICATE, "key_vault_credential: other"],
        "mine.key_vault_credential",
        "key_vault_key",
    ),
    "vault_user_unknown": (
        [*VAULT, "key_vault_credential: nobody"],
        "mine.key_vault_credential",
        "no credential has this name",
    ),
    "vault_user_itself": ([*VAULT, "key_vault_credential: mine"], "mine.key_vault_credential", "needs a vault itself"),
    "vault_users_twice": (
        [*VAULT, "key_vault_credential: other", "managed_identity_client_id: x"],
        "mine.managed_identity_client_id",
        "both say who uses the vault",
    ),
    "vault_not_https": ([f"tenant_id: {TENANT}", "key_vault_key: http://v/keys/k"], "mine.key_vault_key", "https"),
    "cloud_unknown": ([*CERTIFICATE, "cloud: germany"], "mine.cloud", "public"),
    "cloud_and_authority": (
        [*CERTIFICATE, "cloud: china", "authority: https://a.example"],
        "mine.cloud",
        "where to sign in",
    ),
    "cloud_elsewhere": (
        ["token_endpoint: https://a.example/token", "certificate: c", "cloud: china"],
        "mine.cloud",
        "belongs to tenant_id",
    ),
    "parameter_of_ours": (
        [*CERTIFICATE, "token_parameters: {scope: x}"],
        "mine.token_parameters.scope",
        "writes this parameter",
    ),
    "parameter_not_a_name": (
        [*CERTIFICATE, "token_parameters: {'a b': x}"],
        "mine.token_parameters['a b']",
        "parameter name",
    ),
    "capability_unknown": ([*CERTIFICATE, "client_capabilities: [cp2]"], "mine.client_capabilities[0]", "cp1"),
    "certificates_incomplete": (
        [f"tenant_id: {TENANT}", "certificates: [{private_key: k}]"],
        "mine.certificates[0].certificate",
        "",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_keys_that_do_not_go_together_are_named(name: str, tmp_path: Path) -> None:
    lines, path, message = BAD[name]

    with pytest.raises(ConfigurationFaults) as caught:
        _load(tmp_path, lines)

    found = [fault for fault in caught.value.faults if fault.path == f"credentials.{path}"]
    assert found, [fault.path for fault in caught.value.faults]
    assert message in found[0].message


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("scope: api://x/.default\n    resource: https://x", "scope already says"),
        ("", "what is the token for"),
        ("resource: a b", "without spaces"),
    ],
    ids=["both", "neither", "resource_with_blank"],
)
def test_a_route_asks_for_a_scope_or_a_resource(target: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationFaults, match=message):
        _load(tmp_path, CERTIFICATE, target)


@pytest.mark.parametrize(
    ("lines", "scope_url", "v1_url"),
    [
        pytest.param(
            CERTIFICATE,
            f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token",
            f"https://login.microsoftonline.com/{TENANT}/oauth2/token",
            id="public",
        ),
        pytest.param(
            [*CERTIFICATE, "cloud: usgov"],
            f"https://login.microsoftonline.us/{TENANT}/oauth2/v2.0/token",
            f"https://login.microsoftonline.us/{TENANT}/oauth2/token",
            id="usgov",
        ),
        pytest.param(
            [*CERTIFICATE, "cloud: china"],
            f"https://login.partner.microsoftonline.cn/{TENANT}/oauth2/v2.0/token",
            f"https://login.partner.microsoftonline.cn/{TENANT}/oauth2/token",
            id="china",
        ),
        pytest.param(
            [*CERTIFICATE, "authority: https://login.sovereign.example"],
            f"https://login.sovereign.example/{TENANT}/oauth2/v2.0/token",
            f"https://login.sovereign.example/{TENANT}/oauth2/token",
            id="by_url",
        ),
        pytest.param(
            ["token_endpoint: https://a.example/token", "certificate: c.pem"],
            "https://a.example/token",
            "https://a.example/token",
            id="any_other_server",
        ),
    ],
)
def test_the_cloud_decides_where_tokens_come_from(
    lines: list[str], scope_url: str, v1_url: str, tmp_path: Path
) -> None:
    credential = _load(tmp_path, lines).credentials["mine"]

    assert token_url(credential) == scope_url
    assert resource_url(credential) == v1_url


def test_a_secret_does_not_show(tmp_path: Path) -> None:
    settings = _load(tmp_path, [f"tenant_id: {TENANT}", "client_secret: s3cr3t", "token_parameters: {key: s3cr3t}"])

    assert "s3cr3t" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://v.vault.azure.net/keys/k", VaultKey("https://v.vault.azure.net", "k", "")),
        ("https://v.vault.azure.net/keys/k/", VaultKey("https://v.vault.azure.net", "k", "")),
        ("https://v.vault.azure.net/keys/k/0123", VaultKey("https://v.vault.azure.net", "k", "0123")),
        ("https://localhost:8443/keys/k", VaultKey("https://localhost:8443", "k", "")),
    ],
)
def test_a_vault_key_is_read_from_its_identifier(url: str, key: VaultKey) -> None:
    assert parse_vault_key(url) == key


@pytest.mark.parametrize(
    "url",
    ["https://v.vault.azure.net/", "https://v.vault.azure.net/secrets/k", "https://v/keys/", "http://v/keys/k", "k"],
)
def test_what_is_no_vault_key_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="key_vault_key"):
        parse_vault_key(url)


@pytest.mark.parametrize(
    ("host", "resource"),
    [
        ("v.vault.azure.net", "https://vault.azure.net"),
        ("v.vault.usgovcloudapi.net", "https://vault.usgovcloudapi.net"),
        ("v.vault.azure.cn", "https://vault.azure.cn"),
        ("localhost:8443", "https://vault.azure.net"),
    ],
)
def test_a_vaults_tokens_are_those_of_its_cloud(host: str, resource: str) -> None:
    assert parse_vault_key(f"https://{host}/keys/k").resource == resource


NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
# What a certificate that is made now begins earlier by.
BACKDATING = timedelta(minutes=5)


def _write_certificate(file: Path, starts: datetime, days: int) -> str:
    certificate, key = create_certificate("client", days, 2048, starts + BACKDATING)
    file.write_bytes(certificate + key)
    return f"certificate {load_public_certificate(file).sha1_hex}"


async def _ask(sources: TokenSources) -> str:
    """Ask for a token with an endpoint that is not there; return what is said of it."""
    with pytest.raises(IdentityError) as caught:
        await sources.source_for("mine", Target(scope="api://a/.default")).acquire()
    return caught.value.code


@pytest.mark.asyncio
async def test_a_credential_out_of_its_dates_says_so_and_is_used_within_them(tmp_path: Path) -> None:
    """A2, A3: dates are judged whenever a token is asked for, not when the configuration is loaded."""
    _write_certificate(tmp_path / "one.pem", NOW, 30)
    clock = [NOW - timedelta(seconds=1)]

    def wall_clock() -> float:
        return clock[0].timestamp()

    lines = ["token_endpoint: https://127.0.0.1:9/token", "certificate: one.pem"]
    sources = TokenSources.from_settings(_load(tmp_path, lines), wall_clock=wall_clock)
    source = sources.source_for("mine", Target(scope="api://a/.default"))

    assert await _ask(sources) == "certificate_not_yet_valid"
    assert not sources.ready
    assert "one.pem: the certificate is not valid before 2026-06-01 12:00 UTC" in sources.failing()[0].reason
    sources.take_up_certificates()
    assert await _ask(sources) == "certificate_not_yet_valid"

    clock[0] = NOW
    sources.take_up_certificates()
    assert await _ask(sources) == "connection_failed"

    source.forgive()
    clock[0] = NOW + timedelta(days=31)
    assert await _ask(sources) == "certificate_expired"
    assert sources.statistics().credentials["mine"].requests["failed", "certificate_expired"] == 1
    await sources.close()


@pytest.mark.parametrize("days", [-100, 1], ids=["expired", "not_yet_valid"])
def test_a_certificate_out_of_its_dates_is_left_out_where_another_is_good(days: int, tmp_path: Path) -> None:
    """A3: whichever way it is out of its dates."""
    out = _write_certificate(tmp_path / "out.pem", NOW + timedelta(days=days), 10)
    good = _write_certificate(tmp_path / "good.pem", NOW - timedelta(days=1), 30)
    lines = [
        "token_endpoint: https://127.0.0.1:9/token",
        "certificates: [{certificate: out.pem}, {certificate: good.pem}]",
    ]
    credential = TokenSources.from_settings(_load(tmp_path, lines), wall_clock=NOW.timestamp)._credentials["mine"]

    assert isinstance(credential, Credential)
    assert credential.out_of_date() is None
    assert [problem.partition(":")[0] for problem in credential.date_problems()] == [str(tmp_path / "out.pem")]
    assert [proof.name for proof in credential._order_proofs()] == [good]
    assert out != good


def test_a_certificate_is_preferred_from_its_first_second_on(tmp_path: Path) -> None:
    """A3: the one that served until then is the last resort."""
    new = _write_certificate(tmp_path / "new.pem", NOW, 30)
    old = _write_certificate(tmp_path / "old.pem", NOW - timedelta(days=9), 30)
    lines = [
        "token_endpoint: https://127.0.0.1:9/token",
        "certificates: [{certificate: new.pem}, {certificate: old.pem}]",
    ]
    clock = [NOW - timedelta(seconds=1)]

    def wall_clock() -> float:
        return clock[0].timestamp()

    sources = TokenSources.from_settings(_load(tmp_path, lines), wall_clock=wall_clock)
    credential = sources._credentials["mine"]
    assert isinstance(credential, Credential)
    credential._remember(credential._order_proofs()[0])

    assert not credential.take_up_certificates()
    assert [proof.name for proof in credential._order_proofs()] == [old]
    clock[0] = NOW
    assert credential.take_up_certificates()
    assert [proof.name for proof in credential._order_proofs()] == [new, old]
    assert not credential.take_up_certificates()


def test_a_reload_keeps_the_pauses_of_credentials_in_use_and_no_others(tmp_path: Path) -> None:
    """A5: whoever was told to wait still waits after a reload, and what is kept does not grow with every one."""
    _write_certificate(tmp_path / "one.pem", NOW - timedelta(days=1), 30)
    lines = ["token_endpoint: https://127.0.0.1:9/token", "certificate: one.pem"]
    first = TokenSources.from_settings(_load(tmp_path, lines))
    throttled = next(iter(first._client_pauses.values()))
    assert len(first._client_pauses) == len(first._endpoint_pauses) == 1

    second = TokenSources.from_settings(_load(tmp_path, lines))
    second.adopt(first, [])
    assert next(iter(second._client_pauses.values())) is throttled
    assert len(second._client_pauses) == 1

    elsewhere = ["token_endpoint: https://127.0.0.2:9/token", "certificate: one.pem"]
    third = TokenSources.from_settings(_load(tmp_path, elsewhere))
    third.adopt(second, [])
    assert list(third._client_pauses) == [("https://127.0.0.2:9/token", "me")]
    assert list(third._endpoint_pauses) == ["https://127.0.0.2:9"]


def test_a_route_shows_the_certificate_that_its_tokens_may_be_bound_to(tmp_path: Path) -> None:
    lines = [
        "token_endpoint: https://a.example/token",
        "client_authentication: tls",
        "certificate: c.pem",
        "private_key: c.key",
        "password_file: c.pass",
    ]
    (route,) = (settings := _load(tmp_path, lines)).routes
    assert (route.client_certificate, route.client_private_key, route.client_password_file) == (
        tmp_path / "c.pem",
        tmp_path / "c.key",
        tmp_path / "c.pass",
    )
    assert settings.is_bound(route)
    (own,) = (
        settings := _load(tmp_path, lines, "{scope: x, client_certificate: d.pem}"[1:-1].replace(", ", "\n    "))
    ).routes
    assert (own.client_certificate, own.client_private_key) == (tmp_path / "d.pem", None)
    assert not settings.is_bound(own)
    (other,) = _load(tmp_path, CERTIFICATE).routes
    assert other.client_certificate is None
