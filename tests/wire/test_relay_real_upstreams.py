"""The same raw request sent direct and through the relay to servers that people run: the two transcripts are the same.

What may differ is declared here: fields that speak of one connection (Connection, Keep-Alive), where chunks are cut, and the
Date, in which a second may have passed.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.ports import free_port
from tests.wire.corpus import Case
from tests.wire.declared import Sent, read_response
from tests.wire.messages import Incomplete, chunked
from tests.wire.rig import HOST, MODES, Mode, Peer, Rig, Trust, Wire, address_form

if TYPE_CHECKING:
    from collections.abc import Iterator

CODED: Final = b"Transfer-Encoding: chunked\r\n"
HOST_LINE: Final = b"Host: " + HOST.encode() + b"\r\n"
CONNECTION_FIELDS: Final = re.compile(rb"\r\n(?:Connection|Keep-Alive): [^\r]*", re.IGNORECASE)
BOUNDARY: Final = re.compile(rb"0{10}[0-9]{10}")  # nginx counts
DATE: Final = re.compile(rb"\r\nDate: [^\r]*", re.IGNORECASE)

NGINX: Final = """
{user} daemon off; worker_processes 1; pid {directory}/pid; error_log stderr crit;
events {{ worker_connections 64; }}
http {{
  access_log off; gzip on; gzip_min_length 1; gzip_types text/plain; default_type text/plain; charset utf-8;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi; merge_slashes off;
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {pem}; ssl_certificate_key {pem}; root {directory}/root;
    location /status/ {{ return 299 "two hundred and ninety-nine"; }}
    location /none/ {{ return 204; }}
    location /moved/ {{ return 307 http://other.example/x?y#z; }}
    location /cookies/ {{ add_header Set-Cookie a=1; add_header Set-Cookie b=2; return 200 ok; }}
    location /seen/ {{ return 200 "$request_method|$request_uri|$http_host|$http_x_case|$content_length|$http_transfer_encoding"; }}
    location /hungup/ {{ return 444; }}
  }}
}}
"""


def get(target: bytes, fields: bytes = b"", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, HOST_LINE, fields)


FOR_NGINX: Final = {
    "a file": get(b"/file.txt"),
    "the head of a file": get(b"/file.txt", method=b"HEAD"),
    "a large file": get(b"/large.bin"),
    "a range": get(b"/large.bin", b"Range: bytes=100-199\r\n"),
    "several ranges": get(b"/large.bin", b"Range: bytes=0-9,20-29\r\n"),
    "a range that is none": get(b"/large.bin", b"Range: bytes=9999999-\r\n"),
    "a condition": get(b"/file.txt", b"If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n"),
    "gzip, in chunks": get(b"/file.txt", b"Accept-Encoding: gzip\r\n"),
    "not found": get(b"/nowhere"),
    "forbidden": get(b"/"),
    "not allowed": get(b"/file.txt", b"Content-Length: 0\r\n", b"POST"),
    "an unknown method": get(b"/file.txt", method=b"BREW"),
    "an unknown status": get(b"/status/"),
    "no content": get(b"/none/"),
    "a redirect": get(b"/moved/"),
    "cookies": get(b"/cookies/"),
    "a target as it is": get(b"/seen//a/%2e%2E/b;c%2Fd?x=%zz&&y=\xe4"),
    "dot segments": get(b"/x/../seen/./"),
    "a field": get(b"/seen/", b"x-CaSe:   spaced \t out  \r\n"),
    "content": b"PUT /seen/ HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: 5\r\n\r\n12345",
    "content in chunks": b"PUT /seen/ HTTP/1.1\r\n" + HOST_LINE + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"12", b"345"),
}  # fmt: skip
FOR_NODE: Final = {
    "an echo": get(b"/echo?x=1;y=%2F&&z", b"X-Twice: 1\r\nx-TWICE: 2\r\nAccept-Encoding: br\r\n"),
    "content": b"POST /echo HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: 3\r\n\r\n\x00\xff\x80",
    "content in chunks, with trailers": b"POST /echo HTTP/1.1\r\n" + HOST_LINE + b"Trailer: X-Sum\r\n" + CODED + b"\r\n"
    + chunked(b"ab", b"c", trailers=b"X-Sum: 1\r\n"),
    "an upload that waits": b"POST /echo HTTP/1.1\r\n" + HOST_LINE + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    "chunks": get(b"/chunks"),
    "chunks that HEAD is spared": get(b"/chunks", method=b"HEAD"),
    "trailers": get(b"/trailers", b"TE: trailers\r\nConnection: TE\r\n"),
    "early hints": get(b"/hints"),
    "processing": get(b"/processing"),
    "cookies": get(b"/cookies"),
    "an unknown status": get(b"/status"),
    "no content": get(b"/none"),
    "unchanged": get(b"/unchanged"),
    "closing": get(b"/close"),
    "large": get(b"/large"),
    "another method": get(b"/echo", method=b"PROPFIND"),
    "a target as it is": get(b"//a/../b/%2e%2E;c=%2f?"),
}  # fmt: skip


@pytest.fixture(scope="module")
def pem(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for `HOST`, with its key."""
    path = tmp_path_factory.mktemp("upstream") / "host.pem"
    trust.upstream_authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def nginx(pem: Path) -> Iterator[int]:
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    directory = pem.parent
    (directory / "root").mkdir()
    (directory / "root" / "file.txt").write_text("Grüße\n" * 100)
    (directory / "root" / "large.bin").write_bytes(bytes(range(256)) * 2_000)
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker is somebody who cannot read the directory
    configuration = directory / "nginx.conf"
    configuration.write_text(NGINX.format(user=user, directory=directory, port=port, pem=pem))
    with running(program, "-c", str(configuration), "-p", str(directory)) as process:
        for _ in range(1_200):
            assert process.poll() is None, "nginx did not start"
            try:
                socket.create_connection(("127.0.0.1", port), 0.5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port


@pytest.fixture(scope="module")
def node(pem: Path) -> Iterator[int]:
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    with running(program, str(Path(__file__).with_name("upstream_node.js")), str(pem)) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@pytest.mark.parametrize("mode", MODES)
def test_nginx_is_heard_as_if_nobody_were_in_between(uv_wire: Wire, nginx: int, mode: Mode) -> None:
    uv_wire.run(lambda rig: compare(rig, nginx, mode, FOR_NGINX))


@pytest.mark.parametrize("mode", MODES)
def test_node_is_heard_as_if_nobody_were_in_between(uv_wire: Wire, node: int, mode: Mode) -> None:
    uv_wire.run(lambda rig: compare(rig, node, mode, FOR_NODE))


def test_an_upstream_that_hangs_up_is_not_hidden(uv_wire: Wire, nginx: int) -> None:
    async def work(rig: Rig) -> None:
        with rig.leading_to(nginx):
            client = await rig.client("forward")
            client.send(address_form(get(b"/hungup/"), "forward"))
            assert (await client.read_until()).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")

    uv_wire.run(work)


async def compare(rig: Rig, port: int, mode: Mode, requests: dict[str, bytes]) -> None:
    differing = []
    for name, request in requests.items():
        direct = await fetch(await dial(rig, port), request)
        with rig.leading_to(port):
            relayed = await fetch(await rig.client(mode), address_form(request, mode), request)
            await rig.reset()
        # What the upstream saw differs by the token's field, which an echo tells; it stands last.
        content = relayed.content.replace(b',"Authorization"', b"").replace(b',"Connection","TE"', b"")
        direct_content = direct.content.replace(b',"TE","Connection"', b"")
        if (direct.interim, comparable(direct.head), BOUNDARY.sub(b"-", direct_content), direct.trailers) != (
            relayed.interim,
            comparable(relayed.head, content, relayed.content),
            BOUNDARY.sub(b"-", content),
            relayed.trailers,
        ):
            differing.append((name, direct, relayed))
    assert not differing


def comparable(head: bytes, content: bytes = b"", received: bytes = b"") -> bytes:
    head = BOUNDARY.sub(b"-", DATE.sub(b"\r\nDate: -", CONNECTION_FIELDS.sub(b"", head)))
    if content != received:
        head = head.replace(b"Content-Length: %d" % len(received), b"Content-Length: %d" % len(content))
    return head


async def dial(rig: Rig, port: int) -> Peer:
    context = rig.trust.relay_context
    _, peer = await asyncio.get_running_loop().create_connection(
        Peer, "127.0.0.1", port, ssl=context, server_hostname=HOST
    )
    return peer


async def fetch(peer: Peer, sent: bytes, request: bytes | None = None) -> Sent:
    case = Case("", request or sent)

    def arrived(peer: Peer) -> bool:
        try:
            read_response(case, bytes(peer.received), ended=peer.ended)
        except Incomplete:
            return peer.lost
        return True

    peer.send(sent)
    await peer.until(arrived)
    response = read_response(case, bytes(peer.received), ended=peer.ended)
    peer.transport.abort()
    return response
