"""With an upstream proxy configured, everything goes through it: every way in, WebSocket, tunnels and token requests alike."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest
import trustme
from websockets.asyncio.client import connect

from tests.end_to_end.programs import (
    COMMAND,
    PATIENCE_S,
    ProxyProgram,
    configuration,
    environment,
    run_program,
    write_configuration,
)
from tests.ports import free_port
from tests.wire.connect_proxy import PASSWORD, USER, ConnectProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Place

patient_connect = functools.partial(connect, open_timeout=PATIENCE_S, close_timeout=PATIENCE_S)
KINDS = ("none", "http", "http with password", "https")
EXEMPT = (False, True)
USERINFO = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}@"


@dataclass
class Way:
    """A running proxy, the upstream proxy behind it if there is one, and whether that has to be used."""

    proxy: ProxyProgram
    upstream: ConnectProxy | None
    is_exempt: bool

    @contextmanager
    def tunnels_to(self, *ports: str | int) -> Iterator[None]:
        """What happens within reaches these ports through the upstream proxy, or nothing goes through it at all."""
        before = len(self.upstream.targets) if self.upstream else 0
        yield
        if self.upstream is None:
            return
        seen = self.upstream.targets[before:]
        assert self.upstream.complaints == []
        if self.is_exempt:
            assert self.upstream.targets == []
        else:
            assert {str(port) for port in ports} <= {target.rpartition(":")[2] for target in seen}


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def web() -> Iterator[int]:
    """A server that speaks plain http; returns its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = f"plain {self.path} {self.headers.get('Proxy-Authorization')}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def _serving(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module", params=[(kind, exempt) for kind in KINDS for exempt in EXEMPT if kind != "none" or not exempt],
                ids=lambda param: f"{param[0]}{', exempt' if param[1] else ''}")  # fmt: skip
def way(
    request: pytest.FixtureRequest,
    place: Place,
    web: int,
    ca: trustme.CA,
    evidence: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Way]:
    """Every kind of upstream proxy, with all hosts behind it and with all of them exempt."""
    kind, is_exempt = request.param
    directory = tmp_path_factory.mktemp("way")
    ca.cert_pem.write_to_path(str(directory / "upstream-ca.pem"))
    settings: dict[str, object] = {"from_environment": False}
    with ExitStack() as stack:
        upstream = None
        if kind != "none":
            context = _serving(ca) if kind == "https" else None
            upstream = stack.enter_context(ConnectProxy(context=context, asks="password" in kind))
            userinfo = USERINFO if "password" in kind else ""
            settings["url"] = f"{'https' if kind == 'https' else 'http'}://{userinfo}localhost:{upstream.port}"
            settings["ca_file"] = str(directory / "upstream-ca.pem")
        if is_exempt:
            settings["no_proxy"] = ["localhost", "127.0.0.0/8"]
        name = f"upstream-{KINDS.index(kind)}-{is_exempt}"
        config = configuration(
            place,
            upstream_proxy=settings,
            other_hosts="tunnel",
            destinations={"allow": ["127.0.0.0/8", "::1/128"], "ports": [web, int(place.port)]},
        )
        proxy = stack.enter_context(ProxyProgram(config, directory / "proxy", evidence, name))
        yield Way(proxy, upstream, is_exempt)


def test_absolute_form_and_the_token_endpoint(way: Way, place: Place, curl: Curl) -> None:
    answer = curl("--proxy", way.proxy.forward, f"http://{place.api_authority}/orders?q=1")
    assert answer.status == 200, answer
    if way.upstream is not None:
        ports = {target.rpartition(":")[2] for target in way.upstream.targets}
        token_port = str(urlsplit(place.token_endpoint).port)
        assert ports == (set() if way.is_exempt else {place.port, token_port})
        assert way.upstream.complaints == []


def test_connect_intercepted(way: Way, place: Place, curl: Curl) -> None:
    answer = curl("--proxy", way.proxy.forward, "--cacert", str(way.proxy.ca_file), f"{place.api_url}/orders?q=2")
    assert answer.status == 200, answer


def test_reverse(way: Way, place: Place, curl: Curl) -> None:
    assert curl(f"{way.proxy.reverse}/orders?q=3").status == 200
    if way.upstream is not None and not way.is_exempt:
        assert f"127.0.0.1:{place.port}" in way.upstream.targets


def test_a_big_body_each_way(way: Way, curl: Curl) -> None:
    content = os.urandom(3_000_000)
    answer = curl("--data-binary", "@-", f"{way.proxy.reverse}/orders", stdin=content)
    assert answer.status in (200, 201), answer


