"""What a configuration may and may not say about listeners that hand out tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.config.faults import ConfigurationFaults
from proxy.config.loading import load_settings

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """\
listeners:
  - address: 127.0.0.1:8090
    mode: identity
    authorize: true
credentials:
  c: {token_endpoint: "https://login.example.com/token", client_id: a, client_secret: s}
routes:
  - {hosts: [api.example.com], credential: c, scope: orders}
state_directory: state
"""
CLIENTS = "clients: [{name: gateway, networks: [10.0.0.0/8]}]\n"
TLS = "\n    tls: {certificate: a.pem, client_ca: b.pem}"


def problems(tmp_path: Path, text: str, *, check_files: bool = False) -> list[tuple[str, str]]:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    try:
        load_settings(file, {}, check_files=check_files)
    except ConfigurationFaults as error:
        return [(fault.path, fault.message) for fault in error.faults]
    return []


@pytest.mark.parametrize(
    ("old", "new", "more"),
    [
        pytest.param("", "", "", id="loopback"),
        pytest.param("authorize: true", "token_endpoint: true", "", id="token endpoint on loopback"),
        pytest.param("127.0.0.1:8090", "unix:/run/identity.sock", "", id="Unix socket"),
        pytest.param("127.0.0.1:8090", "unix:/run/identity.sock", "workers: 2\n", id="Unix socket with workers"),
        pytest.param("127.0.0.1:8090", "0.0.0.0:8090", CLIENTS, id="others with clients"),
        pytest.param("authorize: true", f"authorize: true{TLS}", "", id="TLS"),
        pytest.param("127.0.0.1:8090", f"0.0.0.0:8090{TLS}", "", id="others with a client CA"),
        pytest.param("127.0.0.1:8090", f"0.0.0.0:8090{TLS}", "allow_any_client: true\n", id="client CA is enough"),
        pytest.param("authorize: true", "authorize: true\n    server_names: [api.corp.example]", "", id="server names"),
    ],
)
def test_a_sound_identity_listener_is_taken(tmp_path: Path, old: str, new: str, more: str) -> None:
    assert problems(tmp_path, GOOD.replace(old, new, 1) + more) == []


@pytest.mark.parametrize(
    ("old", "new", "more", "path", "word"),
    [
        pytest.param("127.0.0.1:8090", "0.0.0.0:8090", "", "listeners[0].address", "clients", id="open to others"),
        pytest.param(
            "127.0.0.1:8090", "0.0.0.0:8090", "allow_any_client: true\n", "listeners[0].address", "clients",
            id="allow_any_client is not enough",
        ),
        pytest.param(
            "127.0.0.1:8090\n    mode: identity\n    authorize: true",
            f"0.0.0.0:8090{TLS}\n    mode: identity\n    token_endpoint: true",
            "",
            "listeners[0].token_endpoint",
            "clients",
            id="a token endpoint for others needs clients",
        ),
        pytest.param("authorize: true", "authorize: false", "", "listeners[0]", "serve nothing", id="nothing to do"),
        pytest.param("mode: identity\n", "mode: forward\n", "", "listeners[0].authorize", "mode: identity", id="forward"),
        pytest.param(
            "authorize: true", "authorize: true\n    upstream: https://api.example.com", "", "listeners[0].upstream",
            "passes no requests on", id="an upstream",
        ),
        pytest.param(
            "authorize: true", "authorize: true\n    allow_cross_site: true", "", "listeners[0].allow_cross_site",
            "passes no requests on", id="cross-site",
        ),
        pytest.param(
            "authorize: true", "authorize: true\n    http2: preferred", "", "listeners[0].http2", "over HTTP/1.1", id="HTTP/2"
        ),
    ],
)  # fmt: skip
def test_an_identity_listener_is_no_place_for_just_anyone(
    tmp_path: Path, old: str, new: str, more: str, path: str, word: str
) -> None:
    assert old in GOOD
    found = problems(tmp_path, GOOD.replace(old, new, 1) + more)
    assert [where for where, _ in found] == [path], found
    assert word in found[0][1]
