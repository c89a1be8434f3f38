"""`init`: from an empty directory to a first answer without editing a file; and what it prints does what it says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import stat
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import hcl2
import pytest
import yaml
from cryptography import x509
from lark.exceptions import UnexpectedInput
from pycep import BicepParser

from tests.end_to_end.programs import COMMAND, environment, run_program
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.programs import Finished

TENANT = "11111111-1111-1111-1111-111111111111"
KNOWN = ["--tenant-id", TENANT, "--host", "contoso.azure-api.net"]

# Stands for the Azure CLI, which needs a cloud: it writes down its arguments, and answers queries with ids.
AZ = r"""#!/bin/sh
for argument; do printf '%s\n' "$argument"; done >> "$AZ_LOG"
printf '%s\n' '--' >> "$AZ_LOG"
count=$(grep -c '^--$' "$AZ_LOG")
[ "$count" != "$AZ_FAIL_AT" ] || { echo "az failed" >&2; exit 1; }
[ "$count" != "$AZ_SILENT_AT" ] || exit 0
case "$*" in
  *"openid-configuration"*) echo https://login.microsoftonline.com/11111111-1111-1111-1111-111111111111/v2.0 ;;
  "cloud show"*) echo "${AZ_CLOUD:-AzureCloud}" ;;
  *"appRoleAssignedTo"*"length"*) echo 0 ;;
  *"appRoles["*) echo known-role-id ;;
  "rest --method get"*"/policies?"*) echo '{"value": [{"properties": {"value": "<policies><!-- before --></policies>"}}]}' ;;
  "ad app list"*) echo "${AZ_EXISTING:-0}" ;;
  "account show"*) echo 11111111-1111-1111-1111-111111111111 ;;
  *"API"*"appId"*) echo api-app-id ;;
  *"proxy"*"appId"*) echo client-app-id ;;
  "ad sp show --id api://orders"*) echo api-app-id ;;
  "ad sp show --id api-app-id"*) echo api-sp ;;
  "ad sp show --id client-app-id"*) echo client-sp ;;
  "vm identity show"*) echo system-sp ;;
  "ad sp show --id 77777777"*) echo user-sp ;;
  "ad app federated-credential list"*) echo "${AZ_TRUSTED:-0}" ;;
esac
"""


def init(directory: Path, *words: str, stdin: bytes = b"") -> Finished:
    return run_program([COMMAND, "init", *words], stdin=stdin, directory=directory)


def test_two_commands_in_an_empty_directory_and_an_api_has_answered(tmp_path: Path) -> None:
    """What the first page of the documents has a newcomer type."""
    ports = ["--listen", f"127.0.0.1:{free_port()}", "--admin", f"127.0.0.1:{free_port()}"]
    made = init(tmp_path, "--sandbox", *ports)
    assert (made.status, made.stdout) == (0, b"")
    (url,) = re.findall(r"https://\S+/orders", made.stderr)
    words: list[str | Path] = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url]
    done = run_program([COMMAND, "exec", "--", *words], directory=tmp_path)
    assert (done.status, done.stdout, done.stderr) == (0, b"200", "")
    check = run_program([COMMAND, "check", "--config", tmp_path / "config.yaml"])
    assert check.status == 0, check.stdout.decode()


def test_a_sandbox_takes_no_port_that_another_program_has(tmp_path: Path) -> None:
    """By default another one; one that was asked for is the user's to decide."""
    held = free_port()
    with socket.create_server(("127.0.0.1", held)):
        refused = init(tmp_path, "--sandbox", "--listen", f"127.0.0.1:{held}")
        assert refused.status == 1
        assert (
            f"Another program is using 127.0.0.1:{held}. Stop it, or choose another address with --listen."
            in refused.stderr
        )
        assert list(tmp_path.iterdir()) == []
    with contextlib.ExitStack() as taken:
        with contextlib.suppress(OSError):  # taken already, which is just as well
            taken.enter_context(socket.create_server(("127.0.0.1", 8080)))
        made = init(tmp_path, "--sandbox")
        config = yaml.safe_load((tmp_path / "config.yaml").read_text())
        (listener,) = config["listeners"]
        assert made.status == 0
        assert re.fullmatch(r"127\.0\.0\.1:80(8[1-9]|9\d)", listener["address"])
        assert f"so this configuration uses {listener['address']}." in made.stderr


