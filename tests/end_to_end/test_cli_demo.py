"""`demo` through the real command line: it holds everywhere, fails where a step does not, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.programs import COMMAND, PATIENCE_S, Finished, environment, run_program

# The whole of it, on a busy machine.
DEMO_S = 120.0
# Lines are at most this wide, so that they fit a terminal of the usual size.
COLUMNS = 80


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where the demo puts its directory."""
    path = tmp_path / "temporary"
    path.mkdir()
    return path


def demo(temporary: Path, *arguments: str, **variables: str) -> Finished:
    return run_program(
        [COMMAND, "demo", *arguments],
        environ=environment(TMPDIR=str(temporary), PYTHONIOENCODING="utf-8", **variables),
        patience_s=DEMO_S,
    )


def assert_held(done: Finished) -> str:
    text = done.stdout.decode()
    assert done.status == 0, text + done.stderr
    assert re.findall(r"^(\d)  ", text, re.MULTILINE) == [str(number) for number in range(1, 9)]
    assert "✘" not in text
    assert text.count("✔") == 10
    assert "Every step held." in text
    assert max(map(len, text.splitlines())) <= COLUMNS
    assert "eyJ" not in text, "no token and no signed assertion is shown"
    assert "\x1b" not in text, "colour is for terminals"
    assert done.stderr == ""
    return text


def test_every_step_holds_with_curl_and_nothing_is_left_behind(temporary: Path) -> None:
    with contextlib.ExitStack() as stack:
        for port in (8080, 9901):  # the ports of a usual configuration, in use by this test or by someone else
            taken = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                taken.bind(("127.0.0.1", port))
                taken.listen()
        text = assert_held(demo(temporary))
    assert "$ curl --cacert ca.pem" in text
    assert '401  { "statusCode": 401, "message": "Unauthorized. Access token is missing' in text
    assert text.count("so far: 1.") == 2
    assert "alg       PS256" in text
    assert list(temporary.iterdir()) == []


def test_every_step_holds_where_there_is_no_curl_and_the_terminal_has_ascii_only(temporary: Path) -> None:
    done = run_program(
        [COMMAND, "demo"],
        environ=environment(
            TMPDIR=str(temporary), PATH=str(Path(sys.executable).parent), PYTHONIOENCODING="ascii", PYTHONUTF8="0"
        ),
        patience_s=DEMO_S,
    )
    text = done.stdout.decode("ascii")
    assert done.status == 0, text + done.stderr
    assert "python3 client.py" in text
    assert text.count("   ok ") == 10
    assert max(map(len, text.splitlines())) <= COLUMNS


def test_variables_that_lead_clients_elsewhere_do_not_matter(temporary: Path) -> None:
    elsewhere = "http://127.0.0.1:9"
    assert_held(demo(temporary, "--client", "python", HTTP_PROXY=elsewhere, https_proxy=elsewhere, NO_PROXY="*"))


def test_a_step_that_does_not_hold_fails_the_demo(temporary: Path, tmp_path: Path) -> None:
    """A curl that says 200 to everything: the bare call should have been refused."""
    impostor = tmp_path / "bin" / "curl"
    impostor.parent.mkdir()
    impostor.write_text("#!/bin/sh\nprintf 'welcome\\n200'\n", encoding="ascii")
    impostor.chmod(0o755)
    done = demo(temporary, PATH=f"{impostor.parent}{os.pathsep}{os.environ['PATH']}")
    text = done.stdout.decode()
    assert done.status == 1
    assert "✘ The gateway should have refused a request without a token" in text
    assert "Every step held" not in text
    assert "What the proxy said last:" in text
    assert list(temporary.iterdir()) == []


def test_told_to_stop_it_leaves_nothing_behind(temporary: Path, tmp_path: Path) -> None:
    """In the middle of it, for certain: its client gets no answer."""
    idle = tmp_path / "bin" / "curl"
    idle.parent.mkdir()
    idle.write_text("#!/bin/sh\nexec sleep 60\n", encoding="ascii")
    idle.chmod(0o755)
    path = f"{idle.parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        [COMMAND, "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(TMPDIR=str(temporary), PYTHONIOENCODING="utf-8", PATH=path),
    ) as process:
        try:
            assert process.stdout is not None
            proxy_url = ""
            for line in process.stdout:
                proxy_url = proxy_url or next(iter(re.findall(r"the proxy +http://(\S+),", line)), "")
                if line.startswith("1  "):
                    break
            host, _, port = proxy_url.partition(":")
            client = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
            process.send_signal(signal.SIGTERM)
            rest, complaint = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 1, rest
    assert "Stopped before the end" in complaint
    assert "Traceback" not in complaint
    assert list(temporary.iterdir()) == []
    # Not by asking who listens there: by now that may be somebody else.
    client.settimeout(5)
    with client, contextlib.suppress(ConnectionResetError):
        assert client.recv(1) == b"", "the proxy has ended, too"
