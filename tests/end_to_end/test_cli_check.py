"""`check` offline, through the real command line: each fault in one line with what to do, and the exit code a script needs."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import yaml

from proxy.identity.certificate_creation import create_certificate
from tests.end_to_end.programs import COMMAND, Configuration, Finished, configuration, environment, run_program
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Place, ProxyProgram

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[bytes, bytes]]:
    """Certificates and keys; making RSA keys takes a while."""
    return {
        "good": create_certificate("clientapp", 365, 2048, NOW),
        "other": create_certificate("other", 365, 2048, NOW),
        "ending": create_certificate("ending", 5, 2048, NOW),
        "expired": create_certificate("expired", 30, 2048, NOW - timedelta(days=60)),
        "locked": create_certificate("locked", 365, 2048, NOW, b"correct horse"),
    }


@pytest.fixture
def directory(tmp_path: Path, pairs: dict[str, tuple[bytes, bytes]]) -> Path:
    for name, (certificate, key) in pairs.items():
        (tmp_path / f"{name}.crt").write_bytes(certificate)
        (tmp_path / f"{name}.key").write_bytes(key)
        (tmp_path / f"{name}.key").chmod(0o600)
    (tmp_path / "wrong.pass").write_text("battery staple\n", encoding="ascii")
    (tmp_path / "right.pass").write_text("correct horse\n", encoding="ascii")
    for name in ("wrong.pass", "right.pass"):
        (tmp_path / name).chmod(0o600)
    return tmp_path


def write(directory: Path, *, pair: str = "good", password: str | None = None, **changes: object) -> Path:
    credential = {
        "tenant_id": "11111111-1111-1111-1111-111111111111",
        "client_id": "22222222-2222-2222-2222-222222222222",
        "certificate": f"{pair}.crt",
        "private_key": f"{pair}.key",
    }
    if password is not None:
        credential["password_file"] = password
    settings: Configuration = {
        "listeners": [{"address": "127.0.0.1:0"}],
        "credentials": {"orders-client": credential},
        "routes": [{"hosts": ["orders.example"], "credential": "orders-client", "scope": "api://orders/.default"}],
        "admin": {"address": "127.0.0.1:0"},
        "state_directory": "state",
    } | changes
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def check(config: Path, *more: str) -> Finished:
    return run_program([COMMAND, "check", "--config", config, *more])


def lines(done: Finished, level: str) -> list[str]:
    return [line for line in done.stdout.decode().splitlines() if line.startswith(level)]


def test_a_right_configuration_exits_0_and_shows_the_thumbprints(directory: Path) -> None:
    config = write(directory)
    shown = json.loads(run_program([COMMAND, "cert", "show", directory / "good.crt", "--json"]).stdout)
    done = check(config)
    assert done.status == 0, done.stdout
    assert lines(done, "error") == lines(done, "warning") == []
    assert all(line.startswith("ok ") for line in done.stdout.decode().splitlines())
    assert shown["sha1"] in done.stdout.decode()
    assert shown["sha256"] in done.stdout.decode()
    assert b"\x1b" not in done.stdout, "colour is for terminals"
    assert not (directory / "state").exists(), "a check changes nothing"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        pytest.param({"pair": "expired"}, ["expired.crt", "expired on", "cert new"], id="expired"),
        pytest.param({"pair": "locked"}, ["locked.key", "encrypted", "password_file"], id="no password"),
        pytest.param({"pair": "locked", "password": "wrong.pass"}, ["locked.key", "password"], id="wrong password"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_one_error(
    directory: Path, arguments: dict[str, str], named: list[str]
) -> None:
    done = check(write(directory, **arguments))
    assert done.status == 1
    (line,) = lines(done, "error")
    assert line.startswith("error    credential orders-client: ")
    assert all(part in line for part in named), line
    assert done.stderr == "1 error.\n"
    assert "correct horse" not in done.stdout.decode()


def test_a_key_that_others_can_read_is_refused_before_anything_is_done_with_it(directory: Path) -> None:
    (directory / "good.key").chmod(0o644)
    done = check(write(directory))
    assert done.status == 2
    assert "chmod 600" in lines(done, "error")[0]
    (directory / "good.key").write_bytes((directory / "other.key").read_bytes())
    (directory / "good.key").chmod(0o600)
    assert "does not fit" in lines(check(write(directory)), "error")[0]


def test_a_warning_alone_does_not_fail_and_says_so(directory: Path) -> None:
    done = check(write(directory, pair="ending"), "--json")
    report = json.loads(done.stdout)
    assert (done.status, report["ok"], report["errors"], report["warnings"]) == (0, True, 0, 1)
    (warning,) = [finding for finding in report["findings"] if finding["level"] == "warning"]
    assert warning["facts"] == {"days_left": 4, "threshold": 7}
    assert "cert new" in warning["advice"]
    assert "which does not fail the check" in done.stderr


def test_an_encrypted_key_with_its_password_is_right(directory: Path) -> None:
    assert check(write(directory, pair="locked", password="right.pass")).status == 0


def test_every_fault_of_a_configuration_has_its_key_path_and_line_and_exits_2(directory: Path) -> None:
    config = write(directory, other_hosts="tunel", limits={"head_byte": 1})
    done = check(config, "--json")
    report = json.loads(done.stdout)
    faults = [finding for finding in report["findings"] if finding["level"] == "error"]
    text = config.read_text(encoding="utf-8").splitlines()
    assert done.status == 2
    assert [fault["facts"]["key"] for fault in faults] == ["other_hosts", "limits.head_byte"]
    for fault in faults:
        assert fault["facts"]["key"].rpartition(".")[2] in text[fault["facts"]["line"] - 1]
        assert f"config.yaml:{fault['facts']['line']}: " in fault["message"]


def test_missing_files_do_not_hide_what_else_is_wrong(place: Place, directory: Path) -> None:
    address = f"127.0.0.1:{place.port}"
    done = check(write(directory, pair="nowhere", listeners=[{"address": address}]))
    errors = lines(done, "error")
    assert done.status == 2
    assert len(errors) == 3, errors
    assert "nowhere.crt" in errors[0]
    assert "nowhere.key" in errors[1]
    assert f"listener {address}: Another program listens there already." in errors[2]


def test_no_configuration_at_all_is_one_line_and_exits_2(tmp_path: Path) -> None:
    done = check(tmp_path / "nothing.yaml")
    assert done.status == 2
    assert len(lines(done, "error")) == 1
    assert "no such file" in done.stdout.decode()


def test_addresses_that_the_proxy_itself_serves_are_no_error(proxy: ProxyProgram, directory: Path) -> None:
    admin = next(line for line in proxy.lines if "health and metrics on" in line).rpartition("http://")[2]
    config = write(
        directory, listeners=[{"address": proxy.address("forward")}], admin={"address": admin.strip().rstrip("/")}
    )
    done = check(config)
    assert done.status == 0, done.stdout
    assert done.stdout.decode().count("An apim-auth-proxy is serving there now.") == 2


def test_looking_at_listeners_leaves_no_trace_in_metrics_and_log(
    start_proxy: StartProxy, place: Place, directory: Path, curl: Curl
) -> None:
    """F16: and a reverse listener passes nothing on to the API."""
    reverse = {"address": "127.0.0.1:0", "mode": "reverse", "upstream": place.api_alias}
    proxy = start_proxy(configuration(place, listeners=[{"address": "127.0.0.1:0"}, reverse]))
    addresses = [proxy.address("forward"), proxy.address("reverse")]
    config = write(directory, listeners=[{"address": address} for address in addresses])
    before = counted(proxy)
    done = check(config)
    assert done.stdout.decode().count("An apim-auth-proxy is serving there now.") == 2
    assert counted(proxy) == before
    curl("--proxy", f"http://{addresses[0]}", f"http://{place.alias_host}/last")
    proxy.wait_for_exchange(path="/last")
    assert [exchange["path"] for exchange in proxy.exchanges] == ["/last"]


def test_a_sentence_has_one_end(directory: Path) -> None:
    """F16"""
    config = write(directory)
    config.write_text(config.read_text().replace("scope:", "scop:"))
    said = check(config).stdout.decode()
    assert "did you mean 'scope'?" in said
    assert "?." not in said


def test_a_printed_command_works_with_any_path(directory: Path) -> None:
    """F16: it is to be pasted into a shell."""
    odd = directory / "it's a $HOME"
    odd.mkdir()
    for name in ("good.crt", "good.key"):
        (directory / name).rename(odd / name)
    write(odd, listeners=[{"address": f"127.0.0.1:{free_port()}"}])
    said = run_program([COMMAND, "exec", "--config", odd / "config.yaml", "--", "true"]).stderr
    printed = re.search(r"Start it with `([^`]+)`", said)
    assert printed is not None, said
    assert shlex.split(printed[1]) == ["apim-auth-proxy", "run", "--config", str(odd / "config.yaml")]
    trust = run_program(
        [COMMAND, "ca", "trust", "--config", odd / "config.yaml", "--platform", "debian"]
    ).stdout.decode()
    assert str(odd / "state" / "ca.pem") in [word for line in trust.splitlines()[1:] for word in shlex.split(line)]
    windows = run_program(
        [COMMAND, "ca", "trust", "--config", odd / "config.yaml", "--platform", "windows"]
    ).stdout.decode()
    assert "it''s a $HOME/state/ca.pem'" in windows


def counted(proxy: ProxyProgram) -> list[bytes]:
    pattern = rb"^apim_auth_proxy_(?:exchanges|errors)_total\b.*$"
    found: list[bytes] = re.findall(pattern, proxy.ask_admin("/metrics"), re.MULTILINE)
    return found


def test_a_path_that_is_none_is_wrong_usage(directory: Path) -> None:
    done = check(write(directory), "--online", "--path", "orders")
    assert done.status == 2
    assert "--path takes a path" in done.stderr


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"state_directory": "zustände"}, "state_directory"),
        ({"listeners": [{"address": "unix:/tmp/prüfung.sock"}]}, "listeners[0].address"),
    ],
)
def test_a_path_that_the_locale_has_no_name_for_is_told_with_the_way_out(
    place: Place, tmp_path: Path, change: Configuration, key: str
) -> None:
    """As in a service that is started with an empty environment, by a Python that was told not to make UTF-8 of that."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(configuration(place) | change, allow_unicode=True), encoding="utf-8")
    ascii_only = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    done = run_program([COMMAND, "check", "--config", file], environ=ascii_only)
    assert done.status in (1, 2)
    assert f"{key}: the path has a character" in done.stdout.decode() + done.stderr
    assert "LC_ALL=C.UTF-8" in done.stdout.decode() + done.stderr
