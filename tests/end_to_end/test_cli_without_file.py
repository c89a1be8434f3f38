"""A configuration that is no file: options, variables as a container has them, standard input; the same for every command."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.end_to_end.programs import COMMAND, Program, configuration, environment, run_program, write_configuration
from tests.end_to_end.test_cli_env import fixed
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.programs import Place

STATUS = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"]


def variables(place: Place, state: Path, listen: str = "127.0.0.1:0") -> dict[str, str]:
    """Returns what a container is given, and nothing else of the machine's but where programs are."""
    prefix = "APIM_AUTH_PROXY_"
    return {
        "PATH": environment()["PATH"],
        f"{prefix}ROUTE": place.api_alias,
        f"{prefix}SCOPE": place.scope,
        f"{prefix}TENANT_ID": place.tenant_id,
        f"{prefix}CLIENT_ID": place.client_id,
        f"{prefix}CERTIFICATE": place.certificate,
        f"{prefix}AUTHORITY": place.authority,
        f"{prefix}CA_FILE": place.ca_file,
        f"{prefix}DIAL": f"127.0.0.1:{place.port}",
        f"{prefix}SET_HEADER": f"Ocp-Apim-Subscription-Key: {place.subscription_key}",
        f"{prefix}LISTEN": listen,
        f"{prefix}ADMIN": "127.0.0.1:0",
        f"{prefix}STATE_DIRECTORY": str(state),
    }


def options(values: dict[str, str]) -> list[str]:
    """Returns the same as options."""
    return [
        word
        for name, value in values.items()
        if name.startswith("APIM_")
        for word in ("--" + name.removeprefix("APIM_AUTH_PROXY_").lower().replace("_", "-"), value)
    ]


def call(program: Program, place: Place) -> bytes:
    """Returns the status that curl gets through a proxy."""
    address = re.search(r"listening on (\S+)", program.wait_for_line("listening on"))
    assert address is not None
    program.wait_for_line("apim-auth-proxy: ready")
    done = run_program([*STATUS, "--proxy", f"http://{address[1]}", f"http://{place.alias_host}/orders"])
    return done.stdout


def test_a_start_with_variables_alone(place: Place, tmp_path: Path) -> None:
    environ = variables(place, tmp_path / "state")
    with Program([COMMAND, "run"], tmp_path, "variables", environ=environ) as program:
        assert call(program, place) == b"200"
        program.signal(signal.SIGHUP)
        line = program.wait_for_line("reloaded")
        assert "of options and variables only a new start takes up others" in line
        assert call(program, place) == b"200"
        assert program.stop() == 0
    assert place.subscription_key not in "\n".join(program.lines)


def test_a_start_with_options_alone(place: Place, tmp_path: Path) -> None:
    words = options(variables(place, tmp_path / "state"))
    with Program([COMMAND, "run", *words], tmp_path, "options") as program:
        assert call(program, place) == b"200"


def test_a_start_from_standard_input(place: Place, tmp_path: Path) -> None:
    """Relative paths start at the working directory, and a signal reads nothing anew."""
    text = yaml.safe_dump(configuration(place) | {"state_directory": str(tmp_path / "state")})
    with Program([COMMAND, "run", "--config", "-"], tmp_path, "stdin", content=text) as program:
        assert call(program, place) == b"200"
        program.signal(signal.SIGHUP)
        assert "of standard input only a new start takes up others" in program.wait_for_line("reloaded")
        assert call(program, place) == b"200"


def test_every_command_takes_variables(place: Place, tmp_path: Path) -> None:
    environ = variables(place, tmp_path / "state", f"127.0.0.1:{free_port()}")
    check = run_program([COMMAND, "check", "--json"], environ=environ, directory=tmp_path)
    answer = json.loads(check.stdout)
    assert (check.status, answer["ok"]) == (0, True), check.stdout
    assert answer["findings"][0]["message"] == "options and variables loads: 1 listener, 1 credential, 1 route."
    explained = run_program([COMMAND, "explain", f"{place.api_alias}/orders", "--json"], environ=environ)
    assert json.loads(explained.stdout)["credential"] == "default"
    for words in ([], ["--host", place.alias_host], ["--scope", place.scope]):
        token = run_program([COMMAND, "token", *words], environ=environ)
        assert (token.status, token.stdout.count(b".")) == (0, 2), token.stderr
    found = json.loads(run_program([COMMAND, "env", "--json"], environ=environ).stdout)
    assert found["HTTPS_PROXY"] == f"http://{environ['APIM_AUTH_PROXY_LISTEN']}"
    exported = run_program([COMMAND, "ca", "export"], environ=environ)
    assert (exported.status, exported.stdout[:10]) == (0, b"-----BEGIN"), exported.stderr


def test_exec_starts_a_proxy_from_variables_for_one_program(place: Place, tmp_path: Path) -> None:
    """What a container's entry point is: nothing but variables, and the program."""
    environ = variables(place, tmp_path / "state", f"127.0.0.1:{free_port()}")
    words = [COMMAND, "exec", "--start", "--", *STATUS, f"{place.api_alias}/orders"]
    done = run_program(words, environ=environ, directory=tmp_path)
    assert (done.status, done.stdout) == (0, b"200"), done.stderr


def test_exec_starts_a_proxy_from_options_and_from_standard_input(place: Place, tmp_path: Path) -> None:
    program = ["--start", "--", *STATUS, f"{place.api_alias}/orders"]
    words = options(variables(place, tmp_path / "state", f"127.0.0.1:{free_port()}"))
    done = run_program([COMMAND, "exec", *words, *program], directory=tmp_path)
    assert (done.status, done.stdout) == (0, b"200"), done.stderr
    text = yaml.safe_dump(fixed(place) | {"state_directory": str(tmp_path / "state")}).encode()
    done = run_program([COMMAND, "exec", "--config", "-", *program], stdin=text, directory=tmp_path)
    assert (done.status, done.stdout) == (0, b"200"), done.stderr