@pytest.mark.asyncio
async def test_websocket(way: Way, place: Place) -> None:
    uri = f"ws://{place.api_authority}/websocket"
    with way.tunnels_to(place.port):
        # Several at a time, so that connections that other tests have left open do not suffice.
        sockets = [await patient_connect(uri, proxy=way.proxy.forward, max_size=None) for _ in range(4)]
        for socket in sockets:
            message = os.urandom(200_000)
            await socket.send(message)
            assert await socket.recv() == message
            await socket.close()
            assert socket.close_code == 1000


def test_blind_tunnel(way: Way, place: Place, curl: Curl) -> None:
    """The API's address, which no route names: its own certificate is seen, and no token is put on."""
    with way.tunnels_to(place.port):
        arguments = ["--cacert", place.ca_file, f"https://127.0.0.1:{place.port}/orders"]
        assert curl("--proxy", way.proxy.forward, *arguments).status == 401


def test_plain_http_of_an_unrouted_host(way: Way, web: int, curl: Curl) -> None:
    with way.tunnels_to(web):
        answer = curl("--proxy", way.proxy.forward, f"http://127.0.0.1:{web}/a%2Fb")
        assert (answer.status, answer.content) == (200, b"plain /a%2Fb None")


def test_the_doctor_names_it(way: Way) -> None:
    done = run_program([COMMAND, "check", "--online", "--path", "/orders", "--json", "--config", way.proxy.config_file])
    findings = json.loads(done.stdout)["findings"]
    text = " ".join(finding["message"] for finding in findings)
    assert (f"reached through the upstream proxy {'https' if 'https' in text else 'http'}" in text) == (
        way.upstream is not None and not way.is_exempt
    )
    assert [f for f in findings if f["level"] == "error" and f["subject"].startswith(("host", "credential"))] == []
    assert "w%40rd" not in text
    assert PASSWORD not in text


# What goes wrong


