"""Tokens kept up to date in files, by the real command: written whole, private, renewed ahead, and gone before they end."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from proxy.sandbox import TokenEndpointFault, TokenFault
from tests.end_to_end.leaks import KNOWN
from tests.end_to_end.programs import PATIENCE_S, ROOT, configuration, write_configuration

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from proxy.sandbox import Sandbox
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.programs import Configuration, Place

pytestmark = pytest.mark.asyncio


def files(place: Place, directory: Path, *kinds: str, **changes: Any) -> Configuration:
    """Return a configuration with a token file of each kind in a directory."""
    entries = [
        {
            "path": str(directory / f"{kind}.yaml"),
            "format": kind,
            "credential": "orders-client",
            "scope": place.scope,
        }
        for kind in kinds
    ]
    for entry in entries:
        if entry["format"] == "haproxy-map":
            entry["haproxy_socket"] = str(directory / "admin.sock")
    return configuration(place, token_files=entries, **changes)


def token_of(content: str) -> str:
    (token,) = re.findall(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", content)
    KNOWN[f"a token in a file {len(KNOWN)}"] = token.rpartition(".")[2]
    return str(token)


def end_of(token: str) -> float:
    middle = token.split(".")[1]
    return float(json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))["exp"])


async def until(found: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < give_up_at, "it never came true"
        await asyncio.sleep(0.05)


def read(path: Path) -> str:
    """Return what is there, as a gateway that looks at any moment; empty where there is no file."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("workers", [1, 2])
async def test_every_format_is_written_and_taken_away_when_the_proxy_stops(
    own_place: Place, start_proxy: StartProxy, tmp_path: Path, workers: int
) -> None:
    kinds = ("plain", "envoy-sds", "traefik", "caddy", "haproxy-map")
    directory = tmp_path / "tokens"
    directory.mkdir()
    proxy = await asyncio.to_thread(start_proxy, files(own_place, directory, *kinds, workers=workers))
    await until(lambda: all("eyJ" in read(directory / f"{kind}.yaml") for kind in kinds))
    written = {kind: read(directory / f"{kind}.yaml") for kind in kinds}
    (token,) = {token_of(content) for content in written.values()}
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    assert {path.name for path in directory.iterdir()} == {f"{kind}.yaml" for kind in kinds}, (
        "nothing half done is left"
    )

    assert written["plain"] == token
    ends_at = (directory / "plain.yaml").stat().st_mtime
    assert time.time() < ends_at <= end_of(token)
    assert re.fullmatch(rf"{ends_at:.0f} Bearer {token}", written["caddy"])
    assert f"\nhaproxy-map {ends_at:.0f}:Bearer {token}\n" in written["haproxy-map"]
    assert f'"{ends_at:.0f}:Bearer {token}"' in written["envoy-sds"]
    assert f'"Authorization": "Bearer {token}"' in written["traefik"]
    for kind in ("envoy-sds", "traefik", "haproxy-map"):
        assert written[kind].startswith("# Kept up to date by apim-auth-proxy")

    metrics = (await asyncio.to_thread(proxy.ask_admin, "/metrics")).decode()
    assert f'apim_auth_proxy_token_file_present{{path="{directory / "plain.yaml"}"}} 1.0' in metrics
    # There is no HAProxy: the file is right all the same, and the log says it once.
    assert f'apim_auth_proxy_token_file_failures_total{{path="{directory / "plain.yaml"}"}} 0.0' in metrics
    assert sum("admin.sock does not answer" in line for line in proxy.lines) == 1

    assert await asyncio.to_thread(proxy.stop) == 0
    left = {path.name: path.read_text() for path in directory.iterdir()}
    assert set(left) == {"envoy-sds.yaml", "haproxy-map.yaml"}, "these gateways do not start without them"
    assert not any("Bearer" in content or "eyJ" in content for content in left.values())


async def test_a_token_is_taken_away_before_it_ends_and_put_back(
    sandbox: Sandbox, own_place: Place, start_proxy: StartProxy, tmp_path: Path
) -> None:
    sandbox.faults.token_lifetime_s = 8
    proxy = await asyncio.to_thread(start_proxy, files(own_place, tmp_path, "plain"))
    path = tmp_path / "plain.yaml"
    await until(lambda: read(path))
    # The platform fails: what there is stays while it may be sent, and is gone before it ends.
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SERVER_ERROR_JSON)
    while True:
        looked_at = time.time()
        content = read(path)
        if not content:
            break
        assert looked_at < end_of(token_of(content)), "an expired token is in the file"
        await asyncio.sleep(0.02)
    await until(lambda: any("taken away" in line for line in proxy.lines))
    sandbox.faults.token_endpoint = None
    await until(lambda: read(path))


async def test_a_reload_changes_files_and_leaves_others_alone(
    own_place: Place, start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = await asyncio.to_thread(start_proxy, files(own_place, tmp_path, "plain", "caddy"))
    plain, caddy, traefik = (tmp_path / f"{kind}.yaml" for kind in ("plain", "caddy", "traefik"))
    await until(lambda: read(plain) and read(caddy))
    inode = caddy.stat().st_ino
    write_configuration(files(own_place, tmp_path, "caddy", "traefik"), proxy.config_file.parent)
    await until(lambda: read(traefik))
    assert not plain.exists()
    assert caddy.stat().st_ino == inode

    # A file of somebody else's is not replaced, and nothing changes then.
    (tmp_path / "envoy-sds.yaml").write_text("admin: {}\n")
    write_configuration(files(own_place, tmp_path, "caddy", "envoy-sds"), proxy.config_file.parent)
    await until(lambda: any("the proxy did not write it" in line for line in proxy.lines))
    assert read(tmp_path / "envoy-sds.yaml") == "admin: {}\n"
    assert read(traefik)


async def test_what_a_killed_proxy_left_is_taken_away_by_the_next_one(
    sandbox: Sandbox, own_place: Place, start_proxy: StartProxy, tmp_path: Path
) -> None:
    first = await asyncio.to_thread(start_proxy, files(own_place, tmp_path, "plain"))
    path = tmp_path / "plain.yaml"
    await until(lambda: read(path))
    first.signal(signal.SIGKILL)
    await asyncio.to_thread(first.wait)
    assert read(path), "a killed proxy takes nothing away: its modification time says when the token ends"
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SERVER_ERROR_JSON)
    await asyncio.to_thread(start_proxy, files(own_place, tmp_path, "plain"))
    await until(lambda: not read(path))


@pytest.mark.skipif(shutil.which("stat") is None, reason="takes GNU stat")
async def test_the_documented_way_to_read_a_plain_file_refuses_an_ended_token(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "gateways.md").read_text()
    script = page[page.index("```sh\ntoken=") :].split("```")[1].removeprefix("sh\n").rpartition("curl")[0]
    path = tmp_path / "orders"
    path.write_text("a-token")
    for ends_in_s, expected in ((60, "a-token"), (-1, "")):
        os.utime(path, (time.time() + ends_in_s,) * 2)
        done = await asyncio.to_thread(
            subprocess.run,
            ["sh", "-c", script.replace("/run/tokens/orders", str(path)) + 'printf %s "$token"'],
            capture_output=True,
            text=True,
        )
        assert done.stdout == expected
