"""The sidecar that a user's chart includes from the library: tests/deploy/legacy-app does, with `helm dependency build`."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml

import proxy
from tests.deploy.artefacts import LIBRARY_SCHEMA
from tests.deploy.check_chart import KUBERNETES, undescribed, validate_strictly
from tests.deploy.check_documentation import blocks
from tests.deploy.check_pod import answers, curl, sandbox_values
from tests.deploy.container import Mount, is_root, run_once, running, wait_until
from tests.deploy.kubelet import settings_of
from tests.deploy.pod_security import find_violations
from tests.deploy.programs import LIBRARY, ROOT, Document, copy_example, helm, of_kind, template
from tests.end_to_end.redirected import LOGIN, ORDERS, TOKEN, attach, made_world, write_hosts
from tests.network_namespaces import Namespace, made_namespace
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = LIBRARY.name


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_example(tmp_path_factory.mktemp("checkout"))


def pod_of(rendered: list[Document]) -> dict[str, Any]:
    (deployment,) = of_kind(rendered, "Deployment")
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return pod


def with_values(tmp_path: Path, **values: Any) -> Path:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump({NAME: values}))
    return file


def test_helm_has_nothing_to_object_to(chart: Path) -> None:
    done = helm("lint", "--strict", "--quiet", chart)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_what_is_rendered(chart: Path, version: str, tmp_path: Path) -> None:
    validate_strictly(template(chart, chart / "values.yaml", "--kube-version", version), version, tmp_path)


def test_it_is_a_native_sidecar_that_pod_security_restricted_admits(chart: Path) -> None:
    pod = pod_of(template(chart, chart / "values.yaml"))
    (sidecar,) = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert find_violations(pod) == []
    # By itself as well: whatever the pod around it says.
    assert find_violations({"initContainers": [sidecar]}) == []
    assert {mount["name"] for mount in sidecar["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_program_is_told_where_it_is(chart: Path) -> None:
    values = chart / "values.yaml"
    (program,) = pod_of(template(chart, values, "--set", f"{NAME}.port=3128"))["containers"]
    told = {each["name"]: each["value"] for each in program["env"]}
    assert told["http_proxy"] == told["HTTP_PROXY"] == "http://127.0.0.1:3128"
    assert told["no_proxy"] == told["NO_PROXY"] == "localhost,127.0.0.1,::1,.svc,.cluster.local"
    # Programs with https URLs need a CA that they trust.
    assert "https_proxy" not in told
    (program,) = pod_of(
        template(chart, values, "--set", f"{NAME}.keys.ca.secret=ca", "--set", f"{NAME}.interception.caKey=ca")
    )["containers"]
    told = {each["name"]: each["value"] for each in program["env"]}
    assert told["https_proxy"] == told["HTTPS_PROXY"] == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param("prot=1", "'prot'", id="a key that does not exist"),
        pytest.param("config.timeouts.drain_s=soon", "/config/timeouts/drain_s", id="a wrong type"),
        pytest.param("config.listeners[0].address=x", "'listeners'", id="what the templates write"),
        pytest.param(
            "config.credentials.orders-client.certificate=/keys/x/tls.crt", 'no entry "x"', id="a file of no key"
        ),
        pytest.param("interception.caKey=x", 'names "x"', id="a CA that is not there"),
        pytest.param("redirected.enabled=true", "interception.caKey", id="redirected without a CA"),
        pytest.param(
            f"redirected.enabled=true,{NAME}.keys.ca.secret=ca,{NAME}.interception.caKey=ca",
            "redirected.image",
            id="redirected without an image for the rules",
        ),
        pytest.param(
            f"redirected.enabled=true,{NAME}.redirected.port=80",
            "/redirected/port",
            id="a port that needs a capability",
        ),
        pytest.param("steered[0].host=contoso.azure-api.net", "dial: contoso.azure-api.net:443", id="no dial"),
        pytest.param(
            f"steered[0].host=a,{NAME}.steered[0].certificateKey=x",
            'certificate "x"',
            id="a certificate that is not there",
        ),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_key(chart: Path, arguments: str, said: str) -> None:
    done = helm("template", "try", chart, "--set", f"{NAME}.{arguments}")
    assert done.returncode != 0
    assert said in done.stderr


def test_every_value_is_described_and_has_a_default() -> None:
    schema = json.loads(LIBRARY_SCHEMA.read_text())
    assert list(undescribed(schema)) == []
    values = yaml.safe_load((LIBRARY / "values.yaml").read_text())
    assert values.keys() == schema["properties"].keys() - {"global"}


def test_the_library_runs_the_version_beside_it(chart: Path) -> None:
    assert yaml.safe_load((LIBRARY / "Chart.yaml").read_text())["appVersion"] == proxy.__version__
    (sidecar,) = pod_of(template(chart, chart / "values.yaml"))["initContainers"]
    assert sidecar["image"] == f"apim-auth-proxy:{proxy.__version__}"


@pytest.mark.skipif(not is_root(), reason="runs a container, so it needs root")
def test_the_rendered_sidecar_serves_its_pod(chart: Path, sandbox: dict[str, Any], tmp_path: Path) -> None:
    """On loopback alone; strangers who reach the pod's address get the probes and nothing more."""
    port, admin = free_port(), free_port()
    values = sandbox_values(sandbox, port=port, admin={"port": admin})
    # In the place of the example's, which have these names.
    (credential,) = values["config"]["credentials"].values()
    values["config"]["credentials"] = {"orders-client": credential | {"private_key": credential["certificate"]}}
    for route in values["config"]["routes"]:
        route["credential"] = "orders-client"
    rendered = template(chart, with_values(tmp_path, **values))
    pod = pod_of(rendered)
    (sidecar,) = pod["initContainers"]
    directory = sandbox["directory"]
    content = {
        "apim-auth-proxy-config": of_kind(rendered, "ConfigMap")[0]["data"],
        "apim-auth-proxy-key-clientapp": {"clientapp.pem": (directory / "clientapp.pem").read_text()},
        "apim-auth-proxy-key-sandbox": {"ca.pem": (directory / "ca.pem").read_text()},
    }
    (tmp_path / "volumes").mkdir()
    settings, _ = settings_of(pod, sidecar, content, tmp_path / "volumes")
    assert settings.user == (65532, 65532)
    with running(settings, tmp_path) as container:
        site = f"http://127.0.0.1:{admin}"
        for path in ("/startupz", "/readyz", "/livez"):
            wait_until(partial(answers, f"{site}{path}"), container.log.read_text)
        host = sandbox["api_alias"].removeprefix("https://")
        status, text = curl("--proxy", f"http://127.0.0.1:{port}", f"http://{host}/orders")
        assert status == 200
        assert json.loads(text)["token"]["present"] is True
        assert curl("--noproxy", "*", f"{site}/metrics")[0] == 403
        # Another address of this machine is where other pods would come from.
        assert curl("--noproxy", "*", f"http://127.0.0.2:{port}/")[0] == 0
        assert container.stop() == 0


