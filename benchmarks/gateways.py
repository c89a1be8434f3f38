"""What a token costs a gateway: each recipe of deploy/gateways beside the same gateway without one. Runs programs.

The proxy is the real one, with an identity listener and `token_files`, and its own CPU time stands beside the gateway's. The
gateway alone is the recipe for pushed tokens without what has to do with the token, so that nothing else differs.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import shutil
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.answers import fetch
from benchmarks.machine import describe_machine
from benchmarks.packages import install_debian_programs
from benchmarks.processes import PROXY_CORE, SEARCH_PATH, BenchmarkError, Program, free_port
from benchmarks.rivals import Rival
from benchmarks.stage import API_HOST, INTERPRETED, JSON_BODY, TOKEN, nginx_user, open_stage
from benchmarks.wrk import WrkRequest, run_wrk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.stage import Stage

_HERE: Final = Path(__file__).resolve().parent
_RECIPES: Final = _HERE.parent / "deploy/gateways"
_HOST: Final = "contoso.azure-api.net"
WAYS: Final = ("alone", "asking", "pushed")
# What caching there is, by the answer's Cache-Control, is part of the recipe.
ASKS: Final = {
    "nginx": "`auth_request`, cached",
    "haproxy": "Lua, cached",
    "envoy": "`ext_authz`",
    "caddy": "`forward_auth`",
    "traefik": "`forwardAuth`",
}
_TOKEN_FILES: Final = {
    "nginx": ("orders", "caddy"),
    "haproxy": ("orders.map", "haproxy-map"),
    "envoy": ("orders.yaml", "envoy-sds"),
    "caddy": ("orders", "caddy"),
    "traefik": ("orders.yaml", "traefik"),
}
_CONNECTIONS: Final = 16
_CONF: Final = """
listeners: [{{ address: "127.0.0.1:{port}", mode: identity, authorize: true }}]
credentials:
  bench:
    token_endpoint: https://localhost:{tls_port}/token
    ca_file: {ca_file}
    client_id: bench
    certificate: {client_certificate}
