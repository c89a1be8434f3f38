"""`ca show` and `ca export` through the real command line: a CA to trust before the first run, and never a key."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509

from proxy.interception.store import load_or_create
from tests.end_to_end.programs import COMMAND, Place, configuration, environment, run_program, write_configuration

if TYPE_CHECKING:
    from pathlib import Path

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
    assert before["outdated"] is None
    write_configuration(_with_hosts(place, "orders.example", "invoices.example"), tmp_path)
    done = run_program([COMMAND, "ca", "show", "--config", config, "--json"])
    after = json.loads(done.stdout)
    assert after["sha256"] == before["sha256"]
    assert "invoices.example" in after["outdated"]
    assert "issues another CA when it next starts" in done.stderr
    text = run_program([COMMAND, "ca", "show", "--config", config])
    assert before["sha256"] in text.stdout.decode()
    check = run_program([COMMAND, "check", "--config", config])
    assert check.status == 0
    assert "invoices.example was added" in check.stdout.decode()


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


def test_a_key_that_others_can_read_is_refused_with_the_remedy(place: Place, tmp_path: Path) -> None:
    config = write_configuration(_with_hosts(place, "orders.example"), tmp_path)
    load_or_create(tmp_path / "state", ["orders.example"], datetime.now(UTC))
    (tmp_path / "state" / "ca.key").chmod(0o644)
    done = run_program([COMMAND, "ca", "export", "--config", config])
    assert (done.status, done.stdout) == (2, b"")
    assert "chmod 600" in done.stderr
    assert "Traceback" not in done.stderr
