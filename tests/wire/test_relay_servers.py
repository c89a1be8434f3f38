"""gunicorn, uvicorn, h2o, nginx, nghttpd and Node are heard as if nobody were in between, in the version that they speak."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from proxy.config.settings import Http2
from tests.ports import free_port
from tests.wire.messages import chunked, name_of, split_head
from tests.wire.rig import HOST, MODES, Mode, Peer, Rig, Trust, Wire, address_form
from tests.wire.test_relay_real_upstreams import CODED, HOST_LINE, compare, fetch, get, running

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).parent
FOR_APPLICATIONS: Final = {
    "GET": get(b"/x?a=%2F&&b;c=%zz", b"X-Case:  spaced \t out \r\n"),
    "HEAD": get(b"/large", method=b"HEAD"),
    "OPTIONS": get(b"/x", method=b"OPTIONS"),
    "POST with a length": b"POST /x HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: 3\r\n\r\n\x00\xff\x80",
    "POST of length 0": b"POST /x HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: 0\r\n\r\n",
    "upload in chunks": b"PUT /x HTTP/1.1\r\n" + HOST_LINE + CODED + b"\r\n" + chunked(b"ab", b"c" * 5_000, b"d"),
    "large upload": b"PUT /x HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: 300000\r\n\r\n" + b"u" * 300_000,
    "upload that waits": b"PUT /x HTTP/1.1\r\n" + HOST_LINE + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
    "pieces": get(b"/pieces"),
    "pieces that HEAD is spared": get(b"/pieces", method=b"HEAD"),
    "large": get(b"/large"),
    "no content": get(b"/none"),
    "not modified": get(b"/unchanged"),
    "an unknown status": get(b"/status"),
    "cookies": get(b"/cookies"),
    "a redirect": get(b"/moved"),
    "closing": get(b"/x", b"Connection: close\r\n"),
}
FOR_H2O: Final = {
    "a file": get(b"/file.txt"),
    "the head of a file": get(b"/file.txt", method=b"HEAD"),
    "a large file": get(b"/large.bin"),
    "a range": get(b"/large.bin", b"Range: bytes=100-199\r\n"),
    "a condition": get(b"/file.txt", b"If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n"),
    "gzip": get(b"/file.txt", b"Accept-Encoding: gzip\r\n"),
    "not found": get(b"/nowhere"),
    "a directory without its slash": get(b"/directory"),
    "POST to a file": b"POST /file.txt HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: 2\r\n\r\nok",
    "upload in chunks": b"POST /file.txt HTTP/1.1\r\n" + HOST_LINE + CODED + b"\r\n" + chunked(b"ab", b"c"),
    "a redirect": get(b"/moved/x"),
}
H2O: Final = """
listen: {{ port: {port}, host: 127.0.0.1, ssl: {{ certificate-file: {pem}, key-file: {pem} }} }}
user: {user}
num-threads: 1
http1-request-timeout: 60
compress: ON
hosts:
  default:
    paths:
      "/": {{ file.dir: {directory}/root }}
      "/moved": {{ redirect: {{ url: "https://other.example/", status: 308 }} }}
