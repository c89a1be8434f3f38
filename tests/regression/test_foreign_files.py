"""Whatever writes files replaces none that it did not make: a configuration, a private key, somebody's CA."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.client_setup.bundle import BUNDLE, TRUSTSTORE, write_bundle
from proxy.errors import ConfigurationError
from proxy.sandbox import Sandbox, SandboxError

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMAND = Path(sys.executable).with_name("apim-auth-proxy")


def _run(*arguments: str | Path, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], cwd=directory, capture_output=True, text=True, timeout=60)


def _content(directory: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def _make_own(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for name in ("config.yaml", "clientapp.key", "clientapp.crt", "clientapp.pem", "ca.pem"):
        (directory / name).write_text(f"somebody's own {name}")


def test_a_sandbox_replaces_nobodys_configuration_and_key(tmp_path: Path) -> None:
    """F1."""
    _make_own(tmp_path)
    before = _content(tmp_path)

    ended = _run("sandbox", "--directory", ".", directory=tmp_path)

    assert ended.returncode == 1
    assert "no sandbox has made them: there is no sandbox.json among them" in ended.stderr
    assert _content(tmp_path) == before


def test_init_replaces_nobodys_files_with_a_sandbox(tmp_path: Path) -> None:
    """F1's sibling: `init --sandbox` writes DIR/sandbox; with --force, too."""
    _make_own(tmp_path / "sandbox")
    before = _content(tmp_path)

    ended = _run("init", "--sandbox", "--force", directory=tmp_path)

    assert ended.returncode == 1
    assert "no sandbox has made them" in ended.stderr
    assert _content(tmp_path) == before


@pytest.mark.asyncio
async def test_a_sandbox_takes_its_own_directory_again_and_an_empty_one(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        for _ in range(2):
            sandbox.write_directory(tmp_path / "sandbox")
        (tmp_path / "other").mkdir()
        sandbox.write_directory(tmp_path / "other")
        _make_own(tmp_path / "own")
        with pytest.raises(SandboxError, match="no sandbox has made them"):
            sandbox.write_directory(tmp_path / "own")


def test_a_state_directory_with_somebodys_ca_is_left_alone(tmp_path: Path) -> None:
    """F1's sibling: `state_directory: .` beside a ca.pem that clients or a ca_file need."""
    made = _run(
        "cert", "new", "--subject-name", "x", "--out-certificate", "ca.pem", "--out-key", "own.key", directory=tmp_path
    )
    assert made.returncode == 0, made.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    (tmp_path / "config.yaml").write_text(f"""\
listeners: [{{address: '127.0.0.1:{free}'}}]
credentials: {{c: {{token_endpoint: 'https://localhost:9/', client_id: c, client_secret: s}}}}
routes: [{{hosts: [a.example], credential: c, scope: s}}]
admin: null
state_directory: .
""")
    tmp_path.chmod(0o700)
    before = _content(tmp_path)

    ended = _run("run", "--config", "config.yaml", directory=tmp_path)

    assert ended.returncode == 2
    assert f"{tmp_path / 'ca.pem'} is there, and apim-auth-proxy has not made it" in " ".join(ended.stderr.split())
    assert {name: content for name, content in _content(tmp_path).items() if name != "ca.lock"} == before


def test_a_bundle_that_is_somebodys_is_left_alone(tmp_path: Path) -> None:
    """F1's sibling: what `env` and `exec` write beside the CA."""
    (tmp_path / BUNDLE).write_text("somebody's own")
    with pytest.raises(ConfigurationError, match="has not made it"):
        write_bundle(tmp_path, b"", os.environ)
    (tmp_path / BUNDLE).unlink()
    for _ in range(2):
        write_bundle(tmp_path, b"", os.environ)
    assert (tmp_path / TRUSTSTORE).exists()


@pytest.mark.parametrize("existing", ["clientapp.crt", "clientapp.key"])
def test_cert_new_replaces_nothing_unless_told(existing: str, tmp_path: Path) -> None:
    (tmp_path / existing).write_text("somebody's own")
    before = _content(tmp_path)

    ended = _run("cert", "new", "--subject-name", "x", directory=tmp_path)

    assert ended.returncode == 1
    assert f"{existing} exists already" in ended.stderr
    assert _content(tmp_path) == before
