"""The running program keeps its memory to itself: no core dump, no reading by others of the same user."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
import yaml

from proxy.config.settings import ListenerTlsSettings
from proxy.identity.certificate_creation import create_certificate
from proxy.relay.listening import create_listener_context
from tests.end_to_end.programs import COMMAND, Program

if TYPE_CHECKING:
    from ssl import SSLContext

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


def family(pid: int) -> list[int]:
    """Returns the process ids of a process and of all that come of it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *(member for child in children for member in family(int(child)))]


@linux_only
@pytest.mark.parametrize("workers", [1, 2])
def test_every_process_of_a_running_proxy_is_hardened(tmp_path: Path, workers: int) -> None:
    program = Program([COMMAND, "run", "--config", write_configuration(tmp_path, workers)], tmp_path, "proxy")
    try:
        program.wait_for_line("ready")
        processes = family(program.process.pid)
        assert len(processes) == (2 + workers if workers > 1 else 1)
        for pid in processes:
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


@linux_only
def test_a_proxy_that_root_runs_has_no_capability_but_for_files_and_low_ports(tmp_path: Path) -> None:
    """G12: each thread of each process, also of those that read the network."""
    kept = 1 << 1 | 1 << 2 | 1 << 10  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE
    with Program([COMMAND, "run", "--config", write_configuration(tmp_path, 2)], tmp_path, "run") as program:
        program.wait_for_line("ready")
        processes = family(program.process.pid)
        assert len(processes) == 4  # control, the template, and two forked from it
        for task in (task for one in processes for task in Path(f"/proc/{one}/task").iterdir()):
            lines = dict(line.split(":\t", 1) for line in (task / "status").read_text(encoding="utf-8").splitlines())
            assert all(int(lines[name], 16) & ~kept == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")), task


@linux_only
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away, and be fooled by one")
def test_a_state_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """G12: that user could replace the CA."""
    file = write_configuration(tmp_path, 1)
    (tmp_path / "state").mkdir(0o700)
    os.chown(tmp_path / "state", 65_532, 65_532)
    done = subprocess.run([COMMAND, "run", "--config", file], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "belongs to user 65532" in done.stderr
    assert "chown 0 " in done.stderr
    assert list((tmp_path / "state").iterdir()) == []


def _listen_with_tls(directory: Path) -> SSLContext:
    authority = trustme.CA()
    pem = directory / "listener.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    pem.chmod(0o600)
    return create_listener_context(ListenerTlsSettings(certificate=pem), ["http/1.1"])


def test_a_listener_offers_authenticated_ciphers_only(tmp_path: Path) -> None:
    """G12: RFC 9325 §4.2, also for TLS 1.2."""
    ciphers = _listen_with_tls(tmp_path).get_ciphers()
    assert all(cipher["aead"] for cipher in ciphers)
    assert {"TLSv1.2", "TLSv1.3"} <= {cipher["protocol"] for cipher in ciphers}