def _through(place: Place, url: str) -> dict[str, object]:
    # The token comes directly, so that the API's path is what fails.
    authority = urlsplit(place.authority).netloc
    settings = {"url": url, "from_environment": False, "no_proxy": [authority]}
    return configuration(place, upstream_proxy=settings)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (b"403 Forbidden", "upstream_proxy_403", "Ask its operator to allow it"),
        (b"502 Bad Gateway", "upstream_proxy_502", "cannot reach that host"),
        (b"407 Who", "upstream_proxy_407", "Put user and password into upstream_proxy.url"),
        (b"301 Elsewhere", "upstream_proxy_301", "opened no tunnel"),
    ],
)
def test_a_refusal_is_answered_502_with_its_status_and_what_to_do(
    status: bytes, code: str, words: str, place: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    with ConnectProxy(status=status) as upstream:
        proxy = start_proxy(_through(place, f"http://127.0.0.1:{upstream.port}"))
        problem = curl(f"{proxy.reverse}/orders").problem
    assert problem["status"] == 502
    assert problem["code"] == code
    assert f"answered {status[:3].decode()} to CONNECT 127.0.0.1:{place.port}" in str(problem["detail"])
    assert words in str(problem["detail"])


def test_a_wrong_password_is_said_and_never_shown(place: Place, start_proxy: StartProxy, curl: Curl) -> None:
    with ConnectProxy(asks=True) as upstream:
        proxy = start_proxy(_through(place, f"http://someone:Tr0ub4dor@127.0.0.1:{upstream.port}"))
        problem = curl(f"{proxy.reverse}/orders").problem
    assert "does not accept the user and password in upstream_proxy.url" in str(problem["detail"])
    shown = json.dumps(problem) + "\n".join(proxy.lines)
    assert "Tr0ub4dor" not in shown
    assert "someone" not in shown


def test_an_upstream_proxy_that_is_down_is_named(place: Place, start_proxy: StartProxy, curl: Curl) -> None:
    port = free_port()
    proxy = start_proxy(_through(place, f"http://127.0.0.1:{port}"))
    problem = curl(f"{proxy.reverse}/orders").problem
    assert problem["code"] == "upstream_proxy_connection_failed"
    assert f"The upstream proxy cannot be used. 127.0.0.1:{port} refused the connection" in str(problem["detail"])


def test_a_token_request_that_the_upstream_proxy_refuses_is_explained(
    place: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    with ConnectProxy(status=b"403 No") as upstream:
        settings = {"url": f"http://127.0.0.1:{upstream.port}", "from_environment": False}
        proxy = start_proxy(configuration(place, upstream_proxy=settings))
        problem = curl(f"{proxy.reverse}/orders").problem
    assert problem["code"] == "upstream_proxy_403"
    assert "answered 403 to CONNECT" in str(problem["detail"])


def test_the_environment_names_it_and_the_configuration_can_switch_that_off(place: Place, tmp_path: Path) -> None:
    with ConnectProxy() as upstream:
        variables = environment(HTTPS_PROXY=f"http://localhost:{upstream.port}")
        for switched_on in (True, False):
            config = configuration(place, upstream_proxy={"from_environment": switched_on})
            file = write_configuration(config, tmp_path / str(switched_on))
            before = len(upstream.targets)
            done = run_program([COMMAND, "check", "--online", "--path", "/orders", "--config", file], environ=variables)
            assert ("through the upstream proxy" in done.stdout.decode()) == switched_on, done
            assert (len(upstream.targets) > before) == switched_on
        done = run_program(
            [COMMAND, "check", "--online", "--config", write_configuration(configuration(place), tmp_path / "exempt")],
            environ=variables | {"NO_PROXY": "localhost,127.0.0.1"},
        )
        assert "through the upstream proxy" not in done.stdout.decode()


def test_several_relay_processes_use_it_too(place: Place, start_proxy: StartProxy, curl: Curl) -> None:
    with ConnectProxy(asks=True) as upstream:
        settings = {"url": f"http://{USERINFO}127.0.0.1:{upstream.port}", "from_environment": False}
        proxy = start_proxy(configuration(place, upstream_proxy=settings, workers=2))
        assert curl(f"{proxy.reverse}/orders").status == 200
        assert f"127.0.0.1:{place.port}" in upstream.targets
        assert upstream.complaints == []


# A real one

SQUID = shutil.which("squid", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
NCSA = Path("/usr/lib/squid/basic_ncsa_auth")


@pytest.fixture(scope="module")
def squid() -> Iterator[tuple[int, Path]]:
    """A squid that wants a password: its port, and the file it logs to."""
    if SQUID is None or not NCSA.exists():
        pytest.skip("squid is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777)  # squid gives up root
        digest = subprocess.run(["openssl", "passwd", "-apr1", "secret"], capture_output=True, text=True, check=True)
        (directory / "users").write_text(f"orders:{digest.stdout.strip()}\n")
        (directory / "users").chmod(0o644)
        conf = directory / "squid.conf"
        conf.write_text(
            f"http_port 127.0.0.1:{port}\nauth_param basic program {NCSA} {directory}/users\n"
            "auth_param basic children 1 startup=1\nacl known proxy_auth REQUIRED\nhttp_access allow known\n"
            f"http_access deny all\naccess_log stdio:{directory}/access.log\ncache_log {directory}/cache.log\n"
            "pid_filename none\ncache deny all\ncache_mem 0\ncoredump_dir none\nshutdown_lifetime 0 seconds\n"
            "visible_hostname squid.test\npinger_enable off\nmax_filedescriptors 1024\nnetdb_filename none\n"
        )
        process = subprocess.Popen([SQUID, "-N", "-f", conf], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield port, directory / "access.log"
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(port: int) -> None:
    import socket

    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("squid does not listen")


def test_squid_passes_everything_on(squid: tuple[int, Path], place: Place, start_proxy: StartProxy, curl: Curl) -> None:
    port, log = squid
    settings = {"url": f"http://orders:secret@127.0.0.1:{port}", "from_environment": False}
    proxy = start_proxy(configuration(place, upstream_proxy=settings))
    assert curl("--proxy", proxy.forward, f"http://{place.api_authority}/orders").status == 200
    assert curl("--proxy", proxy.forward, "--cacert", str(proxy.ca_file), f"{place.api_url}/orders").status == 200
    assert curl(f"{proxy.reverse}/orders").status == 200
    proxy.stop()  # squid writes a tunnel's line at its end
    wanted = {f"CONNECT {urlsplit(place.token_endpoint).netloc}", f"CONNECT 127.0.0.1:{place.port}"}
    give_up_at = time.monotonic() + PATIENCE_S
    logged = ""
    while not all(words in logged for words in wanted):
        assert time.monotonic() < give_up_at, logged
        time.sleep(0.05)
        logged = log.read_text() if log.exists() else ""


def test_squid_says_no_without_the_password(
    squid: tuple[int, Path], place: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    port, _ = squid
    proxy = start_proxy(_through(place, f"http://127.0.0.1:{port}"))
    problem = curl(f"{proxy.reverse}/orders").problem
    assert problem["code"] == "upstream_proxy_407"
    assert "Put user and password into upstream_proxy.url" in str(problem["detail"])
