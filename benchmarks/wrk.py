"""Load over kept-alive connections by wrk, pinned to the load's core. Does I/O."""

from __future__ import annotations

import json
import resource
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from benchmarks.processes import LOAD_CORE, BenchmarkError, find_program

if TYPE_CHECKING:
    from pathlib import Path

# What a real client sends beside Host: seven fields in all.
FIELDS: Final = (
    ("User-Agent", "orders-batch/2.4 (Linux; x86_64)"),
    ("Accept", "application/json"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Accept-Language", "en-GB,en;q=0.8"),
    ("Cache-Control", "no-cache"),
    ("X-Correlation-ID", "7b1f2b6e-6c0a-4c55-9a3e-0d1c2b3a4f5e"),
)

_SCRIPT: Final = """
wrk.method = {method}
wrk.path = {target}
wrk.headers["Host"] = {host}
{fields}
{body}
function done(summary, latency)
  io.stderr:write(string.format('{{"requests":%d,"duration_us":%d,"failed":%d,"p50_us":%d,"p99_us":%d}}\\n',
    summary.requests, summary.duration,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What a round of load did.

    Attributes:
        count: requests answered as they should be.
        failed: requests that were not, and connections that broke.
        duration_s: of the whole round.
        p50_us, p99_us: latency as the client saw it.
        client_cpu_s: what the load generator itself has used.
    """

    count: int
    failed: int
    duration_s: float
    p50_us: float
    p99_us: float
    client_cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WrkRequest:
    """The request that wrk repeats.

    Attributes:
        target: as it stands in the request line: absolute-form towards a proxy.
        host: of the Host field.
        content_bytes: of a POST; 0 for a GET.
    """

    target: str
    host: str
    content_bytes: int = 0


def format_script(request: WrkRequest) -> str:
    """Return the Lua script for a request."""
    fields = "\n".join(f'wrk.headers["{name}"] = {json.dumps(value)}' for name, value in FIELDS)
    body = f'wrk.body = string.rep("x", {request.content_bytes})' if request.content_bytes else ""
    return _SCRIPT.format(
        method='"POST"' if request.content_bytes else '"GET"',
        target=json.dumps(request.target),
        host=json.dumps(request.host),
        fields=fields,
        body=body,
    )


def run_wrk(
    request: WrkRequest, port: int, *, connections: int, seconds: float, directory: Path, secure: bool = False
) -> Load:
    """Run one round.

    Raises:
        BenchmarkError: wrk is not installed, or failed.
    """
    script = directory / "wrk.lua"
    script.write_text(format_script(request))
    arguments = ["taskset", "--cpu-list", str(LOAD_CORE), find_program("wrk"), "--threads", "1", "--latency"]
    arguments += ["--connections", str(connections), "--duration", f"{max(1, round(seconds))}s", "--timeout", "10s"]
    arguments += ["--script", str(script), f"{'https' if secure else 'http'}://127.0.0.1:{port}/"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=seconds + 30)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    try:
        return replace(parse_load(json.loads(done.stderr.splitlines()[-1])), client_cpu_s=used_s)
    except (IndexError, ValueError):
        raise BenchmarkError(f"wrk failed: {done.stdout}{done.stderr}") from None


def parse_load(told: dict[str, float]) -> Load:
    """Return what a load generator printed about its round."""
    return Load(
        count=int(told["requests"]),
        failed=int(told["failed"]),
        duration_s=told["duration_us"] / 1e6,
        p50_us=told["p50_us"],
        p99_us=told["p99_us"],
        client_cpu_s=told.get("client_cpu_us", 0.0) / 1e6,
    )