@pytest.mark.parametrize("words", [["check"], ["token", "--host", "a.example"], ["ca", "show"], ["run"]], ids=" ".join)
def test_a_fault_in_standard_input_has_its_line(words: list[str]) -> None:
    done = run_program([COMMAND, *words, "--config", "-"], stdin=b"routes: []\nlistners: []\n")
    assert done.status == 2
    assert "<stdin>:2: listners: there is no such key" in done.stderr + done.stdout.decode()
    assert "Traceback" not in done.stderr


def test_a_fault_in_a_variable_has_its_name(place: Place, tmp_path: Path) -> None:
    environ = variables(place, tmp_path) | {"APIM_AUTH_PROXY_SCOPE": "orders", "APIM_AUTH_PROXY_CLIENTID": "x"}
    for command in ("run", "check"):
        done = run_program([COMMAND, command], environ=environ)
        said = done.stderr + done.stdout.decode()
        assert done.status == 2
        assert "APIM_AUTH_PROXY_SCOPE: an application asks Microsoft Entra ID" in said
        assert "APIM_AUTH_PROXY_CLIENTID: there is no such variable" in said
        assert place.subscription_key not in said


def test_which_one_counts(place: Place, tmp_path: Path) -> None:
    """The command line before the environment, and both before `config.yaml` here; two in one place are none."""
    route = variables(place, tmp_path / "state")
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(fixed(place) | {"listners": []}))
    (tmp_path / "config.yaml").write_text("here: 1\n")

    def said(*words: str, **more: str) -> str:
        done = run_program([COMMAND, "explain", "https://a.example/", *words], environ=route | more, directory=tmp_path)
        return done.stdout.decode() + done.stderr

    named = {"APIM_AUTH_PROXY_CONFIG": str(file)}
    assert "No route names" in said(), "variables before config.yaml"
    assert f"{file}:" in said("--config", str(file)), "--config before variables"
    assert "No route names" in said("--client-id", "x", **named), "an option before the variable of a file"
    assert "--config names a configuration, and --dial begins another" in said("--config", str(file), "--dial", "a:1")
    assert "APIM_AUTH_PROXY_CONFIG names a configuration, and APIM_AUTH_PROXY_ROUTE begins another" in said(**named)
    for name in [name for name in route if name.startswith("APIM_")]:
        route[name] = ""
    assert "config.yaml:1: here: there is no such key" in said(), "an empty variable is none"
    assert f"{file}:" in said(**named)


def test_it_says_what_else_was_found(place: Place, tmp_path: Path) -> None:
    """F9: a leftover variable hides a good file."""
    config = write_configuration(fixed(place), tmp_path)
    other = tmp_path / "other.yaml"
    other.write_bytes(config.read_bytes())

    def said(*words: str, **variables: str) -> str:
        done = run_program(
            [COMMAND, "explain", place.api_alias, *words], environ=environment(**variables), directory=tmp_path
        )
        return done.stderr

    left_over = said(APIM_AUTH_PROXY_TENANT_ID="x")
    assert "comes from options and variables (APIM_AUTH_PROXY_TENANT_ID); config.yaml here is not read" in left_over
    assert "--route (APIM_AUTH_PROXY_ROUTE)" in left_over, "which is what is missing then"
    explicit = said("--config", "config.yaml", APIM_AUTH_PROXY_TENANT_ID="x")
    assert explicit == "Note: --config counts. Ignored: APIM_AUTH_PROXY_TENANT_ID.\n"
    assert said(APIM_AUTH_PROXY_CONFIG="other.yaml").startswith(
        "Note: APIM_AUTH_PROXY_CONFIG names other.yaml; config.yaml"
    )
    assert said(APIM_AUTH_PROXY_CONFIG=str(config)) == ""
    assert said() == ""


@pytest.mark.parametrize("source", ["none", "here", "option"])
def test_a_misspelt_variable_is_always_an_error(place: Place, tmp_path: Path, source: str) -> None:
    """F9: also where nothing else begins with such a name."""
    config = write_configuration(fixed(place), tmp_path / "work")
    words = ["--config", str(config)] if source == "option" else []
    done = run_program(
        [COMMAND, "explain", place.api_alias, *words],
        environ=environment(APIM_AUTH_PROXY_TENNANT_ID="x"),
        directory=tmp_path / "work" if source == "here" else tmp_path,
    )
    assert (done.status, done.stdout) == (2, b"")
    assert (
        "APIM_AUTH_PROXY_TENNANT_ID: there is no such variable; did you mean 'APIM_AUTH_PROXY_TENANT_ID'?"
        in done.stderr
    )


def test_a_variable_that_the_file_refers_to_is_the_users_own(place: Place, tmp_path: Path) -> None:
    config = write_configuration(fixed(place) | {"other_hosts": "${APIM_AUTH_PROXY_OTHERS}"}, tmp_path)
    environ = environment(APIM_AUTH_PROXY_OTHERS="tunnel")
    for words, content in ((["--config", str(config)], b""), (["--config", "-"], config.read_bytes())):
        done = run_program(
            [COMMAND, "explain", place.api_alias, *words], environ=environ, stdin=content, directory=tmp_path
        )
        assert done.status == 0, done.stderr


def test_a_closed_standard_input_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {COMMAND} check --config - <&-"], capture_output=True, cwd=tmp_path, timeout=30
    )
    assert done.returncode == 2
    assert b"Standard input is closed" in done.stderr
    assert b"Traceback" not in done.stderr
