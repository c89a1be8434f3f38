"""Every command as a user who may get at nothing: a sentence each time, never a traceback (F6)."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from proxy.cli import _COMMANDS
from tests.end_to_end.programs import COMMAND
from tests.other_user import needs_another_user, open_directory, run_as_other_user
from tests.own_faults import find_own_faults

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs_another_user

CLOSED_FILES: Final = """\
listeners: [{{address: '127.0.0.1:0', tls: {{certificate: {closed}/c.pem, client_ca: {closed}/ca.pem}}}}]
credentials:
  c: {{tenant_id: contoso.com, client_id: c, certificate: {closed}/c.pem, password_file: {closed}/p, ca_file: {closed}/ca}}
routes:
- {{hosts: [a.example], credential: c, scope: 'api://a/.default', ca_file: {closed}/ca, client_certificate: {closed}/c.pem}}
interception: {{ca_certificate: {closed}/ca.pem}}
upstream_proxy: {{ca_file: {closed}/ca.pem}}
admin: {{address: '127.0.0.1:0', token_file: {closed}/t}}
access_log: {{file: {closed}/log}}
state_directory: {closed}/state
"""
CLOSED_STATE: Final = """\
listeners: [{{address: '127.0.0.1:0'}}]
credentials: {{c: {{token_endpoint: 'https://localhost:9/', client_id: c, client_secret: s, lazy: true}}}}
routes: [{{hosts: [a.example], credential: c, scope: s}}]
admin: null
state_directory: {closed}/state
"""

# What takes a configuration: the words before and behind --config FILE.
CONFIGURED: Final = {
    "run": (["run"], []),
    "check": (["check"], []),
    "token": (["token"], []),
    "ca": (["ca", "show"], []),
    "env": (["env"], []),
    "exec": (["exec", "--start"], ["--", "true"]),
    "wait": (["wait", "--timeout", "1"], []),
    "explain": (["explain", "https://a.example/x"], []),
}
WRITING: Final = {
    "init": ["init", "--tenant-id", "contoso.com", "--host", "a.example", "--directory", "{closed}/x"],
    "init_there": ["init", "--tenant-id", "contoso.com", "--host", "a.example", "--directory", "{closed}"],
    "init_sandbox": ["init", "--sandbox", "--directory", "{closed}"],
    "sandbox": ["sandbox", "--directory", "{closed}/x"],
    "sandbox_there": ["sandbox", "--directory", "{closed}"],
    "cert": ["cert", "new", "--out-key", "{closed}/k", "--out-certificate", "{closed}/c"],
    "cert_password": ["cert", "new", "--password-file", "{closed}/p"],
    "cert_show": ["cert", "show", "{closed}/c.pem"],
}
HARMLESS: Final = {
    "client": ["client", "add", "somebody"],
    "completion": ["completion", "bash"],
    "config": ["config", "schema"],
    "explain": ["explain", "401"],
    "demo": ["demo", "--help"],
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that is open, with one in it that is closed."""
    with open_directory() as directory:
        closed = directory / "closed"
        closed.mkdir()
        for name in ("c.pem", "p", "ca.pem", "ca", "t", "config.yaml"):
            (closed / name).write_text("x\n")
        (directory / "files.yaml").write_text(CLOSED_FILES.format(closed=closed))
        (directory / "state.yaml").write_text(CLOSED_STATE.format(closed=closed))
        closed.chmod(0o700)
        yield directory


def _judge(done: subprocess.CompletedProcess[str], *, fails: bool = True) -> None:
    said = done.stdout + done.stderr
    assert find_own_faults(said.splitlines()) == [], said
    assert "Traceback" not in said
    assert (done.returncode in (1, 2)) is fails, said
    assert said.strip(), "it says something"


@pytest.mark.parametrize("command", CONFIGURED)
@pytest.mark.parametrize("file", ["files.yaml", "state.yaml", "closed/config.yaml", "closed"])
def test_a_configuration_or_what_it_names_is_closed(command: str, file: str, place: Path) -> None:
    before, behind = CONFIGURED[command]

    done = run_as_other_user([COMMAND, *before, "--config", place / file, *behind], place)

    _judge(done, fails=command != "explain" or file.startswith("closed"))


@pytest.mark.parametrize("case", WRITING)
def test_where_it_writes_or_reads_is_closed(case: str, place: Path) -> None:
    words = [word.format(closed=place / "closed") for word in WRITING[case]]

    done = run_as_other_user([COMMAND, *words], place)

    _judge(done)
    assert "closed" in done.stderr, "it names what is closed"


@pytest.mark.parametrize("case", ["init", "sandbox", "check", "run", "cert", "ca", "env", "token"])
def test_the_working_directory_is_closed(case: str, place: Path) -> None:
    here = {
        "init": ["init", "--tenant-id", "contoso.com", "--host", "a.example"],
        "sandbox": ["sandbox", "--directory", "."],
        "cert": ["cert", "new"],
        "ca": ["ca", "show"],
    }

    done = run_as_other_user([COMMAND, *here.get(case, [case])], place / "closed", is_closed=True)

    _judge(done)


@pytest.mark.parametrize("case", HARMLESS)
def test_what_needs_no_file_works_in_a_closed_directory(case: str, place: Path) -> None:
    done = run_as_other_user([COMMAND, *HARMLESS[case]], place / "closed", is_closed=True)

    _judge(done, fails=False)


def test_every_command_is_tried() -> None:
    tried = {*CONFIGURED, *HARMLESS, *(words[0] for words in WRITING.values())}
    assert tried == set(_COMMANDS)


def test_a_fault_of_our_own_is_one_line_without_a_text_that_could_hold_a_secret() -> None:
    """At the top of the program: whoever uses it can do nothing with a traceback."""
    program = (
        "import proxy.cli, sys\n"
        "def fail(*_, **__): raise ValueError('a secret')\n"
        "proxy.cli.group.main = fail\n"
        "proxy.cli.main()\n"
    )
    python = os.path.join(os.path.dirname(COMMAND), "python")  # noqa: PTH118, PTH120  # a text, as COMMAND is
    done = subprocess.run([python, "-c", program], capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr.startswith("apim-auth-proxy failed: ValueError at ")
    assert done.stderr.count("\n") == 1
    assert "a secret" not in done.stderr
