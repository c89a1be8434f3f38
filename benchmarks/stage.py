"""What all proxies of a run stand in front of: a directory, certificates, and an nginx upstream. Does I/O.

The upstream also plays the token endpoint: its answer never changes, so that every proxy adds the same bearer field.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trustme

from benchmarks.processes import LOAD_CORE, Program, find_program, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERPRETED: Final = f"{sys.executable} -m proxy"
"""What starts our proxy from the sources beside this package."""
API_HOST: Final = "api.bench.example"

# As long as an access token of Microsoft Entra ID usually is.
TOKEN: Final = "e" * 1_200
JSON_BODY: Final = (
    '{"id":"0f8fad5b-d9cb-469f-a165-70867728950e","status":"shipped","customer":"C-2211","total":129.95,'
    '"currency":"EUR","lines":3,"created":"2025-01-01T10:00:00Z","updated":"2025-01-02T11:30:00Z"}'
)
RECEIVED_BODY: Final = '{"received":true}'
MEDIUM_BYTES: Final = 64 * 1024
LARGE_BYTES: Final = 100_000_000
HUGE_BYTES: Final = 1_000_000_000

_UPSTREAM_CONF: Final = """
daemon off;
worker_processes 1;
pid {directory}/upstream.pid;
error_log {directory}/upstream-error.log warn;
{user}
events {{ worker_connections 16384; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  keepalive_timeout 600s;
  large_client_header_buffers 4 16k;
  client_max_body_size 0;
  client_body_buffer_size 64k;
  client_body_temp_path {directory}/upstream-bodies;
  proxy_temp_path {directory}/upstream-proxied;
  fastcgi_temp_path {directory}/upstream-fastcgi;
  uwsgi_temp_path {directory}/upstream-uwsgi;
  scgi_temp_path {directory}/upstream-scgi;
  ssl_certificate {directory}/upstream.pem;
  ssl_certificate_key {directory}/upstream.pem;
  ssl_protocols TLSv1.2 TLSv1.3;
  sendfile on;
  tcp_nodelay on;
  default_type application/json;
  upstream answering {{ server unix:{directory}/upstream.sock; keepalive 128; }}
  server {{
    listen 127.0.0.1:{plain_port} backlog=8192;
    listen 127.0.0.1:{tls_port} ssl backlog=8192;
    root {directory}/files;
    location = /json {{ return 200 '{json}'; }}
    location = /authorization {{ default_type text/plain; return 200 "$http_authorization"; }}
    location = /token {{ return 200 '{{"token_type":"Bearer","expires_in":86399,"access_token":"{token}"}}'; }}
    location = /short-token {{ return 200 '{{"token_type":"Bearer","expires_in":2,"access_token":"{token}$request_id"}}'; }}
    # The request's content is read whole before the answer is fetched from the server below.
    location = /exchange {{
      proxy_pass http://answering/medium;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Content-Length "";
      proxy_method GET;
      proxy_pass_request_body off;
    }}
    location = /socket {{
      proxy_pass http://127.0.0.1:{echo_port};
      proxy_http_version 1.1;
      proxy_set_header Connection upgrade;
      proxy_set_header Upgrade $http_upgrade;
    }}
    location = /upload {{
      proxy_pass http://answering/received;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Content-Length "";
      proxy_method GET;
      proxy_pass_request_body off;
    }}
  }}
  server {{
    listen unix:{directory}/upstream.sock;
    root {directory}/files;
    location = /received {{ return 200 '{received}'; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """A running upstream and where everything is.

    Attributes:
        directory: for configurations and logs; gone afterwards.
        plain_port: where the upstream speaks HTTP.
        tls_port: where it speaks HTTP over TLS, as `API_HOST`, `localhost` and 127.0.0.1.
        ca_file: the CA of its certificate.
        certificate: PEM with certificate and key, good for `API_HOST`.
        client_certificate: PEM with certificate and RSA key, for the client assertion.
        upstream: the nginx process.
        command: what starts our proxy, less ``run --config FILE``.
        start: starts a proxy, as `Program` does.
    """

    directory: Path
    plain_port: int
    tls_port: int
    ca_file: Path
    certificate: Path
    client_certificate: Path
    upstream: Program
    command: str
    start: type[Program] = Program


def nginx_user() -> str:
    """Return the directive that keeps nginx's worker able to read the stage's directory."""
    return "user root;" if os.geteuid() == 0 else ""


@contextlib.contextmanager
def open_stage(command: str, start: type[Program] = Program) -> Iterator[Stage]:
    """Start the upstream; end it, and remove the directory, afterwards."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # squid drops to a user of its own
        _write_files(directory / "files")
        _write_certificates(directory)
        plain_port, tls_port, echo_port = free_port(), free_port(), free_port()
        conf = directory / "upstream.conf"
        conf.write_text(
            _UPSTREAM_CONF.format(
                directory=directory,
                user=nginx_user(),
                plain_port=plain_port,
                tls_port=tls_port,
                echo_port=echo_port,
                json=JSON_BODY,
                received=RECEIVED_BODY,
                token=TOKEN,
            )
        )
        arguments = [find_program("nginx"), "-p", name, "-c", str(conf)]
        echo = [sys.executable, "-m", "benchmarks.websocket_echo", str(echo_port)]
        with (
            Program(arguments, [LOAD_CORE], directory / "upstream.log") as upstream,
            Program(echo, [LOAD_CORE], directory / "echo.log") as echoing,
        ):
            upstream.wait_for_port(tls_port)
            echoing.wait_for_port(echo_port)
            yield Stage(
                directory=directory,
                plain_port=plain_port,
                tls_port=tls_port,
                ca_file=directory / "ca.pem",
                certificate=directory / "upstream.pem",
                client_certificate=directory / "client.pem",
                upstream=upstream,
                command=command,
                start=start,
            )


def _write_files(directory: Path) -> None:
    directory.mkdir()
    (directory / "medium").write_bytes(os.urandom(MEDIUM_BYTES // 2).hex().encode())
    for name, size in (("large", LARGE_BYTES), ("huge", HUGE_BYTES)):
        with (directory / name).open("wb") as file:
            file.truncate(size)  # sparse: neither disk nor page cache is what is measured


def _write_certificates(directory: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(directory / "ca.pem")
    ca.issue_cert(API_HOST, "localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        directory / "upstream.pem"
    )
    client = ca.issue_cert("client.bench.example", key_type=trustme.KeyType.RSA)
    client.private_key_and_cert_chain_pem.write_to_path(directory / "client.pem")
    (directory / "client.pem").chmod(0o600)  # a key that others can read is refused
