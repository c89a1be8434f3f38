"""Every command of docs/azure-setup.md, pasted block by block into a shell, with a stand-in for the Azure CLI."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from tests.end_to_end.programs import COMMAND, ROOT, environment, run_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.programs import Finished

PAGE: Final = (ROOT / "docs/azure-setup.md").read_text(encoding="utf-8")
TENANT: Final = "11111111-1111-1111-1111-111111111111"
BEFORE: Final = "<policies><!-- before --></policies>"

# It writes down its arguments, answers queries with ids, and runs no program itself, because it is called some thousand times.
AZ: Final = r"""#!/bin/sh
n=0
[ ! -e "$AZ_LOG.count" ] || read -r n < "$AZ_LOG.count"
n=$((n + 1))
echo $n > "$AZ_LOG.count"
{ for argument; do printf '%s\n' "$argument"; done; echo --; } >> "$AZ_LOG"
[ $n != "$AZ_FAIL_AT" ] || { echo "az failed" >&2; exit 1; }
[ $n != "$AZ_SILENT_AT" ] || exit 0
case "$*" in
  "account show"*) echo 11111111-1111-1111-1111-111111111111 ;;
  "rest --method get"*"/policies?"*) echo '{"value": [{"properties": {"value": "<policies><!-- before --></policies>"}}]}' ;;
  "ad app create --display-name Orders API"*) echo api-app-id ;;
  "ad app create --display-name Orders proxy"*) echo client-app-id ;;
  "ad sp show --id api-app-id"*) echo api-sp ;;
  "ad sp show --id client-app-id"*) echo client-sp ;;
  "vm identity show"*) echo system-sp ;;
