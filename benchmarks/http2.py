"""What a request over HTTP/2 costs beside nginx, nghttpx, haproxy and Envoy, by h2load. Runs programs.

Three translations, each with 1, 10 and 100 requests at a time: HTTP/2 to an upstream of HTTP/1.1, HTTP/1.1 to one of HTTP/2, and
HTTP/2 at both ends; and a download of 64 MiB with HTTP/2 at both ends. TLS is on both sides; ours is a reverse listener, so
that nobody is charged for CONNECT. The upstream is nghttpd for HTTP/2 and nginx for HTTP/1.1.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.instructions import CountedProgram
from benchmarks.packages import install_debian_programs, package_program
from benchmarks.processes import LOAD_CORE, PROXY_CORE, BenchmarkError, Program, find_program, free_port
from benchmarks.stage import API_HOST, INTERPRETED, JSON_BODY, TOKEN, nginx_user, open_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.stage import Stage

_TRANSLATIONS: Final = {"2 to 1.1": (2, 1), "1.1 to 2": (1, 2), "2 to 2": (2, 2)}
_STREAMS: Final = (1, 10, 100)
_DOWNLOAD_BYTES: Final = 64 << 20
# Not "succeeded": h2load takes a status line of HTTP/1.1 without a reason phrase, as nghttpx writes it, for a failure.
_DONE: Final = re.compile(r"(\d+) done, .* 0 errored, 0 timeout\n.* 0 4xx, 0 5xx")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a proxy leads, and how it is asked.

    Attributes:
        stage: certificates, and the upstream of HTTP/1.1.
        upstream_port: of the upstream in question.
        client, upstream: the versions of HTTP, 1 or 2.
    """

    stage: Stage
    upstream_port: int
    client: int
    upstream: int


_OURS: Final = """
listeners:
  - address: "127.0.0.1:{port}"
    mode: reverse
    upstream: https://{host}
    http2: preferred
    tls: {{ certificate: {directory}/ours.pem }}
credentials:
  bench:
    token_endpoint: https://localhost:{token_port}/token
    ca_file: {ca_file}
    client_id: bench
    certificate: {client_certificate}
routes:
  - hosts: [{host}]
    credential: bench
    scope: api://bench/.default
    dial: 127.0.0.1:{upstream_port}
    ca_file: {ca_file}
    http2: "{http2}"
admin: {{ address: "127.0.0.1:{admin_port}" }}
state_directory: {directory}/state-{port}
access_log: {{ file: {directory}/ours-{port}.log, format: json }}
"""

_NGINX: Final = """
daemon off;
worker_processes 1;
pid {directory}/nginx-{port}.pid;
error_log {directory}/nginx-{port}-error.log warn;
{user}
events {{ worker_connections 4096; }}
http {{
  access_log {directory}/nginx-{port}.log;
  keepalive_requests 100000000;
  keepalive_timeout 600s;
  proxy_temp_path {directory}/nginx-{port}-proxied;
  client_body_temp_path {directory}/nginx-{port}-bodies;
  fastcgi_temp_path {directory}/nginx-{port}-fastcgi;
  uwsgi_temp_path {directory}/nginx-{port}-uwsgi;
  scgi_temp_path {directory}/nginx-{port}-scgi;
  ssl_certificate {certificate};
  ssl_certificate_key {certificate};
  proxy_ssl_verify on;
  proxy_ssl_trusted_certificate {ca_file};
  proxy_ssl_server_name on;
  proxy_ssl_name {host};
  proxy_http_version 1.1;
  proxy_max_temp_file_size 0;
  upstream api {{ server 127.0.0.1:{upstream_port}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} ssl http2;
    location / {{
      proxy_pass https://api;
      proxy_set_header Host {host};
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {token}";
    }}
  }}
}}
"""

_HAPROXY: Final = """
global
  nbthread 1
  tune.maxrewrite 4096
  log {directory}/haproxy-log.sock local0
defaults
  mode http
  log global
  option httplog
  timeout connect 10s
  timeout client 600s
  timeout server 600s
frontend clients
  bind 127.0.0.1:{port} ssl crt {certificate} alpn h2,http/1.1
  http-request set-header Host {host}
  http-request set-header Authorization "Bearer {token}"
  default_backend api
backend api
  http-reuse always
  server upstream 127.0.0.1:{upstream_port} ssl verify required ca-file {ca_file} sni str({host}) verifyhost {host} alpn {alpn}
"""

