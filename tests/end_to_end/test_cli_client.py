"""`client add` through the real command line: an entry that loads, a password that fits it, nothing written anywhere."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any, cast

import pytest

from proxy.config.document import parse_document
from proxy.policy.passwords import parse_password_hash
from tests.end_to_end.programs import COMMAND

if TYPE_CHECKING:
    from pathlib import Path


def client(directory: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "client", *arguments], input=stdin, capture_output=True, text=True, timeout=30, cwd=directory
    )


def with_password(directory: Path, password: str) -> subprocess.CompletedProcess[str]:
    return client(directory, "add", "batch", "--password-stdin", stdin=password)


def entry(printed: str) -> dict[str, Any]:
    entries = parse_document("clients:\n" + printed).root["clients"]
    assert isinstance(entries, list)
    assert len(entries) == 1
    return cast("dict[str, Any]", entries[0])


def test_the_entry_goes_to_stdout_and_the_password_that_fits_it_to_stderr(tmp_path: Path) -> None:
    done = client(tmp_path, "add", "batch", "--network", "10.1.0.0/16", "--network", "::1/128")
    made = entry(done.stdout)
    password = done.stderr.partition("not shown again: ")[2].split()[0]
    assert done.returncode == 0
    assert made["name"] == "batch"
    assert made["networks"] == ["10.1.0.0/16", "::1/128"]
    assert parse_password_hash(made["password_hash"]).verify(password.encode())
    assert password not in done.stdout
    assert len(password) >= 24
    assert list(tmp_path.iterdir()) == []


def test_a_password_from_stdin_is_hashed_and_not_repeated(tmp_path: Path) -> None:
    done = with_password(tmp_path, "correct horse battery\n")
    assert done.returncode == 0
    assert parse_password_hash(entry(done.stdout)["password_hash"]).verify(b"correct horse battery")
    assert "correct horse" not in done.stdout + done.stderr


def test_two_hashes_of_one_password_differ(tmp_path: Path) -> None:
    first, second = (entry(with_password(tmp_path, "correct horse battery").stdout) for _ in range(2))
    assert first["password_hash"] != second["password_hash"]


def test_a_program_reads_the_entry_and_the_password_as_json(tmp_path: Path) -> None:
    made = json.loads(client(tmp_path, "add", "batch", "--json").stdout)
    assert parse_password_hash(made["password_hash"]).verify(made["password"].encode())


@pytest.mark.parametrize("password", ["", "hunter2", "with a \x07 bell inside it", "x" * 600])
def test_a_password_that_is_no_good_is_refused_and_not_repeated(tmp_path: Path, password: str) -> None:
    done = with_password(tmp_path, password + "\n")
    assert done.returncode == 2
    assert not done.stdout
    assert not password or password not in done.stderr


@pytest.mark.parametrize("arguments", [["a:b"], [""], ["a", "--network", "10.0.0.1/8"]])
def test_a_name_or_network_that_the_configuration_would_refuse_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    assert client(tmp_path, "add", *arguments).returncode == 2