esac
"""
# What asks Entra ID is not real.
PROXY: Final = """#!/bin/sh
case $1 in cert | init) exec {command} "$@" ;; esac
"""


class Block(NamedTuple):
    """A block of commands: the heading above it, its number under that, and itself."""

    heading: str
    number: int
    text: str


def read_blocks() -> list[Block]:
    found = []
    for part in re.split(r"^##+ ", "Start\n" + PAGE, flags=re.MULTILINE):
        heading, _, rest = part.partition("\n")
        texts = re.findall(r"^```sh\n(.*?)^```$", rest, re.MULTILINE | re.DOTALL)
        found += [Block(heading, number, text) for number, text in enumerate(texts)]
    return found


BLOCKS: Final = {(block.heading, block.number): block.text for block in read_blocks()}
START: Final = [("Start", 0), ("Start", 1)]
API: Final = [("1. The API application", n) for n in range(3)]
CLIENT: Final = [("2. The client application", 0)]
CERTIFICATE: Final = [("3. The certificate", 0)]
ROLE: Final = [("4. Give the client the role", 0)]
POLICY: Final = [("5. The policy in API Management", 0), ("5. The policy in API Management", 1)]
WORKSPACE: Final = ("5. The policy in API Management", 2)
IDENTITY: Final = ("Without a certificate: managed identity", 0)
WAYS: Final = {
    "a certificate": [
        *(START + API + CLIENT + CERTIFICATE + ROLE + POLICY),
        ("6. The proxy", 0),
        *(("Replacing the certificate", n) for n in range(3)),
        ("Undoing all of it", 0),
    ],
    "a workspace": [*(START + API), WORKSPACE, POLICY[1]],
    "a managed identity": [*(START + API), IDENTITY, ("Without a certificate: managed identity", 1), *POLICY],
    "a trusted managed identity": [
        *(START + API + CLIENT),
        IDENTITY,
        ("Without a certificate: managed identity", 2),
        *ROLE,
    ],
    "Key Vault": [
        *(START + CLIENT),
        ("When the tenant refuses the certificate", 0),
        ("A certificate from Key Vault", 0),
    ],
    "another cloud": [*START, ("Other clouds", 0)],
}


class Pasted(NamedTuple):
    """What came of it."""

    done: Finished
    calls: list[list[str]]


def paste(way: str, directory: Path, command: str = "true", **answers: str) -> Pasted:
    """Paste the blocks of a way into an interactive shell; failures of one leave the rest to be pasted as well.

    Args:
        way: of ``WAYS``.
        directory: where it runs.
        command: what the proxy's own commands run.
        answers: what the stand-in is to do otherwise.
    """
    programs = directory / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    for name, text in (("az", AZ), ("apim-auth-proxy", PROXY.format(command=command))):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (xml,) = re.findall(r"`policy\.xml`.*?^```xml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (directory / "policy.xml").write_text(xml)
    log = directory / "az.log"
    known = {
        "AZ_LOG": str(log),
        "AZ_FAIL_AT": "",
        "AZ_SILENT_AT": "",
    }
    # What somebody sets besides is set in the shell that runs it.
    shell, *rest = (BLOCKS[each] for each in WAYS[way])
    script = "".join([shell, "KEY_ID=old-key-id WORKSPACE=my-workspace VAULT=contoso\n", *rest])
    done = run_program(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=script.encode(),
        environ=environment(PATH=f"{programs}:{os.environ['PATH']}", **(known | answers)),
        directory=directory,
        patience_s=60.0,
    )
    calls = [call.splitlines() for call in log.read_text().split("--\n") if call] if log.exists() else []
    return Pasted(done, calls)


def count_calls(text: str) -> int:
    """Return how many times a block calls `az`, but for comments."""
    return sum(len(re.findall(r"(?:^|[|&(;] *)az ", line)) for line in text.splitlines() if not line.startswith("#"))


def written_after(way: str, step: int) -> set[str]:
    """Return which files are written by the blocks behind the one that has a step, and by no block up to that one."""
    before: set[str] = set()
    behind: set[str] = set()
    calls = 0
    for each in WAYS[way]:
        (before if calls < step else behind).update(re.findall(r"> *([\w.]+\.json)", BLOCKS[each]))
        calls += count_calls(BLOCKS[each])
    return behind - before


def test_every_block_is_pasted() -> None:
    assert {each for way in WAYS.values() for each in way} == set(BLOCKS)


@pytest.mark.parametrize("way", WAYS)
def test_the_commands_of_a_way_run_to_the_end_with_every_id_in_its_place(way: str, tmp_path: Path) -> None:
    done, calls = paste(way, tmp_path, str(COMMAND))
    assert "or not set" not in done.stderr
    assert "unbound" not in done.stderr
    words = " ".join(word for call in calls for word in call)
    assert "$" not in words
    assert "" not in [word for call in calls for word in call]
    # Each `az` of the blocks, but for those in comments, was called.
    assert len(calls) == sum(count_calls(BLOCKS[each]) for each in WAYS[way])


def test_the_calls_register_what_the_page_says(tmp_path: Path) -> None:
    _, calls = paste("a certificate", tmp_path)
    (role,) = json.loads((tmp_path / "roles.json").read_text())
    kinds = [" ".join(call[:3]) for call in calls]
    assert kinds == [
        "account show --query",
        *("ad app create", "ad app update", "ad sp create", "ad sp update"),
        *("ad app create", "ad sp create", "ad app credential"),
        *("ad sp show", "ad sp show", "ad app permission", "rest --method post"),
        *("rest --method get", "rest --method put"),
        *("ad app credential", "ad app credential", "ad app credential"),
        *("rest --method put", "ad app delete", "ad app delete"),
    ]
    uploads = [call for call in calls if call[:4] == ["ad", "app", "credential", "reset"]]
    assert [call[call.index("--cert") + 1] for call in uploads] == ["@clientapp.crt", "@new.crt"]
    assert all("--append" in call for call in uploads)
    (request,) = [call for call in calls if call[:3] == ["ad", "app", "permission"]]
    assert request[-1] == f"{role['id']}=Role"
    (grant,) = [call for call in calls if call[:3] == ["rest", "--method", "post"]]
    assert json.loads(grant[-1]) == {"principalId": "client-sp", "resourceId": "api-sp", "appRoleId": role["id"]}
    policy = (tmp_path / "policy.xml").read_text()
    assert "<audience>api-app-id</audience>" in policy
    assert f"https://login.microsoftonline.com/{TENANT}/v2.0</issuer>" in policy
    # Undone: the policy of before is what stands in the last body, and both applications are gone.
    assert json.loads((tmp_path / "policy.json").read_text())["properties"] == {"format": "xml", "value": BEFORE}
    assert {call[-1] for call in calls if call[:3] == ["ad", "app", "delete"]} == {"api-app-id", "client-app-id"}


def test_the_calls_for_a_trusted_identity_name_it_as_the_subject(tmp_path: Path) -> None:
    _, calls = paste("a trusted managed identity", tmp_path)
    assert [call for call in calls if call[:4] == ["ad", "app", "federated-credential", "create"]]
    trust = json.loads((tmp_path / "federated.json").read_text())
    assert trust["subject"] == "system-sp"
    assert trust["issuer"] == f"https://login.microsoftonline.com/{TENANT}/v2.0"


@pytest.mark.parametrize("way", WAYS)
def test_after_a_failure_az_is_not_called_again_and_nothing_is_overwritten(way: str, tmp_path: Path) -> None:
    """At each step in turn. The shell ends, and what is pasted after that runs in the one around it."""
    whole = paste(way, tmp_path / "whole").calls
    for step in range(1, len(whole) + 1):
        directory = tmp_path / str(step)
        directory.mkdir()
        kept = {"roles.json": "mine", "federated.json": "mine", "policy.json": "mine"}
        for name, text in kept.items():
            (directory / name).write_text(text)
        calls = paste(way, directory, AZ_FAIL_AT=str(step)).calls
        assert [call[:4] for call in calls] == [call[:4] for call in whole[:step]], f"after step {step}"
        for name in written_after(way, step) & set(kept):
            assert (directory / name).read_text() == "mine", f"{name} after step {step}"
        if not any(call[:3] == ["rest", "--method", "get"] for call in calls):
            assert not (directory / "policies.before.json").exists()
            assert (directory / "policy.xml").read_text().count("TENANT_ID") == 2


def test_files_behind_each_step_are_known() -> None:
    """The test above looks at something: there is a file of each kind that a failure has to leave alone."""
    steps = [written_after("a certificate", 1), written_after("a trusted managed identity", 1)]
    assert steps[0] >= {"roles.json", "policy.json"}
    assert "federated.json" in steps[1]


@pytest.mark.parametrize("way", ["a certificate", "a trusted managed identity"])
def test_an_az_that_prints_nothing_leads_to_no_half_command(way: str, tmp_path: Path) -> None:
    whole = paste(way, tmp_path / "whole").calls
    asked = [step for step, call in enumerate(whole, 1) if "--query" in call or call[:3] == ["rest", "--method", "get"]]
    assert len(asked) > 3
    for step in asked:
        calls = paste(way, tmp_path / str(step), AZ_SILENT_AT=str(step)).calls
        assert not [word for call in calls for word in call if word in ("", "api://", "=Role")]
        assert not any('": ""' in word for call in calls for word in call)
        puts = [call for call in calls if call[:3] == ["rest", "--method", "put"]]
        assert not puts
