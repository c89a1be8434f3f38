"""`env`: what it prints makes a shell's programs use the proxy; and what it writes is a whole store of roots."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.interception.store import load_or_create
from tests.end_to_end.programs import COMMAND, ROOT, configuration, environment, run_program, write_configuration
from tests.ports import free_port

if TYPE_CHECKING:
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.programs import Configuration, Place


JAVA = """
import java.net.*;
import java.net.http.*;
class Call {
    public static void main(String[] arguments) throws Exception {
        var uri = URI.create(arguments[0]);
        var answer = HttpClient.newHttpClient().send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.statusCode());
        System.out.println(((HttpURLConnection) uri.toURL().openConnection()).getResponseCode());
    }
}
"""


def fixed(place: Place) -> Configuration:
    """Returns a configuration whose forward listener has a port of its own."""
    return configuration(place, listeners=[{"address": f"127.0.0.1:{free_port()}"}])


def printed(config: Path, *options: str) -> dict[str, str]:
    """Returns the variables that `env --json` names."""
    done = run_program([COMMAND, "env", "--config", config, "--json", *options])
    assert (done.status, done.stderr) == (0, "")
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("shell", ["sh", "bash", "fish"])
def test_eval_sets_up_a_shell_whose_curl_gets_an_answer(place: Place, start_proxy: StartProxy, shell: str) -> None:
    """The very line that the help and the documents have."""
    proxy = start_proxy(fixed(place))
    url = f"{place.api_alias}/orders"
    program = f"""eval "$({COMMAND} env)"; curl -sS -o /dev/null -w '%{{http_code}}' {url}"""
    try:
        done = run_program([shell, "-c", program], directory=proxy.config_file.parent)
    except FileNotFoundError:
        pytest.skip(f"{shell} is not installed here")
    assert (done.status, done.stdout) == (0, b"200"), done.stderr


def test_the_bundle_holds_the_systems_roots_and_ours_for_everyone_to_read(place: Place, tmp_path: Path) -> None:
    config = write_configuration(fixed(place), tmp_path)
    variables = printed(config)
    bundle = Path(variables["SSL_CERT_FILE"])
    assert bundle.parent == tmp_path / "state"
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o644
    assert b"PRIVATE" not in bundle.read_bytes()
    everything = bundle.read_text()
    assert (tmp_path / "state/ca.pem").read_text().strip() in everything
    system = ssl.create_default_context(cafile=ssl.get_default_verify_paths().openssl_cafile)
    ours = ssl.create_default_context(cafile=str(bundle))
    assert ours.cert_store_stats()["x509_ca"] == system.cert_store_stats()["x509_ca"] + 1
    assert {variables[name] for name in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO")} == {
        str(bundle)
    }


def test_in_an_environment_it_has_set_up_it_says_the_same_again(place: Place, tmp_path: Path) -> None:
    """A bundle is never made of itself, and options are never doubled."""
    config = write_configuration(fixed(place), tmp_path)
    first = printed(config)
    content = Path(first["SSL_CERT_FILE"]).read_bytes()
    done = run_program([COMMAND, "env", "--config", config, "--json"], environ=environment(**first))
    assert json.loads(done.stdout) == first
    assert Path(first["SSL_CERT_FILE"]).read_bytes() == content


def test_roots_that_a_variable_names_are_the_systems(place: Place, tmp_path: Path) -> None:
    """As where a company has a CA of its own for all programs."""
    config = write_configuration(fixed(place), tmp_path)
    environ = environment(SSL_CERT_FILE=place.ca_file)
    done = run_program([COMMAND, "env", "--config", config, "--json"], environ=environ)
    bundle = Path(json.loads(done.stdout)["SSL_CERT_FILE"]).read_text()
    assert bundle.count("BEGIN CERTIFICATE") == 2
    assert Path(place.ca_file).read_text().strip() in bundle


@pytest.mark.parametrize("how", ["option", "variable", "here"])
def test_the_configuration_is_found_in_three_places(place: Place, tmp_path: Path, how: str) -> None:
    config = write_configuration(fixed(place), tmp_path)
    words = [COMMAND, "env", "--json", *(["--config", str(config)] if how == "option" else [])]
    environ = environment(**({"APIM_AUTH_PROXY_CONFIG": str(config)} if how == "variable" else {}))
    done = run_program(words, environ=environ, directory=tmp_path if how == "here" else ROOT / "tests")
    assert json.loads(done.stdout)["HTTP_PROXY"] == f"http://{_address(config)}"


def test_without_a_configuration_or_a_ca_it_says_what_to_do(tmp_path: Path) -> None:
    done = run_program([COMMAND, "env"], environ=environment(XDG_STATE_HOME=str(tmp_path)), directory=tmp_path)
    assert (done.status, done.stdout) == (1, b"")
    assert "apim-auth-proxy init" in done.stderr


def test_without_a_configuration_it_says_which_proxy_and_ca(tmp_path: Path) -> None:
    """F4: and no exemption covers a host that the CA is for, as `localhost` does the sandbox's."""
    load_or_create(tmp_path / "apim-auth-proxy", ["contoso.azure-api.localhost"], datetime.now(UTC))
    environ = environment(XDG_STATE_HOME=str(tmp_path), no_proxy="10.0.0.1,.azure-api.localhost")
    for command in (["env", "--json"], ["env", "--json", "--proxy-url", "http://proxy.example:3128"]):
        done = run_program([COMMAND, *command], environ=environ, directory=tmp_path)
        variables = json.loads(done.stdout)
        assert done.status == 0
        assert f"the proxy at {variables['HTTPS_PROXY']} and the CA in {tmp_path}/apim-auth-proxy" in done.stderr
        assert variables["NO_PROXY"].split(",") == ["127.0.0.1", "::1", "169.254.169.254", "10.0.0.1"]


