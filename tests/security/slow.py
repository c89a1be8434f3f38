"""Attacks a proxy with slowhttptest in each of its modes while an ordinary client goes on: ``python -m tests.security.slow``.

Fails where a request of the ordinary client is not answered within two seconds, where an attacking connection outlives the timeout
that is meant for it, or where memory is not given back. Needs slowhttptest (a Debian package). Does I/O; takes a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.security.boundary import HOST, Boundary, get, running, status
from tests.wire.rig import Trust

if TYPE_CHECKING:
    from collections.abc import Iterable

CONNECTIONS: Final = 300
SECONDS: Final = 12
TIMEOUT_S: Final = 3
# The upstream, the proxy and the ordinary client share one event loop here with whatever the attack asks for.
PATIENCE_S: Final = 2
ATTACKS: Final = {
    "slow headers": ["-H", "-i", "1"],
    "slow body": ["-B", "-i", "1", "-s", "8192"],
    "slow read": ["-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "32", "-k", "1"],
    "range headers": ["-R", "-a", "10", "-b", "3000"],
}


@dataclass
class Report:
    """What an ordinary client met with, and the most connections that were counted.

    Attributes:
        waits_s: for each request, how long its answer took.
        refused: answers other than 200.
    """

    waits_s: list[float]
    refused: int = 0
    most_connections: int = 0

    def faults(self, left: int) -> Iterable[str]:
        """What must not be."""
        if len(self.waits_s) < SECONDS:
            yield f"only {len(self.waits_s)} requests of the ordinary client were answered"
        if max(self.waits_s, default=0) > PATIENCE_S:
            yield f"an answer took {max(self.waits_s):.1f} s"
        if self.refused:
            yield f"{self.refused} requests of the ordinary client were refused"
        if left:
            yield f"{left} connections are left {TIMEOUT_S + 4} s after the attack"


async def go_on(boundary: Boundary, report: Report) -> None:
    """An ordinary client: a request every tenth of a second, each on a connection of its own."""
    while True:
        began = time.monotonic()
        peer = await boundary.connect()
        peer.send(get())
        head = await peer.read_until()
        report.waits_s.append(time.monotonic() - began)
        report.refused += status(head) != 200
        report.most_connections = max(report.most_connections, boundary.server.relay.accepted_connections.count)
        peer.transport.abort()
        await asyncio.sleep(0.1)


async def serve(boundary: Boundary) -> None:
    """The upstream."""
    while True:
        boundary.serve()
        await asyncio.sleep(0.005)


async def attack(program: str, options: list[str], trust: Trust, directory: Path) -> tuple[Report, int]:
    """Runs one attack; returns what the ordinary client met with, and how many connections are left at the end."""
    changes: dict[str, Any] = {
        "listeners": [
            {"address": "127.0.0.1:0"},
            {"address": "127.0.0.1:0", "mode": "reverse", "upstream": f"https://{HOST}"},
        ],
        "timeouts": {
            "head_s": TIMEOUT_S,
            "body_idle_s": TIMEOUT_S,
            "client_idle_s": TIMEOUT_S,
            "response_s": TIMEOUT_S,
        },
    }
    async with running(directory, trust, **changes) as boundary:
        content = b"x" * 400_000
        boundary.reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
        report = Report([])
        tasks = [asyncio.create_task(work) for work in (serve(boundary), go_on(boundary, report))]
        port = boundary.server.addresses[1][1]
        process = await asyncio.create_subprocess_exec(
            program, *options, "-c", str(CONNECTIONS), "-r", "100", "-l", str(SECONDS), "-u", f"http://localhost:{port}/",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(SECONDS + 30):
                await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        tasks[1].cancel()
        await asyncio.sleep(TIMEOUT_S + 4)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return report, boundary.server.relay.accepted_connections.count


def main() -> int:
    """Runs every attack; returns the exit status."""
    program = shutil.which("slowhttptest")
    if program is None:
        sys.stderr.write("slowhttptest is not installed; it is a Debian package of that name.\n")
        return 1
    trust = Trust.create()
    failed = 0
    for name, options in ATTACKS.items():
        with tempfile.TemporaryDirectory() as directory:
            report, left = asyncio.run(attack(program, options, trust, Path(directory)))
        faults = list(report.faults(left))
        failed += bool(faults)
        slowest_ms = max(report.waits_s, default=0) * 1000
        words = f"{report.most_connections} connections, {len(report.waits_s)} ordinary requests, at most {slowest_ms:.0f} ms"
        sys.stderr.write("; ".join([f"{name}: {words}", *(f"FAULT: {fault}" for fault in faults)]) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
