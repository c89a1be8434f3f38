"""Mutual TLS with a real token endpoint (oidc-provider), and tokens that are bound to the certificate (RFC 8705).

The resource compares each token's ``cnf.x5t#S256`` with the certificate of the connection that the token comes over.
"""

from __future__ import annotations

import base64
import hashlib
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.end_to_end.npm_packages import install_packages
from tests.end_to_end.programs import COMMAND, Program, environment, run_program, write_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Answer, Curl
    from tests.end_to_end.programs import Configuration, ProxyProgram

# 8 runs on the Node.js of Debian 12; 9 does not.
PACKAGES: Final = ("oidc-provider@8.8.1",)
SERVER: Final = Path(__file__).parent / "clients" / "mtls_server.cjs"
NAME: Final = "my-client.example.test"


class Place:
    """The two servers, and the client's certificate."""

    def __init__(self, directory: Path, ports: dict[str, int], ca: trustme.CA) -> None:
        self.directory = directory
        self.token_endpoint = f"https://localhost:{ports['identity']}/token"
        self.resource = f"localhost:{ports['resource']}"
        self.ca = ca

    def write_certificate(self, name: str = NAME, ca: trustme.CA | None = None) -> str:
        """Replaces the client's certificate, at once and whole; returns its thumbprint as ``cnf`` has it."""
        issued = (ca or self.ca).issue_cert(name)
        whole = self.directory / "client.pem.new"
        whole.touch(0o600)
        whole.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        whole.replace(self.directory / "client.pem")
        certificate = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
        digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def settings(self, **route: object) -> Configuration:
        ca_file = str(self.directory / "ca.pem")
        return {
            "listeners": [{"address": "127.0.0.1:0"}],
            "credentials": {
                "mutual-tls": {
                    "token_endpoint": self.token_endpoint,
                    "client_id": "my-client",
                    "certificate": str(self.directory / "client.pem"),
                    "client_authentication": "tls",
                    "ca_file": ca_file,
                }
            },
            "routes": [
                {
                    "hosts": [self.resource],
                    "credential": "mutual-tls",
                    "resource": "https://orders.example.test",
                    "ca_file": ca_file,
                    **route,
                }
            ],
            "admin": {"address": "127.0.0.1:0"},
            "state_directory": "state",
        }


@pytest.fixture(scope="module")
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    libraries = install_packages(request.config, PACKAGES)
    directory = tmp_path_factory.mktemp("mutual-tls")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(directory / "ca.pem"))
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
    environ = environment(LIBRARIES_DIRECTORY=str(libraries))
    with Program(["node", SERVER, directory], directory, "server", environ=environ) as program:
        yield Place(directory, json.loads(program.wait_for_line('{"identity"')), ca)


def call(curl: Curl, proxy: ProxyProgram, place: Place) -> Answer:
    return curl("--proxy", proxy.forward, f"http://{place.resource}/orders")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bound_token_works_because_the_route_shows_the_same_certificate(
    servers: Place, start_proxy: StartProxy, curl: Curl, workers: int
) -> None:
    thumbprint = servers.write_certificate()
    proxy = start_proxy({**servers.settings(), "workers": workers})

    answers = [call(curl, proxy, servers) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 200]
    told = [json.loads(answer.content) for answer in answers]
    assert {(each["bound"], each["shown"]) for each in told} == {(thumbprint, thumbprint)}
    assert len({each["tokens"] for each in told}) == 1, "one token request"


def test_a_token_bound_to_a_new_certificate_is_used_where_that_is_shown(
    servers: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    old = servers.write_certificate()
    proxy = start_proxy(servers.settings())
    assert json.loads(call(curl, proxy, servers).content)["bound"] == old
    new = servers.write_certificate()
    proxy.signal(signal.SIGHUP)
    proxy.wait_for_line("reloaded")

    answers = [call(curl, proxy, servers) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert {json.loads(answer.content)["bound"] for answer in answers} == {new}
    assert {json.loads(answer.content)["shown"] for answer in answers} == {new}


def test_a_route_with_a_certificate_of_its_own_shows_that_one(
    servers: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    """And a resource that looks does not take the token: the setting is the operator's."""
    servers.write_certificate()
    other = servers.directory / "other.pem"
    other.touch(0o600)
    other.write_bytes(servers.ca.issue_cert("other.example.test").private_key_and_cert_chain_pem.bytes())
    proxy = start_proxy(servers.settings(client_certificate=str(other)))

    answer = call(curl, proxy, servers)

    assert answer.status == 401
    assert json.loads(answer.content)["shown"] != json.loads(answer.content)["bound"]


def test_a_certificate_that_the_server_does_not_know_is_refused_in_its_words(
    servers: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    servers.write_certificate(name="somebody.example.test")
    proxy = start_proxy(servers.settings())

    answer = call(curl, proxy, servers)

    assert (answer.status, answer.problem["code"]) == (502, "invalid_client")


def test_check_says_what_is_shown_and_that_it_is_accepted(servers: Place, tmp_path: Path) -> None:
    servers.write_certificate()
    config = write_configuration(servers.settings(), tmp_path)
    done = run_program([COMMAND, "check", "--online", "--config", config])
    said = done.stdout.decode()
    assert done.status == 0, said
    assert "is shown in TLS handshakes with the token endpoint, and to upstreams that ask" in said
    assert "The token endpoint accepts TLS certificate" in said
