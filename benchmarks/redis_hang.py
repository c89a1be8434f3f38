"""Latency of requests with a token while Redis hangs, beside that before and after, in one run. Runs programs.

The proxy shares its tokens in a real redis-server, which is stopped (SIGSTOP) for the middle third of each round. Tokens live two
seconds, so the proxy asks Redis again and again meanwhile. If a request ever waited for one of these questions (250 ms each),
it would show in the 99th percentile.
"""

from __future__ import annotations

import argparse
import base64
import os
import shlex
import signal
import statistics
import sys
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.loads import run_client
from benchmarks.machine import describe_machine
from benchmarks.packages import install_debian_programs
from benchmarks.processes import LOAD_CORE, PROXY_CORE, BenchmarkError, Program, find_program, free_port
from benchmarks.stage import API_HOST, INTERPRETED, JSON_BODY, open_stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.stage import Stage
    from benchmarks.wrk import Load

PHASES: Final = ("before", "while Redis hangs", "after")
_CONNECTIONS: Final = 16
# Far from what one core can do, so that a latency is not the queue in front of a busy proxy.
_RATE: Final = 200.0
_WARM_UP_S: Final = 6.0
_CONF: Final = """
listeners: [{{ address: "127.0.0.1:{port}" }}]
credentials:
  bench:
    token_endpoint: https://localhost:{tls_port}/short-token
    ca_file: {ca_file}
    client_id: bench
    certificate: {client_certificate}
routes: [{{ hosts: [{host}], credential: bench, scope: api://bench/.default, dial: "127.0.0.1:{tls_port}", ca_file: {ca_file} }}]
token_cache: {{ url: "redis://127.0.0.1:{redis_port}", key_files: [{directory}/cache.key] }}
admin: {{ address: "127.0.0.1:{admin_port}" }}
state_directory: {directory}/state
access_log: {{ file: {directory}/access.log, format: json }}
"""


@dataclass(frozen=True, slots=True)
class Phase:
    """What one third of a round showed.

    Attributes:
        load: what the clients saw.
        alone: how many tokens the proxy had to ask for without Redis.
    """

    load: Load
    alone: int


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redis_hang", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each third of a round")
    parser.add_argument("--command", default=INTERPRETED, help="what starts our proxy, less `run --config FILE`")
    chosen = parser.parse_args()
    install_debian_programs(["nginx", "redis-server", "taskset"])
    with open_stage(chosen.command) as stage:
        rounds = _measure(stage, chosen.rounds, chosen.seconds)
    print(format_table(rounds))
    print("\n".join(f"- {line}" for line in describe_machine()))
    return 0


def format_table(rounds: Sequence[Sequence[Phase]]) -> str:
    """Return a row for each phase: the median of the rounds, and their smallest and largest."""
    rows = ["| | requests | failed | p50 | p99 | token requests without Redis |", "|---|--:|--:|--:|--:|--:|"]
    for name, phases in zip(PHASES, zip(*rounds, strict=True), strict=True):
        cells = [name, f"{sum(one.load.count for one in phases):,}", f"{sum(one.load.failed for one in phases)}"]
        cells.append(_format_latency([one.load.p50_us for one in phases]))
        cells.append(_format_latency([one.load.p99_us for one in phases]))
        rows.append(f"| {' | '.join([*cells, str(sum(one.alone for one in phases))])} |")
    return "\n".join(rows)


def _format_latency(values_us: Sequence[float]) -> str:
    middle, least, most = (value / 1e3 for value in (statistics.median(values_us), min(values_us), max(values_us)))
    return f"{middle:.2f} ms ({least:.2f} to {most:.2f})"


def _measure(stage: Stage, rounds: int, seconds: float) -> list[list[Phase]]:
    port, admin_port, redis_port = free_port(), free_port(), free_port()
    key = stage.directory / "cache.key"
    key.touch(0o600)
    key.write_bytes(base64.b64encode(os.urandom(32)))
    conf = stage.directory / "proxy.yaml"
    conf.write_text(
        _CONF.format(
            port=port,
            admin_port=admin_port,
            redis_port=redis_port,
            tls_port=stage.tls_port,
            ca_file=stage.ca_file,
            client_certificate=stage.client_certificate,
            host=API_HOST,
            directory=stage.directory,
        )
    )
    redis_command = [find_program("redis-server"), "--bind", "127.0.0.1", "--port", str(redis_port), "--save", ""]
    with Program([*redis_command, "--dir", str(stage.directory)], (LOAD_CORE,), stage.directory / "redis.log") as redis:
        redis.wait_for_port(redis_port)
        command = [*shlex.split(stage.command), "run", "--config", str(conf)]
        with Program(command, (PROXY_CORE,), stage.directory / "proxy.log") as proxy:
            proxy.wait_for_line("ready")
            # Warms up, and outlasts the first lock, which is made for tokens that live longer than itself.
            _load(port, _WARM_UP_S)
            return [[_measure_phase(name, port, admin_port, redis, seconds) for name in PHASES] for _ in range(rounds)]


def _measure_phase(name: str, port: int, admin_port: int, redis: Program, seconds: float) -> Phase:
    is_hanging = name == PHASES[1]
    alone = _count_alone(admin_port)
    # `taskset` has become the server: it has the same process id.
    if is_hanging:
        os.kill(redis.pid, signal.SIGSTOP)
    try:
        load = _load(port, seconds)
    finally:
        os.kill(redis.pid, signal.SIGCONT)
    alone = _count_alone(admin_port) - alone
    if is_hanging and not alone:
        raise BenchmarkError("The proxy did not notice that Redis hung: more --seconds are needed.")
    return Phase(load, alone)


def _load(port: int, seconds: float) -> Load:
    return run_client(
        "repeat",
        {
            "--port": port,
            "--target": f"http://{API_HOST}/json",
            "--host": API_HOST,
            "--ends": JSON_BODY[-16:],
            "--connections": _CONNECTIONS,
            "--seconds": seconds,
            "--rate": _RATE,
        },
    )


def _count_alone(admin_port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/metrics", timeout=10) as response:
        text = response.read().decode()
    lines = [line for line in text.splitlines() if not line.startswith("#") and 'outcome="alone"' in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


if __name__ == "__main__":
    sys.exit(main())