def test_a_steered_pod_is_one_that_pod_security_restricted_admits(chart: Path, tmp_path: Path) -> None:
    """The program is told nothing: the API's name leads it to the proxy, which needs no capability for ports 443 and 80."""
    (shown,) = blocks("steered")
    pod = pod_of(template(chart, with_values(tmp_path, **yaml.safe_load(shown)[NAME])))
    assert pod["hostAliases"] == [{"ip": "127.0.0.2", "hostnames": ["contoso.azure-api.net"]}]
    assert pod["securityContext"]["sysctls"] == [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]
    assert find_violations(pod) == []


@pytest.fixture
def pod_network(tmp_path: Path) -> Iterator[tuple[Namespace, dict[str, Any]]]:
    """Make a pod's network, with a sandbox on its loopback address that stands for the world outside."""
    directory = tmp_path / "sandbox"
    with made_namespace() as namespace:
        command = namespace.command(sys.executable, "-m", "proxy", "sandbox", "--directory", directory)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().strip() == "sandbox ready"
                yield namespace, json.loads((directory / "sandbox.json").read_text()) | {"directory": directory}
            finally:
                process.terminate()


@pytest.mark.skipif(not is_root(), reason="runs a container, so it needs root")
def test_a_steered_pod_serves_a_program_that_knows_nothing_of_it(
    chart: Path, pod_network: tuple[Namespace, dict[str, Any]], tmp_path: Path
) -> None:
    """Under crun, read-only and without capabilities, with the rendered sysctl and hostAliases."""
    namespace, sandbox = pod_network
    host = sandbox["api_alias"].removeprefix("https://")
    authority = trustme.CA()
    leaf = authority.issue_cert(host)
    authority.cert_pem.write_to_path(tmp_path / "trusted.pem")
    values = sandbox_values(sandbox, admin={"port": 9901})
    (credential,) = values["config"]["credentials"].values()
    values["config"]["credentials"] = {"orders-client": credential | {"private_key": credential["certificate"]}}
    (route,) = (each for each in values["config"]["routes"] if host in each["hosts"])
    # A name, which the hosts file gives to the proxy itself.
    dial = f"{host}:{sandbox['api_url'].rpartition(':')[2]}"
    values["config"]["routes"] = [route | {"credential": "orders-client", "dial": dial}]
    values["keys"]["contoso"] = {"secret": "contoso-tls"}
    rendered = template(chart, with_values(tmp_path, **values, steered=[{"host": host, "certificateKey": "contoso"}]))
    pod = pod_of(rendered)
    (sidecar,) = pod["initContainers"]
    directory = sandbox["directory"]
    content = {
        "apim-auth-proxy-config": of_kind(rendered, "ConfigMap")[0]["data"],
        "apim-auth-proxy-key-clientapp": {"clientapp.pem": (directory / "clientapp.pem").read_text()},
        "apim-auth-proxy-key-sandbox": {"ca.pem": (directory / "ca.pem").read_text()},
        "apim-auth-proxy-key-contoso": {
            "tls.crt": leaf.cert_chain_pems[0].bytes().decode(),
            "tls.key": leaf.private_key_pem.bytes().decode(),
        },
    }
    for sysctl in pod["securityContext"]["sysctls"]:
        namespace.run("sh", "-c", f"echo {sysctl['value']} > /proc/sys/{sysctl['name'].replace('.', '/')}")
    hosts = namespace.files["/etc/hosts"] = tmp_path / "hosts"
    aliases = [f"{alias['ip']} {' '.join(alias['hostnames'])}\n" for alias in pod["hostAliases"]]
    hosts.write_text(f"127.0.0.1 localhost\n{''.join(aliases)}", encoding="ascii")
    (tmp_path / "volumes").mkdir()
    settings, _ = settings_of(pod, sidecar, content, tmp_path / "volumes")
    assert settings.is_read_only
    assert settings.drops_capabilities
    settings.mounts.append(Mount(hosts, "/etc/hosts", is_read_only=True))
    with running(replace(settings, network=namespace.name), tmp_path) as container:
        ask = namespace.command(
            "curl", "--silent", "--cacert", tmp_path / "trusted.pem", "--write-out", "\n%{http_code}"
        )
        resolved = [f"{host}:{port}:{pod['hostAliases'][0]['ip']}" for port in (443, 80)]
        # curl takes names below localhost for loopback by itself, and looks into no hosts file for them.
        ask += [word for each in resolved for word in ("--resolve", each)]

        def serves(scheme: str) -> bool:
            done = subprocess.run([*ask, f"{scheme}://{host}/orders"], stdout=subprocess.PIPE, text=True)
            content, _, status = done.stdout.rpartition("\n")
            return status == "200" and json.loads(content)["token"]["present"] is True

        for scheme in ("https", "http"):
            wait_until(partial(serves, scheme), container.log.read_text)
        assert container.stop() == 0