def test_another_url_can_be_given(place: Place, tmp_path: Path) -> None:
    config = write_configuration(configuration(place), tmp_path)
    variables = printed(config, "--proxy-url", "http://batch:secret@proxy.internal:3128/")
    assert variables["https_proxy"] == "http://batch:secret@proxy.internal:3128"
    assert "-Dhttps.proxyHost=proxy.internal -Dhttps.proxyPort=3128" in variables["JAVA_TOOL_OPTIONS"]


@pytest.mark.parametrize("command", [["env"], ["exec"]])
@pytest.mark.parametrize(
    "url",
    [
        "proxy.internal:3128",
        "proxy.internal",
        "socks5://proxy.internal:3128",
        "http://",
        "http://proxy.internal:99999",
        "http://batch:p/w0rd-of-mine@proxy.internal:3128",
        "http://batch:w0rd-of-mine@[::1:3128",
    ],
)
def test_a_proxy_url_that_no_program_could_use_is_refused(command: list[str], url: str, tmp_path: Path) -> None:
    """It ended in a fault of the proxy's own, or in settings without a host; and what may be a password is not repeated."""
    words = [*command, "--proxy-url", url, *(["--", "touch", "ran"] if command == ["exec"] else [])]
    done = run_program([COMMAND, *words], directory=tmp_path)
    assert (done.status, done.stdout) == (2, b"")
    assert "write http://HOST:PORT or http://NAME:PASSWORD@HOST:PORT" in done.stderr
    assert "w0rd-of-mine" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_listener_without_a_fixed_port_is_named_as_the_obstacle(place: Place, tmp_path: Path) -> None:
    done = run_program([COMMAND, "env", "--config", write_configuration(configuration(place), tmp_path)])
    assert (done.status, done.stdout) == (1, b"")
    assert "fixed port" in done.stderr


