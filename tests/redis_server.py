"""Runs real Redis servers: one, a master with sentinels, a cluster; with TLS and ACLs. Starts processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.ports import free_port

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

PATIENCE_S = 60.0


class RedisServer:
    """One server, on a port that it has again after a restart.

    Args:
        directory: its own.
        arguments: as `redis-server` takes them.
        tls: the directory of server.pem and ca.pem, where it speaks nothing but TLS.
    """

    def __init__(self, directory: Path, *arguments: str, tls: Path | None = None) -> None:
        program = shutil.which("redis-server", path=os.environ["PATH"] + ":/usr/sbin")
        if program is None:
            pytest.skip("redis-server is not installed here")
        self.port = free_port()
        self._tls = tls
        directory.mkdir(parents=True, exist_ok=True)
        usual = [
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            str(directory),
            "--loglevel",
            "warning",
        ]
        if tls is None:
            ports = ["--port", str(self.port)]
        else:
            ports = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            ports += ["--tls-cert-file", str(tls / "server.pem"), "--tls-key-file", str(tls / "server.pem")]
            ports += ["--tls-ca-cert-file", str(tls / "ca.pem")]
        self._command = (
            [program, *arguments[:1], *usual, *ports, *arguments[1:]]
            if arguments[:1] and not arguments[0].startswith("-")
            else [program, *usual, *ports, *arguments]
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            assert self.process.poll() is None, "redis-server ended"
            assert time.monotonic() < give_up_at
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            time.sleep(0.01)

    def call(self, *words: str) -> str:
        """Returns what `redis-cli` prints for a command."""
        secure = [] if self._tls is None else ["--tls", "--cacert", str(self._tls / "ca.pem"), "--sni", "localhost"]
        command = ["redis-cli", "-p", str(self.port), *secure, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout.strip()

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """Ends it at once, whatever state it is in."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[list[RedisServer]]:
    """Three masters, which share the slots."""
    with contextlib.ExitStack() as stack:
        nodes = []
        for index in range(3):
            own = directory / f"node{index}"
            cluster_port = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
            nodes.append(stack.enter_context(RedisServer(own, *cluster_port)))
        addresses = [f"127.0.0.1:{node.port}" for node in nodes]
        subprocess.run(
            ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"],
            capture_output=True,
            check=True,
            timeout=PATIENCE_S,
        )
        _wait(lambda: all("cluster_state:ok" in node.call("cluster", "info") for node in nodes))
        yield nodes


@contextlib.contextmanager
def sentinel(directory: Path) -> Iterator[tuple[RedisServer, RedisServer, RedisServer]]:
    """A master, its replica, and a sentinel that takes a second to notice that the master has gone."""
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(RedisServer(directory / "master"))
        following = ["--replicaof", f"127.0.0.1 {master.port}", "--repl-diskless-sync-delay", "0"]
        replica = stack.enter_context(RedisServer(directory / "replica", *following))
        _wait(lambda: "master_link_status:up" in replica.call("info", "replication"))
        config = directory / "sentinel.conf"
        config.write_text(
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n"
        )
        watcher = stack.enter_context(RedisServer(directory / "sentinel", str(config), "--sentinel"))
        _wait(lambda: "slaves=1" in watcher.call("info", "sentinel"))
        yield master, replica, watcher


def _wait(condition: object) -> None:
    assert callable(condition)
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
