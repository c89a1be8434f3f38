"""Starts the other proxies, each set to change as little as its own settings allow. Does I/O (processes, files).

Invariant: whatever was started here is ended by its own id.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from benchmarks.packages import OTHERS, REQUIREMENTS, package_program
from benchmarks.processes import SEARCH_PATH, BenchmarkError, Program, find_program, free_port
from benchmarks.stage import nginx_user
from tests.fidelity.ways import Way, open_way
from tests.wire.rig import HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.wire.rig import Upstream

_MITMPROXY: Final = """
def server_connect(data):
    data.server.address = ("127.0.0.1", {port})

def requestheaders(flow):
    flow.request.stream = True

def responseheaders(flow):
    flow.response.stream = True
"""

_NGINX: Final = """
{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {directory}/bodies;
  proxy_temp_path {directory}/proxied;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  client_max_body_size 0;
  client_header_buffer_size 32k;
  large_client_header_buffers 8 64k;
  proxy_buffer_size 64k;
  proxy_buffers 8 64k;
  proxy_busy_buffers_size 128k;
  merge_slashes off;
  underscores_in_headers on;
  ignore_invalid_headers off;
  proxy_http_version 1.1;
  proxy_request_buffering off;
  proxy_buffering off;
  proxy_next_upstream off;
  proxy_pass_header Date;
  proxy_pass_header Server;
  proxy_pass_header X-Accel-Expires;
  proxy_set_header Host $http_host;
  proxy_set_header Connection $hop;
  proxy_set_header Upgrade $upgrade;
  map $http_upgrade $upgrade {{ default ''; websocket websocket; }}
  map $http_upgrade $hop {{ default ''; websocket upgrade; }}
  upstream plain {{ server 127.0.0.1:{port} max_fails=0; keepalive 8; }}
  server {{
    listen 127.0.0.1:{own_port};
    location / {{ proxy_pass http://plain; }}
    location = * {{ proxy_pass http://plain; }}
  }}
}}
"""

_SQUID: Final = """
http_port 127.0.0.1:{own_port}
http_access allow all
hosts_file {directory}/squid/hosts
dns_nameservers 127.0.0.1
cache deny all
cache_mem 0 MB
access_log none
cache_log {directory}/squid/cache.log
pid_filename {directory}/squid/pid
coredump_dir {directory}/squid
pinger_enable off
shutdown_lifetime 0 seconds
visible_hostname squid.example.test
via off
forwarded_for transparent
uri_whitespace allow
request_header_max_size 64 KB
reply_header_max_size 64 KB
http_upgrade_request_protocols websocket allow all
request_entities on
reply_header_access X-Cache deny all
reply_header_access X-Cache-Lookup deny all
reply_header_access Cache-Status deny all
"""

_ENVOY: Final = """
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {own_port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: plain
          server_header_transformation: PASS_THROUGH
          route_config:
            virtual_hosts:
            - {{ name: all, domains: ["*"], routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: plain }} }}] }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              suppress_envoy_headers: true
  clusters:
  - name: plain
    load_assignment:
      cluster_name: plain
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}
"""

_GO: Final = """
package main

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	upstream, _ := url.Parse("http://" + os.Args[2])
	panic(http.ListenAndServe(os.Args[1], httputil.NewSingleHostReverseProxy(upstream)))
}
"""

RIVALS: Final = ("mitmproxy", "nginx", "squid")
# Of the table of odd responses.
ODD_RIVALS: Final = ("nginx", "squid", "envoy", "go")
_NAMES: Final = {"envoy": "Envoy", "go": "Go"}
_VERSION: Final = re.compile(r"[0-9]+(?:\.[0-9]+)+")


def title(name: str) -> str:
    """Returns a proxy's name with its version.

    Raises:
        BenchmarkError: it is not installed.
    """
    requirement = (REQUIREMENTS | OTHERS).get(name)
    if requirement is not None:
        told = requirement
    else:
        program, option = (_find_go(), "version") if name == "go" else (find_program(name), "-v")
        done = subprocess.run([program, option], capture_output=True, text=True, check=True)
        told = done.stdout + done.stderr
    found = _VERSION.search(told)
    return f"{_NAMES.get(name, name)} {found[0]}" if found else name


def _mitmproxy(directory: Path, own_port: int, port: int) -> list[str]:
    addon = directory / "addon.py"
    addon.write_text(_MITMPROXY.format(port=port))
    settings = [f"confdir={directory}/mitmproxy", "connection_strategy=lazy"]
    return [
        package_program("mitmproxy", "mitmdump"),
        "--quiet",
        *("--mode", f"regular@127.0.0.1:{own_port}", "--scripts", str(addon)),
        *(argument for setting in settings for argument in ("--set", setting)),
    ]


def _nginx(directory: Path, own_port: int, port: int) -> list[str]:
    conf = directory / "nginx.conf"
    conf.write_text(_NGINX.format(user=nginx_user(), directory=directory, own_port=own_port, port=port))
    return [find_program("nginx"), "-p", str(directory), "-c", str(conf)]


def _squid(directory: Path, own_port: int, port: int) -> list[str]:  # noqa: ARG001  # its clients name the port
    own = directory / "squid"
    own.mkdir()
    own.chmod(0o777)  # started as root, it writes as its own user
    (own / "hosts").write_text(f"127.0.0.1 {HOST}\n")
    conf = directory / "squid.conf"
    conf.write_text(_SQUID.format(directory=directory, own_port=own_port))
    return [find_program("squid"), "-N", "-f", str(conf)]


def _envoy(directory: Path, own_port: int, port: int) -> list[str]:
    conf = directory / "envoy.yaml"
    conf.write_text(_ENVOY.format(own_port=own_port, port=port))
    envoy = package_program("envoy", "envoy")
    return [envoy, "--config-path", str(conf), "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"]


def _go(directory: Path, own_port: int, port: int) -> list[str]:
    source, program = directory / "reverse.go", directory / "reverse"
    source.write_text(_GO)
    cache = {"GOCACHE": str(directory / "go-cache"), "GO111MODULE": "off", "HOME": str(directory)}
    subprocess.run([_find_go(), "build", "-o", str(program), str(source)], check=True, env={**os.environ, **cache})
    return [str(program), f"127.0.0.1:{own_port}", f"127.0.0.1:{port}"]


def _find_go() -> str:
    path = shutil.which("go", path=SEARCH_PATH)
    if path is None:
        raise BenchmarkError("go is not installed. On Debian: apt-get install --no-install-recommends golang-go")
    return path


_COMMANDS: Final[dict[str, Callable[[Path, int, int], list[str]]]] = {
    "mitmproxy": _mitmproxy,
    "nginx": _nginx,
    "squid": _squid,
    "envoy": _envoy,
    "go": _go,
}
_REVERSE: Final = ("nginx", "envoy", "go")


@contextmanager
def open_rival(name: str, directory: Path, upstream: Upstream) -> Iterator[Way]:
    """Starts a proxy in front of a plain upstream.

    Raises:
        BenchmarkError: it is not installed, or does not start.
    """
    own_port = free_port()
    arguments = _COMMANDS[name](directory, own_port, upstream.port)
    # Squid goes where the request's authority says, so that has the upstream's port.
    authority = f"{HOST}:{upstream.port}" if name == "squid" else HOST
    with Program(arguments, sorted(os.sched_getaffinity(0)), directory / f"{name}.log") as program:
        program.wait_for_port(own_port)
        yield open_way(upstream, own_port, absolute=name not in _REVERSE, authority=authority.encode())
