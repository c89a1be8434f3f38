"""`ca show`, `ca export` and `ca rotate` through the real command line: a CA to trust before the first run, and never a key."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from proxy.client_setup.bundle import split_pem
from proxy.interception.store import load_or_create
from tests.end_to_end.programs import COMMAND, Place, configuration, environment, run_program, write_configuration

if TYPE_CHECKING:
    from tests.end_to_end.programs import Configuration, ProxyProgram


def _with_hosts(place: Place, *hosts: str) -> Configuration:
    return configuration(place, route={"hosts": list(hosts)}, listeners=[{"address": "127.0.0.1:0"}])


def test_a_first_ca_is_made_for_the_routed_hosts_and_exported(place: Place, tmp_path: Path) -> None:
    config = write_configuration(_with_hosts(place, "orders.example", "*.apis.example", "127.0.0.1:8443"), tmp_path)
    shown = run_program([COMMAND, "ca", "show", "--config", config, "--json"])
    facts = json.loads(shown.stdout)
    exported = run_program([COMMAND, "ca", "export", "--config", config])
    (anchor,) = x509.load_pem_x509_certificates(exported.stdout)
    assert (shown.status, exported.status) == (0, 0)
    assert (shown.stderr, exported.stderr) == ("", "")
    assert facts["may_sign_for"] == ["apis.example", "orders.example", "127.0.0.1"]
    assert facts["subject"] == anchor.subject.rfc4514_string()
    assert facts["sha256"].replace(":", "") in exported_fingerprint(exported.stdout)
    assert b"PRIVATE KEY" not in exported.stdout
    assert stat.S_IMODE((tmp_path / "state" / "ca.key").stat().st_mode) == 0o600


def exported_fingerprint(pem: bytes) -> str:
    done = run_program(["openssl", "x509", "-noout", "-fingerprint", "-sha256"], stdin=pem)
    return done.stdout.decode().replace(":", "")


def test_what_is_exported_is_what_the_running_proxy_signs_under(proxy: ProxyProgram) -> None:
    exported = run_program([COMMAND, "ca", "export", "--config", proxy.config_file])
    assert exported.stdout == proxy.ca_file.read_bytes()


def test_routes_that_outgrew_the_ca_are_told_and_nothing_is_changed(place: Place, tmp_path: Path) -> None:
    config = write_configuration(_with_hosts(place, "orders.example"), tmp_path)
    before = json.loads(run_program([COMMAND, "ca", "show", "--config", config, "--json"]).stdout)
    assert before["due"] is None
    write_configuration(_with_hosts(place, "orders.example", "invoices.example"), tmp_path)
    done = run_program([COMMAND, "ca", "show", "--config", config, "--json"])
    after = json.loads(done.stdout)
    assert (after["sha256"], after["state"]) == (before["sha256"], "in use")
    assert "invoices.example" in after["due"]
    assert "when it next starts or reloads" in done.stderr
    text = run_program([COMMAND, "ca", "show", "--config", config])
    assert before["sha256"] in text.stdout.decode()
    check = run_program([COMMAND, "check", "--config", config])
    assert check.status == 0
    assert "invoices.example was added" in check.stdout.decode()


def _rotate(config: Path, *words: str) -> tuple[int, dict[str, object], str]:
    done = run_program([COMMAND, "ca", "rotate", "--config", config, *words, "--json"])
    return done.status, json.loads(done.stdout or b"{}"), done.stderr


def test_a_rotation_goes_step_by_step(place: Place, tmp_path: Path) -> None:
    config = write_configuration(_with_hosts(place, "orders.example"), tmp_path)
    first = json.loads(run_program([COMMAND, "ca", "show", "--config", config, "--json"]).stdout)
    status, nothing, complaint = _rotate(config, "--cut-over")
    assert (status, nothing) == (1, {})
    assert "Run `ca rotate` first" in complaint

    status, prepared, _ = _rotate(config)
    assert (status, prepared["state"], prepared["sha256"]) == (0, "prepared", first["sha256"])
    assert _rotate(config)[1] == prepared, "asked again, the same one is still prepared"
    exported = run_program([COMMAND, "ca", "export", "--config", config]).stdout
    assert x509.load_pem_x509_certificate(exported).not_valid_after_utc.isoformat() == first["not_after"]
    assert exported.count(b"BEGIN CERTIFICATE") == 2
    variables = json.loads(
        run_program([COMMAND, "env", "--config", config, "--proxy-url", "http://127.0.0.1:1", "--json"]).stdout
    )
    bundle = Path(variables["SSL_CERT_FILE"]).read_bytes()
    assert all(pem in bundle for pem in split_pem(exported)), "env and exec hand out both"

    status, nothing, complaint = _rotate(config, "--cut-over")
    assert (status, nothing) == (1, {})
    assert "add --now" in complaint
    status, after, _ = _rotate(config, "--cut-over", "--now")
    assert (status, after["state"]) == (0, "taken over")
    assert after["sha256"] == prepared["next_sha256"]
    assert [one["sha256"] for one in _previous(after)] == [first["sha256"]]
    assert run_program([COMMAND, "ca", "export", "--config", config]).stdout.count(b"BEGIN CERTIFICATE") == 2

    status, dropped, _ = _rotate(config, "--drop-old")
    assert (status, dropped["state"], dropped["previous"]) == (0, "in use", [])
    assert run_program([COMMAND, "ca", "export", "--config", config]).stdout.count(b"BEGIN CERTIFICATE") == 1
    assert run_program([COMMAND, "ca", "rotate", "--config", config, "--now"]).status == 2


def _previous(facts: dict[str, object]) -> list[dict[str, str]]:
    found = facts["previous"]
    assert isinstance(found, list)
    return found


def test_a_leaked_key_is_out_with_one_command(place: Place, tmp_path: Path) -> None:
    config = write_configuration(_with_hosts(place, "orders.example"), tmp_path)
    first = json.loads(run_program([COMMAND, "ca", "show", "--config", config, "--json"]).stdout)
    done = run_program([COMMAND, "ca", "rotate", "--config", config, "--cut-over", "--now", "--drop-old"])
    assert done.status == 0
    assert (
        first["sha256"]
        not in run_program([COMMAND, "ca", "show", "--config", config]).stdout.decode().split("replaces")[0]
    )
    exported = run_program([COMMAND, "ca", "export", "--config", config]).stdout
    assert exported.count(b"BEGIN CERTIFICATE") == 1
    assert first["sha256"].replace(":", "") not in exported_fingerprint(exported)


def test_each_step_says_what_to_do_next(place: Place, tmp_path: Path) -> None:
    config = write_configuration(_with_hosts(place, "orders.example"), tmp_path)
    run_program([COMMAND, "ca", "show", "--config", config])
    first = run_program([COMMAND, "ca", "rotate", "--config", config])
    assert "ca rotate --cut-over" in first.stderr
    assert str(tmp_path / "state/ca.pem") in first.stderr
    assert (
        "rotation: the next CA is prepared" in run_program([COMMAND, "ca", "show", "--config", config]).stdout.decode()
    )
    assert "ca rotate --cut-over" in run_program([COMMAND, "check", "--config", config]).stdout.decode()
    second = run_program([COMMAND, "ca", "rotate", "--config", config, "--cut-over", "--now"])
    assert "--drop-old" in second.stderr
    help_text = run_program([COMMAND, "ca", "rotate", "--help"])
    assert all(option in help_text.stdout.decode() for option in ("--cut-over", "--now", "--drop-old", "--json"))


def test_without_a_configuration_the_default_state_directory_is_the_configurations(
    place: Place, tmp_path: Path
) -> None:
    """The same directory that a configuration without `state_directory` has."""
    settings = {key: value for key, value in _with_hosts(place, "orders.example").items() if key != "state_directory"}
    config = write_configuration(settings, tmp_path)
    for variables in ({"XDG_STATE_HOME": str(tmp_path / "xdg")}, {"XDG_STATE_HOME": "relative", "HOME": str(tmp_path)}):
        environ = environment(**variables)
        nothing = run_program([COMMAND, "ca", "show"], environ=environ)
        assert nothing.status == 1
        assert "There is no interception CA" in nothing.stderr
        made = run_program([COMMAND, "ca", "show", "--config", config, "--json"], environ=environ)
        found = run_program([COMMAND, "ca", "show", "--json"], environ=environ)
        assert found.status == 0
        assert json.loads(found.stdout)["file"] == json.loads(made.stdout)["file"]


@pytest.mark.parametrize("how", ["option", "variable", "here"])
def test_the_configuration_is_found_where_every_command_finds_it(place: Place, tmp_path: Path, how: str) -> None:
    """F3: with another state directory, the default one holds another CA, which nobody should trust."""
    home, work = tmp_path / "home", tmp_path / "work"
    load_or_create(home / "apim-auth-proxy", ["other.example"], datetime.now(UTC))
    config = write_configuration(_with_hosts(place, "orders.example"), work)
    environ = environment(XDG_STATE_HOME=str(home))
    words = ["--config", str(config)] if how == "option" else []
    if how == "variable":
        environ["APIM_AUTH_PROXY_CONFIG"] = str(config)

    def about(*command: str) -> str:
        done = run_program(
            [COMMAND, "ca", *command, *words], environ=environ, directory=work if how == "here" else home
        )
        assert done.status == 0, done.stderr
        return done.stdout.decode() + done.stderr

    shown = json.loads(about("show", "--json"))
    assert (shown["file"], shown["may_sign_for"]) == (str(work / "state/ca.pem"), ["orders.example"])
    assert about("export") == (work / "state/ca.pem").read_text()
    assert str(work / "state/ca.pem") in about("trust", "--platform", "debian")
    assert shown["sha256"] in about("rotate")


def test_without_a_configuration_it_says_whose_ca_it_is(tmp_path: Path) -> None:
    load_or_create(tmp_path / "apim-auth-proxy", ["orders.example"], datetime.now(UTC))
    for command in ("show", "export", "trust"):
        done = run_program(
            [COMMAND, "ca", command], environ=environment(XDG_STATE_HOME=str(tmp_path)), directory=tmp_path
        )
        assert done.status == 0
        assert f"there is no configuration here, so this is about the CA in {tmp_path}/apim-auth-proxy" in done.stderr


def test_a_key_that_others_can_read_is_refused_with_the_remedy(place: Place, tmp_path: Path) -> None:
    config = write_configuration(_with_hosts(place, "orders.example"), tmp_path)
    load_or_create(tmp_path / "state", ["orders.example"], datetime.now(UTC))
    (tmp_path / "state" / "ca.key").chmod(0o644)
    done = run_program([COMMAND, "ca", "export", "--config", config])
    assert (done.status, done.stdout) == (2, b"")
    assert "chmod 600" in done.stderr
    assert "Traceback" not in done.stderr
