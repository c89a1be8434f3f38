"""`explain` through the real command line: codes, statuses, messages; a URL's route, credential and fields, without values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.programs import COMMAND, Place, configuration, run_program, write_configuration

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("text", ["AADSTS7000229", "7000229", "error AADSTS7000229: The client application is missing"])
def test_a_code_has_a_cause_and_a_fix(text: str) -> None:
    done = run_program([COMMAND, "explain", text, "--json"])
    answer = json.loads(done.stdout)
    assert (done.status, done.stderr) == (0, "")
    assert answer["code"] == "AADSTS7000229"
    assert "service principal" in answer["cause"]
    assert "az ad sp create" in answer["fix"]


def test_a_code_is_explained_in_lines_for_people() -> None:
    done = run_program([COMMAND, "explain", "AADSTS90033"])
    labels = [line.split("  ")[0].strip() for line in done.stdout.decode().splitlines()]
    assert labels == ["code", "cause", "fix", "passing", "see also"]


def test_a_url_is_explained_by_the_configuration(place: Place, tmp_path: Path) -> None:
    config = write_configuration(configuration(place, listeners=[{"address": "127.0.0.1:8080"}]), tmp_path)
    done = run_program([COMMAND, "explain", f"http://{place.alias_host}/orders?id=1", "--config", config, "--json"])
    answer = json.loads(done.stdout)
    assert done.status == 0
    assert answer["outcome"] == "routed"
    assert answer["upstream"] == place.api_alias
    assert answer["route"] == "routes[0]"
    assert answer["credential"] == "orders-client"
    assert answer["target"] == place.scope
    assert answer["fields"] == ["Authorization", "Ocp-Apim-Subscription-Key"]
    assert answer["dial"] == f"127.0.0.1:{place.port}"
    assert place.subscription_key not in done.stdout.decode()
    bare = json.loads(run_program([COMMAND, "explain", place.alias_host, "--config", config, "--json"]).stdout)
    assert (bare["outcome"], bare["upstream"]) == ("routed", place.api_alias)
    text = run_program([COMMAND, "explain", f"https://{place.alias_host}/", "--config", config]).stdout.decode()
    assert "HTTPS_PROXY=http://127.0.0.1:8080" in text
    assert place.subscription_key not in text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("name_not_resolved", "name_not_resolved"),
        ("http_request_denied", "http_request_denied"),
        ("CLIENT_DISTRUSTS_CA", "CLIENT_DISTRUSTS_CA"),
        ("aborted_upstream", "aborted_upstream"),
        ("401", "401"),
        ('Proxy-Status: apim-auth-proxy; error=http_request_denied; details="…"', "http_request_denied"),
    ],
)
def test_what_the_product_prints_has_an_explanation(text: str, code: str) -> None:
    """E7, F15"""
    done = run_program([COMMAND, "explain", text, "--json"])
    answer = json.loads(done.stdout)
    assert (done.status, done.stderr, answer["code"]) == (0, "", code)
    assert all(answer[key] for key in ("cause", "fault", "fix"))
    assert answer["fix"] in run_program([COMMAND, "explain", text]).stdout.decode()


def test_the_message_of_a_program_is_explained() -> None:
    done = run_program([COMMAND, "explain", "curl: (56) CONNECT tunnel failed, response 403"])
    assert done.status == 0
    assert "no route names the host" in done.stdout.decode()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nonsense"], 2, "docs/troubleshooting.md"),
        (["name_not_resolve"], 2, "Did you mean name_not_resolved"),
        (["https://orders.example/"], 2, "--config"),
        (["orders.example"], 2, "--config"),
        (["AADSTS1234567"], 1, "error?code=1234567"),
        ([], 2, "CODE_OR_URL"),
    ],
)
def test_what_cannot_be_explained_says_so(arguments: list[str], status: int, said: str) -> None:
    done = run_program([COMMAND, "explain", *arguments])
    assert (done.status, done.stdout) == (status, b"")
    assert said in done.stderr
