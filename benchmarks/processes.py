"""Start programs on one core, see what they have used, end them. Does I/O (processes, /proc); Linux only.

Invariant: whatever was started here is ended by its own id, however the benchmark ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

PROXY_CORE: Final = 0
LOAD_CORE: Final = 1

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
# Program: package.
DEBIAN_PACKAGES: Final = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "squid": "squid",
    "wrk": "wrk",
    "taskset": "util-linux",
    "valgrind": "valgrind",
    "h2load": "nghttp2-client",
    "nghttpd": "nghttp2-server",
    "nghttpx": "nghttp2-proxy",
    "redis-server": "redis-server",
}
# Daemons live where an ordinary user's PATH does not lead.
SEARCH_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
_PORTS: Final = iter(range(18_000, 19_000))
_STOP_S: Final = 5.0


class BenchmarkError(Exception):
    """The benchmark cannot go on; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class CpuTime:
    """What a program's processes have used since they started, in seconds.

    The kernel reports it in ticks of 10 ms, scaled from a clock that is exact: over a round of seconds the error is small.
    """

    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        """User and system time together."""
        return self.user_s + self.system_s

    def __sub__(self, earlier: CpuTime) -> CpuTime:
        return CpuTime(self.user_s - earlier.user_s, self.system_s - earlier.system_s)


def find_program(name: str) -> str:
    """Return the path of a program.

    Raises:
        BenchmarkError: it is not installed.
    """
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        raise BenchmarkError(
            f"{name} is not installed. On Debian: apt-get install --no-install-recommends {' '.join(DEBIAN_PACKAGES.values())}"
        )
    return path


def free_port() -> int:
    """Return a loopback port that was free a moment ago; below the ephemeral range, so that no outgoing connection takes it."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise BenchmarkError("No free port is left.")


class Program:
    """A started program and all its descendants. Use as a context manager, or call `stop`.

    Args:
        arguments: the program and its arguments.
        cores: the cores that it and its descendants run on.
        log: file for both of its outputs.
        environment: added to ours.
    """

    patience_s = 20.0
    """How long it may take to start."""

    def __init__(
        self, arguments: Sequence[str], cores: Sequence[int], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self.started_mono = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["taskset", "--cpu-list", ",".join(map(str, cores)), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": SEARCH_PATH, **(environment or {})},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The id of the program's first process."""
        return self._process.pid

    def wait_for_port(self, port: int) -> None:
        """Wait until something accepts connections on a loopback port.

        Raises:
            BenchmarkError: the program has ended, or does not listen in time; it is stopped then.
        """
        give_up_at = time.monotonic() + self.patience_s
        while time.monotonic() < give_up_at:
            if self._process.poll() is not None:
                break
            with socket.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        self.stop()
        raise BenchmarkError(f"{self._describe()} does not listen on port {port}.\n{self._tail()}")

    def wait_for_line(self, text: str) -> float:
        """Wait until a line of output ends with `text`; return the seconds since the start.

        Raises:
            BenchmarkError: the program has ended, or does not say so in time; it is stopped then.
        """
        give_up_at = time.monotonic() + self.patience_s
        while time.monotonic() < give_up_at:
            if any(line.endswith(text) for line in self.log.read_text(errors="replace").splitlines()):
                return time.monotonic() - self.started_mono
            if self._process.poll() is not None:
                break
            time.sleep(0.002)
        self.stop()
        raise BenchmarkError(f"{self._describe()} did not say {text!r}.\n{self._tail()}")

    def processes(self) -> list[int]:
        """Return the ids of the program's processes."""
        found = [self.pid]
        for pid in found:  # grows while it is walked
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += [int(child) for child in children.read_text(encoding="ascii").split()]
        return found

    def cpu_time(self) -> CpuTime:
        """Return what all processes, and descendants that have ended, have used."""
        user = system = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                # The name in parentheses may hold anything; behind it comes field 3 of proc(5).
                fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
                user += int(fields[11]) + int(fields[13])
                system += int(fields[12]) + int(fields[14])
        return CpuTime(user / _TICKS_PER_S, system / _TICKS_PER_S)

    def resident_bytes(self) -> int:
        """Return the resident set of all processes, added up."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
                    if line.startswith("Rss:"):
                        total += int(line.split()[1]) * 1024
        return total

    def move(self, core: int) -> None:
        """Has all threads run on another core from now on."""
        for pid in self.processes():
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), {core})

    def stop(self) -> None:
        """End the program: politely, then for certain. May be called twice."""
        descendants = self.processes()
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            for pid in reversed(descendants):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()

    def _describe(self) -> str:
        return " ".join(str(argument) for argument in list(self._process.args)[3:6])  # type: ignore[arg-type]

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
