"""A client certificate for the upstream: shown to its route's upstreams only, renewed without a restart, named where it is missing.

The upstreams are nginx and `openssl s_server`, the proxy is the real command.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from tests.end_to_end.programs import COMMAND, PATIENCE_S, configuration, run_program, write_configuration
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Configuration, Place, ProxyProgram

HOST: Final = "mtls.example.test"
OTHER: Final = "other.example.test"
PASSWORD: Final = b"opens the client key"
NGINX: Final = """
{user} daemon off; worker_processes 1; pid {directory}/pid; error_log stderr crit;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl; server_name {names};
    ssl_certificate {directory}/server.pem; ssl_certificate_key {directory}/server.pem; ssl_protocols {protocols};
    ssl_client_certificate {directory}/ca.pem; ssl_verify_client {verify};
    location / {{ return 200 "$ssl_client_s_dn|$http_host|$http_authorization"; }}
  }}
}}
"""


class Upstreams:
    """A CA, and servers and client certificates that it issues."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.server = directory / "server.pem"
        self.ca.issue_cert(HOST, OTHER).private_key_and_cert_chain_pem.write_to_path(str(self.server))

    def issue(self, name: str, *, expires: datetime | None = None) -> bytes:
        """A client certificate with its key, PEM."""
        issued = self.ca.issue_cert(f"{name}.clients.test", common_name=name, not_after=expires)
        return issued.private_key_and_cert_chain_pem.bytes()

    def write(self, file: str, content: bytes) -> Path:
        """At once and whole, as a renewal does it."""
        path, whole = self.directory / file, self.directory / f"{file}.new"
        whole.touch(0o600)
        whole.write_bytes(content)
        whole.replace(path)
        return path

    @contextmanager
    def nginx(self, verify: str = "on", protocols: str = "TLSv1.2 TLSv1.3") -> Iterator[int]:
        program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        if program is None:
            pytest.skip("nginx is not installed")
        port = free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        text = NGINX.format(
            user=user, directory=self.directory, port=port, verify=verify, protocols=protocols, names=f"{HOST} {OTHER}"
        )
        (self.directory / "nginx.conf").write_text(text)
        with _serving([program, "-c", str(self.directory / "nginx.conf"), "-p", str(self.directory)], port):
            yield port

    @contextmanager
    def openssl(self, *arguments: str) -> Iterator[int]:
        port = free_port()
        command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(self.server), "-key",
                   str(self.server), "-CAfile", str(self.ca_file), "-www", *arguments]  # fmt: skip
        with _serving(command, port):
            yield port


@contextmanager
def _serving(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            assert process.poll() is None, f"{command[0]} did not start"
            assert time.monotonic() < give_up_at
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def upstreams(tmp_path: Path) -> Upstreams:
    directory = tmp_path / "upstreams"
    directory.mkdir()
    return Upstreams(directory)


def _configuration(
    place: Place, upstreams: Upstreams, port: int, *routes: dict[str, object], workers: int = 1
) -> Configuration:
    settings = configuration(place) | {"workers": workers}
    usual = {"credential": "orders-client", "scope": place.scope, "dial": f"127.0.0.1:{port}"}
    more = [{"ca_file": str(upstreams.ca_file), **usual, **route} for route in routes]
    settings["routes"] = [*settings["routes"], *more]  # type: ignore[misc] # a list of mappings
    return settings


def _call(curl: Curl, proxy: ProxyProgram, host: str = HOST) -> str:
    answer = curl("--proxy", proxy.forward, f"http://{host}/")
    assert answer.status == 200, (answer.head, answer.content)
    return answer.content.decode()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("form", ["pem", "two_files", "pfx"])
def test_a_route_shows_its_certificate_and_the_token(
    form: str, workers: int, place: Place, upstreams: Upstreams, start_proxy: StartProxy, curl: Curl
) -> None:
    pem = upstreams.issue("orders")
    certificate = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERT") :])
    key = serialization.load_pem_private_key(pem, None)
    route: dict[str, object] = {"hosts": [HOST]}
    if form == "pem":
        route["client_certificate"] = str(upstreams.write("mtls.pem", pem))
    elif form == "two_files":
        locked = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(PASSWORD),
        )
        route["client_certificate"] = str(
            upstreams.write("mtls.pem", certificate.public_bytes(serialization.Encoding.PEM))
        )
        route["client_private_key"] = str(upstreams.write("mtls.key", locked))
        route["client_password_file"] = str(upstreams.write("mtls.pass", PASSWORD + b"\n"))
    else:
        bundle = pkcs12.serialize_key_and_certificates(
            None,
            key,  # type: ignore[arg-type] # trustme makes no others than can be had in a PFX
            certificate,
            None,
            serialization.BestAvailableEncryption(PASSWORD),
        )
        route["client_certificate"] = str(upstreams.write("mtls.pfx", bundle))
        route["client_password_file"] = str(upstreams.write("mtls.pass", PASSWORD + b"\n"))
    with upstreams.nginx() as port:
        proxy = start_proxy(_configuration(place, upstreams, port, route, workers=workers))
        shown, host, authorization = _call(curl, proxy).split("|")

        assert "CN=orders" in shown
        assert host == HOST
        assert authorization.startswith("Bearer ey")
        metrics = proxy.ask_admin("/metrics").decode()
        assert re.search(
            rf'certificate_expiry_timestamp_seconds\{{kind="client_certificate",name="{HOST}",proof="[^"]*CN=orders',
            metrics,
        )
        assert '"client_certificate"' in proxy.ask_admin("/api/state").decode()


