"""The rules that are shipped are those that the command prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli.init import init
from proxy.client_setup.redirection import WAY_BACK, Redirection, format_rules

SHIPPED = Path(__file__).parents[2] / "deploy" / "nftables"
CONFIGURATION = """
listeners:
  - address: 127.0.0.1:8080
  - address: "[::1]:9085"
    mode: transparent
credentials: {c: {token_endpoint: 'https://l.example/t', client_id: i, certificate: c.pem}}
routes: [{hosts: [a.example], credential: c, scope: s}]
state_directory: state
"""


@pytest.mark.parametrize(
    ("name", "redirection"),
    [
        pytest.param("sidecar.nft", Redirection(8085, user="65532"), id="sidecar"),
        pytest.param("gateway.nft", Redirection(8085, inside="eth1"), id="gateway"),
    ],
)
def test_the_shipped_files_are_what_is_printed(name: str, redirection: Redirection) -> None:
    """Write them again with `format_rules` after a change."""
    assert (SHIPPED / name).read_text(encoding="ascii") == format_rules(redirection)


def test_the_port_is_that_of_the_configurations_transparent_listener(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIGURATION, encoding="utf-8")
    done = CliRunner().invoke(init, ["--transparent", "--proxy-user", "1000", "--directory", str(tmp_path), "--json"])
    printed = json.loads(done.stdout)
    assert (printed["port"], printed["user"], printed["way_back"]) == (9085, "1000", WAY_BACK)
    assert printed["rules"] == format_rules(Redirection(9085, user="1000"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--inside", "eth1"], "go with --transparent", id="without the option"),
        pytest.param(["--transparent", "--inside", 'e"; flush ruleset'], "network interface", id="no interface"),
        pytest.param(["--transparent", "--proxy-user", "no such user"], "no user", id="no user"),
        pytest.param(["--transparent", "--proxy-user", "1", "--listen", "127.0.0.1:0"], "stays the same", id="port 0"),
        pytest.param(["--transparent", "--proxy-user", "1", "--listen", "x"], "host:port", id="no address"),
    ],
)
def test_what_cannot_be_meant_is_said(words: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(init, [*words, "--directory", str(tmp_path)])
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_a_configuration_without_such_a_listener_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIGURATION.replace("mode: transparent", "mode: forward"), encoding="utf-8")
    done = CliRunner().invoke(init, ["--transparent", "--proxy-user", "1", "--directory", str(tmp_path)])
    assert (done.exit_code, "has no transparent listener" in done.output) == (1, True)
