"""wget and git, which know nothing of OAuth, get through the proxy what is behind the gateway."""

from __future__ import annotations

import functools
import http.server
import shutil
import ssl
import threading
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.end_to_end.programs import configuration, environment, run_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.programs import Place, ProxyProgram

PATTERN = bytes(number % 251 for number in range(100_000))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_wget_downloads_and_uploads(scheme: str, place: Place, proxy: ProxyProgram, tmp_path: Path) -> None:
    if shutil.which("wget") is None:
        pytest.skip("wget is not installed here")
    variables = environment(http_proxy=proxy.forward, https_proxy=proxy.forward)
    wget = ["wget", "--quiet", "--tries=1", f"--ca-certificate={proxy.ca_file}", "--output-document=-"]
    upload = tmp_path / "upload"
    upload.write_bytes(PATTERN * 5)

    def call(*arguments: str) -> bytes:
        done = run_program([*wget, *arguments], environ=variables)
        assert done.status == 0, done.stderr
        return done.stdout

    origin = f"{scheme}://{place.api_authority}"
    assert call(f"{origin}/bytes/100000", f"{origin}/chunked/100000") == PATTERN * 2
    assert call(f"--post-file={upload}", f"{origin}/echo") == upload.read_bytes()
    assert call("--method=PUT", f"--body-file={upload}", f"{origin}/echo") == upload.read_bytes()


class Repositories(http.server.SimpleHTTPRequestHandler):
    """Serves files to whoever has a token; git's dumb protocol needs no more."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Authorization", "").startswith("Bearer "):
            super().do_GET()
        else:
            self.send_error(401)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as http.server has it
        """Says nothing."""


@pytest.fixture
def repositories(tmp_path: Path) -> Iterator[tuple[str, Path, Path]]:
    """An HTTPS server: its port, its directory, and the CA to trust."""
    directory, ca_file = tmp_path / "served", tmp_path / "repositories-ca.pem"
    directory.mkdir()
    ca = trustme.CA()
    ca.cert_pem.write_to_path(ca_file)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("git.contoso.test").configure_cert(tls)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Repositories, directory=str(directory))
    ) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield str(server.server_address[1]), directory, ca_file
        server.shutdown()
        thread.join()


def test_git_clones(
    repositories: tuple[str, Path, Path], place: Place, start_proxy: StartProxy, tmp_path: Path
) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed here")
    port, directory, ca_file = repositories
    own = tmp_path / "own"

    def git(*arguments: str | Path, **variables: str) -> None:
        isolated = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_TERMINAL_PROMPT": "0"}
        names = ["-c", "user.name=Someone", "-c", "user.email=someone@contoso.test", "-c", "init.defaultBranch=main"]
        done = run_program(["git", *names, *arguments], environ=environment(**isolated, **variables))
        assert done.status == 0, done.stderr

    git("init", "--quiet", own)
    (own / "data").write_bytes(PATTERN)
    git("-C", own, "add", "data")
    git("-C", own, "commit", "--quiet", "--message", "Begin")
    git("clone", "--quiet", "--bare", own, directory / "orders.git")
    git("-C", directory / "orders.git", "update-server-info")

    hosts = {"hosts": ["git.contoso.test"], "dial": f"127.0.0.1:{port}", "ca_file": str(ca_file)}
    proxy = start_proxy(configuration(place, route=hosts, listeners=[{"address": "127.0.0.1:0"}]))
    for scheme in ("http", "https"):
        variables = {f"{scheme}_proxy": proxy.forward, "GIT_SSL_CAINFO": str(proxy.ca_file)}
        git("clone", "--quiet", f"{scheme}://git.contoso.test/orders.git", tmp_path / scheme, **variables)
        assert (tmp_path / scheme / "data").read_bytes() == PATTERN
