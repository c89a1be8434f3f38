"""The compose file: docker-compose takes it, its commands make its files, and its topology leaves one way out, the proxy.

The topology is replayed in network namespaces, with the proxy under crun as the file says. The sandbox is at the proxy's own
loopback addresses, because it listens on no others; a server at an address of the internet stands for everything else.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.deploy.container import Mount, Settings, is_root, running, wait_until
from tests.deploy.namespaces import INTERNET, Networks, made_networks
from tests.deploy.programs import DEPLOY, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPOSE: Final = DEPLOY / "compose"
# The image's user (Dockerfile).
USER: Final = 65532

needs_root = pytest.mark.skipif(not is_root(), reason="makes network namespaces and runs a container, so it needs root")


def resolved(directory: Path) -> dict[str, Any]:
    """Return what docker-compose makes of the file in a directory."""
    done = subprocess.run(["docker-compose", "config"], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def test_docker_compose_takes_the_file() -> None:
    done = subprocess.run(["docker-compose", "config", "-q"], cwd=COMPOSE, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_the_proxy_has_a_way_out() -> None:
    compose = resolved(COMPOSE)
    outside = {name for name, network in compose["networks"].items() if not network.get("internal")}
    assert [name for name, of in compose["services"].items() if outside & of["networks"].keys()] == ["proxy"]
    assert not any("ports" in of for of in compose["services"].values())


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Copy the directory, and run the commands that the file begins with."""
    directory = tmp_path / "compose"
    shutil.copytree(COMPOSE, directory)
    header = (directory / "compose.yaml").read_text().partition("services:")[0]
    lines = [line for line in re.findall(r"^#   (.*)$", header, re.MULTILINE) if not line.startswith("docker ")]
    assert len(lines) == 4
    proxy = f"{shlex.quote(sys.executable)} -m proxy"
    script = "\n".join(lines).replace("sudo ", "").replace("apim-auth-proxy", proxy)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", "-ec", script], cwd=directory, check=True, capture_output=True, env=environment)
    return directory


def proxy_settings(compose: dict[str, Any], state: Path, arguments: list[str], network: str | None) -> Settings:
    """Return how Docker runs the service `proxy`; a new volume has the owner that its directory has in the image."""
    service = compose["services"]["proxy"]
    state.mkdir()
    os.chown(state, USER, USER)
    mounts = []
    for volume in service["volumes"]:
        source, inside, mode = volume.split(":")
        mounts.append(Mount(state if source == "state" else Path(source), inside, mode == "ro"))
    for secret in service["secrets"]:
        file = Path(compose["secrets"][secret["source"]]["file"])
        mounts.append(Mount(file, f"/run/secrets/{secret['source']}", is_read_only=True))
    return Settings(
        arguments=arguments,
        mounts=mounts,
        user=(USER, USER),
        is_read_only=service["read_only"],
        drops_capabilities=service["cap_drop"] == ["ALL"],
        may_gain_privileges="no-new-privileges:true" not in service["security_opt"],
        network=network,
    )


@needs_root
def test_the_key_belongs_to_the_images_user_alone(prepared: Path) -> None:
    key = (prepared / "secrets/clientapp.key").stat()
    assert (key.st_uid, key.st_gid, key.st_mode & 0o7777) == (USER, USER, 0o400)


@needs_root
def test_the_proxy_takes_configuration_and_key_as_they_are_mounted(prepared: Path, tmp_path: Path) -> None:
    arguments = ["check", "--config", "/etc/apim-auth-proxy/config.yaml"]
    settings = proxy_settings(resolved(prepared), tmp_path / "state", arguments, None)
    with running(settings, tmp_path) as check:
        assert check.process.wait() == 0, check.log.read_text()
        assert "warning" not in check.log.read_text(), check.log.read_text()