def test_every_form_names_the_same_variables(place: Place, tmp_path: Path) -> None:
    config = write_configuration(fixed(place), tmp_path)
    expected = list(printed(config))
    patterns = {
        "sh": r"export (\w+)=",
        "fish": r"set -gx (\w+) ",
        "powershell": r"\$\{env:(\w+)\} =",
        "bash": r"export (\w+)=",
        "zsh": r"export (\w+)=",
        "cmd": r'set "(\w+)=',
        "dotenv": r"(\w+)=",
    }
    for shell, pattern in patterns.items():
        text = run_program([COMMAND, "env", "--config", config, "--shell", shell]).stdout.decode()
        assert [match[1] for line in text.splitlines() if (match := re.match(pattern, line))] == expected
        assert len(text.splitlines()) == len(expected)


@pytest.mark.parametrize("shell", ["sh", "bash", "fish"])
def test_unset_undoes_it_and_keeps_what_was_the_users(place: Place, tmp_path: Path, shell: str) -> None:
    """F12"""
    config = write_configuration(fixed(place), tmp_path)
    kind = shell if shell == "fish" else "sh"
    program = f"""eval "$({COMMAND} env --config {config} --shell {kind})"; eval "$({COMMAND} env --shell {kind} --unset)"; env"""
    own = {"no_proxy": "intranet", "NO_PROXY": "intranet", "JAVA_TOOL_OPTIONS": "-Xmx64m"}
    try:
        done = run_program([shell, "-c", program], environ=environment(**own), directory=tmp_path)
    except FileNotFoundError:
        pytest.skip(f"{shell} is not installed here")
    after = dict(line.partition("=")[::2] for line in done.stdout.decode().splitlines())
    assert {name: after[name] for name in printed(config) if name in after} == own


def test_a_file_for_containers_works_as_docker_reads_it(place: Place, start_proxy: StartProxy, tmp_path: Path) -> None:
    """F12: docker takes all behind the first = as it stands; the container has other paths and another name for the proxy."""
    proxy = start_proxy(configuration(place, listeners=[{"address": f"127.0.0.1:{free_port()}"}]))
    inside = tmp_path / "the container's"
    inside.mkdir()
    url = f"http://localhost:{proxy.address('forward').rpartition(':')[2]}"
    words = ["--shell", "dotenv", "--proxy-url", url, "--ca-directory", str(inside)]
    done = run_program([COMMAND, "env", "--config", proxy.config_file, *words])
    assert done.status == 0
    mounts = [word.split(":") for word in shlex.split(done.stderr) if word.endswith(":ro")]
    assert len(mounts) == 2
    for source, target, _ in mounts:
        Path(target).write_bytes(Path(source).read_bytes())
    lines = [line for line in done.stdout.decode().splitlines() if not line.startswith("#")]
    variables = {"PATH": environment()["PATH"]} | dict(line.split("=", 1) for line in lines)
    assert str(tmp_path / "state") not in done.stdout.decode()
    call = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{place.api_alias}/orders"]
    assert run_program(call, environ=variables).stdout == b"200"
    if shutil.which("java") is not None:
        program = tmp_path / "Call.java"
        program.write_text(JAVA)
        call = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", str(program), f"{place.api_alias}/orders"]
        assert run_program(call, environ=variables).stdout.split() == [b"200", b"200"]


def test_a_file_with_this_machines_paths_says_so(place: Place, tmp_path: Path) -> None:
    done = run_program([COMMAND, "env", "--config", write_configuration(fixed(place), tmp_path), "--shell", "dotenv"])
    assert "--ca-directory" in done.stderr


def test_a_state_directory_that_cannot_be_written_is_an_error_in_words(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    config = write_configuration(fixed(place) | {"state_directory": "file/state"}, tmp_path)
    done = run_program([COMMAND, "env", "--config", config])
    assert (done.status, done.stdout) == (2, b"")
    assert str(tmp_path / "file/state") in done.stderr
    assert "Traceback" not in done.stderr


def _address(config: Path) -> str:
    import yaml

    address: str = yaml.safe_load(config.read_text())["listeners"][0]["address"]
    return address
