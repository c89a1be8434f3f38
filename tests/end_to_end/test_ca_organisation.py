"""An organisation's intermediate behind the real command: served, renewed in flight, refused where it is wrong."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from tests.end_to_end.programs import COMMAND, PATIENCE_S, configuration, run_program, write_configuration
from tests.unit.test_interception_organisation import PEM, ROOT, Authority, make_ca, write

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Configuration, Place, ProxyProgram


def with_ca(place: Place, directory: Path, authority: Authority, *above: Authority) -> Configuration:
    settings = write(directory, authority, *above)
    names = {"ca_certificate": str(settings.ca_certificate), "ca_private_key": str(settings.ca_private_key)}
    return configuration(place, listeners=[{"address": "127.0.0.1:0"}], interception=names)


def proxies(**changes: object) -> Authority:
    return make_ca("Contoso Proxies", ROOT, path_length=0, **changes)  # type: ignore[arg-type]  # of several types


def trust_root(directory: Path) -> str:
    path = directory / "root.pem"
    path.write_bytes(ROOT.certificate.public_bytes(PEM))
    return str(path)


def shown_serial(proxy: ProxyProgram, host: str, directory: Path) -> int:
    """Returns the serial number of the CA certificate that a client is sent behind the leaf."""
    command = ["openssl", "s_client", "-proxy", proxy.address("forward"), "-connect", f"{host}:443", "-showcerts"]
    done = run_program([*command, "-servername", host, "-CAfile", trust_root(directory), "-verify_return_error"])
    assert done.status == 0, done.stderr
    start = done.stdout.index(b"-----BEGIN", done.stdout.index(b"-----END"))
    return x509.load_pem_x509_certificate(done.stdout[start:]).serial_number


@pytest.mark.parametrize("workers", [1, 2])
def test_clients_that_trust_the_root_need_nothing_through_a_renewal(
    place: Place, tmp_path: Path, start_proxy: StartProxy, curl: Curl, workers: int
) -> None:
    first, second = proxies(), proxies()
    proxy = start_proxy(with_ca(place, tmp_path, first, ROOT) | {"workers": workers})
    root, host = trust_root(tmp_path), place.alias_host
    request = ("--proxy", proxy.forward, "--cacert", root, f"https://{host}/orders")
    assert curl(*request).status == 200
    assert not (proxy.config_file.parent / "state" / "ca.key").exists(), "no CA of the proxy's own is made"
    assert shown_serial(proxy, host, tmp_path) == first.certificate.serial_number
    write(tmp_path, second, key=first)  # the certificate is there, its key is not yet
    proxy.wait_for_line("the earlier one stays")
    assert curl(*request).status == 200
    write(tmp_path, second, ROOT)
    give_up_at = time.monotonic() + PATIENCE_S
    while shown_serial(proxy, host, tmp_path) != second.certificate.serial_number:
        assert time.monotonic() < give_up_at
        time.sleep(0.2)
    assert curl(*request).status == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_has_ended_keeps_no_other_way_from_being_served(
    place: Place, tmp_path: Path, start_proxy: StartProxy, curl: Curl, workers: int
) -> None:
    """A2: https through the forward listener fails at the client, which says why; http is served; a reload is taken up."""
    ended = proxies(days=(-10, -1))
    settings = with_ca(place, tmp_path, ended, ROOT) | {"workers": workers}
    proxy = start_proxy(settings)
    root, host = trust_root(tmp_path), place.alias_host

    assert curl("--proxy", proxy.forward, f"http://{host}/orders").status == 200
    refused = curl("--proxy", proxy.forward, "--cacert", root, f"https://{host}/orders")
    assert refused.exit_status == 60
    assert "expired" in refused.complaint
    reasons = json.loads(proxy.ask_admin("/readyz"))["reasons"]
    assert len(reasons) == 1
    assert "'CN=Contoso Proxies' of the interception CA ended on" in reasons[0]
    proxy.wait_for_line("of the interception CA ended on")
    checked = run_program([COMMAND, "check", "--config", proxy.config_file])
    assert checked.status == 1
    assert b"of the interception CA ended on" in checked.stdout
    write_configuration(settings | {"timeouts": {"drain_s": 4}}, proxy.config_file.parent)
    proxy.wait_for_line("apim-auth-proxy: reloaded")
    write(tmp_path, proxies(), ROOT)
    proxy.wait_for_line("the interception CA has changed")
    assert curl("--proxy", proxy.forward, "--cacert", root, f"https://{host}/orders").status == 200


def test_the_commands_speak_of_the_organisations_ca(place: Place, tmp_path: Path) -> None:
    authority = proxies()
    config = write_configuration(with_ca(place, tmp_path, authority, ROOT), tmp_path)
    facts = json.loads(run_program([COMMAND, "ca", "show", "--config", config, "--json"]).stdout)
    assert facts["subject"] == "CN=Contoso Proxies"
    assert (facts["issued_by"], facts["bounded_by_name_constraints"]) == ("CN=Contoso Root", False)
    assert "organisation" in run_program([COMMAND, "ca", "show", "--config", config]).stdout.decode()
    exported = run_program([COMMAND, "ca", "export", "--config", config])
    assert exported.stdout == ROOT.certificate.public_bytes(PEM)
    rotated = run_program([COMMAND, "ca", "rotate", "--config", config])
    assert (rotated.status, rotated.stdout) == (1, b"")
    assert "does not apply" in rotated.stderr
    trusted = run_program([COMMAND, "ca", "trust", "--config", config, "--platform", "debian"])
    assert b"organisation-ca.pem" in trusted.stdout
    assert b"intermediate" not in trusted.stdout, "that file may hold the key"
    checked = run_program([COMMAND, "check", "--config", config])
    assert "has no name constraints" in checked.stdout.decode()
    variables = run_program([COMMAND, "env", "--config", config, "--proxy-url", "http://127.0.0.1:1", "--json"])
    bundle = (tmp_path / "state" / "bundle.pem").read_bytes()
    assert variables.status == 0
    assert ROOT.certificate.public_bytes(PEM) in bundle
    assert not (tmp_path / "state" / "ca.key").exists()


def test_one_that_cannot_serve_is_refused_at_the_start_with_the_reason(place: Place, tmp_path: Path) -> None:
    narrow = x509.NameConstraints([x509.DNSName("elsewhere.example")], None)
    for authority, words in (
        (proxies(is_ca=False), "is not a CA's"),
        (proxies(constraints=narrow), f"do not permit localhost, {place.alias_host}"),
    ):
        config = write_configuration(with_ca(place, tmp_path, authority), tmp_path)
        done = run_program([COMMAND, "run", "--config", config])
        assert (done.status, done.stdout) == (2, b"")
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    (tmp_path / "intermediate.key").chmod(0o644)
    done = run_program([COMMAND, "run", "--config", config])
    assert "interception.ca_private_key" in done.stderr
    assert "chmod 600" in done.stderr
    settings = configuration(place, interception={"ca_private_key": str(tmp_path / "intermediate.key")})
    done = run_program([COMMAND, "check", "--config", write_configuration(settings, tmp_path)])
    assert "this belongs to ca_certificate" in done.stdout.decode() + done.stderr
