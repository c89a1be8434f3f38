"""The files a sandbox writes work for their users, keep their secrets, and carry over to the next sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import stat
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from proxy.sandbox import Sandbox, SandboxError, SandboxKeys, SandboxSettings
from proxy.sandbox.authority_ca import create_ca, issue_server_certificate
from proxy.sandbox.directory import load_settings
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FILES = {
    "ca.pem",
    "ca.key",
    "signing.pem",
    "clientapp.crt",
    "clientapp.key",
    "clientapp.pem",
    "config.yaml",
    "sandbox.json",
}


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes_in(directory: Path) -> dict[str, int]:
    return {path.name: mode(path) for path in directory.iterdir()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "new" / "sandbox"


@pytest.mark.asyncio
async def test_files_with_a_key_are_for_their_owner_only(sandbox: Sandbox, directory: Path) -> None:
    before = os.umask(0)
    try:
        sandbox.write_directory(directory)
    finally:
        os.umask(before)
    assert mode(directory) == 0o700
    assert modes_in(directory) == {name: 0o644 if name in {"ca.pem", "clientapp.crt"} else 0o600 for name in FILES}


@pytest.mark.asyncio
async def test_the_description_has_what_a_client_needs(sandbox: Sandbox, directory: Path) -> None:
    sandbox.write_directory(directory)
    description = read_json(directory / "sandbox.json")
    expected = {
        "tenant_id": sandbox.tenant_id,
        "client_id": sandbox.client_id,
        "authority": sandbox.identity_url,
        "token_endpoint": sandbox.token_endpoint,
        "scope": "api://orders/.default",
        "api_url": sandbox.api_url,
        "subscription_key": sandbox.subscription_key,
        "certificate": str(directory / "clientapp.pem"),
        "private_key": str(directory / "clientapp.key"),
        "ca_file": str(directory / "ca.pem"),
    }
    assert description.items() >= expected.items()
    pem = (directory / "clientapp.pem").read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    assert x509.load_pem_x509_certificate(pem).public_key() == key.public_key()


@pytest.mark.asyncio
async def test_the_configuration_routes_the_api_with_this_credential(sandbox: Sandbox, directory: Path) -> None:
    sandbox.write_directory(directory, proxy_address="127.0.0.1:18080", admin_address="127.0.0.1:19901")
    configuration = yaml.safe_load((directory / "config.yaml").read_text())
    assert configuration["listeners"] == [{"address": "127.0.0.1:18080", "mode": "forward"}]
    assert configuration["admin"] == {"address": "127.0.0.1:19901"}
    assert configuration["credentials"]["orders-client"] == {
        "tenant_id": sandbox.tenant_id,
        "client_id": sandbox.client_id,
        "certificate": "clientapp.pem",
        "authority": sandbox.identity_url,
        "ca_file": "ca.pem",
    }
    api = sandbox.api_url.removeprefix("https://")
    assert configuration["routes"][0] == {
        "hosts": [api, api.replace("localhost", "127.0.0.1")],
        "credential": "orders-client",
        "scope": "api://orders/.default",
        "set_headers": {"Ocp-Apim-Subscription-Key": sandbox.subscription_key},
        "ca_file": "ca.pem",
    }
    assert configuration["routes"][1]["hosts"] == ["contoso.azure-api.localhost"]
    assert configuration["routes"][1]["dial"] == api.replace("localhost", "127.0.0.1")


@pytest.mark.asyncio
async def test_a_directory_that_cannot_be_written_is_named(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SandboxError, match="file"):
        sandbox.write_directory(tmp_path / "file")


@pytest.mark.asyncio
async def test_the_next_sandbox_takes_over_keys_subscription_key_and_ports(sandbox: Sandbox, directory: Path) -> None:
    sandbox.write_directory(directory)
    loaded = load_settings(directory, SandboxSettings(), datetime.now(UTC))
    assert loaded.keys is not None
    assert loaded.keys.client.certificate == sandbox.keys.client.certificate
    assert loaded.keys.ca.certificate == sandbox.keys.ca.certificate
    assert [key.kid for key in loaded.keys.signing_keys] == [key.kid for key in sandbox.key_ring.keys]
    assert loaded.subscription_key == sandbox.subscription_key
    assert f"https://localhost:{loaded.identity_port}" == sandbox.identity_url
    assert f"https://localhost:{loaded.api_port}" == sandbox.api_url


@pytest.mark.asyncio
async def test_certificates_about_to_expire_are_made_anew(sandbox: Sandbox, directory: Path) -> None:
    sandbox.write_directory(directory)
    later = datetime.now(UTC) + timedelta(days=365 * 3)
    loaded = load_settings(directory, SandboxSettings(), later)
    assert loaded.keys is not None
    assert loaded.keys.client.certificate != sandbox.keys.client.certificate
    assert loaded.keys.ca.certificate != sandbox.keys.ca.certificate
    assert loaded.keys.client.certificate.not_valid_after_utc > later


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["sandbox.json", "clientapp.pem", "ca.pem", "ca.key", "signing.pem"])
async def test_a_file_that_is_not_ours_is_named(sandbox: Sandbox, directory: Path, name: str) -> None:
    sandbox.write_directory(directory)
    (directory / name).write_text("-----BEGIN PRIVATE KEY-----\nsomething else\n")
    with pytest.raises(SandboxError, match=name):
        load_settings(directory, SandboxSettings(), datetime.now(UTC))


@pytest.mark.asyncio
async def test_a_taken_port_is_named(keys: SandboxKeys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SandboxError, match=str(port)):
            await Sandbox(SandboxSettings(keys=keys, api_port=port)).start()


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "contoso.azure-api.localhost"])
async def test_the_servers_certificate_verifies_strictly_for_each_name(sandbox: Sandbox, name: str) -> None:
    trusting = ssl.create_default_context(cadata=sandbox.ca_pem)
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    port = int(sandbox.api_url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=name)
    writer.close()
    await writer.wait_closed()


def test_the_ca_cannot_vouch_for_another_name() -> None:
    """Whoever trusts it for a test trusts it for nothing else."""
    ca = create_ca(datetime.now(UTC))
    constraints = ca.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert {str(each.value) for each in constraints.value.permitted_subtrees or []} == {
        "localhost",
        "127.0.0.0/8",
        "::1/128",
    }
    certificate, _ = issue_server_certificate(ca, datetime.now(UTC))
    certificate.verify_directly_issued_by(ca.certificate)


SERVE = """
import asyncio, pathlib, sys
from proxy.sandbox import SandboxSettings, serve
directory, identity_port, api_port = sys.argv[1:]
asyncio.run(serve(pathlib.Path(directory), SandboxSettings(identity_port=int(identity_port), api_port=int(api_port))))
"""


@asynccontextmanager
async def served(
    directory: Path, *, identity_port: int = 0, api_port: int = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a sandbox as its command does, until its one line has come."""
    arguments = [str(directory), str(identity_port), str(api_port)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        if line != b"sandbox ready\n":
            _, talk = await process.communicate()
            pytest.fail(f"{line!r} {talk.decode()}")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def stop(process: asyncio.subprocess.Process, number: signal.Signals) -> tuple[int | None, bytes, str]:
    """Return exit code, what else came on stdout, and what came on stderr."""
    process.send_signal(number)
    rest, talk = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, rest, talk.decode()


@pytest.mark.asyncio
async def test_serve_says_one_line_logs_refusals_to_stderr_and_is_the_same_after_a_restart(tmp_path: Path) -> None:
    # Ports that nobody else gets between the two runs.
    async with served(tmp_path, identity_port=free_port(), api_port=free_port()) as process:
        first = read_json(tmp_path / "sandbox.json")
        trusting = ssl.create_default_context(cafile=first["ca_file"])
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session,
            session.get(f"{first['api_url']}/orders") as response,
        ):
            assert response.status == 401
        code, rest, talk = await stop(process, signal.SIGTERM)
    assert (code, rest) == (0, b"")
    assert "refused GET /orders with 401: SubscriptionKeyNotFound: it carries no subscription key." in talk
    assert first["subscription_key"] not in talk

    certificate = (tmp_path / "clientapp.pem").read_bytes()
    async with served(tmp_path) as process:
        assert read_json(tmp_path / "sandbox.json") == first
        code, _, _ = await stop(process, signal.SIGINT)
    assert code == 0
    assert (tmp_path / "clientapp.pem").read_bytes() == certificate


@pytest.mark.asyncio
async def test_serve_takes_another_port_where_the_earlier_one_is_taken(tmp_path: Path, keys: SandboxKeys) -> None:
    """Two sandboxes in one directory: the second one must not fail, and says what it did."""
    async with Sandbox(SandboxSettings(keys=keys)) as earlier:
        earlier.write_directory(tmp_path)
        async with served(tmp_path) as process:
            later = read_json(tmp_path / "sandbox.json")
            _, _, talk = await stop(process, signal.SIGTERM)
        assert later["authority"] != earlier.identity_url
        assert later["subscription_key"] == earlier.subscription_key
    assert "Another one is used" in talk
