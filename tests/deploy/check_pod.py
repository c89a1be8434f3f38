"""The rendered pod works: the proxy takes configuration and keys from what the kubelet mounts, and serves clients."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml

from tests.deploy.check_chart import VALUE_SETS, each_set
from tests.deploy.container import is_root, run_once, running, running_with_podman, wait_until
from tests.deploy.kubelet import settings_of, swap
from tests.deploy.programs import CHART, Document, of_kind, template
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.deploy.container import Settings

pytestmark = pytest.mark.skipif(not is_root(), reason="mounts volumes and runs a container, so it needs root")


@pytest.fixture(scope="module")
def key_files() -> dict[str, dict[str, str]]:
    """Return files for each kind of place that a certificate comes from; all keys are RSA, as Entra ID wants them."""
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    leaf = authority.issue_cert("try-apim-auth-proxy.apps.svc", common_name="clientapp", key_type=trustme.KeyType.RSA)
    chain, key = leaf.cert_chain_pems[0].bytes().decode(), leaf.private_key_pem.bytes().decode()
    ca, ca_key = authority.cert_pem.bytes().decode(), authority.private_key_pem.bytes().decode()
    return {
        "leaf": {"tls.crt": chain, "tls.key": key, "ca.crt": ca},
        "ca": {"tls.crt": ca, "tls.key": ca_key, "ca.crt": ca},
        "csi": {"clientapp": chain + key, "clientapp.pem": chain + key},
        "roots": {"ca.crt": ca},
        "token": {"token": "a.projected.token"},
        "admin": {"token": "0123456789abcdef0123456789abcdef"},
    }


def contents(pod: Document, rendered: list[Document], key_files: Mapping[str, dict[str, str]]) -> dict[str, Any]:
    """Return what is in each volume of the pod: the rendered ConfigMap, and keys of the kind that its source has."""
    (config,) = (each for each in of_kind(rendered, "ConfigMap") if "config.yaml" in each["data"])
    found = {"config": config["data"], "admin-token": key_files["admin"]}
    names_ca = yaml.safe_load(config["data"]["config.yaml"]).get("interception", {}).get("ca_certificate", "")
    for volume in pod["volumes"]:
        name = volume["name"]
        if name.startswith("key-"):
            kinds = {"csi": "csi", "configMap": "roots", "projected": "token", "secret": "leaf"}
            kind = next(kinds[source] for source in kinds if source in volume)
            found[name] = key_files["ca" if f"/{name.removeprefix('key-')}/" in names_ca else kind]
    return found


@each_set
def test_the_proxy_takes_the_rendered_configuration(
    values: Path, key_files: Mapping[str, dict[str, str]], tmp_path: Path
) -> None:
    """`check` reads it where the pod has it, as the pod's user, with the keys as they are mounted."""
    rendered = template(CHART, values)
    (deployment,) = of_kind(rendered, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"][0] == "run"
    checking = container | {"args": ["check", *container["args"][1:]]}
    (tmp_path / "volumes").mkdir()
    settings, _ = settings_of(pod, checking, contents(pod, rendered, key_files), tmp_path / "volumes")
    done = run_once(settings, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def curl(*arguments: str) -> tuple[int, str]:
    """Return status and content; status 0 where nothing answered."""
    command = ["curl", "--silent", "--max-time", "20", "--write-out", "\n%{http_code}", *arguments]
    content, _, status = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.rpartition("\n")
    return int(status), content


def answers(url: str) -> bool:
    return curl("--noproxy", "*", url)[0] == 200


def sandbox_values(sandbox: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return values of the chart for the sandbox's identity platform and API."""
    written = yaml.safe_load((sandbox["directory"] / "config.yaml").read_text())
    config = {name: written[name] for name in ("credentials", "routes")}
    for section in (*config["credentials"].values(), *config["routes"]):
        for name in ("certificate", "ca_file"):
            if name in section:
                section[name] = f"/keys/{'sandbox' if name == 'ca_file' else 'clientapp'}/{section[name]}"
    keys = {"clientapp": {"secret": "sandbox-client"}, "sandbox": {"configMap": "sandbox-roots"}}
    return {"config": config, "keys": keys, "image": {"tag": "test"}, **more}


def mounted(
    rendered: list[Document], sandbox: dict[str, Any], tmp_path: Path
) -> tuple[dict[str, Any], Settings, dict[str, Path]]:
    """Return the pod's container as rendered, what to run it with, and its volumes, with the sandbox's files in them."""
    (deployment,) = of_kind(rendered, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    directory = sandbox["directory"]
    content = {
        "config": of_kind(rendered, "ConfigMap")[0]["data"],
        "key-clientapp": {"clientapp.pem": (directory / "clientapp.pem").read_text()},
        "key-sandbox": {"ca.pem": (directory / "ca.pem").read_text()},
    }
    (tmp_path / "volumes").mkdir()
    settings, volumes = settings_of(pod, container, content, tmp_path / "volumes")
    return container, settings, volumes


def test_the_rendered_pod_serves_a_client_and_takes_up_what_the_kubelet_swaps(
    sandbox: dict[str, Any], tmp_path: Path
) -> None:
    """Ready by the rendered probes, a token added, a new listener after a swap of the ConfigMap, and exit 0 after SIGTERM."""
    forward, admin, reverse = free_port(), free_port(), free_port()
    alias = sandbox["api_alias"]
    values = sandbox_values(sandbox, forward={"port": forward}, admin={"port": admin})
    values["config"]["timeouts"] = {"drain_delay_s": 0}

    def render(**more: Any) -> list[Document]:
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values | more))
        return template(CHART, file)

    container, settings, volumes = mounted(render(), sandbox, tmp_path)
    assert settings.is_read_only
    assert settings.drops_capabilities
    with running(settings, tmp_path) as proxy:
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for kind in ("startup", "liveness", "readiness"):
            probe = container[f"{kind}Probe"]["httpGet"]
            url = f"http://127.0.0.1:{ports[probe['port']]}{probe['path']}"
            wait_until(partial(answers, url), proxy.log.read_text)
        status, text = curl("--proxy", f"http://127.0.0.1:{forward}", f"http://{alias.removeprefix('https://')}/orders")
        assert status == 200
        assert json.loads(text)["token"]["present"] is True
        done = proxy.run("check", "--config", "/etc/apim-auth-proxy/config.yaml", "--online")
        assert done.returncode == 0, done.stdout + done.stderr

        again = render(reverse=[{"name": "orders", "port": reverse, "upstream": alias}])
        swap(volumes["config"], of_kind(again, "ConfigMap")[0]["data"], 0o644, 65532)
        base = f"http://127.0.0.1:{reverse}"
        wait_until(partial(answers, f"{base}/orders"), proxy.log.read_text)
        assert proxy.stop() == 0


def test_the_rendered_pod_serves_a_client_under_podman(sandbox: dict[str, Any], tmp_path: Path) -> None:
    """The rendered security context and mounts, as a container engine applies them; exit 0 after SIGTERM."""
    forward, admin = free_port(), free_port()
    values = sandbox_values(sandbox, forward={"port": forward}, admin={"port": admin})
    values["config"]["timeouts"] = {"drain_delay_s": 0}
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    _, settings, _ = mounted(template(CHART, file), sandbox, tmp_path)
    assert (settings.is_read_only, settings.drops_capabilities, settings.may_gain_privileges) == (True, True, False)
    log = tmp_path / "podman.log"
    with running_with_podman(settings, tmp_path) as podman:
        wait_until(partial(answers, f"http://127.0.0.1:{admin}/readyz"), log.read_text)
        host = sandbox["api_alias"].removeprefix("https://")
        status, text = curl("--proxy", f"http://127.0.0.1:{forward}", f"http://{host}/orders")
        assert status == 200, log.read_text()
        assert json.loads(text)["token"]["present"] is True
        podman.terminate()
        assert podman.wait(60) == 0, log.read_text()


def test_a_value_set_is_there_for_each_source_of_keys() -> None:
    sources = {
        source
        for values in VALUE_SETS
        for key in yaml.safe_load(values.read_text()).get("keys", {}).values()
        for source in key
    }
    schema = json.loads((CHART / "values.schema.json").read_text())
    (entry,) = schema["properties"]["keys"]["patternProperties"].values()
    assert sources == entry["properties"].keys()
