"""How each proxy is started and configured: the same job, the same bearer field, an access log in a file. Does I/O."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.packages import package_program
from benchmarks.processes import LOAD_CORE, PROXY_CORE, BenchmarkError, Program, find_program, free_port
from benchmarks.stage import API_HOST, INTERPRETED, TOKEN, nginx_user

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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
        tcp_port: where it relays bytes to the upstream's plain port, without CONNECT; None if CONNECT is how.
        ca_file: what a client has to trust inside TLS; None where it does not intercept.
        ready_s: from exec to ready to serve; None if it does not say.
        cores: how many cores it can keep busy.
    """

    name: str
    program: Program | None
    port: int
    tls_port: int | None = None
    tcp_port: int | None = None
    ca_file: Path | None = None
    ready_s: float | None = None
    cores: int = 1


def start_rival(name: str, stage: Stage) -> Rival:
    """Start a proxy on the proxies' core.

    Raises:
        BenchmarkError: it is not installed, or does not start.
    """
    if name not in _STARTERS:
        raise BenchmarkError(f"There is no rival called {name}; there are: {', '.join(RIVALS)}.")
    return _STARTERS[name](stage)


def _start(name: str, stage: Stage, arguments: list[str], cores: Sequence[int] = (PROXY_CORE,)) -> Program:
    return stage.start(arguments, cores, stage.directory / f"{name}.log")