def test_a_redirected_pod_has_one_capability_and_only_before_the_program_runs(chart: Path, tmp_path: Path) -> None:
    """What Pod Security "restricted" has against it is the container that sets the rules, nothing else."""
    (shown,) = blocks("redirected")
    values = with_values(tmp_path, **yaml.safe_load(shown)[NAME])
    pod = pod_of(template(chart, values))
    rules, sidecar = pod["initContainers"]
    assert "restartPolicy" not in rules
    assert rules["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert {violation.split()[0] for violation in find_violations(pod)} == {rules["name"]}
    assert find_violations({"initContainers": [sidecar]}) == []
    for version in KUBERNETES:
        validate_strictly(template(chart, values, "--kube-version", version), version, tmp_path)


@pytest.mark.skipif(not is_root(), reason="makes networks and runs containers, so it needs root")
def test_a_redirected_pod_serves_a_program_that_knows_nothing_of_it(chart: Path, tmp_path: Path) -> None:
    """Both rendered containers under crun, one after the other, with the rendered rules: http and https, over IPv4 and IPv6."""
    world_ca, own_ca = trustme.CA(), trustme.CA()
    pair = world_ca.issue_cert("clientapp.example.test", key_type=trustme.KeyType.RSA)
    credential = {
        "tenant_id": None,  # the example's
        "token_endpoint": f"https://{LOGIN}/token",
        "client_id": "client",
        "certificate": "/keys/clientapp/tls.crt",
        "private_key": "/keys/clientapp/tls.key",
        "ca_file": "/keys/world/ca.pem",
    }
    route = {"hosts": [ORDERS], "credential": "orders-client", "scope": "orders", "ca_file": "/keys/world/ca.pem"}
    values = {
        "config": {"credentials": {"orders-client": credential}, "routes": [route]},
        "keys": {"clientapp": {"secret": "c"}, "world": {"configMap": "w"}, "ca": {"secret": "ca"}},
        "interception": {"caKey": "ca"},
        "redirected": {"enabled": True, "image": {"repository": "tools/nft", "tag": "1"}},
    }
    rendered = template(chart, with_values(tmp_path, **values))
    pod = pod_of(rendered)
    rules, sidecar = pod["initContainers"]
    content = {
        "apim-auth-proxy-config": of_kind(rendered, "ConfigMap")[0]["data"],
        "apim-auth-proxy-key-clientapp": {
            "tls.crt": pair.cert_chain_pems[0].bytes().decode(),
            "tls.key": pair.private_key_pem.bytes().decode(),
        },
        "apim-auth-proxy-key-world": {"ca.pem": world_ca.cert_pem.bytes().decode()},
        "apim-auth-proxy-key-ca": {
            "tls.crt": own_ca.cert_pem.bytes().decode(),
            "tls.key": own_ca.private_key_pem.bytes().decode(),
        },
    }
    trusted = tmp_path / "trusted.pem"
    own_ca.cert_pem.write_to_path(trusted)
    with ExitStack() as stack:
        world, network = stack.enter_context(made_world(world_ca)), stack.enter_context(made_namespace())
        attach(network, world.namespace, 6, "eth6")
        hosts = network.files["/etc/hosts"] = write_hosts(tmp_path)
        for name in ("rules", "proxy"):
            (tmp_path / name).mkdir()
        first, _ = settings_of(pod, rules, content, tmp_path / "rules")
        assert (first.user, first.capabilities) == ((0, 0), ("CAP_NET_ADMIN",))
        done = run_once(replace(first, network=network.name), tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        second, _ = settings_of(pod, sidecar, content, tmp_path / "proxy")
        assert (second.is_read_only, second.drops_capabilities, second.capabilities) == (True, True, ())
        second.mounts.append(Mount(hosts, "/etc/hosts", is_read_only=True))
        proxy_container = stack.enter_context(running(replace(second, network=network.name), tmp_path))

        def serves(family: str, scheme: str) -> bool:
            ask = ("curl", family, "--silent", "--cacert", trusted, f"{scheme}://{ORDERS}/")
            text = subprocess.run(network.command(*ask), stdout=subprocess.PIPE, text=True).stdout
            return text.startswith("{") and json.loads(text)["authorization"] == f"Bearer {TOKEN}"

        for family in ("-4", "-6"):
            for scheme in ("https", "http"):
                wait_until(partial(serves, family, scheme), proxy_container.log.read_text)
        assert proxy_container.stop() == 0