def test_each_route_shows_its_own_certificate_and_others_show_none(
    place: Place, upstreams: Upstreams, start_proxy: StartProxy, curl: Curl
) -> None:
    """All three lead to one server that would take a certificate from each: connections are kept by route."""
    with upstreams.nginx("optional") as port:
        routes: list[dict[str, object]] = [
            {"hosts": [HOST], "client_certificate": str(upstreams.write("a.pem", upstreams.issue("first")))},
            {"hosts": [OTHER], "client_certificate": str(upstreams.write("b.pem", upstreams.issue("second")))},
            {"hosts": [f"{OTHER}:8443"]},
        ]
        proxy = start_proxy(_configuration(place, upstreams, port, *routes))
        for _ in range(2):
            assert "CN=first" in _call(curl, proxy, HOST)
            assert "CN=second" in _call(curl, proxy, OTHER)
            assert _call(curl, proxy, f"{OTHER}:8443").startswith("|")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_renewed_certificate_is_shown_without_a_restart(
    workers: int, place: Place, upstreams: Upstreams, start_proxy: StartProxy, curl: Curl
) -> None:
    """Connections that were kept alive showed the old one, and are not used again. What cannot be used changes nothing."""
    with upstreams.nginx() as port:
        file = upstreams.write("mtls.pem", upstreams.issue("before"))
        route: dict[str, object] = {"hosts": [HOST], "client_certificate": str(file)}
        proxy = start_proxy(_configuration(place, upstreams, port, route, workers=workers))
        assert "CN=before" in _call(curl, proxy)
        upstreams.write("mtls.pem", b"half of a file")
        proxy.wait_for_line(
            f"route {HOST}: the new files are not used, the old ones stay. {file}: no certificate in it"
        )
        assert "CN=before" in _call(curl, proxy)

        upstreams.write("mtls.pem", upstreams.issue("after"))

        proxy.wait_for(
            lambda lines: sum(f"route {HOST}: the new files are in use" in line for line in lines) == workers
        )
        assert "CN=after" in _call(curl, proxy)
        assert "CN=after" in proxy.ask_admin("/metrics").decode()


def test_a_pair_that_cannot_be_used_is_a_reason_not_to_start(
    place: Place, upstreams: Upstreams, tmp_path: Path
) -> None:
    """By `run` and `check` alike, with the name of the key; also with relay processes, which would end one by one."""
    locked = serialization.load_pem_private_key(upstreams.issue("x"), None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(PASSWORD)
    )
    certificate = upstreams.write("mtls.pem", upstreams.issue("orders"))
    route: dict[str, object] = {
        "hosts": [HOST],
        "client_certificate": str(certificate),
        "client_private_key": str(upstreams.write("mtls.key", locked)),
    }
    for workers in (1, 2):
        path = write_configuration(_configuration(place, upstreams, 443, route, workers=workers), tmp_path / "proxy")
        for command in ("run", "check"):
            ended = run_program([COMMAND, command, "--config", path])
            assert ended.status in (1, 2)
            said = " ".join((ended.stdout.decode() + ended.stderr).split())
            assert "mtls.key: encrypted, and no password is configured" in said
            assert "`client_password_file`" in said


def test_keys_without_a_certificate_and_open_files_are_faults(
    place: Place, upstreams: Upstreams, tmp_path: Path
) -> None:
    pair = upstreams.write("mtls.pem", upstreams.issue("orders"))
    pair.chmod(0o644)
    routes: list[dict[str, object]] = [
        {"hosts": [HOST], "client_private_key": str(pair)},
        {"hosts": [OTHER], "client_certificate": str(pair)},
    ]
    path = write_configuration(_configuration(place, upstreams, 443, *routes), tmp_path / "proxy")

    said = run_program([COMMAND, "run", "--config", path]).stderr

    assert "routes[1].client_private_key: this key needs client_certificate" in said
    assert f"routes[2].client_certificate: {pair} holds a secret" in said