_ENVOY: Final = """
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates:
            - {{ certificate_chain: {{ filename: {certificate} }}, private_key: {{ filename: {certificate} }} }}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          codec_type: AUTO
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {directory}/envoy-{port}.log
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          route_config:
            virtual_hosts:
            - name: api
              domains: ["*"]
              request_headers_to_add:
              - header: {{ key: authorization, value: "Bearer {token}" }}
              routes:
              - match: {{ prefix: "/" }}
                route: {{ cluster: api, host_rewrite_literal: {host}, timeout: 0s }}
  clusters:
  - name: api
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ {protocol}: {{}} }}
    load_assignment:
      cluster_name: api
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {upstream_port} }} }} }}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {host}
        common_tls_context: {{ validation_context: {{ trusted_ca: {{ filename: {ca_file} }} }} }}
"""


def _write(place: Place, name: str, template: str, port: int) -> str:
    stage = place.stage
    conf = stage.directory / f"{name}-{port}.yaml"
    conf.write_text(
        template.format(
            port=port,
            admin_port=free_port(),
            host=API_HOST,
            token=TOKEN,
            user=nginx_user(),
            directory=stage.directory,
            certificate=stage.certificate,
            client_certificate=stage.client_certificate,
            ca_file=stage.ca_file,
            token_port=stage.tls_port,
            upstream_port=place.upstream_port,
            http2="preferred" if place.upstream == 2 else "off",
            alpn="h2" if place.upstream == 2 else "http/1.1",
            protocol="http2_protocol_options" if place.upstream == 2 else "http_protocol_options",
        )
    )
    return str(conf)


def _ours(place: Place, port: int) -> list[str]:
    own = place.stage.directory / "ours.pem"
    if not own.exists():
        own.touch(0o600)  # a key that others can read is refused
        own.write_bytes(place.stage.certificate.read_bytes())
    return [*shlex.split(place.stage.command), "run", "--config", _write(place, "ours", _OURS, port)]


def _nginx(place: Place, port: int) -> list[str]:
    if place.upstream == 2:
        raise BenchmarkError("It speaks no HTTP/2 to upstreams.")
    return [find_program("nginx"), "-p", str(place.stage.directory), "-c", _write(place, "nginx", _NGINX, port)]


def _haproxy(place: Place, port: int) -> list[str]:
    return [find_program("haproxy"), "-db", "-f", _write(place, "haproxy", _HAPROXY, port)]


def _envoy(place: Place, port: int) -> list[str]:
    conf = _write(place, "envoy", _ENVOY, port)
    program = package_program("envoy", "envoy")
    return [program, "--config-path", conf, "--concurrency", "1", "--base-id", str(port), "--log-level", "error"]


def _nghttpx(place: Place, port: int) -> list[str]:
    stage = place.stage
    protocol = ";proto=h2" if place.upstream == 2 else ""
    return [
        find_program("nghttpx"),
        "--workers=1",
        f"--frontend=127.0.0.1,{port}",
        f"--backend=127.0.0.1,{place.upstream_port};;tls;sni={API_HOST}{protocol}",
        f"--cacert={stage.ca_file}",
        f"--add-request-header=authorization: Bearer {TOKEN}",
        f"--accesslog-file={stage.directory}/nghttpx.log",
        "--host-rewrite",
        str(stage.certificate),
        str(stage.certificate),
    ]


_PROXIES: Final[dict[str, Callable[[Place, int], list[str]]]] = {
    "ours": _ours,
    "nginx": _nginx,
    "nghttpx": _nghttpx,
    "haproxy": _haproxy,
    "Envoy": _envoy,
}