def _start_direct(stage: Stage) -> Rival:
    return Rival(
        "direct", None, stage.plain_port, tls_port=stage.tls_port, tcp_port=stage.plain_port, ca_file=stage.ca_file
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
# One cell has more clients than the limit's default.
limits: {{ connections: 20000 }}
"""


def _write_ours_conf(stage: Stage, port: int) -> Path:
    # One of its own: a running proxy would take another's for a change of its configuration.
    conf = stage.directory / f"ours-{port}.yaml"
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
    return conf


def _start_ours(stage: Stage) -> Rival:
    port = free_port()
    arguments = [*shlex.split(stage.command), "run", "--config", str(_write_ours_conf(stage, port))]
    program = _start("ours", stage, arguments)
    ready_s = program.wait_for_line("ready")
    return Rival("ours", program, port, ca_file=stage.directory / "state" / "ca.pem", ready_s=ready_s)


def _start_interpreted(stage: Stage) -> Rival:
    port = free_port()
    arguments = [*shlex.split(INTERPRETED), "run", "--config", str(_write_ours_conf(stage, port))]
    program = _start("ours-interpreted", stage, arguments)
    program.wait_for_line("ready")
    return Rival("ours-interpreted", program, port, ca_file=stage.directory / "state" / "ca.pem")


def _start_two_workers(stage: Stage) -> Rival:
    command = [*shlex.split(stage.command), "run"]
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    if "--workers" not in told.stdout:
        raise BenchmarkError("`run` has no option --workers.")
    port = free_port()
    arguments = [*command, "--config", str(_write_ours_conf(stage, port)), "--workers", "2"]
    program = _start("two-workers", stage, arguments, (PROXY_CORE, LOAD_CORE))
    program.wait_for_line("ready")
    return Rival("two-workers", program, port, cores=2)


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
worker_processes {workers};
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
    listen 127.0.0.1:{port} backlog=8192{shared};
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
    listen 127.0.0.1:{own_tls_port} ssl backlog=8192{shared};
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


def _start_nginx(stage: Stage, name: str = "nginx", *, access_log: bool = True, workers: int = 1) -> Rival:
    port, own_tls_port = free_port(), free_port()
    conf = stage.directory / f"{name}.conf"
    conf.write_text(
        _NGINX_CONF.format(
            modules="",
            name=name,
            workers=workers,
            shared=" reuseport" if workers > 1 else "",  # as ours share theirs
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
    cores = (PROXY_CORE, LOAD_CORE)[:workers]
    program = _start(name, stage, [find_program("nginx"), "-p", str(stage.directory), "-c", str(conf)], cores)
    program.wait_for_port(own_tls_port)
    return Rival(name, program, port, tls_port=own_tls_port, ca_file=stage.ca_file, cores=workers)


def _start_nginx_unlogged(stage: Stage) -> Rival:
    return _start_nginx(stage, "nginx-unlogged", access_log=False)


def _start_nginx_two_workers(stage: Stage) -> Rival:
    return _start_nginx(stage, "nginx-two-workers", workers=2)


# haproxy

_HAPROXY_CONF: Final = """
global
  nbthread 1
  maxconn 8000
  # The bearer field is longer than what is kept free for rewriting by default.
  tune.maxrewrite 4096
  log {directory}/haproxy-log.sock local0
defaults
  mode http
  log global
  option httplog
  timeout connect 10s
  timeout client 600s
  timeout server 600s
frontend forward
  bind 127.0.0.1:{port}
  use_backend plain if {{ hdr(host) 127.0.0.1:{plain_port} }}
  default_backend tls
frontend intercepted
  bind 127.0.0.1:{own_tls_port} ssl crt {certificate}
  default_backend tls
backend plain
  server upstream 127.0.0.1:{plain_port}
backend tls
  http-request set-header Authorization "Bearer {token}"
  server upstream 127.0.0.1:{tls_port} ssl verify required ca-file {ca_file} sni str({host}) verifyhost {host}
listen tunnel
  mode tcp
  option tcplog
  bind 127.0.0.1:{tcp_port}
  server upstream 127.0.0.1:{plain_port}
"""


def _start_haproxy(stage: Stage) -> Rival:
    port, own_tls_port, tcp_port = free_port(), free_port(), free_port()
    conf = stage.directory / "haproxy.conf"
    conf.write_text(
        _HAPROXY_CONF.format(
            port=port,
            own_tls_port=own_tls_port,
            tcp_port=tcp_port,
            plain_port=stage.plain_port,
            tls_port=stage.tls_port,
            certificate=stage.certificate,
            ca_file=stage.ca_file,
            host=API_HOST,
            token=TOKEN,
            directory=stage.directory,
        )
    )
    program = _start("haproxy", stage, [find_program("haproxy"), "-db", "-f", str(conf)])
    program.wait_for_port(tcp_port)
    return Rival("haproxy", program, port, tls_port=own_tls_port, tcp_port=tcp_port, ca_file=stage.ca_file)


# squid: Debian's cannot turn http URLs into https, so it takes part where the upstream is plain.

_SQUID_CONF: Final = """
http_port 127.0.0.1:{port}
http_access allow all
cache deny all
cache_mem 0 MB
access_log stdio:{directory}/squid/access.log
cache_log {directory}/squid/cache.log
pid_filename {directory}/squid/pid
coredump_dir {directory}/squid
pinger_enable off
shutdown_lifetime 0 seconds
visible_hostname squid.bench.example
"""


def _start_squid(stage: Stage) -> Rival:
    port = free_port()
    own = stage.directory / "squid"
    own.mkdir(exist_ok=True)
    own.chmod(0o777)  # started as root, it writes as its own user
    conf = stage.directory / "squid.conf"
    conf.write_text(_SQUID_CONF.format(port=port, directory=stage.directory))
    program = _start("squid", stage, [find_program("squid"), "-N", "-f", str(conf)])
    program.wait_for_port(port)
    return Rival("squid", program, port)


# mitmproxy: a script adds the field, and turns http URLs of the API's host into https.

_MITMPROXY_ADDON: Final = """
def request(flow):
    if flow.request.pretty_host == "{host}":
        flow.request.scheme = "https"
        flow.request.host = "127.0.0.1"
        flow.request.port = {tls_port}
        flow.request.host_header = "{host}"
        flow.request.headers["Authorization"] = "Bearer {token}"
"""


def _start_mitmproxy(stage: Stage) -> Rival:
    port = free_port()
    addon = stage.directory / "mitmproxy_addon.py"
    addon.write_text(_MITMPROXY_ADDON.format(host=API_HOST, tls_port=stage.tls_port, token=TOKEN))
    own = stage.directory / "mitmproxy"
    arguments = [
        package_program("mitmproxy", "mitmdump"),
        "--mode",
        f"regular@127.0.0.1:{port}",
        "--scripts",
        str(addon),
    ]
    for setting in (
        f"confdir={own}",
        "connection_strategy=lazy",
        f"ssl_verify_upstream_trusted_ca={stage.ca_file}",
    ):
        arguments += ["--set", setting]
    program = _start("mitmproxy", stage, arguments)
    program.wait_for_port(port)
    return Rival("mitmproxy", program, port, ca_file=own / "mitmproxy-ca-cert.pem")


def _start_proxy_py(stage: Stage) -> Rival:
    port = free_port()
    arguments = ["--hostname", "127.0.0.1", "--port", str(port), "--num-workers", "1", "--num-acceptors", "1"]
    program = _start("proxy.py", stage, [package_program("proxy.py", "proxy"), *arguments])
    program.wait_for_port(port)
    return Rival("proxy.py", program, port)


_STARTERS: Final[dict[str, Callable[[Stage], Rival]]] = {
    "ours": _start_ours,
    "ours-interpreted": _start_interpreted,
    "two-workers": _start_two_workers,
    "direct": _start_direct,
    "nginx": _start_nginx,
    "nginx-unlogged": _start_nginx_unlogged,
    "nginx-two-workers": _start_nginx_two_workers,
    "haproxy": _start_haproxy,
    "squid": _start_squid,
    "mitmproxy": _start_mitmproxy,
    "proxy.py": _start_proxy_py,
    "bare": _start_bare,
}
RIVALS: Final = tuple(_STARTERS)
