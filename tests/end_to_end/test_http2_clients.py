"""curl, httpx, nghttp, h2load, Java and Go through the real command: where they insist on HTTP/2, and where they only offer it."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import trustme

from tests.end_to_end.programs import configuration, environment, run_program

if TYPE_CHECKING:
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.programs import Configuration, Place, ProxyProgram

CLIENTS = Path(__file__).with_name("clients")
SAYS = "\n%{http_version} %{response_code}"


def curl(*arguments: object) -> tuple[str, str]:
    """Content, and version with status."""
    done = run_program(["curl", "-sS", "--max-time", "50", "-w", SAYS, *map(str, arguments)], environ=environment())
    assert done.status == 0, done.stderr
    content, _, said = done.stdout.decode().rpartition("\n")
    return content, said


def test_curl_insists_on_http_2_at_a_reverse_listener(proxy: ProxyProgram) -> None:
    content, said = curl("--http2-prior-knowledge", f"{proxy.reverse}/orders")
    assert said == "2 200"
    assert json.loads(content)


def test_curl_insists_on_http_2_inside_a_tunnel_and_gets_http_1_where_it_only_offers_it(
    proxy: ProxyProgram, place: Place
) -> None:
    usual = ("--proxytunnel", "--proxy", proxy.forward)
    in_clear = f"http://{place.api_authority}/orders"
    assert curl("--http2-prior-knowledge", *usual, in_clear)[1] == "2 200"
    assert curl("--http2", *usual, "--cacert", proxy.ca_file, f"{place.api_url}/orders")[1] == "1.1 200"


def test_curl_sends_content_and_gets_an_error_in_words(proxy: ProxyProgram, tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"a" * 1_000_000)
    upload = ("--data-binary", f"@{tmp_path / 'content'}")
    content, said = curl("--http2-prior-knowledge", *upload, f"{proxy.reverse}/orders")
    assert said == "2 200", content
    content, said = curl("--http2-prior-knowledge", "-H", "Host: other.example", f"{proxy.reverse}/orders")
    assert said == "2 421"
    assert "server_names" in content


def test_an_upgrade_to_h2c_is_answered_in_http_1(proxy: ProxyProgram) -> None:
    assert curl("--http2", f"{proxy.reverse}/orders")[1] == "1.1 200"


@pytest.mark.parametrize("http1", [True, False])
def test_httpx_is_served_in_the_version_it_needs(proxy: ProxyProgram, place: Place, http1: bool) -> None:
    context = ssl.create_default_context(cafile=str(proxy.ca_file))
    with httpx.Client(http1=http1, http2=True, proxy=proxy.forward, verify=context, trust_env=False) as client:
        for _ in range(5):
            response = client.get(f"{place.api_url}/orders")
            assert response.status_code == 200
            assert response.http_version == ("HTTP/1.1" if http1 else "HTTP/2")


def test_a_listener_without_http_2_says_so(place: Place, start_proxy: StartProxy) -> None:
    described = configuration(place)
    described["listeners"] = [{"address": "127.0.0.1:0", "mode": "reverse", "upstream": place.api_url, "http2": "off"}]
    proxy = start_proxy(described)
    command = ["curl", "-sS", "--http2-prior-knowledge", f"{proxy.reverse}/orders"]
    assert run_program(command, environ=environment()).status != 0
    assert proxy.wait_for_exchange(code="http2")["status"] == 400


def tls_listener(place: Place, tmp_path: Path, http2: str) -> tuple[Configuration, Path]:
    """A configuration whose reverse listener has TLS, and the CA of its certificate."""
    own = trustme.CA()
    roots, certificate = tmp_path / "own-ca.pem", tmp_path / "own.pem"
    own.cert_pem.write_to_path(str(roots))
    own.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    certificate.chmod(0o600)
    described = configuration(place)
    described["listeners"] = [
        {
            "address": "127.0.0.1:0",
            "mode": "reverse",
            "upstream": place.api_url,
            "http2": http2,
            "tls": {"certificate": str(certificate)},
        }
    ]
    return described, roots


@pytest.mark.parametrize("http2", ["needed", "preferred"])
def test_curl_offers_http_2_to_a_listener_with_tls_and_gets_what_the_listener_prefers(
    place: Place, start_proxy: StartProxy, tmp_path: Path, http2: str
) -> None:
    described, roots = tls_listener(place, tmp_path, http2)
    proxy = start_proxy(described)
    url = f"https://{proxy.address('reverse')}/orders"
    assert curl("--http2", "--cacert", roots, url)[1] == ("2 200" if http2 == "preferred" else "1.1 200")
    assert curl("--http1.1", "--cacert", roots, url)[1] == "1.1 200"


@pytest.mark.parametrize("has_tls", [False, True])
def test_nghttp_and_h2load_are_served_over_one_connection_and_over_many(
    proxy: ProxyProgram, place: Place, start_proxy: StartProxy, tmp_path: Path, has_tls: bool
) -> None:
    url = f"{proxy.reverse}/orders"
    if has_tls:
        described, _ = tls_listener(place, tmp_path, "needed")
        url = f"https://{start_proxy(described).address('reverse')}/orders"
    # Each argument is a request of its own on one connection; prior knowledge where there is no TLS.
    done = run_program(
        ["nghttp", "--null-out", "--stat", "--no-dep", *(f"{url}?{each}" for each in range(3))], environ=environment()
    )
    assert done.status == 0, done.stderr
    assert done.stdout.count(b" 200 ") == 3, done.stdout
    upload = tmp_path / "upload"
    upload.write_bytes(b"a" * 1_000_000)
    done = run_program(["nghttp", f"--data={upload}", "--null-out", "--stat", url], environ=environment())
    assert done.stdout.count(b" 200 ") == 1, done.stdout
    done = run_program(["h2load", "-n300", "-c3", "-m20", url], environ=environment())
    assert b"300 total, 300 started, 300 done, 300 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, (
        done.stdout
    )


# Of both programs: what, version, status, bytes of content.
CALLS = [
    "first {} 200 70000",
    *["together {} 200 70000"] * 20,
    "upload {} 200 1000000",
    "head {} 200 0",
    "left {} 200 1",
    "last {} 204 0",
]
JAVA = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", str(CLIENTS / "Http2Calls.java")]


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The program of Go, compiled once. What it needs of the standard library is kept between runs."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed here")
    built = tmp_path_factory.mktemp("go") / "http2_calls"
    # Nothing is fetched. Several processes may use Go's cache at a time; it is apart from the user's own.
    offline = {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GO111MODULE": "off", "CGO_ENABLED": "0"}
    cache = os.environ.get("GOCACHE") or str(Path(tempfile.gettempdir()) / f"go-build-{os.getuid()}")
    done = run_program(
        ["go", "build", "-o", built, CLIENTS / "http2_calls.go"],
        environ=environment(**offline, GOCACHE=cache),
        patience_s=300.0,
    )
    assert done.status == 0, done.stderr
    return [str(built)]


@pytest.fixture(params=["go", "java"])
def program(request: pytest.FixtureRequest) -> list[str]:
    """A program that makes `CALLS`."""
    if request.param == "go":
        return request.getfixturevalue("go")  # type: ignore[no-any-return]  # pytest's
    if shutil.which("java") is None:
        pytest.skip("java is not installed here")
    return JAVA


def calls_of(program: list[str], ca_file: Path, *arguments: str) -> list[str]:
    done = run_program([*program, *arguments], environ=environment(SSL_CERT_FILE=str(ca_file)))
    assert done.status == 0, done.stderr
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize("http2", ["needed", "preferred"])
def test_java_and_go_are_served_by_a_listener_with_tls(
    place: Place, start_proxy: StartProxy, tmp_path: Path, program: list[str], http2: str
) -> None:
    described, roots = tls_listener(place, tmp_path, http2)
    proxy = start_proxy(described)
    version = "HTTP/2.0" if http2 == "preferred" else "HTTP/1.1"
    said = calls_of(program, roots, f"https://{proxy.address('reverse')}")
    assert said == [each.format(version) for each in CALLS]


def test_java_and_go_are_served_inside_a_tunnel(proxy: ProxyProgram, place: Place, program: list[str]) -> None:
    """Java offers both versions, and gets HTTP/1.1; Go offers HTTP/2 alone."""
    version = "HTTP/1.1" if program is JAVA else "HTTP/2.0"
    said = calls_of(program, proxy.ca_file, place.api_url, proxy.address("forward"))
    assert said == [each.format(version) for each in CALLS]
