"""Completion in real shells: bash, zsh and fish, with the very script that the documents have them read."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.cli import group
from tests.end_to_end.programs import COMMAND, configuration, environment, run_program, write_configuration

if TYPE_CHECKING:
    from tests.end_to_end.programs import Place

# What readline does at a Tab, without a terminal.
BASH = """
eval "$SCRIPT"
compopt() { echo "compopt $2"; }
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_apim_auth_proxy_completion apim-auth-proxy "${COMP_WORDS[COMP_CWORD]}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""
# What compsys does at a Tab, without a line editor.
ZSH = """
compdef() { completer=$1; }
eval "$SCRIPT"
_describe() { print -rl -- ${(P)3}; }
compadd() { print -rl -- ${(P)5}; }
_path_files() { echo "_path_files $1"; }
words=("$@") CURRENT=$#
$completer
"""
FISH = """
echo "$SCRIPT" | source
complete --do-complete "$argv"
"""


@functools.cache
def script(shell: str) -> str:
    """Returns what a shell is to read."""
    done = run_program([COMMAND, "completion", shell])
    assert (done.status, done.stderr) == (0, "")
    return done.stdout.decode()


def completions(shell: str, *words: str, directory: Path | None = None) -> list[str]:
    """Returns what a shell offers for the last word of a command line, without descriptions."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    environ = environment(PATH=f"{Path(COMMAND).parent}:{environment()['PATH']}", SCRIPT=script(shell))
    line = ["apim-auth-proxy", *words]
    if shell == "bash":
        program = ["bash", "--norc", "-c", BASH, "bash", *line]
    elif shell == "zsh":
        program = ["zsh", "-f", "-c", ZSH, "zsh", *line]
    else:
        program = ["fish", "--no-config", "-c", FISH, " ".join(line)]
    done = run_program(program, environ=environ, directory=directory)
    assert (done.status, done.stderr) == (0, "")
    end = ":" if shell == "zsh" else "\t"
    return [re.split(rf"(?<!\\){end}", line)[0].replace("\\:", ":") for line in done.stdout.decode().splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_and_subcommands(shell: str) -> None:
    assert set(completions(shell, "")) >= set(group.list_commands(None))  # type: ignore[arg-type]  # it depends on no context
    assert completions(shell, "che") == ["check"]
    assert set(completions(shell, "cert", "")) == {"new", "show"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_options_and_their_choices(shell: str) -> None:
    assert {"--config", "--tenant-id", "--workers"} <= set(completions(shell, "run", "--"))
    assert set(completions(shell, "env", "--shell", "")) == {"sh", "bash", "zsh", "fish", "powershell", "cmd", "dotenv"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_files(shell: str, tmp_path: Path) -> None:
    (tmp_path / "orders.yaml").touch()
    found = completions(shell, "run", "--config", "ord", directory=tmp_path)
    left_to_the_shell = {"bash": ["compopt default", ""], "zsh": ["_path_files -f"], "fish": ["orders.yaml"]}
    assert found == left_to_the_shell[shell]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_codes_hosts_credentials_and_programs(shell: str, place: Place, tmp_path: Path) -> None:
    """Hosts and credentials are those of the configuration that the command line names, or that lies here."""
    assert "AADSTS7000229" in completions(shell, "explain", "AADSTS70002")
    assert "700027" in completions(shell, "explain", "7000")
    hosts = [place.api_authority, "a.example", "*.b.example"]
    write_configuration(configuration(place, route={"hosts": hosts}), tmp_path)
    assert completions(shell, "token", "--host", "a", directory=tmp_path) == ["a.example"]
    named = ["token", "--config", str(tmp_path / "config.yaml"), "--credential", "o"]
    assert completions(shell, *named) == ["orders-client"]
    assert "curl" in completions(shell, "exec", "--", "cur")


def test_a_broken_configuration_and_standard_input_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("routes: nothing\n")
    assert completions("bash", "token", "--host", "", directory=tmp_path) == [""]
    assert completions("bash", "token", "--config", "-", "--host", "") == [""]
    assert "--json" in completions("bash", "ca", "show", "--config", "-", "--j")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_script_calls_this_program(shell: str) -> None:
    assert f"_APIM_AUTH_PROXY_COMPLETE={shell}_complete" in script(shell)


@pytest.mark.parametrize("words", [[], ["tcsh"]])
def test_a_shell_that_has_none_exits_2(words: list[str]) -> None:
    done = run_program([COMMAND, "completion", *words])
    assert (done.status, done.stdout) == (2, b"")
    assert "bash" in done.stderr
