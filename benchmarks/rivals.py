"""How each proxy is started and configured: the same job, the same bearer field, an access log in a file. Does I/O."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.processes import PROXY_CORE, BenchmarkError, Program, find_program, free_port
from benchmarks.stage import API_HOST, TOKEN, nginx_user

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from benchmarks.stage import Stage


@dataclass(frozen=True, slots=True)
class Rival:
    """A running proxy, or none.

    Attributes:
        name: as in `--rivals`.
        program: the process; None for `direct`, which is no proxy.
        port: where it takes requests in absolute-form, and CONNECT where it can.
        tls_port: where it takes requests inside TLS, without CONNECT; None if CONNECT is how.
        tcp_port: where it relays bytes to the upstream's TLS port, without CONNECT; None if CONNECT is how.
        ca_file: what a client has to trust inside TLS; None where it does not intercept.
        ready_s: from exec to ready to serve; None if it does not say.
    """

    name: str
    program: Program | None
    port: int
    tls_port: int | None = None
    tcp_port: int | None = None
    ca_file: Path | None = None
    ready_s: float | None = None


def start_rival(name: str, stage: Stage, command: str) -> Rival:
    """Starts a proxy on the proxies' core; `command` is what starts ours.

    Raises:
        BenchmarkError: it is not installed, or does not start.
    """
    if name == "ours":
        return _start_ours(stage, command)
    if name not in _STARTERS:
        raise BenchmarkError(f"There is no rival called {name}; there are: {', '.join(RIVALS)}.")
    return _STARTERS[name](stage)


def _start(name: str, stage: Stage, arguments: list[str], environment: Mapping[str, str] | None = None) -> Program:
    return Program(arguments, PROXY_CORE, stage.directory / f"{name}.log", environment)


def _start_direct(stage: Stage) -> Rival:
    return Rival(
        "direct", None, stage.plain_port, tls_port=stage.tls_port, tcp_port=stage.tls_port, ca_file=stage.ca_file
    )


# Ours

_OURS_CONF: Final = """
listeners: [{{ address: "127.0.0.1:{port}", mode: forward }}]
credentials:
  bench:
    token_endpoint: https://localhost:{tls_port}/token
    ca_file: {ca_file}
    client_id: bench
    certificate: {client_certificate}
routes:
  - hosts: [{host}]
    credential: bench
    scope: api://bench/.default
    dial: 127.0.0.1:{tls_port}
    ca_file: {ca_file}
other_hosts: tunnel
destinations: {{ allow: [127.0.0.0/8], ports: [{plain_port}, {tls_port}] }}
admin: {{ address: "127.0.0.1:{admin_port}" }}
state_directory: {directory}/state
access_log: {{ file: {directory}/ours-access.log, format: json }}
"""


def _start_ours(stage: Stage, command: str) -> Rival:
    port = free_port()
    conf = stage.directory / "ours.yaml"
    conf.write_text(
        _OURS_CONF.format(
            port=port,
            admin_port=free_port(),
            plain_port=stage.plain_port,
            tls_port=stage.tls_port,
            host=API_HOST,
            ca_file=stage.ca_file,
            client_certificate=stage.client_certificate,
            directory=stage.directory,
        )
    )
    program = _start("ours", stage, [*shlex.split(command), "run", "--config", str(conf)])
    ready_s = program.wait_for_line("ready")
    return Rival("ours", program, port, ca_file=stage.directory / "state" / "ca.pem", ready_s=ready_s)


def _start_bare(stage: Stage) -> Rival:
    port = free_port()
    arguments = ["-m", "benchmarks.bare_relay", str(port), str(stage.tls_port), API_HOST, str(stage.ca_file), TOKEN]
    program = _start("bare", stage, [sys.executable, *arguments])
    program.wait_for_port(port)
    return Rival("bare", program, port)


# nginx: no CONNECT, so it stands for "TLS on both sides" with a TLS listener, and for tunnels with a stream listener.

_NGINX_CONF: Final = """
{modules}
daemon off;
worker_processes 1;
pid {directory}/{name}.pid;
error_log {directory}/{name}-error.log warn;
{user}
events {{ worker_connections 24576; }}
http {{
  access_log {access_log};
  keepalive_requests 100000000;
  keepalive_timeout 600s;
  client_max_body_size 0;
  client_body_temp_path {directory}/{name}-bodies;
  proxy_temp_path {directory}/{name}-proxied;
  fastcgi_temp_path {directory}/{name}-fastcgi;
  uwsgi_temp_path {directory}/{name}-uwsgi;
  scgi_temp_path {directory}/{name}-scgi;
  tcp_nodelay on;
  ssl_certificate {certificate};
  ssl_certificate_key {certificate};
  ssl_protocols TLSv1.2 TLSv1.3;
  proxy_ssl_protocols TLSv1.2 TLSv1.3;
  proxy_ssl_verify on;
  proxy_ssl_trusted_certificate {ca_file};
  proxy_ssl_server_name on;
  proxy_ssl_name {host};
  proxy_http_version 1.1;
  proxy_request_buffering off;
  # Whole responses in memory where they fit, as one would set it; what does not fit is streamed, not spooled to disk.
  proxy_buffers 16 8k;
  proxy_max_temp_file_size 0;
  map $http_upgrade $hop {{ default upgrade; '' ''; }}
  upstream plain {{ server 127.0.0.1:{plain_port}; keepalive 256; keepalive_requests 100000000; }}
  upstream tls {{ server 127.0.0.1:{tls_port}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=8192;
    server_name 127.0.0.1;
    location / {{
      proxy_pass http://plain;
      proxy_set_header Host $http_host;
      proxy_set_header Connection $hop;
      proxy_set_header Upgrade $http_upgrade;
    }}
  }}
  server {{
    listen 127.0.0.1:{port};
    listen 127.0.0.1:{own_tls_port} ssl backlog=8192;
    server_name {host};
    location / {{
      proxy_pass https://tls;
      proxy_set_header Host $http_host;
      proxy_set_header Connection $hop;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Authorization "Bearer {token}";
    }}
  }}
}}
"""


def _start_nginx(stage: Stage, name: str = "nginx", *, access_log: bool = True) -> Rival:
    port, own_tls_port = free_port(), free_port()
    conf = stage.directory / f"{name}.conf"
    conf.write_text(
        _NGINX_CONF.format(
            modules="",
            name=name,
            user=nginx_user(),
            access_log=f"{stage.directory}/{name}-access.log" if access_log else "off",
            directory=stage.directory,
            certificate=stage.certificate,
            ca_file=stage.ca_file,
            host=API_HOST,
            token=TOKEN,
            port=port,
            own_tls_port=own_tls_port,
            plain_port=stage.plain_port,
            tls_port=stage.tls_port,
        )
    )
    program = _start(name, stage, [find_program("nginx"), "-p", str(stage.directory), "-c", str(conf)])
    program.wait_for_port(own_tls_port)
    return Rival(name, program, port, tls_port=own_tls_port, ca_file=stage.ca_file)


def _start_nginx_unlogged(stage: Stage) -> Rival:
    return _start_nginx(stage, "nginx-unlogged", access_log=False)


_STARTERS: Final[dict[str, Callable[[Stage], Rival]]] = {
    "direct": _start_direct,
    "nginx": _start_nginx,
    "nginx-unlogged": _start_nginx_unlogged,
    "bare": _start_bare,
}
RIVALS: Final = ("ours", *_STARTERS)
