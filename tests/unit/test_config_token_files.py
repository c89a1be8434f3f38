"""What a configuration may and may not say about files that tokens are written to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.test_config_identity_listeners import GOOD, problems

if TYPE_CHECKING:
    from pathlib import Path

SOCKET = "haproxy_socket: /run/admin.sock"


def entry(
    path: str = "/run/tokens/orders", kind: str = "plain", more: str = "scope: orders", credential: str = "c"
) -> str:
    return f"  - {{path: {path}, format: {kind}, credential: {credential}, {more}}}\n"


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(entry(), id="plain"),
        pytest.param(entry(kind="haproxy-map", more=f"scope: orders, {SOCKET}"), id="a map"),
        pytest.param(entry() + entry("/run/tokens/other"), id="two files of one token"),
        pytest.param(entry(more="resource: https://api.example.com"), id="a resource"),
    ],
)
def test_a_sound_token_file_is_taken(tmp_path: Path, entries: str) -> None:
    assert problems(tmp_path, f"{GOOD}token_files:\n{entries}") == []


@pytest.mark.parametrize(
    ("entries", "path", "word"),
    [
        pytest.param(entry(kind="haproxy-map"), "token_files[0].haproxy_socket", "runtime socket", id="no socket"),
        pytest.param(
            entry(more=f"scope: a, {SOCKET}"), "token_files[0].haproxy_socket", "haproxy-map", id="a socket too many"
        ),
        pytest.param(entry() + entry(), "token_files[1].path", "another entry", id="one file twice"),
        pytest.param(entry("'/run/a b'"), "token_files[0].path", "name for the gateway", id="a blank in its name"),
        pytest.param(entry(credential="d"), "token_files[0].credential", "no credential", id="no such credential"),
        pytest.param(
            entry(more="scope: a, resource: 'https://b.example'"), "token_files[0].resource", "remove one", id="both"
        ),
        pytest.param(entry(kind="nginx"), "token_files[0].format", "", id="no such format"),
    ],
)
def test_a_token_file_that_cannot_be_is_refused(tmp_path: Path, entries: str, path: str, word: str) -> None:
    found = problems(tmp_path, f"{GOOD}token_files:\n{entries}")
    assert [where for where, _ in found] == [path], found
    assert word in found[0][1]


def test_a_token_file_needs_a_directory_of_its_own(tmp_path: Path) -> None:
    directory = tmp_path / "tokens"
    text = f"{GOOD}token_files:\n{entry(f'{directory}/orders')}"
    assert [where for where, _ in problems(tmp_path, text, check_files=True)] == ["token_files[0].path"]
    directory.mkdir()
    assert problems(tmp_path, text, check_files=True) == []
    (directory / "orders").mkdir()
    ((_, message),) = problems(tmp_path, text, check_files=True)
    assert "is a directory" in message