routes: [{{ hosts: [{host}], credential: bench, scope: api://bench/.default }}]
token_files: [{{ path: {file}, format: {format}{socket}, credential: bench, scope: api://bench/.default }}]
admin: {{ address: "127.0.0.1:{admin_port}" }}
state_directory: {directory}/state
access_log: {{ file: {directory}/access.log, format: json }}
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request has used.

    Attributes:
        gateway_us: of the gateway's processes.
        proxy_us: of the proxy's.
    """

    gateway_us: float
    proxy_us: float


def main() -> int:
    """Measure every way of every gateway in turn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateways", description=__doc__)
    parser.add_argument("--gateways", default=",".join(ASKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--command", default=INTERPRETED, help="what starts our proxy, less `run --config FILE`")
    parser.add_argument("--output", type=Path, default=_HERE / "gateways.md")
    chosen = parser.parse_args()
    install_debian_programs(["nginx", "haproxy", "wrk", "taskset"])
    found: dict[str, dict[str, Cost]] = {}
    with open_stage(chosen.command) as stage:
        for name in chosen.gateways.split(","):
            try:
                found[name] = _measure_gateway(stage, name, chosen.rounds, chosen.seconds)
            except BenchmarkError as error:
                sys.stderr.write(f"{name} takes no part. {error}\n")
                continue
            sys.stderr.write(f"{_format_row(name, found[name])}\n")
    chosen.output.write_text(format_page(found, describe_machine()), encoding="utf-8")
    return 0


def format_page(found: Mapping[str, Mapping[str, Cost]], machine: list[str]) -> str:
    """Return the page with the table."""
    rows = "\n".join(_format_row(name, costs) for name, costs in found.items())
    about = "\n".join(f"- {line}" for line in machine)
    return f"""\
# What a token costs a gateway

`python -m benchmarks.gateways` writes this page. CPU time a request in µs, user and system, of the gateway's processes: the
median of the rounds, all ways of one gateway in turn. {_CONNECTIONS} kept connections, small GETs, a TLS upstream, a token of
{len(TOKEN):,} characters, and the recipes of `deploy/gateways` as they are. *Proxy* is what our own process uses for a request
of that gateway, beside it.

| gateway | alone | asks for each request | with it | proxy | pushed token | proxy |
|---|--:|---|--:|--:|--:|--:|
{rows}

{about}
"""


def _format_row(name: str, costs: Mapping[str, Cost]) -> str:
    alone, asking, pushed = (costs[way] for way in WAYS)
    cells = [name, f"{alone.gateway_us:.0f}", ASKS[name]]
    for cost in (asking, pushed):
        cells += [
            f"{cost.gateway_us:.0f} (\N{MULTIPLICATION SIGN}{cost.gateway_us / alone.gateway_us:.2f})",
            f"{cost.proxy_us:.0f}",
        ]
    return f"| {' | '.join(cells)} |"


def _measure_gateway(stage: Stage, name: str, rounds: int, seconds: float) -> dict[str, Cost]:
    with contextlib.ExitStack() as stack:
        identity = free_port()
        directory = stage.directory / name
        (directory / "tokens").mkdir(parents=True)
        proxy = stack.enter_context(_start_proxy(stage, name, directory, identity))
        ready = {way: stack.enter_context(_started(stage, name, way, directory, identity)) for way in WAYS}
        rounds_of: dict[str, list[Cost]] = {way: [] for way in WAYS}
        for number in range(rounds + 1):
            for way, rival in ready.items():
                cost = _run_round(stage, rival, proxy, seconds)
                if number:  # the first one warms up
                    rounds_of[way].append(cost)
    return {
        way: Cost(statistics.median(c.gateway_us for c in costs), statistics.median(c.proxy_us for c in costs))
        for way, costs in rounds_of.items()
    }


def _run_round(stage: Stage, rival: Rival, proxy: Program, seconds: float) -> Cost:
    assert rival.program is not None
    before, proxys_before = rival.program.cpu_time().total_s, proxy.cpu_time().total_s
    load = run_wrk(
        WrkRequest("/json", API_HOST),
        rival.port,
        connections=_CONNECTIONS,
        seconds=seconds,
        directory=stage.directory,
    )
    used, ours = rival.program.cpu_time().total_s - before, proxy.cpu_time().total_s - proxys_before
    if load.failed or not load.count:
        raise BenchmarkError(f"{rival.name}: {load.failed} of {load.count + load.failed} requests failed.")
    return Cost(used * 1e6 / load.count, ours * 1e6 / load.count)


def _start_proxy(stage: Stage, name: str, directory: Path, port: int) -> Program:
    file, form = _TOKEN_FILES[name]
    conf = directory / "proxy.yaml"
    conf.write_text(
        _CONF.format(
            port=port,
            admin_port=free_port(),
            tls_port=stage.tls_port,
            ca_file=stage.ca_file,
            client_certificate=stage.client_certificate,
            host=API_HOST,
            file=directory / "tokens" / file,
            format=form,
            socket=f", haproxy_socket: {directory}/tokens/admin.sock" if name == "haproxy" else "",
            directory=directory,
        )
    )
    program = Program(
        [*shlex.split(stage.command), "run", "--config", str(conf)], (PROXY_CORE,), directory / "proxy.log"
    )
    program.wait_for_line("ready")
    _wait((directory / "tokens" / file).exists, "the proxy wrote no token file")
    return program


@contextlib.contextmanager
def _started(stage: Stage, name: str, way: str, directory: Path, identity: int) -> Iterator[Rival]:
    place, port, guard = directory / way, free_port(), free_port()
    tokens = directory / "tokens"
    replacements = {
        # Caddy's sites have names, and the load's Host is the API's. Of several, each would have its admin site at one address.
        "http://127.0.0.1:8000 {": f"{{\n\tadmin off\n}}\nhttp://:{port} {{",
        "127.0.0.1:8000": f"127.0.0.1:{port}",
        "127.0.0.1:8001": f"127.0.0.1:{guard}",
        "127.0.0.1:8090": f"127.0.0.1:{identity}",
        "127.0.0.1, port_value: 8000": f"127.0.0.1, port_value: {port}",
        "127.0.0.1, port_value: 8090": f"127.0.0.1, port_value: {identity}",
        f"address: {_HOST}, port_value: 443": f"address: 127.0.0.1, port_value: {stage.tls_port}",
        f"{_HOST}:443": f"127.0.0.1:{stage.tls_port}",
        _HOST: API_HOST,
        "/etc/ssl/certs/ca-certificates.crt": str(stage.ca_file),
        "/run/tokens": str(tokens),
        "/run/traefik": str(tokens if way == "pushed" else place / "pushed"),
        # Only the one that has the tokens pushed has the socket that the proxy speaks to.
        "/run/haproxy": str(tokens if way == "pushed" else place),
        "/dev/shm/apim-auth-proxy": str(place / "cache"),  # noqa: S108  # the recipe's
        "5500": "21000",
    }
    for file in (_RECIPES / name).rglob("*"):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            copy = place / file.relative_to(_RECIPES / name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if way == "alone":
                text = _strip(name, text)
            for old, new in replacements.items():
                text = text.replace(old, new)
            copy.write_text(text, encoding="utf-8")
    if name == "traefik" and way == "pushed":
        shutil.copy(place / "pushed/api.yaml", tokens)
    program = Program(
        _command(name, place, is_asking=way == "asking"),
        (PROXY_CORE,),
        place / "log",
        {"HOME": str(place), "XDG_DATA_HOME": str(place), "XDG_CONFIG_HOME": str(place), "GOMAXPROCS": "1"},
    )
    with program:
        program.wait_for_port(port)
        rival = Rival(f"{name} {way}", program, port)
        # Some listen before they have read what to do, or before they have the token.
        _wait(lambda: fetch(rival, "/json", API_HOST) == (200, JSON_BODY.encode()), f"{rival.name} does not answer")
        if way != "alone" and fetch(rival, "/authorization", API_HOST) != (200, f"Bearer {TOKEN}".encode()):
            raise BenchmarkError(f"{rival.name} does not send the token.")
        yield rival


def _strip(name: str, text: str) -> str:
    """Return a recipe for pushed tokens without what has to do with them."""
    match name:
        case "nginx":
            return re.sub(r" +access_by_lua_block \{.*?\n {8}\}\n", "", text, flags=re.DOTALL)
        case "haproxy":
            return "".join(line for line in text.splitlines(keepends=True) if "txn." not in line)
        case "envoy":
            first, last = "                  - name: token\n", "                  - name: envoy.filters.http.router\n"
            return re.sub(f"{first}.*?(?={last})", "", text, flags=re.DOTALL)
        case "caddy":
            text = re.sub(r"\tmap .*?\n\t\}\n", "", text, flags=re.DOTALL)
            return "".join(
                line for line in text.splitlines(keepends=True) if "ended" not in line and "{token}" not in line
            )
        case _:
            return text.replace("[api-host, orders]", "[api-host]")


def _command(name: str, place: Path, *, is_asking: bool) -> list[str]:
    match name:
        case "nginx":
            recipe = "apim-auth-proxy" if is_asking else "pushed"
            main = place / "nginx.conf"
            kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            main.write_text(
                "load_module /usr/lib/nginx/modules/ndk_http_module.so;\n"
                "load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;\n"
                f"daemon off;\n{nginx_user()}\npid {place}/pid;\nerror_log stderr warn;\nworker_processes 1;\n"
                "events {}\nhttp {\n  access_log off;\n  keepalive_requests 100000000;\n"
                + "".join(f"  {kind}_temp_path {place}/{kind};\n" for kind in kinds)
                + f"  include {place}/{recipe}.conf;\n}}\n",
                encoding="utf-8",
            )
            return [_find(name), "-p", str(place), "-e", "stderr", "-c", str(main)]
        case "haproxy":
            return ["sh", "-c", f"cd {place} && exec {_find(name)} -db -f {'haproxy' if is_asking else 'pushed'}.cfg"]
        case "envoy":
            recipe = "envoy" if is_asking else "pushed"
            options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
            return [_find(name), "-c", str(place / f"{recipe}.yaml"), *options]
        case "caddy":
            recipe = "Caddyfile" if is_asking else "Caddyfile.pushed"
            return [_find(name), "run", "--config", str(place / recipe), "--adapter", "caddyfile"]
        case _:
            recipe = "traefik" if is_asking else "pushed"
            return ["sh", "-c", f"cd {place} && exec {_find(name)} --configFile={recipe}.yaml"]


def _find(program: str) -> str:
    path = shutil.which(program, path=f"{Path(sys.executable).parent}:{SEARCH_PATH}")
    if path is None:
        raise BenchmarkError(f"{program} is not installed: pip install --group deploy, or see .ci/install-test-tools.")
    return path


def _wait(holds: Callable[[], bool], problem: str) -> None:
    give_up_at = time.monotonic() + Program.patience_s
    while True:
        with contextlib.suppress(BenchmarkError):
            if holds():
                return
        if time.monotonic() > give_up_at:
            raise BenchmarkError(f"{problem} within {Program.patience_s:.0f} s.")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