def test_an_expired_client_certificate_keeps_nothing_from_starting(
    place: Place, upstreams: Upstreams, start_proxy: StartProxy, curl: Curl, tmp_path: Path
) -> None:
    """Its upstream judges it; the other routes are served, and `check` says what is wrong."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    pair = upstreams.write("mtls.pem", upstreams.issue("orders", expires=yesterday))
    settings = _configuration(place, upstreams, free_port(), {"hosts": [HOST], "client_certificate": str(pair)})
    proxy = start_proxy(settings)

    assert curl("--proxy", proxy.forward, f"http://{place.api_authority}/orders").status == 200
    proxy.wait_for_line(f"route {HOST}: the client certificate")
    checked = run_program([COMMAND, "check", "--config", write_configuration(settings, tmp_path / "checked")])
    assert checked.status == 1
    assert "The certificate expired on" in checked.stdout.decode()


WANTS: Final = "asks for a client certificate, and was shown none, or none that it takes"
HANDSHAKES: Final = {
    "wants_one_tls12": (("-Verify", "1", "-tls1_2"), "upstream_wants_client_certificate", WANTS),
    "wants_one_tls13": (("-Verify", "1", "-tls1_3"), "upstream_wants_client_certificate", WANTS),
    "old_version": (("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), "upstream_tls_too_old", "speaks no TLS version that is still safe"),
    "no_cipher": (("-tls1_2", "-cipher", "AES128-SHA"), "upstream_no_common_cipher", "has no cipher suite in common"),
}  # fmt: skip


@pytest.mark.parametrize("case", HANDSHAKES)
def test_what_a_handshake_failed_of_is_said(
    case: str, place: Place, upstreams: Upstreams, start_proxy: StartProxy, curl: Curl, tmp_path: Path
) -> None:
    """E1, E2: the relay and `check --online` say the same, and name the route's key."""
    arguments, code, reason = HANDSHAKES[case]
    with upstreams.openssl(*arguments) as port:
        settings = _configuration(place, upstreams, port, {"hosts": [HOST]})
        proxy = start_proxy(settings)
        for method in ("GET", "POST"):
            answer = curl("--proxy", proxy.forward, "--request", method, f"http://{HOST}/")
            assert (answer.status, answer.problem["code"]) == (502, code)
            assert reason in str(answer.problem["detail"])
        path = write_configuration(settings, tmp_path / "checked")
        checked = run_program([COMMAND, "check", "--online", "--config", path])
        assert reason in " ".join(checked.stdout.decode().split())
        if "wants" in code:
            assert "`client_certificate`" in str(answer.problem["detail"])


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_certificate_that_is_not_accepted_is_said(
    version: str, place: Place, upstreams: Upstreams, start_proxy: StartProxy, curl: Curl
) -> None:
    """E1's sibling: one is shown, and its issuer is not known there."""
    stranger = trustme.CA().issue_cert("stranger.test").private_key_and_cert_chain_pem.bytes()
    pair = upstreams.write("mtls.pem", stranger)
    with upstreams.openssl("-Verify", "1", "-verify_return_error", version) as port:
        route: dict[str, object] = {"hosts": [HOST], "client_certificate": str(pair)}
        proxy = start_proxy(_configuration(place, upstreams, port, route))

        answer = curl("--proxy", proxy.forward, f"http://{HOST}/")

        assert (answer.status, answer.problem["code"]) == (502, "upstream_refuses_client_certificate")


def test_check_online_shows_the_certificate(place: Place, upstreams: Upstreams, tmp_path: Path) -> None:
    with upstreams.nginx() as port:
        pair = upstreams.write("mtls.pem", upstreams.issue("orders"))
        route: dict[str, object] = {"hosts": [HOST], "client_certificate": str(pair)}
        path = write_configuration(_configuration(place, upstreams, port, route), tmp_path / "checked")

        checked = run_program([COMMAND, "check", "--online", "--config", path])

        said = " ".join(checked.stdout.decode().split())
        assert f"host {HOST}" in said
        assert "It answers 200: the token was accepted" in said
        assert "it is shown" in said


def test_a_plain_key_is_never_on_disk(monkeypatch: pytest.MonkeyPatch, upstreams: Upstreams) -> None:
    """Python's TLS takes a key as a file only; where there are no files in memory, what is in the file is encrypted."""
    from proxy.keys import tls
    from proxy.keys.pairs import read_pair

    written: list[bytes] = []
    monkeypatch.delattr(os, "memfd_create", raising=False)
    lend = tls.lend_file

    @contextmanager
    def watch(secret: bytes) -> Iterator[str]:
        written.append(secret)
        with lend(secret) as path:
            yield path

    monkeypatch.setattr(tls, "lend_file", watch)
    pair = upstreams.write("mtls.pem", upstreams.issue("orders"))

    tls.load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), read_pair(pair, None, None), pair)

    assert len(written) == 1
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in written[0]
    assert b"BEGIN PRIVATE KEY" not in written[0]
    assert b"BEGIN EC PRIVATE KEY" not in written[0]
