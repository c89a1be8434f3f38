"""What the proxy does not start with, and the way out that it names."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.programs import COMMAND
from tests.security.test_process import write_configuration

if TYPE_CHECKING:
    from pathlib import Path

LISTENER = "address: 127.0.0.1:0"


def refusal(directory: Path) -> str:
    done = subprocess.run(
        [COMMAND, "run", "--config", directory / "config.yaml"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "listening" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        pytest.param(LISTENER, "address: 0.0.0.0:0", ("clients", "client_ca", "allow_any_client"), id="open to all"),
        pytest.param(LISTENER, "address: '[::]:0'", ("clients",), id="open to all over IPv6"),
        pytest.param(
            LISTENER,
            f"{LISTENER}\n  mode: reverse\n  upstream: http://api.example.test",
            ("only https://",),
            id="upstream in the clear",
        ),
        pytest.param(
            "- api.example.test", "- http://api.example.test", ("without a scheme",), id="a route in the clear"
        ),
        pytest.param(
            "https://127.0.0.1:9", "http://127.0.0.1:9", ("only https://",), id="a token endpoint in the clear"
        ),
        pytest.param(
            "admin: null", "admin: {address: '0.0.0.0:9901'}", ("127.0.0.1",), id="the admin site open to all"
        ),
        pytest.param(
            "admin: null",
            "admin: null\nclients: [{name: a}]",
            ("how does the proxy recognise this client",),
            id="a client that is anybody",
        ),
        pytest.param(
            "admin: null",
            "admin: null\nclients: [{name: a, password_hash: hunter2}]",
            ("client add",),
            id="a password as it is",
        ),
    ],
)
def test_an_unsafe_configuration_is_refused_with_the_way_out(
    tmp_path: Path, old: str, new: str, words: tuple[str, ...]
) -> None:
    file = write_configuration(tmp_path, workers=1)
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    said = refusal(tmp_path)
    assert all(word in said for word in words), said
    assert "hunter2" not in said


@pytest.mark.parametrize("mode", [0o644])
def test_a_key_that_others_can_read_is_refused_with_the_way_out(tmp_path: Path, mode: int) -> None:
    write_configuration(tmp_path, workers=1)
    (tmp_path / "clientapp.pem").chmod(mode)
    assert "chmod 600" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["ca.key", "."])
def test_a_ca_key_that_others_can_read_is_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    write_configuration(tmp_path, workers=1)
    made = subprocess.run(
        [COMMAND, "ca", "export", "--config", tmp_path / "config.yaml"], capture_output=True, text=True, timeout=120
    )
    assert "BEGIN CERTIFICATE" in made.stdout, made.stderr
    (tmp_path / "state" / name).chmod(0o755 if name == "." else 0o644)
    assert "chmod" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["x" * 31, "with a space in it, and long enough to be one"])
def test_an_admin_token_that_could_be_guessed_is_refused_and_not_repeated(tmp_path: Path, content: str) -> None:
    file = write_configuration(tmp_path, workers=1)
    (tmp_path / "token").write_text(content, encoding="utf-8")
    (tmp_path / "token").chmod(0o600)
    text = file.read_text(encoding="utf-8").replace("admin: null", "admin: {address: '127.0.0.1:0', token_file: token}")
    file.write_text(text, encoding="utf-8")
    said = refusal(tmp_path)
    assert "admin" in said
    assert not content or content not in said