def main() -> int:
    """Measure every translation, and print a table of each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http2", description=__doc__)
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--proxies", default=",".join(_PROXIES))
    parser.add_argument("--translations", default=",".join(_TRANSLATIONS))
    parser.add_argument("--command", default=INTERPRETED, help="what starts our proxy, less `run --config FILE`")
    parser.add_argument(
        "--instructions", action="store_true", help="count thousands of instructions with callgrind; fifty times slower"
    )
    chosen = parser.parse_args()
    install_debian_programs(["nginx", "haproxy", "taskset", "h2load", "nghttpd", "nghttpx"])
    if chosen.instructions:
        install_debian_programs(["valgrind"])
    names = chosen.proxies.split(",")
    kind = CountedProgram if chosen.instructions else Program
    with open_stage(chosen.command) as stage, _http2_upstream(stage) as http2_port:
        for translation in chosen.translations.split(","):
            client, upstream = _TRANSLATIONS[translation]
            place = Place(stage, http2_port if upstream == 2 else stage.tls_port, client, upstream)
            _measure(place, translation, names, kind, chosen.requests, chosen.rounds)
    return 0


@contextlib.contextmanager
def _http2_upstream(stage: Stage) -> Iterator[int]:
    files = stage.directory / "http2-files"
    files.mkdir()
    (files / "json").write_text(JSON_BODY)
    with (files / "download").open("wb") as file:
        file.truncate(_DOWNLOAD_BYTES)
    port = free_port()
    pair = [str(stage.certificate)] * 2
    arguments = [find_program("nghttpd"), "--address=127.0.0.1", f"--htdocs={files}", str(port), *pair]
    with Program(arguments, [LOAD_CORE], stage.directory / "nghttpd.log") as upstream:
        upstream.wait_for_port(port)
        yield port


def _measure(place: Place, translation: str, names: list[str], kind: type[Program], requests: int, rounds: int) -> None:
    columns = [f"{count} at a time" for count in _STREAMS]
    if (place.client, place.upstream) == (2, 2):
        columns.append("64 MiB, CPU ms" if kind is Program else "64 MiB, millions")
    figure = "CPU µs" if kind is Program else "thousands of instructions"
    print(
        f"\nHTTP/{translation}, {figure} a request\n\n| proxy | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}"
    )
    with contextlib.ExitStack() as stack:
        running: dict[str, tuple[Program, int]] = {}
        for name in names:
            port = free_port()
            try:
                arguments = _PROXIES[name](place, port)
                program = stack.enter_context(
                    kind(arguments, [PROXY_CORE], place.stage.directory / f"{name}-{port}.out")
                )
                program.wait_for_port(port)
            except BenchmarkError as error:
                sys.stderr.write(f"{name} takes no part in {translation}. {error}\n")
                continue
            running[name] = (program, port)
        found: dict[str, list[list[float]]] = {name: [[] for _ in columns] for name in running}
        for number in range(rounds + 1):
            for name, (program, port) in running.items():
                for column in range(len(columns)):
                    cost = _round(place, program, port, column, requests)
                    if number:  # the first one warms up
                        found[name][column].append(cost)
    for name, costs in found.items():
        print(f"| {name} | {' | '.join(f'{statistics.median(cost):.1f}' for cost in costs)} |", flush=True)


def _round(place: Place, program: Program, port: int, column: int, requests: int) -> float:
    """Return CPU µs a request, or CPU ms of the download."""
    is_download = column == len(_STREAMS)
    streams = 1 if is_download else _STREAMS[column]
    count = 1 if is_download else max(requests * min(streams, 10) // 10, requests // 4)
    path = "download" if is_download else "json"
    # HTTP/1.1 has one request at a time on a connection.
    load = ["-c1", f"-m{streams}"] if place.client == 2 else ["--h1", f"-c{streams}", "-m1"]
    windows = ["-w24", "-W26"] if is_download else []
    command = ["taskset", "--cpu-list", str(LOAD_CORE), find_program("h2load"), *load, *windows, f"-n{count}"]
    before = program.cpu_time()
    done = subprocess.run(
        [*command, f"https://127.0.0.1:{port}/{path}"], capture_output=True, text=True, check=False, timeout=120
    )
    used_s = (program.cpu_time() - before).total_s
    told = _DONE.search(done.stdout)
    if told is None or int(told[1]) != count:
        raise BenchmarkError(f"{place.client} to {place.upstream} at {port}: {done.stdout[-600:]}{done.stderr[-300:]}")
    return used_s / count * (1e3 if is_download else 1e6)


if __name__ == "__main__":
    sys.exit(main())
