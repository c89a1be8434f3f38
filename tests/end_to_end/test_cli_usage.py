"""What holds for every command: help, exit codes, a message and never a traceback; and a help that is there at once."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from proxy.cli import group
from tests.end_to_end.programs import (
    COMMAND,
    Place,
    Program,
    configuration,
    run_program,
    write_configuration,
)

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = {
    ("init",): ("--directory", "--sandbox", "--registration", "--force", "--json"),
    ("run",): ("--config", "--workers", "--tenant-id", "APIM_AUTH_PROXY_TENANT_ID"),
    ("demo",): ("--client",),
    ("sandbox",): ("--directory",),
    ("check",): ("--config", "--online", "--path", "--json"),
    ("token",): ("--config", "--host", "--credential", "--scope", "--claims", "--json"),
    ("cert",): ("new", "show"),
    ("cert", "new"): ("--subject-name", "--days", "--key-bits", "--out-certificate", "--out-key", "--force", "--json"),
    ("cert", "show"): ("--private-key", "--password-file", "--json"),
    ("ca",): ("show", "export"),
    ("ca", "show"): ("--config", "--json"),
    ("ca", "export"): ("--config",),
    ("ca", "trust"): ("--config", "--platform", "--install", "--root", "--json"),
    ("env",): ("--config", "--shell", "--proxy-url", "--json"),
    ("exec",): ("--config", "--proxy-url", "--start"),
    ("wait",): ("--config", "--address", "--timeout", "--json"),
    ("config",): ("schema",),
    ("config", "schema"): ("editors",),
    ("client",): ("add",),
    ("client", "add"): ("--network", "--password-stdin", "--json"),
    ("completion",): ("bash", "zsh", "fish"),
    ("explain",): ("CODE_OR_URL", "--config", "--json"),
}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_says_what_there_is(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(group, [*words, "--help"], prog_name="apim-auth-proxy")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: apim-auth-proxy {' '.join(words)}")
    assert [word for word in COMMANDS[words] if word not in done.stdout] == []


def test_the_usage_of_exec_says_where_the_program_stands() -> None:
    done = CliRunner().invoke(group, ["exec", "--help"], prog_name="apim-auth-proxy")
    assert done.stdout.splitlines()[0] == "Usage: apim-auth-proxy exec [OPTIONS] -- CMD [ARGUMENT]..."
    missing = CliRunner().invoke(group, ["exec", "--"], prog_name="apim-auth-proxy")
    assert (missing.exit_code, "Which program? Write it after `--`" in missing.stderr) == (2, True)


@pytest.mark.parametrize("command", ["run", "check", "env", "wait"])
def test_a_configuration_without_its_option_is_recognised(command: str) -> None:
    done = CliRunner().invoke(group, [command, "my config.yaml"], prog_name="apim-auth-proxy")
    assert done.exit_code == 2
    assert done.stderr.endswith(
        "Error: Unexpected argument 'my config.yaml'. To name the configuration file, write --config 'my config.yaml'.\n"
    )
    done = CliRunner().invoke(group, [command, "now"], prog_name="apim-auth-proxy")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, "Error: Unexpected argument 'now'.")


def test_a_package_that_is_not_installed_is_named() -> None:
    """As in a checkout that was updated, or an environment out of which something was removed."""
    without = (
        "import sys; sys.modules['cryptography'] = None; sys.argv[1:] = ['check']; from proxy.cli import main; main()"
    )
    done = run_program([sys.executable, "-c", without])
    assert (done.status, done.stdout) == (1, b"")
    assert done.stderr.startswith("Error: The Python package 'cryptography', which the proxy needs, is missing from ")


@pytest.mark.parametrize("family", ["cert", "ca", "config", "client"])
def test_no_line_of_a_list_of_commands_is_cut(family: str) -> None:
    done = CliRunner().invoke(group, [family, "--help"], prog_name="apim-auth-proxy")
    assert [line for line in done.stdout.partition("Commands:")[2].splitlines() if line.endswith("...")] == []


def test_the_list_of_commands_is_true() -> None:
    text = run_program([COMMAND, "--help"]).stdout.decode()
    listed = re.findall(r"^  ([a-z]+) {2,}\S", text.partition("Commands:")[2], re.MULTILINE)
    context = click.Context(group)
    assert {words[0] for words in COMMANDS} == set(listed)
    assert listed == group.list_commands(context)
    for name in listed:
        command = group.get_command(context, name)
        assert command is not None
        assert command.help


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["explain", "name_not_resolved"], ["explain", "AADSTS700027"]]
)
def test_help_and_explanations_are_there_without_loading_what_others_need(words: list[str]) -> None:
    program = (
        "import sys\n"
        "from proxy.cli import main\n"
        f"sys.argv = ['apim-auth-proxy', *{words}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'aiohttp', 'asyncio', 'cryptography', 'jwt', 'msgspec', 'yaml', 'httptools'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    done = run_program([sys.executable, "-c", program])
    assert done.status == 0, done.stderr


@pytest.mark.parametrize("words", [["--version"], ["-h"]])
def test_the_module_and_the_command_are_the_same_program(words: list[str]) -> None:
    ours = run_program([COMMAND, *words])
    assert ours.status == 0
    assert run_program([sys.executable, "-m", "proxy", *words]).stdout == ours.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["serve"],
        ["run"],
        ["run", "--config"],
        ["sandbox"],
        ["check", "--offline"],
        ["demo", "--client", "wget"],
        ["cert"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2_and_says_how(words: list[str]) -> None:
    done = CliRunner().invoke(group, words, prog_name="apim-auth-proxy")
    assert done.exit_code == 2
    assert done.stderr.startswith(("Usage: apim-auth-proxy", "Error: Option '--config' requires an argument"))


def test_wrong_usage_ends_the_program_with_2() -> None:
    done = run_program([COMMAND, "serve"])
    assert (done.status, done.stdout) == (2, b"")
    assert "No such command 'serve'" in done.stderr


@pytest.mark.parametrize(("typed", "meant"), [("chekc", "check"), ("tokens", "token")])
def test_the_nearest_command_is_named(typed: str, meant: str) -> None:
    done = run_program([COMMAND, typed])
    assert (done.status, done.stdout) == (2, b"")
    assert f"No such command {typed!r}. Did you mean {meant!r}?" in done.stderr


@pytest.mark.parametrize(
    "words", [["run"], ["token", "--host", "a.example"], ["ca", "show"], ["explain", "https://a.example/"]]
)
def test_a_wrong_configuration_exits_2_with_every_fault(words: list[str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("listners: []\nroutes: nothing\n", encoding="ascii")
    done = run_program([COMMAND, *words, "--config", config])
    assert (done.status, done.stdout) == (2, b"")
    assert f"{config}:1: listners: there is no such key" in done.stderr
    assert f"{config}:2: routes: " in done.stderr
    assert "credentials" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_names_a_listener_that_is_taken_and_exits_2(place: Place, tmp_path: Path) -> None:
    taken = f"127.0.0.1:{place.port}"
    config = write_configuration(configuration(place, listeners=[{"address": taken}]), tmp_path)
    done = run_program([COMMAND, "run", "--config", config])
    assert done.status == 2
    assert f"Cannot listen on {taken}: another program listens there already." in done.stderr
    assert "Traceback" not in done.stderr


def test_sandbox_names_a_directory_it_cannot_use_and_exits_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = run_program([COMMAND, "sandbox", "--directory", tmp_path / "file" / "below"])
    assert done.status == 1
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_the_sandbox_without_a_traceback(tmp_path: Path) -> None:
    with Program([COMMAND, "sandbox", "--directory", tmp_path / "sandbox"], tmp_path, "sandbox") as program:
        program.wait_for_line("sandbox ready")
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        assert not any("Traceback" in line for line in program.lines)


@pytest.mark.parametrize(
    "words",
    [["run"], ["check"], ["token", "--host", "a.example"], ["explain", "a.example"], ["ca", "show"], ["env"], ["wait"]],
    ids=" ".join,
)
def test_ctrl_c_ends_a_command_with_130(words: list[str], tmp_path: Path) -> None:
    """F11: while it reads its configuration, which is a pipe that says nothing."""
    pipe = tmp_path / "config.yaml"
    os.mkfifo(pipe)
    with Program([COMMAND, *words, "--config", pipe], tmp_path, "interrupted") as program:
        with pipe.open("wb"):  # which waits until it has begun to read
            for _ in range(20):  # one that comes right before the read is heard with the next
                program.signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.process.wait(3)
                    break
            assert program.wait() == 130
        assert [line for line in program.lines if line] == []


def test_ctrl_c_at_a_question_ends_with_130(tmp_path: Path) -> None:
    with subprocess.Popen(
        [COMMAND, "init"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=tmp_path
    ) as asking:
        assert asking.stderr is not None
        said = b""
        while b"Tenant" not in said:
            said += asking.stderr.read(1)
        for _ in range(100):  # one that comes before the question waits for its answer is heard with the next
            asking.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                asking.wait(0.5)
                break
        assert asking.poll() == 130
        assert b"Aborted" not in asking.stderr.read()
    assert list(tmp_path.iterdir()) == []
