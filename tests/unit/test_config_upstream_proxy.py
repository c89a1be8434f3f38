"""Where the upstream proxy comes from: the file, else the environment, and never this proxy itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from proxy.config.faults import ConfigurationFaults
from proxy.config.loading import load_settings
from proxy.config.validation import restore
from proxy.dialing.building import build_proxies
from proxy.workers.control import describe_settings

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.settings import Settings

ENVIRON = {
    "HOME": "/home/u",
    "HTTPS_PROXY": "http://u:hunter2@secure.corp:3128",
    "HTTP_PROXY": "plain.corp:3129",
    "NO_PROXY": "localhost, .corp.example,10.0.0.0/8 ???",
}


def _load(
    directory: Path, environ: dict[str, str], section: object = None, address: str = "127.0.0.1:8080"
) -> Settings:
    document: dict[str, object] = {
        "listeners": [{"address": address}],
        "credentials": {"one": {"tenant_id": "a.example", "client_id": "me", "certificate": "one.pem"}},
        "routes": [{"hosts": ["api.example"], "credential": "one", "scope": "api://one/.default"}],
        "admin": None,
    }
    if address.startswith("0."):
        document["allow_any_client"] = True
    if section is not None:
        document["upstream_proxy"] = section
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return load_settings(file, {"HOME": "/home/u"} | environ, check_files=False)


def _urls(settings: Settings) -> tuple[str, str]:
    proxies = build_proxies(settings.upstream_proxy)
    return str(proxies.for_tls), str(proxies.for_plain)


def test_by_default_the_environment_says(tmp_path: Path) -> None:
    settings = _load(tmp_path, ENVIRON)
    assert _urls(settings) == ("http://secure.corp:3128", "http://plain.corp:3129")
    assert settings.upstream_proxy.no_proxy == ("localhost", ".corp.example", "10.0.0.0/8")
    assert "hunter2" not in repr(settings)


def test_lower_case_goes_first_and_empty_is_none(tmp_path: Path) -> None:
    assert _urls(_load(tmp_path, ENVIRON | {"https_proxy": "http://lower.corp:1"}))[0] == "http://lower.corp:1"
    assert _urls(_load(tmp_path, {"HTTPS_PROXY": "", "HTTP_PROXY": " "})) == ("None", "None")
    assert _urls(_load(tmp_path, {})) == ("None", "None")


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    settings = _load(tmp_path, ENVIRON, {"from_environment": False})
    assert _urls(settings) == ("None", "None")
    assert settings.upstream_proxy.no_proxy == ()


@pytest.mark.parametrize(("text", "url"), [("yes", "http://secure.corp:3128"), ("false", "None")])
def test_the_switch_may_itself_come_from_the_environment(tmp_path: Path, text: str, url: str) -> None:
    assert _urls(_load(tmp_path, ENVIRON | {"SWITCH": text}, {"from_environment": "${SWITCH}"}))[0] == url


def test_what_the_file_says_goes_first(tmp_path: Path) -> None:
    section = {"url": "http://${USER_NAME}:${SECRET}@file.corp:1", "no_proxy": ["only.example"]}
    settings = _load(tmp_path, ENVIRON | {"USER_NAME": "me", "SECRET": "p%40ss"}, section)
    assert _urls(settings) == ("http://file.corp:1", "http://file.corp:1")
    assert settings.upstream_proxy.no_proxy == ("only.example",)
    settings = _load(tmp_path, ENVIRON, {"url": "http://file.corp:1"})
    assert settings.upstream_proxy.no_proxy == ("localhost", ".corp.example", "10.0.0.0/8")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("127.0.0.1:8080", "http://localhost:8080"),
        ("localhost:8080", "http://127.0.0.1:8080/"),
        ("0.0.0.0:8080", "http://localhost:8080"),
        ("[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_the_proxy_does_not_go_by_a_variable_that_names_itself(tmp_path: Path, address: str, url: str) -> None:
    assert _urls(_load(tmp_path, {"HTTPS_PROXY": url, "HTTP_PROXY": url}, address=address)) == ("None", "None")
    with pytest.raises(ConfigurationFaults, match=r"upstream_proxy\.url: this is a listener of this very proxy"):
        _load(tmp_path, {}, {"url": url}, address=address)


def test_another_proxy_on_this_machine_is_not_itself(tmp_path: Path) -> None:
    assert _urls(_load(tmp_path, {"HTTPS_PROXY": "http://127.0.0.1:3128"}))[0] == "http://127.0.0.1:3128"


def test_a_variable_that_cannot_be_used_is_a_fault_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationFaults) as refused:
        _load(tmp_path, {"HTTPS_PROXY": "socks5://u:hunter2@socks.corp"})
    assert "HTTPS_PROXY cannot be used: only http:// and https:// proxies" in str(refused.value)
    assert "from_environment: false" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ({"url": "ftp://u:hunter2@x"}, "upstream_proxy.url"),
        ({"plain_http_url": "hunter2"}, "upstream_proxy.plain_http_url"),
        ({"no_proxy": ["a.example", "a b"]}, r"upstream_proxy.no_proxy\[1\]"),
        ({"from_environment": "maybe"}, "upstream_proxy.from_environment"),
        ({"uri": "http://x"}, "upstream_proxy.uri"),
    ],
)
def test_faults_are_named_by_key_and_hold_no_password(tmp_path: Path, section: object, where: str) -> None:
    with pytest.raises(ConfigurationFaults, match=where) as refused:
        _load(tmp_path, {}, section)
    assert "hunter2" not in str(refused.value)


def test_relay_processes_are_told_what_to_say_to_it(tmp_path: Path) -> None:
    settings = _load(tmp_path, ENVIRON)
    again = restore(describe_settings(settings))
    assert build_proxies(again.upstream_proxy) == build_proxies(settings.upstream_proxy)
