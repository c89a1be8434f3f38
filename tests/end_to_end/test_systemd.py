"""The proxy under a service manager: what it tells, the sockets it takes over, and the unit files."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.programs import (
    COMMAND,
    PATIENCE_S,
    ROOT,
    Program,
    configuration,
    run_program,
    write_configuration,
)
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Place

UNITS = ROOT / "deploy/systemd"


class Manager:
    """The receiving end of sd_notify(3).

    Args:
        path: of its socket.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(PATIENCE_S)
        self.heard: list[str] = []

    def wait_for(self, word: str) -> str:
        """Returns the next message with a word in it."""
        give_up_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_at:
            self.heard.append(self._socket.recv(4096).decode())
            if word in self.heard[-1]:
                return self.heard[-1]
        pytest.fail(f"never heard {word}, but {self.heard}")

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


@contextmanager
def managed(directory: Path) -> Iterator[Manager]:
    manager = Manager(directory / "notify")
    try:
        yield manager
    finally:
        manager.close()


def test_the_manager_is_told_of_every_step(place: Place, tmp_path: Path) -> None:
    config = write_configuration(configuration(place), tmp_path)
    variables = [f"NOTIFY_SOCKET={tmp_path / 'notify'}", "WATCHDOG_USEC=400000"]
    with (
        managed(tmp_path) as manager,
        Program(["env", *variables, COMMAND, "run", "--config", config], tmp_path, "managed") as program,
    ):
        manager.wait_for("READY=1")
        manager.wait_for("WATCHDOG=1")
        manager.wait_for("WATCHDOG=1")
        before = time.monotonic_ns() // 1_000
        program.signal(signal.SIGHUP)
        reloading = manager.wait_for("RELOADING=1")
        assert before <= int(reloading.partition("MONOTONIC_USEC=")[2]) <= time.monotonic_ns() // 1_000
        manager.wait_for("READY=1")
        program.signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        assert program.wait() == 0


HAND_OVER = """
import os, socket, sys
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": sys.argv[2]}
print("opened", flush=True)
os.execv(sys.argv[3], sys.argv[3:])
"""


def handed_over(config: Path, port: int, count: str = "1") -> list[str]:
    """Returns the command line that starts the proxy with a socket as descriptor 3, as sd_listen_fds(3) has it."""
    return [sys.executable, "-c", HAND_OVER, str(port), count, COMMAND, "run", "--config", str(config)]


def test_a_socket_that_was_opened_before_is_a_listener(place: Place, tmp_path: Path, curl: Curl) -> None:
    """A request made before the proxy can accept it is answered, and so are those behind it, and after a reload."""
    config = write_configuration(configuration(place, listeners=[{"address": "127.0.0.1:1"}]), tmp_path)
    port = free_port()
    url = f"http://{place.alias_host}/orders"
    with Program(handed_over(config, port), tmp_path, "handed-over") as program:
        program.wait_for_line("opened")
        assert curl("--proxy", f"http://127.0.0.1:{port}", url).status == 200
        program.wait_for_line(f"listening on 127.0.0.1:{port} (forward)")
        program.signal(signal.SIGHUP)
        program.wait_for_line("reloaded")
        assert curl("--proxy", f"http://127.0.0.1:{port}", url).status == 200
        assert program.stop() == 0


def test_more_sockets_than_listeners_are_an_error(place: Place, tmp_path: Path) -> None:
    config = write_configuration(configuration(place, listeners=[{"address": "127.0.0.1:0"}]), tmp_path)
    done = run_program(handed_over(config, 0, "2"))
    assert done.status == 2
    assert "hands over 2 sockets, and there are 1 listeners" in done.stderr


def test_sockets_for_another_process_are_left_alone(place: Place, tmp_path: Path) -> None:
    config = write_configuration(configuration(place), tmp_path)
    words = ["env", "LISTEN_PID=1", "LISTEN_FDS=1", COMMAND, "run", "--config", str(config)]
    with Program(words, tmp_path, "others") as program:
        program.wait_for_line("apim-auth-proxy: ready")


def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here")
    for name in ("apim-auth-proxy.service", "apim-auth-proxy.socket"):
        text = (UNITS / name).read_text().replace("/usr/local/bin/apim-auth-proxy", COMMAND)
        (tmp_path / name).write_text(text)
    units = [tmp_path / "apim-auth-proxy.service", tmp_path / "apim-auth-proxy.socket"]
    done = run_program(["systemd-analyze", "verify", *units])
    assert (done.status, done.stderr) == (0, "")
    exposure = run_program(["systemd-analyze", "security", "--offline=yes", "--threshold=20", units[0]])
    assert exposure.status == 0, exposure.stdout.decode()


def test_logrotate_finds_no_fault_with_its_example(tmp_path: Path) -> None:
    program = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("logrotate is not installed here")
    copy = tmp_path / "example"
    copy.write_text((ROOT / "deploy/logrotate/apim-auth-proxy").read_text())
    copy.chmod(0o644)
    done = run_program([program, "--debug", "--state", tmp_path / "state", copy])
    assert done.status == 0
    assert "error" not in done.stderr
