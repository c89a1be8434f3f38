"""`exec`: programs as they are get answers for https URLs; their end is its end."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from proxy.cli.recognition import describe_stranger
from proxy.config.addresses import parse_listen_address
from proxy.interception.store import load_or_create
from tests.end_to_end.programs import COMMAND, Program, configuration, environment, run_program, write_configuration
from tests.end_to_end.test_cli_env import JAVA, fixed
from tests.ports import free_port
from tests.security.boundary import light_hash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.programs import Finished, Place, ProxyProgram

JAVA_AUTHENTICATOR = """
    static class Named extends Authenticator {
        protected PasswordAuthentication getPasswordAuthentication() {
            return new PasswordAuthentication("batch", "correct horse".toCharArray());
        }
    }
"""
# Node's own clients read the proxy variables from version 22.21 on; what an older one has to show is that it trusts the CA.
NODE = """
const http = require('http'), https = require('https'), tls = require('tls');
const url = new URL(process.argv[1]), proxy = new URL(process.env.HTTPS_PROXY);
const path = url.hostname + ':443';
http.request({host: proxy.hostname, port: proxy.port, method: 'CONNECT', path, headers: {host: path}})
  .on('connect', (_, socket) => {
    const createConnection = () => tls.connect({socket, servername: url.hostname});
    https.get(url, {createConnection, headers: {host: url.host}}, (answer) => { console.log(answer.statusCode); process.exit(0); });
  })
  .end();
