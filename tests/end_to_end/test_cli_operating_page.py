"""docs/operating.md, done: its tried commands in a real shell, its Kubernetes environment as a configuration, its image's too."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from proxy.config.one_route import ROUTE_OPTIONS
from tests.end_to_end.programs import COMMAND, ROOT, environment, run_program
from tests.ports import free_port

PAGE = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")

# A page's worth of commands, on a busy machine.
SCRIPT_S = 120.0


def shell(script: str, directory: Path) -> tuple[int, str, str]:
    """Runs a script that stops at the first error, with ports of its own in place of the usual ones, and ends what it began."""
    listener, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    script = script.replace("init --sandbox", f"init --sandbox --listen {listener} --admin {admin}")
    script = script.replace("127.0.0.1:8080", listener).replace("127.0.0.1:9901", admin)
    script = script.replace("127.0.0.1:8090", f"127.0.0.1:{free_port()}").replace(
        "127.0.0.1:9902", f"127.0.0.1:{free_port()}"
    )
    ending = "trap 'status=$?; kill $(jobs -p) 2>/dev/null || true; wait; exit $status' EXIT\n"
    environ = environment(PATH=f"{Path(COMMAND).parent}:{environment()['PATH']}")
    done = run_program(
        ["bash", "-eu", "-c", ending + script], environ=environ, directory=directory, patience_s=SCRIPT_S
    )
    return done.status, done.stdout.decode(), done.stderr


def test_everything_that_is_said_to_be_tried(tmp_path: Path) -> None:
    tried = re.findall(r"^Tried:\n\n```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(tried) == 7
    status, said, talk = shell("echo --\n".join(tried), tmp_path)
    assert status == 0, said + talk
    first, started, used, pac, checked, reloaded, ended = said.split("--\n")
    assert first.startswith("HTTP/1.1 200 ")
    assert started == reloaded == ended == ""
    assert used.splitlines()[0] == "200"
    assert used.splitlines()[1].startswith("http://127.0.0.1:")
    assert "contoso.azure-api.localhost" in pac
    assert "options and variables loads" in checked
    assert "api://orders/.default" in checked
    assert "drain" in (tmp_path / "proxy.log").read_text()


def test_what_the_readme_tells_a_newcomer_to_type(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```sh\n(apim-auth-proxy init --sandbox.*?)^```$", README, re.MULTILINE | re.DOTALL)
    status, said, talk = shell(block, tmp_path)
    assert status == 0, said + talk
    assert said.startswith("HTTP/1.1 200 ")


def test_the_pod_is_a_configuration_that_loads(tmp_path: Path) -> None:
    (manifest,) = re.findall(r"^```yaml\n(apiVersion.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    spec = yaml.safe_load(manifest)["spec"]
    (sidecar,) = spec["initContainers"]
    variables = {each["name"]: str(each["value"]) for each in sidecar["env"]}
    assert set(variables) <= {option.variable for option in ROUTE_OPTIONS}
    run_program([COMMAND, "cert", "new", "--out-certificate", "tls.crt", "--out-key", "tls.key"], directory=tmp_path)
    (tmp_path / "admin-token").write_text("a" * 32)
    (tmp_path / "admin-token").chmod(0o600)
    values = {name: value.replace("/keys/", f"{tmp_path}/") for name, value in variables.items()}
    done = run_program([COMMAND, "explain", "https://contoso.azure-api.net/"], environ=environment(**values))
    assert (done.status, done.stderr) == (0, "")
    probes = {sidecar[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"/startupz", "/readyz", "/livez"}


def test_every_variable_and_option_on_the_page_exists() -> None:
    known = {option.variable for option in ROUTE_OPTIONS} | {"APIM_AUTH_PROXY_CONFIG", "APIM_AUTH_PROXY_"}
    assert set(re.findall(r"APIM_AUTH_PROXY_[A-Z_]*", PAGE)) - known == set()
