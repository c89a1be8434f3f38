"""The running program keeps its memory to itself: no core dump, no reading by others of the same user."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from proxy.identity.certificate_creation import create_certificate
from tests.end_to_end.programs import COMMAND, Program

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

REPORT = """\
import ctypes, resource
from proxy.hardening import harden_process, raise_file_limit
harden_process()
raise_file_limit()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), soft == hard)
"""


@linux_only
def test_core_dumps_and_reading_by_others_are_off_and_files_are_plenty() -> None:
    done = subprocess.run([sys.executable, "-c", REPORT], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "(0, 0) 0 True", done.stderr


def write_configuration(directory: Path, workers: int) -> Path:
    """A configuration that starts without any identity platform to ask."""
    certificate, key = create_certificate("clientapp", days=1, key_bits=2048, now=datetime.now(UTC))
    (directory / "clientapp.pem").write_bytes(certificate + key)
    (directory / "clientapp.pem").chmod(0o600)
    configuration = {
        "listeners": [{"address": "127.0.0.1:0"}],
        "credentials": {
            "c": {
                "token_endpoint": "https://127.0.0.1:9/token",
                "client_id": "i",
                "certificate": "clientapp.pem",
                "lazy": True,
            }
        },
        "routes": [{"hosts": ["api.example.test"], "credential": "c", "scope": "s"}],
        "admin": None,
        "workers": workers,
        "state_directory": "state",
    }
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    return file


@linux_only
@pytest.mark.parametrize("workers", [1, 2])
def test_every_process_of_a_running_proxy_is_hardened(tmp_path: Path, workers: int) -> None:
    program = Program([COMMAND, "run", "--config", write_configuration(tmp_path, workers)], tmp_path, "proxy")
    try:
        program.wait_for_line("ready")
        first = program.process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text(encoding="ascii").split()
        assert len(children) >= (workers if workers > 1 else 0)
        for pid in (str(first), *children):
            limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
            (core,) = [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")]
            assert core == ["0", "0"]
    finally:
        program.stop()


def test_an_admin_site_that_others_can_reach_shows_the_probes_alone_without_its_token(tmp_path: Path) -> None:
    file = write_configuration(tmp_path, 1)
    (tmp_path / "token").write_text("a" * 40, encoding="ascii")
    (tmp_path / "token").chmod(0o600)
    text = file.read_text(encoding="utf-8").replace("admin: null", "admin: {address: '0.0.0.0:0', token_file: token}")
    file.write_text(text, encoding="utf-8")
    program = Program([COMMAND, "run", "--config", file], tmp_path, "proxy")
    try:
        port = int(program.wait_for_line("health and metrics on").rpartition(":")[2])
        seen = []
        for path, field in (("/livez", ""), ("/metrics", ""), ("/metrics", "b" * 40), ("/metrics", "a" * 40)):
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")  # our own URL
            if field:
                request.add_header("Authorization", f"Bearer {field}")
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
                    seen.append(answer.status)
            except urllib.error.HTTPError as error:
                with error:
                    seen.append(error.code)
        assert seen == [200, 401, 401, 200]
    finally:
        program.stop()
