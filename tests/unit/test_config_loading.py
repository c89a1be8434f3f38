"""What a good configuration becomes: types, defaults, paths, and values from the environment."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.config.faults import ConfigurationFaults
from proxy.config.loading import load_settings
from proxy.config.settings import AssertionAlgorithm, Cloud, ListenerMode, OtherHosts, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_GOOD = """\
listeners: [{address: 127.0.0.1:8080}]
credentials:
  orders: &orders
    tenant_id: contoso.onmicrosoft.com
    client_id: 22222222-2222-2222-2222-222222222222
    certificate: keys/clientapp.pem
routes:
  - hosts: [api.contoso.com]
    credential: orders
    scope: api://orders/.default
"""
_ENVIRON = {
    "HOME": "/home/u",
    "PORT": "9000",
    "SECONDS": "2.5",
    "COUNT": "7",
    "YES": "yes",
    "EMPTY": "",
    "KEY": "12345678",
    "NESTED": "${HOME}",
    "MODE": "reverse",
}


def _load(directory: Path, text: str, environ: dict[str, str] | None = None, check_files: bool = False) -> Settings:
    file = directory / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, _ENVIRON if environ is None else environ, check_files=check_files)


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    settings = _load(tmp_path, _GOOD)
    assert settings.listeners[0].mode is ListenerMode.FORWARD
    assert settings.other_hosts is OtherHosts.REFUSE
    assert settings.allow_any_client is False
    assert settings.admin is not None
    assert settings.admin.address == "127.0.0.1:9901"
    assert settings.credentials["orders"].cloud is Cloud.PUBLIC
    assert settings.credentials["orders"].authority is None
    assert settings.credentials["orders"].assertion_algorithm is AssertionAlgorithm.PS256
    assert settings.limits.body_bytes is None


def test_paths_are_relative_to_the_file_and_tilde_is_the_home_of_the_environment(tmp_path: Path) -> None:
    text = _GOOD.replace("keys/clientapp.pem", "keys/clientapp.pem\n    private_key: ~/a.key\n    ca_file: /etc/ca.pem")
    credential = _load(tmp_path, text).credentials["orders"]
    assert credential.certificate == tmp_path / "keys/clientapp.pem"
    assert credential.private_key == Path("/home/u/a.key")
    assert credential.ca_file == Path("/etc/ca.pem")


def test_a_relative_file_name_still_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text(_GOOD)
    monkeypatch.chdir(tmp_path)
    settings = load_settings(Path("config.yaml"), _ENVIRON, check_files=False)
    assert settings.credentials["orders"].certificate == tmp_path / "keys/clientapp.pem"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/u"}, "/home/u/.local/state/apim-auth-proxy"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "/var/state"}, "/var/state/apim-auth-proxy"),
        ({"XDG_STATE_HOME": "/var/state"}, "/var/state/apim-auth-proxy"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "state"}, "/home/u/.local/state/apim-auth-proxy"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": ""}, "/home/u/.local/state/apim-auth-proxy"),
    ],
)
def test_the_state_directory_follows_the_xdg_specification(
    tmp_path: Path, environ: dict[str, str], expected: str
) -> None:
    assert _load(tmp_path, _GOOD, environ).state_directory == Path(expected)


def test_text_numbers_and_truth_values_may_come_from_the_environment(tmp_path: Path) -> None:
    text = _GOOD.replace(
        "127.0.0.1:8080}", "'127.0.0.1:${PORT}', mode: '${MODE}', upstream: 'https://api.contoso.com'}"
    ) + (
        "    set_headers:\n"
        "      {Key: '${KEY}', Nested: '${NESTED}', Literal: 'a$${KEY}$b', Default: '${EMPTY:-d}', Two: '${KEY}${PORT}'}\n"
        "timeouts: {connect_s: '${SECONDS}', drain_s: '${NO_SUCH:-4}'}\n"
        "limits: {connections: '${COUNT}'}\n"
        "allow_any_client: ${YES}\n"
    )
    settings = _load(tmp_path, text)
    assert settings.listeners[0].address == "127.0.0.1:9000"
    assert settings.listeners[0].mode is ListenerMode.REVERSE
    assert (settings.timeouts.connect_s, settings.timeouts.drain_s, settings.limits.connections) == (2.5, 4, 7)
    assert settings.allow_any_client is True
    assert {name: value.reveal() for name, value in settings.routes[0].set_headers.items()} == {
        "Key": "12345678",
        "Nested": "${HOME}",
        "Literal": "a${KEY}$b",
        "Default": "d",
        "Two": "123456789000",
    }


def test_text_from_the_environment_is_unicode_and_a_path_need_not_be(tmp_path: Path) -> None:
    text = _GOOD.replace("keys/clientapp.pem", "${PLACE}") + "    set_headers: {Key: '${KEY}'}\n"
    environ = {"PLACE": os.fsdecode(b"\xe9.pem"), "KEY": "k"}
    assert (
        _load(tmp_path, text, {**_ENVIRON, **environ}).credentials["orders"].certificate == tmp_path / environ["PLACE"]
    )
    with pytest.raises(ConfigurationFaults, match=r"set_headers\.Key: bytes that are not UTF-8, from the environment"):
        _load(tmp_path, text, {**_ENVIRON, **environ, "KEY": os.fsdecode(b"\xe9")})


def test_a_truth_value_from_the_environment_opens_the_proxy_to_others(tmp_path: Path) -> None:
    text = _GOOD.replace("127.0.0.1", "0.0.0.0") + "allow_any_client: ${YES}\n"  # noqa: S104 - not listened on
    assert _load(tmp_path, text).listeners[0].address.startswith("0.0.0.0")  # noqa: S104 - as above


def test_a_field_value_does_not_show_in_the_settings_text(tmp_path: Path) -> None:
    settings = _load(tmp_path, _GOOD + "    set_headers: {Key: hunter2}\n")
    assert "hunter2" not in f"{settings!r} {settings}"


def test_anchors_aliases_and_merge_keys_work_and_own_keys_win(tmp_path: Path) -> None:
    text = _GOOD.replace("routes:", "  second: {<<: *orders, client_id: other}\n  third: *orders\nroutes:")
    credentials = _load(tmp_path, text).credentials
    assert credentials["second"].tenant_id == "contoso.onmicrosoft.com"
    assert credentials["second"].client_id == "other"
    assert credentials["third"] == credentials["orders"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("127.0.0.1:8080", "'[::1]:8080'", id="IPv6 loopback"),
        pytest.param("127.0.0.1:8080", "localhost:0", id="localhost, any port"),
        pytest.param("127.0.0.1:8080", "127.9.9.9:8080", id="another loopback address"),
        pytest.param(
            "{address: 127.0.0.1:8080}", "{address: 127.0.0.1:0}, {address: 127.0.0.1:0}", id="two free ports"
        ),
        pytest.param("{address: 127.0.0.1:8080}", "{address: 127.0.0.1:80}, {address: '[::1]:80'}", id="both families"),
        pytest.param("routes:", "admin: null\nroutes:", id="no admin site"),
        pytest.param("routes:", "admin: {}\nroutes:", id="admin site by default"),
        pytest.param("contoso.onmicrosoft.com", "2001-01-01.example", id="text that could be a date"),
        pytest.param(
            "[api.contoso.com]", "['*.contoso.com', contoso.com, 'contoso.com:8443']", id="hosts side by side"
        ),
        pytest.param(
            "certificate: keys", "assertion_audience: urn:x\n    certificate: keys", id="audience in Entra ID"
        ),
    ],
)
def test_what_is_unusual_but_right_is_taken(tmp_path: Path, old: str, new: str) -> None:
    assert old in _GOOD
    assert _load(tmp_path, _GOOD.replace(old, new)).routes


def test_a_byte_order_mark_and_crlf_are_no_faults(tmp_path: Path) -> None:
    assert _load(tmp_path, "\ufeff" + _GOOD.replace("\n", "\r\n")).routes


def test_an_upstream_is_canonical(tmp_path: Path) -> None:
    text = _GOOD.replace("8080}", "8080, mode: reverse, upstream: 'HTTPS://API.Contoso.com.:443/'}")
    assert _load(tmp_path, text).listeners[0].upstream == "https://api.contoso.com"


def test_settings_do_not_change(tmp_path: Path) -> None:
    settings = _load(tmp_path, _GOOD)
    with pytest.raises(AttributeError, match="immutable"):
        settings.other_hosts = OtherHosts.TUNNEL  # type: ignore[misc]  # that is the point


def test_named_files_have_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "directory").mkdir()
    text = _GOOD.replace(
        "keys/clientapp.pem", "keys/clientapp.pem\n    private_key: directory\n    ca_file: no.pem"
    ) + (f"    ca_file: {'x' * 300}\naccess_log: {{file: no/such/log}}\n")
    with pytest.raises(ConfigurationFaults) as caught:
        _load(tmp_path, text, check_files=True)
    assert [(fault.path, fault.line) for fault in caught.value.faults] == [
        ("credentials.orders.certificate", 6),
        ("credentials.orders.private_key", 7),
        ("credentials.orders.ca_file", 8),
        ("routes[0].ca_file", 13),
        ("access_log.file", 14),
    ]
    assert f"no file {tmp_path}/keys/clientapp.pem" in caught.value.faults[0].message
    assert "is a directory" in caught.value.faults[1].message
    (tmp_path / "keys" / "clientapp.pem").touch(mode=0o600)
    certificate = _load(tmp_path, _GOOD, check_files=True).credentials["orders"].certificate
    assert certificate is not None
    assert certificate.exists()


@pytest.fixture
def unreadable() -> Iterator[Path]:
    """A directory with a configuration, a certificate without read permission, and no right to override that."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        (Path(directory) / "config.yaml").write_text(_GOOD.replace("keys/", ""))
        (Path(directory) / "clientapp.pem").touch(mode=0)
        uid = os.geteuid()
        if uid == 0:
            os.seteuid(65_534)
        try:
            yield Path(directory)
        finally:
            os.seteuid(uid)


def test_named_files_have_to_be_readable(unreadable: Path) -> None:
    with pytest.raises(
        ConfigurationFaults, match=r"orders\.certificate: .*cannot be read by the user that runs the proxy"
    ):
        load_settings(unreadable / "config.yaml", _ENVIRON)


def test_the_file_itself_has_to_be_readable(unreadable: Path) -> None:
    with pytest.raises(ConfigurationFaults, match="cannot be read; let"):
        load_settings(unreadable / "clientapp.pem", _ENVIRON)
