"""`token` through the real command line: the token and nothing else on stdout, or what it says, or why there is none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import jwt
import pytest

from tests.end_to_end.programs import COMMAND, Place, configuration, run_program, write_configuration

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import ProxyProgram


def test_the_token_alone_is_on_stdout_and_opens_the_api(proxy: ProxyProgram, place: Place, curl: Curl) -> None:
    done = run_program([COMMAND, "token", "--config", proxy.config_file, "--host", place.api_authority])
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.endswith(b"\n")
    token = done.stdout.decode("ascii").strip()
    assert len(token.split()) == 1
    fields = ["-H", f"Authorization: Bearer {token}", "-H", f"Ocp-Apim-Subscription-Key: {place.subscription_key}"]
    assert curl("--cacert", place.ca_file, *fields, f"{place.api_url}/orders").status == 200


def test_claims_are_shown_decoded_and_said_to_be_unverified(proxy: ProxyProgram, place: Place) -> None:
    done = run_program([COMMAND, "token", "--config", proxy.config_file, "--host", place.alias_host, "--claims"])
    shown = json.loads(done.stdout)
    assert done.status == 0
    assert shown["header"]["typ"] == "JWT"
    assert shown["claims"]["roles"] == ["Orders.Read"]
    assert "not verified" in done.stderr
    assert "eyJ" not in done.stdout.decode()


def test_a_credential_and_a_scope_do_as_well_and_json_says_how_long(proxy: ProxyProgram) -> None:
    arguments = ["--credential", "orders-client", "--scope", "api://orders-v1/.default", "--json"]
    done = run_program([COMMAND, "token", "--config", proxy.config_file, *arguments])
    answer = json.loads(done.stdout)
    claims = jwt.decode(answer["access_token"], options={"verify_signature": False})
    assert claims["ver"] == "1.0"
    assert (answer["token_type"], answer["target"]) == ("Bearer", "api://orders-v1/.default")
    assert 0 < answer["expires_in"] <= 3_600 + 300


def test_a_refusal_names_code_cause_and_fix_and_exits_1(place: Place, tmp_path: Path) -> None:
    wrong = {"client_id": "99999999-9999-9999-9999-999999999999"}
    config = write_configuration(configuration(place, credential=wrong), tmp_path)
    done = run_program([COMMAND, "token", "--config", config, "--host", place.api_authority])
    assert (done.status, done.stdout) == (1, b"")
    assert "AADSTS700016" in done.stderr
    assert "az ad app list" in done.stderr
    assert done.stderr.count("AADSTS700016") == 1, "it is said once, and not by the log as well"
    assert "eyJ" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Which token?"),
        (["--host", "a", "--credential", "b", "--scope", "c"], "Which token?"),
        (["--credential", "orders-client"], "Which token?"),
        (["--host", "nobody.example"], "no route names nobody.example:443"),
        (["--host", "a b"], "not a DNS name"),
        (["--credential", "order-client", "--scope", "x"], "did you mean 'orders-client'"),
    ],
)
def test_wrong_usage_exits_2(proxy: ProxyProgram, arguments: list[str], said: str) -> None:
    done = run_program([COMMAND, "token", "--config", proxy.config_file, *arguments])
    assert (done.status, done.stdout) == (2, b"")
    assert said in " ".join(done.stderr.split())