"""
# Its streams know no proxy variables.
PHP_STREAMS = """
$proxy = str_replace('http:', 'tcp:', getenv('HTTPS_PROXY'));
file_get_contents($argv[1], false, stream_context_create(['http' => ['proxy' => $proxy]]));
echo explode(' ', end($http_response_header) ? $http_response_header[0] : '- -')[1];
"""
PROGRAMS = {
    "curl": ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"],
    "requests": [sys.executable, "-c", "import requests, sys; print(requests.get(sys.argv[1]).status_code)"],
    "httpx": [sys.executable, "-c", "import httpx, sys; print(httpx.get(sys.argv[1]).status_code)"],
    "urllib": [sys.executable, "-c", "import urllib.request as u, sys; print(u.urlopen(sys.argv[1]).status)"],
    "node": ["node", "-e", NODE],
    "wget": ["sh", "-c", 'wget -q -S -O /dev/null "$1" 2>&1 | sed -n "s/.*HTTP.* \\(200\\) .*/\\1/p"', "wget"],
    "perl": [
        "perl",
        "-MLWP::UserAgent",
        "-e",
        "my $a = LWP::UserAgent->new(env_proxy => 1); print $a->get(shift)->code",
    ],
    "php": [
        "php",
        "-r",
        "$c = curl_init($argv[1]); curl_setopt($c, 19913, 1); curl_exec($c); echo curl_getinfo($c, 2097154);",
    ],
    "php streams": ["php", "-r", PHP_STREAMS],
    "ruby": ["ruby", "-rnet/http", "-e", "print Net::HTTP.get_response(URI(ARGV[0])).code"],
}

NEEDS = {
    "perl": ["perl", "-MLWP::Protocol::https", "-e", "1"],
    "php": ["php", "-r", "exit(function_exists('curl_init') ? 0 : 1);"],
}


@pytest.fixture(scope="module")
def running(place: Place, tmp_path_factory: pytest.TempPathFactory, evidence: Path) -> Iterator[ProxyProgram]:
    """A proxy at a port that its configuration names."""
    from tests.end_to_end.programs import ProxyProgram

    with ProxyProgram(fixed(place), tmp_path_factory.mktemp("exec"), evidence, "exec") as program:
        yield program


def under(proxy: ProxyProgram, *words: str) -> Finished:
    """Runs a program under `exec`."""
    return run_program([COMMAND, "exec", "--config", proxy.config_file, "--", *words])


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gets_an_answer_for_an_https_url(name: str, running: ProxyProgram, place: Place) -> None:
    needed = name.split(maxsplit=1)[0] if name not in ("requests", "httpx", "urllib") else sys.executable
    if shutil.which(needed) is None or run_program(NEEDS.get(name, ["true"])).status != 0:
        pytest.skip(f"{needed}, or its library, is not installed here")
    done = under(running, *PROGRAMS[name], f"{place.api_alias}/orders")
    assert (done.status, done.stdout.strip()) == (0, b"200"), done.stderr


@pytest.mark.parametrize(
    ("version", "bypasses"),
    [
        ("v18.20.8", "fetch, node:http and node:https"),
        ("v20.20.2", "fetch, node:http and node:https"),
        ("v22.20.0", "fetch, node:http and node:https"),
        ("v22.21.0", ""),
        ("v24.0.0", "for node:http and node:https"),
        ("v24.5.0", ""),
        ("v25.1.0", ""),
    ],
)
@pytest.mark.parametrize("is_script", [False, True])
def test_a_node_that_bypasses_the_proxy_is_told_of(
    running: ProxyProgram, tmp_path: Path, version: str, bypasses: str, is_script: bool
) -> None:
    """F14: its fetch would go around the proxy without a word."""
    node, script = tmp_path / "node", tmp_path / "tool"
    node.write_text(f"#!/bin/sh\necho {version}\n")
    script.write_text("#!/usr/bin/env node\n")
    for file in (node, script):
        file.chmod(0o755)
    words = [
        COMMAND,
        "exec",
        "--config",
        str(running.config_file),
        "--",
        str(script) if is_script else "node",
        "--version",
    ]
    done = run_program(words, environ=environment(PATH=f"{tmp_path}:{os.environ['PATH']}"))
    assert (done.status, done.stdout.decode().strip()) == (0, version)
    assert bypasses in done.stderr
    assert ("EnvHttpProxyAgent" in done.stderr) is bool(bypasses)


def test_java_gets_answers_with_both_of_its_clients(running: ProxyProgram, place: Place, tmp_path: Path) -> None:
    if shutil.which("java") is None:
        pytest.skip("java is not installed here")
    source = tmp_path / "Call.java"
    source.write_text(JAVA)
    quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    done = under(running, "java", *quick, str(source), f"{place.api_alias}/orders")
    assert (done.status, done.stdout.split()) == (0, [b"200", b"200"]), done.stderr


def test_java_sends_its_password_for_an_https_url(place: Place, start_proxy: StartProxy, tmp_path: Path) -> None:
    """E8: a JDK sends none to a proxy that it asks for a tunnel, unless it is told to."""
    if shutil.which("java") is None:
        pytest.skip("java is not installed here")
    client = {"name": "batch", "password_hash": light_hash("correct horse")}
    proxy = start_proxy(fixed(place) | {"clients": [client]})
    source = tmp_path / "Call.java"
    source.write_text(
        JAVA.replace("var uri", "Authenticator.setDefault(new Named()); var uri")
        .replace("HttpClient.newHttpClient()", "HttpClient.newBuilder().authenticator(new Named()).build()")
        .replace("class Call {", "class Call {" + JAVA_AUTHENTICATOR)
    )
    quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    words = ["--proxy-url", f"http://{proxy.address('forward')}", "--", "java", *quick, str(source)]
    done = run_program([COMMAND, "exec", "--config", proxy.config_file, *words, f"{place.api_alias}/orders"])
    assert (done.status, done.stdout.split()) == (0, [b"200", b"200"]), done.stderr


@pytest.mark.parametrize("start", [False, True])
def test_what_the_proxy_refused_is_told_at_the_end_once_per_host(
    place: Place, start_proxy: StartProxy, tmp_path: Path, start: bool
) -> None:
    """F13: curl and git show the status alone, pip not even that."""
    port = free_port()
    settings = fixed(place) | {"admin": {"address": f"127.0.0.1:{port}"}}
    config = write_configuration(settings, tmp_path) if start else start_proxy(settings).config_file
    call = "curl -sS -o /dev/null https://{}/ || true; "
    # The page has them a moment later.
    until = f"until curl -s --noproxy '*' http://127.0.0.1:{port}/api/state | grep -q '\"count\": *3'; do :; done"
    script = call.format("other.example") * 2 + call.format("third.example") + until
    words = [*(["--start"] if start else []), "--", "sh", "-c", f"{script}; exit 3"]
    done = run_program([COMMAND, "exec", "--config", config, *words])
    told = [line for line in done.stderr.splitlines() if line.startswith("apim-auth-proxy answered for")]
    assert done.status == 3
    assert [line.partition(" for ")[2].partition(": ")[0] for line in told] == [
        "third.example:443",
        "other.example:443",
    ]
    assert all("403 host_refused. No route names the host" in line for line in told)
    quiet = run_program([COMMAND, "exec", "--config", config, *words[:-3], "true"])
    assert (quiet.status, quiet.stderr) == (0, ""), "what was refused before is no news"


def test_a_password_that_the_proxy_refuses_is_told_of_too(place: Place, start_proxy: StartProxy) -> None:
    """Who sends a password names the proxy's URL, which is still this configuration's proxy."""
    port = free_port()
    client = {"name": "batch", "password_hash": light_hash("correct horse")}
    proxy = start_proxy(fixed(place) | {"clients": [client], "admin": {"address": f"127.0.0.1:{port}"}})
    # The page has it a moment later.
    until = f"until curl -s --noproxy '*' http://127.0.0.1:{port}/api/state | grep -q '\"count\": *1'; do :; done"
    script = f"curl -sS {place.api_alias}/orders; {until}; exit 3"
    words = ["--proxy-url", f"http://batch:wrong@{proxy.address('forward')}", "--", "sh", "-c", script]
    done = run_program([COMMAND, "exec", "--config", proxy.config_file, *words])
    assert done.status == 3
    assert "407 wrong_credentials. " in done.stderr
    proxy.stop()
    done = run_program([COMMAND, "exec", "--config", proxy.config_file, *words])
    assert (done.status, done.stdout) == (1, b"")
    assert done.stderr.startswith(f"Error: No proxy listens at {proxy.address('forward')}. ")


def test_git_gets_an_answer(running: ProxyProgram, place: Place) -> None:
    """The API is no repository, so git fails; but not before it has got an answer over TLS that it trusts."""
    words = ["git", "-c", "http.sslVerify=true", "ls-remote", f"{place.api_alias}/orders"]
    done = under(running, "env", "GIT_TRACE_CURL=1", "GIT_TERMINAL_PROMPT=0", *words)
    assert done.stderr.count("Recv header: HTTP/1.1 200") >= 2, "the first is CONNECT's"


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_the_programs_exit_status_is_its_own(running: ProxyProgram, status: int) -> None:
    assert under(running, "sh", "-c", f"exit {status}").status == status


def test_standard_streams_are_the_programs(running: ProxyProgram) -> None:
    script = ["sh", "-c", "cat; echo talk >&2"]
    done = run_program([COMMAND, "exec", "--config", running.config_file, "--", *script], stdin=b"a line\n")
    assert (done.status, done.stdout, done.stderr) == (0, b"a line\n", "talk\n")


def test_options_of_the_program_stay_with_it(running: ProxyProgram) -> None:
    done = under(running, "printf", "%s|", "--config", "--help", "--", "-x")
    assert done.stdout == b"--config|--help|--|-x|"


@pytest.mark.parametrize(("word", "status"), [("no-such-program-here", 127), ("/etc/passwd", 126), ("/no/such", 127)])
def test_a_program_that_cannot_be_run_is_named(running: ProxyProgram, word: str, status: int) -> None:
    done = under(running, word)
    assert (done.status, done.stdout) == (status, b"")
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_proxy_it_says_how_to_start_one(place: Place, tmp_path: Path) -> None:
    config = write_configuration(fixed(place), tmp_path)
    done = run_program([COMMAND, "exec", "--config", config, "--", "touch", tmp_path / "ran"])
    assert done.status == 1
    assert f"apim-auth-proxy run --config {config}" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_it_looks_who_listens_without_an_exchange(running: ProxyProgram, place: Place) -> None:
    def counted() -> list[bytes]:
        return re.findall(
            rb"^apim_auth_proxy_(?:exchanges|errors)_total\b.*$", running.ask_admin("/metrics"), re.MULTILINE
        )

    assert under(running, "curl", "-sS", f"{place.api_alias}/orders").status == 0
    before = counted()
    assert before
    assert under(running, "true").status == 0
    assert counted() == before


def test_an_origin_server_at_the_proxys_port_gets_no_program(place: Place, tmp_path: Path) -> None:
    words = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with Program(words, tmp_path, "origin") as origin:
        port = int(origin.wait_for_line("Serving HTTP").split()[5])
        done = exec_at(place, port, tmp_path)
    assert "is another program, which answers 501 to CONNECT" in done.stderr


def test_another_configurations_proxy_at_the_port_gets_no_program(
    place: Place, running: ProxyProgram, tmp_path: Path
) -> None:
    """It has the same route, and another CA; a program would not trust it anyway, and say so in words of its own."""
    port = int(running.address("forward").rpartition(":")[2])
    done = exec_at(place, port, tmp_path)
    assert "is a proxy, but not this configuration's" in done.stderr


def test_the_ca_is_compared_with_what_the_proxy_shows(place: Place, running: ProxyProgram, tmp_path: Path) -> None:
    """F4: without a configuration only what another CA signed speaks against a proxy: its routes are not known."""
    address = parse_listen_address(running.address("forward"))
    other = load_or_create(tmp_path, [place.alias_host], datetime.now(UTC)).trusted_pem()
    ours = running.ca_file.read_bytes()
    assert describe_stranger(address, [place.alias_host], ours, are_routed=False) is None
    assert "a certificate of another CA" in str(describe_stranger(address, [place.alias_host], other, are_routed=False))
    assert describe_stranger(address, ["unrouted.example"], ours, are_routed=False) is None
    assert "no route for" in str(describe_stranger(address, ["unrouted.example"], ours))


def test_what_says_nothing_or_nonsense_gets_no_program(place: Place, tmp_path: Path) -> None:
    script = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
    script += "while True:\n c = s.accept()[0]; c.recv(100); c.sendall(b'220 mail.example ESMTP\\r\\n'); c.close()"
    with Program([sys.executable, "-c", script], tmp_path, "mail") as mail:
        mail.wait_for(len)
        done = exec_at(place, int(mail.lines[0]), tmp_path)
    assert "is another program, which does not speak HTTP" in done.stderr


def exec_at(place: Place, port: int, tmp_path: Path) -> Finished:
    """Runs `exec` with a configuration whose port somebody else has."""
    config = write_configuration(configuration(place, listeners=[{"address": f"127.0.0.1:{port}"}]), tmp_path)
    done = run_program([COMMAND, "exec", "--config", config, "--start", "--", "touch", tmp_path / "ran"])
    assert done.status == 1
    assert f"http://127.0.0.1:{port}" in done.stderr
    assert "--proxy-url" in done.stderr
    assert not (tmp_path / "ran").exists()
    return done


def test_a_signal_reaches_the_program(running: ProxyProgram, tmp_path: Path) -> None:
    script = "trap 'echo caught; exit 5' TERM; echo waiting; while :; do sleep 0.1; done"
    words = [COMMAND, "exec", "--config", str(running.config_file), "--", "sh", "-c", script]
    with Program(words, tmp_path, "signalled") as program:
        program.wait_for_line("waiting")
        program.signal(signal.SIGTERM)
        assert program.wait() == 5
    assert "caught" in program.lines


def test_with_start_a_proxy_runs_as_long_as_the_program(place: Place, tmp_path: Path) -> None:
    """It still serves what the program does when a signal ends it, and is gone afterwards."""
    config = write_configuration(fixed(place), tmp_path)
    last = f"curl -sS -o /dev/null -w '%{{http_code}}' {place.api_alias}/orders; echo; exit 5"
    script = f'trap "{last}" TERM; echo waiting; while :; do sleep 0.1; done'
    words = [COMMAND, "exec", "--config", str(config), "--start", "--", "sh", "-c", script]
    with Program(words, tmp_path, "started") as program:
        program.wait_for_line("waiting")
        program.signal(signal.SIGTERM)
        assert program.wait() == 5
    assert "200" in program.lines
    after = run_program([COMMAND, "exec", "--config", config, "--", "true"])
    assert (after.status, "No proxy listens" in after.stderr) == (1, True)


def test_a_signal_that_the_program_sends_as_its_first_act_reaches_it(place: Place, tmp_path: Path) -> None:
    config = write_configuration(fixed(place), tmp_path)
    script = "trap 'exit 5' TERM; kill -TERM $PPID; while :; do sleep 0.1; done"
    done = run_program([COMMAND, "exec", "--config", config, "--start", "--", "sh", "-c", script])
    assert (done.status, done.stderr) == (5, "")


def test_a_signal_before_the_program_runs_leaves_no_proxy_behind(place: Place, tmp_path: Path) -> None:
    """The proxy waits for its key at a pipe, until the signal comes."""
    pipe = tmp_path / "clientapp.pem"
    os.mkfifo(pipe, 0o600)
    config = write_configuration(fixed(dataclasses.replace(place, certificate=str(pipe))), tmp_path)
    words = [COMMAND, "exec", "--config", str(config), "--start", "--", "touch", str(tmp_path / "ran")]
    with Program(words, tmp_path, "ended") as program, pipe.open("wb", buffering=0) as key:
        program.signal(signal.SIGTERM)
        assert program.wait() == 128 + signal.SIGTERM
        with pytest.raises(BrokenPipeError):
            key.write(b"nobody reads any more")
    assert not (tmp_path / "ran").exists()


def test_no_code_of_the_working_directory_is_run(place: Place, tmp_path: Path) -> None:
    """Not as the proxy that `exec` starts, and not as its relay processes either."""
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "__init__.py").write_text("import pathlib; pathlib.Path('ran').touch(); raise SystemExit(9)")
    config = write_configuration(fixed(place) | {"workers": 2}, tmp_path)
    url = f"{place.api_alias}/orders"
    words = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url]
    done = run_program([COMMAND, "exec", "--config", config, "--start", "--", *words], directory=tmp_path)
    assert (done.status, done.stdout, done.stderr) == (0, b"200", "")
    assert not (tmp_path / "ran").exists()


def test_with_start_a_proxy_that_does_not_start_is_quoted(place: Place, tmp_path: Path) -> None:
    taken = configuration(place, listeners=[{"address": f"127.0.0.1:{free_port()}"}])
    taken["admin"] = {"address": f"127.0.0.1:{place.port}"}
    config = write_configuration(taken, tmp_path)
    done = run_program([COMMAND, "exec", "--config", config, "--start", "--", "touch", tmp_path / "ran"])
    assert done.status == 1
    assert re.search(r"Cannot open the admin site on \S+: another program listens there already", done.stderr)
    assert not (tmp_path / "ran").exists()