"""


NODE_HTTP2: Final = """
const pem = require("node:fs").readFileSync(process.argv[1]);
const server = require("node:http2").createSecureServer({ key: pem, cert: pem });
server.on("stream", (stream, head) => {
  let size = 0;
  stream.on("data", (data) => { size += data.length; });
  stream.on("end", () => {
    stream.respond({ ":status": 299, "x-method": head[":method"], "x-path": head[":path"] }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-size": String(size) }));
    stream.end("node");
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1");
"""
NGINX: Final = """
{user} daemon off; worker_processes 1; pid {directory}/pid; error_log stderr crit;
events {{ worker_connections 64; }}
http {{
  access_log off; keepalive_requests 3;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl http2; ssl_certificate {pem}; ssl_certificate_key {pem};
    location / {{ return 200 $connection_requests; }}
  }}
}}
"""


@pytest.fixture(scope="module")
def pem(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for `HOST`, with its key."""
    path = tmp_path_factory.mktemp("server") / "host.pem"
    trust.upstream_authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@contextmanager
def listening(port: int, *command: str) -> Iterator[int]:
    """Runs a server on a port until the block ends; yields the port once it takes connections."""
    with running(*command) as process:
        for _ in range(1_200):
            assert process.poll() is None, f"{command[0]} did not start"
            try:
                socket.create_connection(("127.0.0.1", port), 0.5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port


def program(name: str) -> str:
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture(scope="module")
def gunicorn(pem: Path) -> Iterator[int]:
    port = free_port()
    command = (
        *(
            sys.executable,
            "-m",
            "gunicorn",
            "--chdir",
            str(HERE),
            "--bind",
            f"127.0.0.1:{port}",
            "--log-level",
            "error",
        ),
        *("--worker-class", "gthread", "--threads", "4", "--no-control-socket", "--keep-alive", "60"),
        *("--certfile", str(pem), "--keyfile", str(pem), "upstream_wsgi:app"),
    )
    with listening(port, *command):
        yield port


@pytest.fixture(scope="module")
def uvicorn(pem: Path) -> Iterator[int]:
    port = free_port()
    command = (
        *(sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "--host", "127.0.0.1", "--port", str(port)),
        *(
            "--log-level",
            "error",
            "--timeout-keep-alive",
            "60",
            "--ssl-certfile",
            str(pem),
            "--ssl-keyfile",
            str(pem),
            "upstream_asgi:app",
        ),
    )
    with listening(port, *command):
        yield port


@pytest.fixture(scope="module")
def h2o(pem: Path) -> Iterator[int]:
    command = program("h2o")
    root = pem.parent / "root"
    (root / "directory").mkdir(parents=True)
    (root / "file.txt").write_text("Grüße\n" * 100)
    (root / "large.bin").write_bytes(bytes(range(256)) * 2_000)
    port = free_port()
    conf = pem.parent / "h2o.yaml"
    user = "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")
    conf.write_text(H2O.format(port=port, pem=pem, directory=pem.parent, user=user))
    with listening(port, command, "-c", str(conf)):
        yield port


@pytest.fixture(scope="module")
def nghttpd(pem: Path) -> Iterator[int]:
    port = free_port()
    with listening(port, program("nghttpd"), "--address", "127.0.0.1", str(port), str(pem), str(pem)):
        yield port


@pytest.fixture(scope="module")
def node_http2(pem: Path) -> Iterator[int]:
    port = free_port()
    with listening(port, program("node"), "-e", NODE_HTTP2, str(pem), str(port)):
        yield port


@pytest.fixture(scope="module")
def nginx_that_closes(pem: Path) -> Iterator[int]:
    """Ends each connection behind its third request."""
    port = free_port()
    conf = pem.parent / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    conf.write_text(NGINX.format(user=user, directory=pem.parent, port=port, pem=pem))
    with listening(port, program("nginx"), "-c", str(conf), "-p", str(pem.parent)):
        yield port


@pytest.mark.parametrize("mode", MODES)
def test_gunicorn_is_heard_as_if_nobody_were_in_between(uv_wire: Wire, gunicorn: int, mode: Mode) -> None:
    uv_wire.run(lambda rig: compare(rig, gunicorn, mode, FOR_APPLICATIONS))


@pytest.mark.parametrize("mode", MODES)
def test_uvicorn_is_heard_as_if_nobody_were_in_between(uv_wire: Wire, uvicorn: int, mode: Mode) -> None:
    uv_wire.run(lambda rig: compare(rig, uvicorn, mode, FOR_APPLICATIONS))


@pytest.mark.parametrize("mode", MODES)
def test_h2o_is_heard_as_if_nobody_were_in_between(uv_wire: Wire, h2o: int, mode: Mode) -> None:
    uv_wire.run(lambda rig: compare(rig, h2o, mode, FOR_H2O))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("server", ["gunicorn", "uvicorn", "h2o"])
def test_a_servers_connection_is_used_again(
    uv_wire: Wire, server: str, mode: Mode, request: pytest.FixtureRequest
) -> None:
    port: int = request.getfixturevalue(server)

    async def work(rig: Rig) -> list[bool]:
        with rig.leading_to(port):
            client = await rig.client(mode)
            for _ in range(3):
                await fetch_status(client, get(b"/file.txt", method=b"HEAD"), mode)
            return [record.reused for record in rig.records]

    assert uv_wire.run(work) == [False, True, True]


@pytest.mark.parametrize("http2", [Http2.NEEDED, Http2.PREFERRED])
@pytest.mark.parametrize("mode", MODES)
def test_an_upstream_that_closes_behind_every_third_request_is_not_noticed(
    uv_wire: Wire, nginx_that_closes: int, mode: Mode, http2: Http2
) -> None:
    async def work(rig: Rig) -> list[bytes]:
        with rig.leading_to(nginx_that_closes, http2=http2):
            client = await rig.client(mode)
            numbers = []
            for method in (b"GET", b"POST", b"GET", b"POST", b"POST", b"POST", b"POST"):
                assert await fetch_status(client, get(b"/", b"Content-Length: 0\r\n", method), mode) == 200
                numbers.append(await client.read(1))
            return numbers

    assert uv_wire.run(work) == [b"1", b"2", b"3", b"1", b"2", b"3", b"1"]


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_has_http_2_only_is_spoken_to_in_it(
    uv_wire: Wire, nghttpd: int, node_http2: int, mode: Mode
) -> None:
    """Node refuses a handshake without it; nghttpd completes that, and then closes the connection."""

    async def work(rig: Rig) -> None:
        with rig.leading_to(nghttpd):
            client = await rig.client(mode)
            for _ in range(2):
                client.send(address_form(get(b"/nothing-there"), mode))
                head, _ = split_head(await client.read_until())
                assert head.status == 404
                assert head.values(b"server")[0].startswith(b"nghttpd")
                await client.read(int(head.values(b"content-length")[0]))
        with rig.leading_to(node_http2):
            client = await rig.client(mode)
            for size in (3, 300_000):
                upload = b"POST /x?y HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: %d\r\n\r\n" % size + b"u" * size
                client.send(address_form(upload, mode))
                head, _ = split_head(await client.read_until())
                said = [head.values(name)[0] for name in (b"x-method", b"x-path")]
                assert (head.status, said) == (299, [b"POST", b"/x?y"])
                assert await client.read_until() == b"4\r\nnode\r\n0\r\nx-size: %d\r\n\r\n" % size

    uv_wire.run(work)


@pytest.mark.parametrize("server", ["nghttpd", "node_http2"])
def test_a_server_that_has_http_2_only_is_502_where_that_is_off(
    uv_wire: Wire, server: str, request: pytest.FixtureRequest
) -> None:
    port: int = request.getfixturevalue(server)

    async def work(rig: Rig) -> bytes:
        with rig.leading_to(port, http2=Http2.OFF):
            client = await rig.client("reverse")
            client.send(get(b"/x"))
            head, _ = split_head(await client.read_until())
            assert head.status == 502
            return await client.read(int(head.values(b"content-length")[0]))

    content = uv_wire.run(work)
    assert b"HTTP/2 only" in content
    assert b"http2: off" in content


def test_h2o_says_the_same_over_http_2(uv_wire: Wire, h2o: int) -> None:
    async def work(rig: Rig) -> None:
        for name, request in FOR_H2O.items():
            with rig.leading_to(h2o):
                usual = await fetch(await rig.client("reverse"), request)
            with rig.leading_to(h2o, http2=Http2.PREFERRED):
                other = await fetch(await rig.client("reverse"), request)
                await rig.reset()
            assert (said(other.head), other.content) == (said(usual.head), usual.content), name

    uv_wire.run(work)


def said(raw: bytes) -> list[bytes]:
    """The status and the fields of a head, less what depends on the version or the time."""
    head, _ = split_head(raw)
    names = (b"date", b"connection", b"transfer-encoding")
    fields = [name_of(field) + field.partition(b":")[2] for field in head.fields if name_of(field) not in names]
    return [b"%d" % head.status, *sorted(fields)]


async def fetch_status(client: Peer, request: bytes, mode: Mode) -> int:
    """The status of a request's answer, of which the head is taken."""
    client.send(address_form(request, mode))
    head, _ = split_head(await client.read_until())
    return head.status