def test_the_configuration_loads_once_the_ids_are_known(tmp_path: Path) -> None:
    assert init(tmp_path, *KNOWN).status == 0
    words: list[str | Path] = [
        COMMAND,
        "explain",
        "https://contoso.azure-api.net/orders",
        "--config",
        tmp_path / "config.yaml",
        "--json",
    ]
    unknown = run_program(words)
    assert unknown.status == 2
    assert "the environment variable CLIENT_ID is not set" in unknown.stderr
    known = run_program(words, environ=environment(CLIENT_ID=TENANT, API_ID="api-app-id"))
    assert known.status == 0
    assert "api://api-app-id/.default" in known.stdout.decode()


def test_the_key_is_for_its_owner_alone_and_the_certificate_fits_it(tmp_path: Path) -> None:
    said = init(tmp_path, *KNOWN).stderr
    assert "is valid for 365 days" in said
    assert "under `certificates:`" in said
    assert stat.S_IMODE((tmp_path / "clientapp.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "config.yaml").stat().st_mode) == 0o600
    files: list[str | Path] = [tmp_path / "clientapp.crt", "--private-key", tmp_path / "clientapp.key"]
    assert run_program([COMMAND, "cert", "show", *files]).status == 0


def test_what_no_option_names_is_asked_for_on_stderr(tmp_path: Path) -> None:
    done = init(tmp_path, stdin=f"{TENANT}\napi.contoso.com\n".encode())
    assert done.status == 0
    assert "Tenant" in done.stderr
    assert b"Tenant" not in done.stdout
    assert '"${CLIENT_ID}"       # the az commands' in (tmp_path / "config.yaml").read_text()
    assert '"api.contoso.com"' in (tmp_path / "config.yaml").read_text()


def test_where_nobody_answers_the_options_are_named(tmp_path: Path) -> None:
    """F11"""
    done = init(tmp_path)
    assert (done.status, list(tmp_path.iterdir())) == (2, [])
    assert "there is no terminal to answer at. Pass --tenant-id" in done.stderr
    assert "--host HOST" in done.stderr
    assert "Aborted" not in done.stderr


def test_what_was_typed_is_brought_into_form_or_asked_for_again(tmp_path: Path) -> None:
    """F11"""
    answers = f"my tenant\n https://portal.azure.com/{TENANT.upper()}/overview \nmy host\nhttps://api.contoso.com/orders?x=1\n"
    done = init(tmp_path, stdin=answers.encode())
    assert done.status == 0, done.stderr
    assert "'my tenant' is not a tenant: write its GUID" in done.stderr
    assert "'my host' is not a host" in done.stderr
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["credentials"]["api-client"]["tenant_id"] == TENANT
    assert config["routes"][0]["hosts"] == ["api.contoso.com"]


@pytest.mark.parametrize(
    ("option", "value"), [("--tenant-id", "my tenant"), ("--host", "my host"), ("--tenant-id", "common")]
)
def test_an_option_that_cannot_be_used_is_wrong_usage(tmp_path: Path, option: str, value: str) -> None:
    done = init(tmp_path, *KNOWN, option, value)
    assert (done.status, list(tmp_path.iterdir())) == (2, [])
    assert option in done.stderr


@pytest.mark.parametrize(
    ("tenant", "is_right"), [(TENANT, True), (TENANT.replace("1", "2"), False), ("contoso.example", True)]
)
def test_the_commands_register_in_the_tenant_that_was_typed(tmp_path: Path, tenant: str, is_right: bool) -> None:
    """F11: a domain's GUID is asked for; in another tenant nothing is registered, and the configuration gets the ids."""
    script = init(tmp_path, "--tenant-id", tenant, "--host", "contoso.azure-api.net").stdout.decode()
    done, calls = register(script, tmp_path)
    assert done.status == (0 if is_right else 1), done.stderr
    assert any(call[:3] == ["ad", "app", "create"] for call in calls) is is_right
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    ids = config["credentials"]["api-client"]["client_id"], config["routes"][0]["scope"]
    assert ids == (
        ("client-app-id", "api://api-app-id/.default") if is_right else ("${CLIENT_ID}", "api://${API_ID}/.default")
    )
    assert stat.S_IMODE((tmp_path / "config.yaml").stat().st_mode) == 0o600
    if not is_right:
        assert f"az login --tenant {tenant}" in done.stderr


def register(script: str, directory: Path, shell: str = "bash -c", **answers: str) -> tuple[Finished, list[list[str]]]:
    """Runs the printed commands with a stand-in for az; returns its calls.

    Args:
        script: as printed.
        directory: where it runs.
        shell: with its options; behind -c it takes the script as an argument, else on standard input.
        answers: what the stand-in is to do otherwise.
    """
    programs = directory / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "az").write_text(AZ)
    (programs / "az").chmod(0o755)
    for name in ("apim-auth-proxy", "sleep"):
        (programs / name).unlink(missing_ok=True)
        (programs / name).symlink_to("/bin/true")
    log = directory / "az.log"
    log.unlink(missing_ok=True)
    known = {"AZ_LOG": str(log), "AZ_FAIL_AT": "", "AZ_SILENT_AT": ""} | answers
    environ = environment(PATH=f"{programs}:{os.environ['PATH']}", **known)
    if shell.endswith(" -c"):
        done = run_program([*shell.split(), script], environ=environ, directory=directory)
    else:
        done = run_program(shell.split(), stdin=script.encode(), environ=environ, directory=directory)
    log.touch()
    return done, [call.splitlines() for call in log.read_text().split("--\n") if call]


def test_the_printed_commands_register_everything_in_order(tmp_path: Path) -> None:
    """Run by a real shell, with a stand-in for the Azure CLI."""
    script = init(tmp_path, *KNOWN, "--name", "Orders").stdout.decode()
    done, calls = register(script, tmp_path)
    assert (done.status, done.stderr) == (0, "")
    starts = [" ".join(call[:4]) for call in calls]
    first = [
        "cloud show --query",
        "account show --query",
        "ad app list",
        "ad app create",
        "ad app show",
        "ad app update",
    ]
    assert [" ".join(call[:3]) for call in calls][:6] == first
    assert starts.index("ad app credential reset") < starts.index("ad app permission add")
    (upload,) = [call for call in calls if call[2] == "credential"]
    assert {"--append", "@clientapp.crt", "client-app-id"} <= set(upload)
    (role,) = json.loads((tmp_path / "roles.json").read_text())
    (request,) = [call for call in calls if call[2] == "permission"]
    assert f"{role['id']}=Role" in request
    granted, grant, before, policy = [call for call in calls if call[0] == "rest"]
    assert (granted[2], before[2]) == ("get", "get")
    assert "before" in (tmp_path / "policies.before.json").read_text(), "the policy that was there is kept"
    assert json.loads(grant[-1]) == {"principalId": "client-sp", "resourceId": "api-sp", "appRoleId": role["id"]}
    assert "@policy.json" in policy
    value = json.loads((tmp_path / "policy.json").read_text())["properties"]["value"]
    assert "<audience>api-app-id</audience>" in value
    assert f"https://login.microsoftonline.com/{TENANT}/v2.0</issuer>" in value
    assert "<value>Orders.Read</value>" in value
    assert "PRIVATE KEY" not in script + str(calls)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_the_printed_commands_can_be_pasted_into_zsh(tmp_path: Path) -> None:
    """D6: macOS has zsh. To one that reads from a keyboard, an apostrophe in a comment would begin a text."""
    script = init(tmp_path, *KNOWN).stdout.decode()
    config = (tmp_path / "config.yaml").read_bytes()
    _, wanted = register(script, tmp_path)
    for file in ("policies.before.json", "config.yaml"):
        (tmp_path / file).unlink()
    (tmp_path / "config.yaml").write_bytes(config)
    done, calls = register(script, tmp_path, "zsh -f -i")
    assert calls == wanted, done.stderr
    assert "parse error" not in done.stderr
    assert "not found" not in done.stderr
    done, calls = register(script, tmp_path, "zsh -f -i", AZ_FAIL_AT="3")
    assert calls == wanted[:3], "nothing follows a step that fails"


@pytest.mark.parametrize("form", ["bicep", "terraform"])
def test_templates_name_the_certificate_and_the_role_and_no_key(tmp_path: Path, form: str) -> None:
    text = init(tmp_path, *KNOWN, "--registration", form, "--role", "Reports.Read").stdout.decode()
    assert "Reports.Read" in text
    assert "PRIVATE KEY" not in text
    assert text.count("{") == text.count("}")
    if form == "bicep":
        import base64

        (encoded,) = re.findall(r"key: '([A-Za-z0-9+/=]+)'", text)
        registered = x509.load_der_x509_certificate(base64.b64decode(encoded))
        assert registered == x509.load_pem_x509_certificate((tmp_path / "clientapp.crt").read_bytes())
    else:
        assert 'file("clientapp.crt")' in text


def test_the_terraform_template_is_hcl_with_its_parts_connected(tmp_path: Path) -> None:
    text = init(tmp_path, *KNOWN, "--registration", "terraform").stdout.decode()
    resources = hcl2.loads(text)["resource"]
    assert {kind.strip('"') for resource in resources for kind in resource} >= {
        "azuread_application",
        "azuread_application_certificate",
        "azuread_service_principal",
    }
    with pytest.raises(UnexpectedInput):
        hcl2.loads(text.replace("}", "", 1))
    # Terraform's own opinion of the layout, where it is at hand.
    if shutil.which("terraform") is not None:
        done = run_program(["terraform", "fmt", "-"], stdin=text.encode())
        assert done.status == 0, done.stderr
        assert done.stdout.decode().rstrip() == text.rstrip()


def test_the_bicep_template_parses_with_its_parts_connected(tmp_path: Path) -> None:
    text = init(tmp_path, *KNOWN, "--registration", "bicep", "--name", "Orders").stdout.decode()
    template = BicepParser().parse(text=text)
    types = {name: resource["type"] for name, resource in template["resources"].items()}
    assert types == {
        "api": "Microsoft.Graph/applications",
        "apiPrincipal": "Microsoft.Graph/servicePrincipals",
        "client": "Microsoft.Graph/applications",
        "clientPrincipal": "Microsoft.Graph/servicePrincipals",
        "grant": "Microsoft.Graph/appRoleAssignedTo",
        "policy": "Microsoft.ApiManagement/service/apis/policies",
    }
    assert template["extensions"].keys() == {"microsoftGraphV1_0"}
    declared = set(types) | set(template["parameters"])
    assert set(re.findall(r"(\w+)\.(?:appId|id)\b", text)) <= declared
    with pytest.raises(UnexpectedInput):
        BicepParser().parse(text=text.replace("}", "", 1))


@pytest.mark.parametrize("form", ["az", "bicep", "terraform"])
def test_the_configuration_takes_just_what_the_registration_gives(tmp_path: Path, form: str) -> None:
    text = init(tmp_path, *KNOWN, "--registration", form).stdout.decode()
    given = {
        "az": r"^sed .*{(\w+)}.*{(\w+)}",
        "bicep": r"^output (\w+) ",
        "terraform": r'^output "(\w+)"',
    }[form]
    found = re.findall(given, text, re.MULTILINE)
    names = set(found[0] if form == "az" else found)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert names == set(re.findall(r"\$\{(\w+)\}", str(config))) == {"CLIENT_ID", "API_ID"}
    # By an identifier URI where the registration sets one, else by the application's id.
    scope = config["routes"][0]["scope"]
    assert scope == ("api://${API_ID}/.default" if re.search("identifier.uri", text) else "${API_ID}/.default")


def test_as_json_it_names_what_it_has_written(tmp_path: Path) -> None:
    answer = json.loads(init(tmp_path, *KNOWN, "--json").stdout)
    assert answer["written"] == ["config.yaml", "clientapp.crt", "clientapp.key"]
    assert answer["registration"]["form"] == "az"
    assert "az ad app create" in answer["registration"]["text"]
    assert all((tmp_path / name).is_file() for name in answer["written"])
    sandbox = json.loads(init(tmp_path, "--directory", "other", "--sandbox", "--json").stdout)
    assert sandbox == {"written": ["other/config.yaml", "other/sandbox"], "registration": None}


def test_a_sandboxs_ports_are_none_that_a_connection_gets_until_it_starts(tmp_path: Path) -> None:
    """RFC 6335 §6 and Linux: those from 32768 on are given to connections and to whoever asks for any."""
    assert init(tmp_path, "--sandbox").status == 0
    facts = json.loads((tmp_path / "sandbox" / "sandbox.json").read_text())
    ports = {urlsplit(facts[name]).port or 0 for name in ("authority", "api_url")}
    assert len(ports) == 2
    assert all(1_024 <= port < 32_768 for port in ports)


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    init(tmp_path, *KNOWN)
    key = (tmp_path / "clientapp.key").read_bytes()
    again = init(tmp_path, *KNOWN)
    assert (again.status, again.stdout) == (1, b"")
    assert "--force" in again.stderr
    assert (tmp_path / "clientapp.key").read_bytes() == key
    assert init(tmp_path, *KNOWN, "--force").status == 0
    assert (tmp_path / "clientapp.key").read_bytes() == key, "a key is replaced by request only (F2)"
    assert init(tmp_path, *KNOWN, "--force", "--new-certificate").status == 0
    assert (tmp_path / "clientapp.key").read_bytes() != key


def test_a_pair_that_is_there_is_used_and_needs_no_force(tmp_path: Path) -> None:
    """F2: made by `cert new` before, say."""
    assert run_program([COMMAND, "cert", "new"], directory=tmp_path).status == 0
    before = {name: (tmp_path / name).read_bytes() for name in ("clientapp.key", "clientapp.crt")}

    done = init(tmp_path, *KNOWN, "--json")

    assert json.loads(done.stdout)["written"] == ["config.yaml"]
    assert "which were there and match" in done.stderr
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("lost", ["clientapp.key", "clientapp.crt"])
def test_half_a_pair_is_never_replaced_unasked(tmp_path: Path, lost: str) -> None:
    """F2: nor is a key that does not fit, with --force or without."""
    init(tmp_path, *KNOWN)
    (tmp_path / lost).unlink()
    (tmp_path / "config.yaml").unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for words in ([], ["--force"]):
        done = init(tmp_path, *KNOWN, *words)
        assert done.status == 1
        assert "--new-certificate --force" in done.stderr
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert init(tmp_path, *KNOWN, "--new-certificate", "--force").status == 0


REGISTERED = ["--client-id", "client-app-id", "--scope", "api://orders/.default"]


@pytest.mark.parametrize(
    ("known", "steps"),
    [
        ([], {"ad app create", "ad app credential", "ad app permission", "rest --method post", "rest --method put"}),
        (REGISTERED[:2], {"ad app create", "ad app credential", "ad app permission", "rest --method post", "rest --method put"}),
        (REGISTERED[2:], {"ad app create", "ad app credential", "ad app permission", "rest --method post"}),
        (REGISTERED, {"ad app credential"}),
    ],
    ids=["nothing", "the client", "the API", "both"],
)  # fmt: skip
def test_what_is_printed_is_what_is_still_to_be_done(tmp_path: Path, known: list[str], steps: set[str]) -> None:
    """F2: and a second `init` with both ids has nothing left but to check."""
    script = init(tmp_path, *KNOWN, *known).stdout.decode()
    done, calls = register(script, tmp_path)
    assert (done.status, done.stderr) == (0, "")
    words = {" ".join(call[:3]) for call in calls}
    every = {"ad app create", "ad app credential", "ad app permission", "rest --method post", "rest --method put"}
    assert words & every == steps
    assert [call[4].split()[1:] for call in calls if call[:3] == ["ad", "app", "create"]] == (
        [["API"], ["proxy"]]
        if not known
        else [["API"]]
        if known == REGISTERED[:2]
        else [["proxy"]]
        if known == REGISTERED[2:]
        else []
    )
    again = init(tmp_path, *KNOWN, *REGISTERED, "--force")
    assert b"az " not in again.stdout
    assert b"apim-auth-proxy check --config config.yaml --online" in again.stdout
    assert "Next, check it and call the API:" in again.stderr


USER_IDENTITY = "77777777-7777-7777-7777-777777777777"


@pytest.mark.parametrize(("identity", "principal"), [("system", "system-sp"), (USER_IDENTITY, "user-sp")])
def test_a_managed_identity_is_given_the_role_without_an_application(
    tmp_path: Path, identity: str, principal: str
) -> None:
    printed = init(tmp_path, *KNOWN, "--managed-identity", identity)
    assert "It needs no key and no certificate" in printed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    done, calls = register(printed.stdout.decode(), tmp_path)
    assert (done.status, done.stderr) == (0, "")
    assert [call[4].split()[1:] for call in calls if call[:3] == ["ad", "app", "create"]] == [["API"]]
    assert not [call for call in calls if call[:3] in (["ad", "app", "credential"], ["ad", "app", "permission"])]
    (grant,) = [call for call in calls if call[:3] == ["rest", "--method", "post"]]
    assert json.loads(grant[-1])["principalId"] == principal
    credential = yaml.safe_load((tmp_path / "config.yaml").read_text())["credentials"]["api-client"]
    assert credential == {"managed_identity": identity}
    assert "${" not in "\n".join(
        line for line in (tmp_path / "config.yaml").read_text().splitlines() if not line.strip().startswith("#")
    )


def test_an_application_trusts_a_managed_identity_once(tmp_path: Path) -> None:
    script = init(tmp_path, *KNOWN, "--federated-managed-identity", USER_IDENTITY).stdout.decode()
    done, calls = register(script, tmp_path)
    assert (done.status, done.stderr) == (0, "")
    assert not [call for call in calls if call[:3] == ["ad", "app", "credential"]]
    assert [call for call in calls if call[:4] == ["ad", "app", "federated-credential", "create"]]
    assert json.loads((tmp_path / "federated.json").read_text()) == {
        "name": "apim-auth-proxy",
        "issuer": f"https://login.microsoftonline.com/{TENANT}/v2.0",
        "subject": "user-sp",
        "audiences": ["api://AzureADTokenExchange"],
    }
    credential = yaml.safe_load((tmp_path / "config.yaml").read_text())["credentials"]["api-client"]
    assert credential == {
        "tenant_id": TENANT,
        "client_id": "client-app-id",
        "federated_managed_identity": USER_IDENTITY,
    }
    _, again = register(script, tmp_path, AZ_TRUSTED="1")
    assert not [call for call in again if call[:4] == ["ad", "app", "federated-credential", "create"]]


@pytest.mark.parametrize(
    ("option", "identity", "cloud"),
    [
        ("--managed-identity", "system", "public"),
        ("--managed-identity", USER_IDENTITY, "public"),
        ("--federated-managed-identity", "system", "usgov"),
        ("--federated-managed-identity", USER_IDENTITY, "china"),
    ],
)
def test_the_templates_know_managed_identities(tmp_path: Path, option: str, identity: str, cloud: str) -> None:
    """No certificate in them, and an application only where one is to trust the identity."""
    is_federated = option == "--federated-managed-identity"
    audience = "api://AzureADTokenExchange" + {"public": "", "usgov": "USGov", "china": "China"}[cloud]
    words = [*KNOWN, option, identity, "--cloud", cloud, "--registration"]

    text = init(tmp_path, *words, "bicep").stdout.decode()
    template = BicepParser().parse(text=text)
    types = {name: resource["type"] for name, resource in template["resources"].items()}
    applications = {name for name, kind in types.items() if kind == "Microsoft.Graph/applications"}
    assert applications == ({"api", "client"} if is_federated else {"api"})
    assert ("identityPrincipalId" in template["parameters"]) is (identity == "system")
    assert (f"appId: '{USER_IDENTITY}'" in text) is (identity == USER_IDENTITY)
    declared = set(types) | set(template["parameters"])
    assert set(re.findall(r"(\w+)\.(?:appId|id|uniqueName)\b", text)) <= declared
    subject = "identityPrincipalId" if identity == "system" else "identity.id"
    assert f"principalId: {'clientPrincipal.id' if is_federated else subject}\n" in text
    assert (f"subject: {subject}\n" in text) is is_federated
    assert (f"'{audience}'" in text) is is_federated
    assert "keyCredentials" not in text
    assert ("output CLIENT_ID" in text) is is_federated

    text = init(tmp_path, *words, "terraform", "--force").stdout.decode()
    parsed = hcl2.loads(text)
    kinds = [kind.strip('"') for resource in parsed["resource"] for kind in resource]
    assert kinds.count("azuread_application") == 1 + is_federated
    assert kinds.count("azuread_application_federated_identity_credential") == is_federated
    assert "azuread_application_certificate" not in kinds
    assert (f'"{audience}"' in text) is is_federated
    subject = (
        "var.identity_principal_id" if identity == "system" else "data.azuread_service_principal.identity.object_id"
    )
    assert text.count(subject) == 1
    assert ('output "CLIENT_ID"' in text) is is_federated

    # The configuration wants what the template gives, and nothing was made that nobody registers.
    wanted = set(re.findall(r"\$\{(\w+)\}", str(yaml.safe_load((tmp_path / "config.yaml").read_text()))))
    assert wanted == ({"CLIENT_ID", "API_ID"} if is_federated else {"API_ID"})
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("way", ["AZ_FAIL_AT", "AZ_SILENT_AT"])
def test_nothing_follows_a_step_that_fails_or_gives_nothing(tmp_path: Path, way: str) -> None:
    """D6: at each step in turn. The policy is replaced only with every id in it, and with the old one in a file."""
    script = init(tmp_path, *KNOWN).stdout.decode()
    config = (tmp_path / "config.yaml").read_bytes()
    _, whole = register(script, tmp_path)
    stopped = 0
    for step in range(1, len(whole) + 1):
        for name in ("policy.json", "policies.before.json", "undo.sh"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "config.yaml").write_bytes(config)
        done, calls = register(script, tmp_path, **{way: str(step)})
        kind = " ".join(whole[step - 1][:3])
        is_repeated = kind in ("ad app show", "ad sp show") and "--query" not in whole[step - 1]
        must_stop = (
            not is_repeated
            if way == "AZ_FAIL_AT"
            else "--query" in whole[step - 1] or "/policies?" in str(whole[step - 1])
        )
        assert (done.status != 0) is must_stop, (step, whole[step - 1], done.stderr)
        if must_stop:
            stopped += 1
            assert calls == whole[:step], "nothing follows"
        if any(call[:3] == ["rest", "--method", "put"] for call in calls):
            value = json.loads((tmp_path / "policy.json").read_text())["properties"]["value"]
            assert "<audience>api-app-id</audience>" in value
            assert "before" in (tmp_path / "policies.before.json").read_text()
    assert stopped > 6
    assert (tmp_path / "config.yaml").exists()


def test_one_command_undoes_what_the_commands_have_done(tmp_path: Path) -> None:
    """The policy of before, both applications, and nothing that was there; after a failure, what was done until then."""
    script = init(tmp_path, *KNOWN).stdout.decode()
    done, _ = register(script, tmp_path)
    assert "To undo all of it: sh undo.sh" in done.stdout.decode()
    done, calls = register("sh undo.sh", tmp_path)
    assert (done.status, done.stderr) == (0, "")
    assert [call[:3] for call in calls] == [
        ["ad", "app", "delete"],
        ["ad", "app", "delete"],
        ["rest", "--method", "put"],
    ]
    assert [call[-1] for call in calls[:2]] == ["api-app-id", "client-app-id"]
    body = json.loads((tmp_path / "policy.undo.json").read_text())["properties"]
    assert body == {"format": "xml", "value": "<policies><!-- before --></policies>"}

    for name in ("undo.sh", "policies.before.json"):
        (tmp_path / name).unlink()
    register(script, tmp_path, AZ_FAIL_AT="6")
    _, calls = register("sh undo.sh", tmp_path)
    assert [call[-1] for call in calls] == ["api-app-id"]
    (tmp_path / "undo.sh").unlink()
    register(script, tmp_path, AZ_EXISTING="1")
    _, calls = register("sh undo.sh", tmp_path)
    assert [call[:3] for call in calls] == [["rest", "--method", "put"]], "they were there before"


def test_a_second_run_keeps_the_first_policy_and_grants_nothing_twice(tmp_path: Path) -> None:
    """D6: what was there before the first run is what is kept."""
    script = init(tmp_path, *KNOWN).stdout.decode()
    register(script, tmp_path)
    (tmp_path / "policies.before.json").write_text("of the first run")
    done, _ = register(script, tmp_path)
    assert done.status == 0
    assert (tmp_path / "policies.before.json").read_text() == "of the first run"


@pytest.mark.parametrize(
    ("words", "cloud", "authority", "az_name", "environment_name"),
    [
        (["--host", "contoso.azure-api.us"], "usgov", "login.microsoftonline.us", "AzureUSGovernment", "usgovernment"),
        (["--host", "contoso.azure-api.cn"], "china", "login.partner.microsoftonline.cn", "AzureChinaCloud", "china"),
        (["--host", "a.example", "--cloud", "usgov"], "usgov", "login.microsoftonline.us", "AzureUSGovernment", "usgovernment"),
        (["--host", "contoso.azure-api.net"], None, "login.microsoftonline.com", "AzureCloud", "public"),
    ],
)  # fmt: skip
def test_each_cloud_has_its_own_endpoints(
    tmp_path: Path, words: list[str], cloud: str | None, authority: str, az_name: str, environment_name: str
) -> None:
    """D7: by --cloud, else by the host's suffix; in the configuration, the commands and the templates alike."""
    others = {"login.microsoftonline.us", "login.partner.microsoftonline.cn", "login.microsoftonline.com"} - {authority}
    for form in ("az", "bicep", "terraform"):
        done = init(tmp_path, "--tenant-id", TENANT, *words, "--registration", form, "--force")
        text = done.stdout.decode()
        assert f"https://{authority}/" in text
        assert [other for other in others if f"https://{other}/" in text] == []
        config = yaml.safe_load((tmp_path / "config.yaml").read_text())
        assert config["credentials"]["api-client"].get("cloud") == cloud
        if form == "az":
            finished, _ = register(text, tmp_path, AZ_CLOUD=az_name)
            assert finished.status == 0, finished.stderr
            assert register(text, tmp_path, AZ_CLOUD="AnotherCloud")[0].status == 1
        if form == "terraform":
            assert (
                text.count(f'environment = "{environment_name}"')
                + text.count(f'environment     = "{environment_name}"')
                == 2
            )


def test_the_terraform_template_configures_its_providers(tmp_path: Path) -> None:
    """D7: azurerm plans nothing without a `features` block, and version 4 nothing without a subscription."""
    text = init(tmp_path, *KNOWN, "--registration", "terraform").stdout.decode()
    parsed = hcl2.loads(text)
    providers = {name.strip('"'): block for one in parsed["provider"] for name, block in one.items()}
    assert set(providers) == {"azuread", "azurerm"}
    assert "features" in providers["azurerm"]
    assert "subscription_id" in providers["azurerm"]


def test_templates_are_for_registering_from_the_start(tmp_path: Path) -> None:
    """F2: what goes with registered applications comes as commands."""
    done = init(tmp_path, *KNOWN, *REGISTERED, "--registration", "bicep")
    assert (done.status, list(tmp_path.iterdir())) == (2, [])
    assert "comes with --registration az" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--name", "x'; rm -rf"],
        ["--role", "A B"],
        ["--registration", "arm"],
        ["--managed-identity", "my-machine"],
        ["--managed-identity", "system", "--federated-managed-identity", "system"],
        ["--managed-identity", "system", "--sandbox"],
        ["--listen", "8080"],
        ["--listen", "8080", "--sandbox"],
        ["--listen", "0.0.0.0:8080"],
        ["--listen", "127.0.0.1:9901"],
        ["--admin", "127.0.0.1:99999"],
        ["--admin", "nowhere", "--sandbox"],
        ["--client-id", "my client"],
        ["--scope", "api://orders/Orders.Read"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_used_exits_2(tmp_path: Path, words: list[str]) -> None:
    done = init(tmp_path, *KNOWN, *words)
    assert (done.status, done.stdout, list(tmp_path.iterdir())) == (2, b"", [])
    assert done.stderr.startswith("Usage: apim-auth-proxy init")
