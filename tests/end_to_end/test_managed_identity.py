"""A machine with no certificate at all, through the real command line: both forms of managed identity, to a 200 of the gateway."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.sandbox.settings import SYSTEM_IDENTITY
from tests.end_to_end.programs import COMMAND, Program, ProxyProgram, configuration, environment, run_program
from tests.end_to_end.test_cli_without_file import call, options, variables

if TYPE_CHECKING:
    from tests.end_to_end.programs import Place

NO_APPLICATION = {"tenant_id": None, "client_id": None, "certificate": None, "authority": None, "ca_file": None}


def machine(place: Place, form: str) -> dict[str, str]:
    """Returns the environment of a machine that has identities."""
    facts = json.loads((Path(place.ca_file).parent / "sandbox.json").read_text(encoding="utf-8"))
    more = (
        {"IDENTITY_ENDPOINT": facts["identity_endpoint"], "IDENTITY_HEADER": facts["identity_header"]}
        if form == "app_service"
        else {"AZURE_POD_IDENTITY_AUTHORITY_HOST": facts["managed_identity_host"]}
    )
    return {**environment(), **more}


ALONE = {**NO_APPLICATION, "managed_identity": "system"}
FEDERATED = {"certificate": None, "federated_managed_identity": "system"}


@pytest.mark.parametrize(
    ("form", "workers", "credential"),
    [("imds", 1, ALONE), ("app_service", 1, FEDERATED), ("imds", 2, FEDERATED)],
    ids=["alone", "federated", "federated_with_workers"],
)
def test_a_request_reaches_the_api(
    place: Place, form: str, workers: int, credential: dict[str, object], tmp_path: Path
) -> None:
    settings = configuration(place, credential=credential, workers=workers)
    with ProxyProgram(settings, tmp_path, tmp_path, "proxy", environ=machine(place, form)) as proxy:
        done = run_program(["curl", "-sS", "--proxy", proxy.forward, f"http://{place.alias_host}/orders"])
        claims = json.loads(done.stdout)["token"]["claims"]
        metrics = proxy.ask_admin("/metrics").decode()
    assert claims["azp"] == (place.client_id if credential is FEDERATED else SYSTEM_IDENTITY[0])
    assert claims["roles"] == ["Orders.Read"]
    assert re.search(r'apim_auth_proxy_token_requests_total\{.*outcome="ok".*\} 1', metrics)


def test_check_online_says_who_the_machine_is_and_what_the_api_says(place: Place, tmp_path: Path) -> None:
    words = options(
        {
            name: value
            for name, value in variables(place, tmp_path / "state").items()
            if name.rpartition("PROXY_")[2] not in ("TENANT_ID", "CLIENT_ID", "CERTIFICATE", "AUTHORITY")
        }
    )
    arguments = [COMMAND, "check", "--online", *words, "--managed-identity", "system"]
    done = run_program(arguments, environ=machine(place, "imds"))
    said = done.stdout.decode()
    assert done.status == 0, said
    assert "It is this machine's system-assigned managed identity itself" in said
    assert "accepts managed identity of this machine" in said
    away = run_program(arguments, environ={**environment(), "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9"})
    assert away.status == 1
    assert "Only machines in Azure" in away.stdout.decode()
    unknown = run_program([*arguments[:-1], "99999999-9999-9999-9999-999999999999"], environ=machine(place, "imds"))
    assert unknown.status == 1
    assert "this machine has no identity 99999999" in unknown.stdout.decode()


def test_an_option_alone_starts_it(place: Place, tmp_path: Path) -> None:
    """As docs/sandbox.md has it: the CA file is for the API, and no obstacle."""
    environ = {
        name: value
        for name, value in variables(place, tmp_path / "state").items()
        if name.rpartition("PROXY_")[2] not in ("TENANT_ID", "CLIENT_ID", "CERTIFICATE", "AUTHORITY")
    }
    arguments = [COMMAND, "run", "--managed-identity", "system"]
    with Program(arguments, tmp_path, "run", environ={**environ, **machine(place, "imds")}) as program:
        assert call(program, place) == b"200"
        assert program.stop() == 0
