"""Files that hold secrets: whoever else can read one is a reason not to start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.config.faults import ConfigurationFaults
from proxy.config.loading import load_settings
from proxy.config.privacy import Exposure, judge_file, judge_mode

if TYPE_CHECKING:
    from pathlib import Path

CREDENTIAL = """\
listeners: [{address: '127.0.0.1:8080'}]
credentials:
  c:
    token_endpoint: https://login.example.com/token
    client_id: i
    certificate: c.pem
"""
ROUTE = "routes: [{hosts: [api.example.com], credential: c, scope: s}]\n"
TLS = (
    CREDENTIAL.replace("8080'}", "8080', tls: {certificate: p.pem, private_key: p.key}}")
    + "    signer_command: [sign]\n"
)


def faults(directory: Path, text: str, modes: dict[str, int]) -> list[str]:
    for name, mode in modes.items():
        (directory / name).touch()
        (directory / name).chmod(mode)
    file = directory / "config.yaml"
    file.write_text(text + ROUTE, encoding="utf-8")
    try:
        load_settings(file, {"HOME": str(directory)})
    except ConfigurationFaults as error:
        return [fault.path for fault in error.faults if "chmod 600" in fault.message]
    return []


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602, 0o777])
def test_a_key_that_others_can_read_or_change_is_refused_with_the_fix(tmp_path: Path, mode: int) -> None:
    assert faults(tmp_path, CREDENTIAL, {"c.pem": mode}) == ["credentials.c.certificate"]


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_key_of_the_owners_alone_is_taken(tmp_path: Path, mode: int) -> None:
    assert faults(tmp_path, CREDENTIAL, {"c.pem": mode}) == []


@pytest.mark.parametrize(
    ("added", "modes", "paths"),
    [
        pytest.param(
            "    private_key: c.key\n", {"c.pem": 0o644, "c.key": 0o644}, ["credentials.c.private_key"], id="a key"
        ),
        pytest.param(
            "    private_key: c.key\n    password_file: c.pass\n",
            {"c.pem": 0o644, "c.key": 0o600, "c.pass": 0o644},
            ["credentials.c.password_file"],
            id="a password",
        ),
        pytest.param("    signer_command: [sign]\n", {"c.pem": 0o644}, [], id="the key is elsewhere"),
    ],
)
def test_only_files_with_secrets_have_to_be_private(
    tmp_path: Path, added: str, modes: dict[str, int], paths: list[str]
) -> None:
    assert faults(tmp_path, CREDENTIAL + added, modes) == paths


def test_each_of_several_certificates_is_looked_at(tmp_path: Path) -> None:
    text = CREDENTIAL.replace(
        "    certificate: c.pem\n", "    certificates: [{certificate: a.pem}, {certificate: b.pem}]\n"
    )
    assert faults(tmp_path, text, {"a.pem": 0o600, "b.pem": 0o644}) == ["credentials.c.certificates[1].certificate"]


def test_the_key_of_a_listener_is_looked_at(tmp_path: Path) -> None:
    modes = {"c.pem": 0o644, "p.pem": 0o644, "p.key": 0o644}
    assert faults(tmp_path, TLS, modes) == ["listeners[0].tls.private_key"]


@pytest.mark.parametrize(
    ("mode", "owner", "user", "exposure"),
    [
        (0o440, 0, 1_000, Exposure.PRIVATE),
        (0o640, 0, 1_000, Exposure.PRIVATE),
        (0o660, 0, 1_000, Exposure.OPEN),
        (0o444, 0, 1_000, Exposure.OPEN),
        (0o440, 0, 0, Exposure.OPEN),
        (0o440, 1_000, 1_000, Exposure.OPEN),
        (0o600, 1_000, 1_000, Exposure.PRIVATE),
    ],
)
def test_the_group_may_read_a_file_of_roots_where_the_proxy_is_not_root(
    mode: int, owner: int, user: int, exposure: Exposure
) -> None:
    """As Kubernetes mounts secrets with fsGroup: otherwise the proxy could not read it either."""
    assert judge_mode(mode, owner, user, is_read_only=False) is exposure


@pytest.mark.parametrize(
    ("mode", "owner", "exposure"),
    [
        pytest.param(0o444, 0, Exposure.TOLERATED, id="docker"),
        pytest.param(0o644, 0, Exposure.TOLERATED, id="kubernetes"),
        pytest.param(0o755, 0, Exposure.TOLERATED, id="a file system without modes"),
        pytest.param(0o400, 0, Exposure.PRIVATE, id="defaultMode"),
        pytest.param(0o666, 0, Exposure.OPEN, id="others can change it where it comes from"),
        pytest.param(0o644, 1_000, Exposure.OPEN, id="somebody's, who can make it private"),
    ],
)
def test_a_file_of_roots_on_a_read_only_file_system_is_taken_with_a_warning(
    mode: int, owner: int, exposure: Exposure
) -> None:
    """D4."""
    assert judge_mode(mode, owner, 65532, is_read_only=True) is exposure


def test_a_file_that_is_not_there_is_somebody_elses_to_report(tmp_path: Path) -> None:
    assert judge_file(tmp_path / "missing") is Exposure.PRIVATE


def test_the_admin_token_is_looked_at(tmp_path: Path) -> None:
    text = CREDENTIAL + "admin: {token_file: t}\n"
    assert faults(tmp_path, text, {"c.pem": 0o600, "t": 0o644}) == ["admin.token_file"]