@contextmanager
def started(command: list[str], until: str) -> Iterator[None]:
    """Run a program until the block ends, from the line on that says that it is ready."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert any(until in line for line in process.stdout)
            yield
        finally:
            process.terminate()


def write_sandbox_into(directory: Path, sandbox: Path) -> str:
    """Put the sandbox's tenant, client, key and API into the configuration, and return the host of the API."""
    written = yaml.safe_load((sandbox / "config.yaml").read_text())
    shown = yaml.safe_load((directory / "config/config.yaml").read_text())
    (credential,) = written["credentials"].values()
    kept = shown["credentials"]["orders-client"]
    credential |= {name: kept[name] for name in ("certificate", "private_key")}
    (route,) = (each for each in written["routes"] if "dial" in each)
    shown |= {"credentials": {"orders-client": credential}, "routes": [route | {"credential": "orders-client"}]}
    (directory / "config/config.yaml").write_text(yaml.safe_dump(shown))
    shutil.copy(sandbox / "ca.pem", directory / "config")
    pem = (sandbox / "clientapp.pem").read_text()
    blocks = re.findall(r"-----BEGIN .*?-----END [A-Z ]+-----\n", pem, re.DOTALL)
    (directory / "config/clientapp.crt").write_text("".join(block for block in blocks if "CERTIFICATE" in block))
    # Written in place: owner and mode stay what the file's own commands made them.
    (directory / "secrets/clientapp.key").write_text("".join(block for block in blocks if "PRIVATE KEY" in block))
    host: str = route["hosts"][0]
    return host


def curl_of(
    networks: Networks, service: str, hosts: Path, environment: dict[str, str], *arguments: str
) -> tuple[int, str]:
    """Run curl where a service is; return the status, 0 where nothing answered, and the content."""
    command = ["env", "-i", "PATH=/usr/bin:/bin", *(f"{name}={value}" for name, value in environment.items())]
    command += ["curl", "--silent", "--max-time", "10", "--write-out", "\n%{http_code}", *arguments]
    done = subprocess.run(networks.command(service, *command, hosts=hosts), stdout=subprocess.PIPE, text=True)
    content, _, status = done.stdout.rpartition("\n")
    return int(status), content


@needs_root
def test_the_program_reaches_the_api_through_the_proxy_and_nothing_else(prepared: Path, tmp_path: Path) -> None:
    compose = resolved(prepared)
    sandbox = tmp_path / "sandbox"
    internet = f"http://{INTERNET}:8000/"
    with made_networks(compose) as networks:
        server = [sys.executable, "-u", "-m", "http.server", "--bind", INTERNET, "8000", "--directory", "/var/empty"]
        server = ["ip", "netns", "exec", networks.networks["outside"], *server]
        sandbox_program = networks.command(
            "proxy", sys.executable, "-m", "proxy", "sandbox", "--directory", str(sandbox)
        )
        with started(server, "Serving HTTP"), started(sandbox_program, "sandbox ready"):
            host = write_sandbox_into(prepared, sandbox)
            arguments = ["run", "--config", "/etc/apim-auth-proxy/config.yaml"]
            settings = proxy_settings(compose, tmp_path / "state", arguments, networks.services["proxy"])
            hosts = tmp_path / "hosts"
            hosts.write_text(f"127.0.0.1 localhost\n{networks.addresses['proxy', 'inside']} proxy\n")
            # The sandbox's API is below .localhost, which NO_PROXY exempts.
            variables = {
                name: value
                for name, value in compose["services"]["legacy"]["environment"].items()
                if name.lower() != "no_proxy"
            }
            with running(settings, tmp_path) as proxy:
                wait_until(lambda: _answers(networks, hosts), proxy.log.read_text)

                # Through the proxy, with the variables of the file: a token is added.
                status, text = curl_of(networks, "legacy", hosts, variables, f"http://{host}/orders")
                assert status == 200, proxy.log.read_text()
                assert json.loads(text)["token"]["present"] is True
                # Any other host: the proxy refuses it.
                status, text = curl_of(networks, "legacy", hosts, variables, internet)
                assert (status, json.loads(text)["status"]) == (403, 403)
                # Past the proxy: there is no way, to the internet, the API, or the proxy's own admin site.
                api = json.loads((sandbox / "sandbox.json").read_text())["api_url"]
                address = networks.addresses["proxy", "inside"]
                for url in (
                    internet,
                    api,
                    f"http://{address}:9901/livez",
                    f"https://{address}:{api.rpartition(':')[2]}/",
                ):
                    assert curl_of(networks, "legacy", hosts, {}, "--insecure", url)[0] == 0, url
                # The proxy itself does have these ways, so it is the network that keeps the program from them.
                assert curl_of(networks, "proxy", hosts, {}, internet)[0] != 0
                assert curl_of(networks, "proxy", hosts, {}, "--insecure", api)[0] != 0
                assert proxy.stop() == 0


def _answers(networks: Networks, hosts: Path) -> bool:
    return curl_of(networks, "proxy", hosts, {}, "http://127.0.0.1:9901/readyz")[0] == 200
