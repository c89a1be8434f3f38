"""The chart: every set of values gives manifests that Kubernetes takes and Pod Security "restricted" admits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

import proxy
from tests.deploy.artefacts import SCHEMA
from tests.deploy.network_policy import admits_egress
from tests.deploy.pod_security import find_violations
from tests.deploy.programs import CHART, documents, helm, of_kind, template

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUE_SETS: Final = sorted((Path(__file__).parent / "values").glob("*.yaml"), key=lambda path: path.name)
LEAST: Final = VALUE_SETS[0].parent / "secret.yaml"
EVERYTHING: Final = LEAST.with_name("everything.yaml")
# The chart's kubeVersion, and the newest schema there is.
KUBERNETES: Final = ("1.29.0", "1.37.0")
# Kinds that extensions of Kubernetes bring, whose schemas are not at hand.
EXTENSIONS: Final = {
    "Certificate": "cert-manager.io/v1",
    "Bundle": "trust.cert-manager.io/v1alpha1",
    "SecretProviderClass": "secrets-store.csi.x-k8s.io/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
}

each_set = pytest.mark.parametrize("values", VALUE_SETS, ids=lambda path: path.stem)


def test_there_are_at_least_eight_sets_of_values() -> None:
    assert len(VALUE_SETS) >= 8


@each_set
def test_helm_has_nothing_to_object_to(values: Path) -> None:
    done = helm("lint", "--strict", "--quiet", CHART, "--values", values)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout + done.stderr == ""


@each_set
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_what_is_rendered(values: Path, version: str, tmp_path: Path) -> None:
    rendered = template(CHART, values, "--kube-version", version)
    for document in rendered:
        if document["kind"] in EXTENSIONS:
            assert document["apiVersion"] == EXTENSIONS[document["kind"]]
    own = [document for document in rendered if document["kind"] not in EXTENSIONS]
    assert {"Deployment", "Service", "ConfigMap", "ServiceAccount"} <= {document["kind"] for document in own}
    validate_strictly(own, version, tmp_path)


def validate_strictly(manifests: list[dict[str, Any]], version: str, scratch: Path) -> None:
    file = scratch / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", "--kubernetes-version", version, str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # A kind without a schema is a mere warning to it.
    assert "Couldn't find" not in done.stdout + done.stderr


@each_set
def test_pod_security_restricted_admits_every_pod(values: Path) -> None:
    (deployment,) = of_kind(template(CHART, values), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert find_violations(pod) == []
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


@each_set
def test_names_in_a_pod_lead_somewhere(values: Path) -> None:
    """Mounts name volumes, probes and policies name ports, selectors find the pods: what no schema sees."""
    rendered = template(CHART, values)
    (deployment,) = of_kind(rendered, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness", "liveness")} <= ports
    for service in of_kind(rendered, "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} == ports - {"admin"}
    for budget in of_kind(rendered, "PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for policy in of_kind(rendered, "NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} <= ports
    made = {document["spec"]["secretName"] for document in of_kind(rendered, "Certificate")}
    mounted = {volume.get("secret", {}).get("secretName") for volume in pod["volumes"]}
    assert made <= mounted


def test_a_drained_pod_has_the_time_it_is_told_to_take() -> None:
    """12.5 s in which connections are still taken, 45 s for exchanges, and some for itself."""
    (deployment,) = of_kind(template(CHART, EVERYTHING), "Deployment")
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 13 + 45 + 10
    (deployment,) = of_kind(template(CHART, LEAST), "Deployment")
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 5 + 30 + 10


def test_two_replicas_are_spread_and_kept() -> None:
    rendered = template(CHART, LEAST)
    (deployment,) = of_kind(rendered, "Deployment")
    assert deployment["spec"]["replicas"] == 2
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert of_kind(rendered, "PodDisruptionBudget")[0]["spec"]["maxUnavailable"] == 1


def test_autoscaling_takes_the_place_of_replicas() -> None:
    rendered = template(CHART, EVERYTHING)
    assert "replicas" not in of_kind(rendered, "Deployment")[0]["spec"]
    (autoscaler,) = of_kind(rendered, "HorizontalPodAutoscaler")
    assert autoscaler["spec"]["metrics"][0]["resource"]["name"] == "cpu"
    assert (autoscaler["spec"]["minReplicas"], autoscaler["spec"]["maxReplicas"]) == (2, 10)


# Who may connect, and where to


@each_set
def test_no_value_set_lets_the_proxy_reach_the_nodes_metadata(values: Path) -> None:
    for policy in of_kind(template(CHART, values), "NetworkPolicy"):
        for port in (53, 80, 443, 8443):
            assert not admits_egress(policy, "169.254.169.254", port)
            assert not admits_egress(policy, "fd00:ec2::254", port)


def test_only_names_and_443_are_reached() -> None:
    (policy,) = of_kind(template(CHART, LEAST), "NetworkPolicy")
    assert admits_egress(policy, "20.1.2.3", 443)
    assert admits_egress(policy, "2603:1030::1", 443)
    assert not admits_egress(policy, "20.1.2.3", 80)
    assert not admits_egress(policy, "10.0.0.1", 6443)
    assert admits_egress(policy, "169.254.20.10", 53, "UDP")
    assert not admits_egress(policy, "20.1.2.3", 53, "UDP")


def test_only_labelled_pods_may_connect() -> None:
    (policy,) = of_kind(template(CHART, LEAST), "NetworkPolicy")
    (rule,) = policy["spec"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"apim-auth-proxy/client": "true"}}}]
    assert rule["ports"] == [{"port": "forward", "protocol": "TCP"}]


def test_an_empty_list_of_clients_would_be_everybody_and_is_refused() -> None:
    refused(["--set-json", "networkPolicy.clients=[]"], "/networkPolicy/clients")
    refused(["--set-json", "networkPolicy.clients=[{}]"], "/networkPolicy/clients/0")


# What is refused


def refused(arguments: list[str], *said: str, values: Path = LEAST) -> None:
    done = helm("template", "try", CHART, "--values", values, *arguments)
    assert done.returncode != 0
    for part in said:
        assert part in done.stderr, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="replicas"),
        pytest.param(["--set", "autoscaling.enabled=true,replicas=1"], id="autoscaling"),
    ],
)
def test_replicas_with_an_interception_ca_each_are_refused_with_a_sentence(arguments: list[str]) -> None:
    sentence = "interception.enabled with more than one replica needs interception.caKey"
    refused(["--set", "interception.enabled=true", *arguments], sentence, "set replicas to 1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param("replica=3", "'replica'", id="a key that does not exist"),
        pytest.param(
            "config.timeouts.drain_s=soon", "/config/timeouts/drain_s", id="a wrong type in the configuration"
        ),
        pytest.param("config.other_hosts=pass", "/config/other_hosts", id="a wrong word in the configuration"),
        pytest.param("config.admin.address=0.0.0.0:1", "'admin'", id="what the chart writes"),
        pytest.param("replicas=0", "/replicas", id="no pods"),
        pytest.param("forward.port=80", "/forward/port", id="a port that needs privileges"),
        pytest.param("image.digest=latest", "/image/digest", id="a digest that is none"),
        pytest.param("keys.clientapp.configMap=x", "/keys/clientapp", id="a key from two places"),
        pytest.param("keys.Client.secret=x", "'Client'", id="a key whose name is no volume's"),
        pytest.param("secretEnv.A.secret=x", "/secretEnv/A", id="half a Secret"),
        pytest.param("networkPolicy.enabled=no-thanks", "/networkPolicy/enabled", id="neither true nor false"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_key(arguments: str, said: str) -> None:
    refused(["--set", arguments], "values don't meet the specifications of the schema", said)


def test_without_values_the_missing_keys_are_named() -> None:
    done = helm("template", "try", CHART)
    assert "missing properties 'credentials', 'routes'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param("networkPolicy.enabled=false", "Every pod of the cluster could use", id="no access control"),
        pytest.param(
            "config.clients[0].name=a",
            "config.clients needs admin.token.secret",
            id="an admin site that anyone reaches",
        ),
        pytest.param("forward.enabled=false", "Nothing would be listened on", id="no listener"),
        pytest.param("podMonitor.enabled=true", "needs admin.token.secret", id="metrics without a token"),
        pytest.param("podMonitor.enabled=true,admin.token.secret=a", "networkPolicy.monitoring", id="out of reach"),
        pytest.param("interception.enabled=true,interception.caKey=x", 'names "x"', id="a CA that is not there"),
        pytest.param("forward.tlsKey=x", 'names "x"', id="a certificate that is not there"),
        pytest.param("keys=null", "keys has no entry", id="a file of no key"),
        pytest.param("state.existingClaim=x", "keeps the CA of one proxy", id="a volume for two"),
        pytest.param("admin.port=8080", "have to differ", id="a port twice"),
        pytest.param("interception.trust.configMap.enabled=true", "the PEM", id="nothing to trust"),
        pytest.param("interception.trust.bundle.enabled=true", "bundle.secret", id="nothing to distribute"),
        pytest.param("autoscaling.enabled=true,autoscaling.minReplicas=7", "is above", id="more than the most"),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_a_sentence(arguments: str, said: str) -> None:
    refused(["--set", arguments], said)


# Words


def undescribed(schema: Any, path: str = "") -> Iterator[str]:
    """Yield each property of a schema that nothing describes."""
    if isinstance(schema, dict):
        for kind in ("properties", "patternProperties"):
            for name, of in schema.get(kind, {}).items():
                if not of.get("description"):
                    yield f"{path}/{name}"
        for name, of in schema.items():
            yield from undescribed(of, f"{path}/{name}")
    elif isinstance(schema, list):
        for of in schema:
            yield from undescribed(of, path)


def test_every_value_is_described() -> None:
    schema = json.loads(SCHEMA.read_text())
    assert list(undescribed(schema)) == []
    assert list(undescribed({"properties": {"a": {"items": {"properties": {"b": {}}}}}})) != []


def test_every_default_has_a_place_in_the_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values.keys() == json.loads(SCHEMA.read_text())["properties"].keys() - {"global"}


@each_set
def test_the_notes_say_how_to_try_it(values: Path) -> None:
    done = helm("install", "--dry-run=client", "try", CHART, "--namespace", "apps", "--values", values)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert "exec deployment/try-apim-auth-proxy -- \\\n     apim-auth-proxy check" in notes
    forward = yaml.safe_load(values.read_text()).get("forward", {})
    assert ("curl -sS -i --proxy" in notes) == (forward.get("enabled", True) and "tlsKey" not in forward)
    assert "<no value>" not in notes
    assert "%!" not in notes


def test_the_chart_installs_the_version_beside_it() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == proxy.__version__


def test_alerts_and_dashboard_arrive_as_they_are() -> None:
    rendered = template(CHART, EVERYTHING)
    (rule,) = of_kind(rendered, "PrometheusRule")
    assert rule["spec"] == documents((CHART / "files/alerts.yml").read_text())[0]
    (board,) = (each for each in of_kind(rendered, "ConfigMap") if each["metadata"]["name"].endswith("-dashboard"))
    text = (CHART / "files/dashboard.json").read_text()
    assert json.loads(board["data"]["apim-auth-proxy.json"]) == json.loads(text)
    # The alerts ask for this job.
    (monitor,) = of_kind(rendered, "PodMonitor")
    relabelled = monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]
    assert {"targetLabel": "job", "replacement": "apim-auth-proxy"} in relabelled


def test_a_ca_by_cert_manager_may_sign_for_the_routes_alone() -> None:
    certificates = {
        each["metadata"]["name"]: each["spec"] for each in of_kind(template(CHART, EVERYTHING), "Certificate")
    }
    ca = certificates["try-apim-auth-proxy-interception-ca"]
    assert ca["isCA"] is True
    assert ca["nameConstraints"]["critical"] is True
    permitted = ca["nameConstraints"]["permitted"]["dnsDomains"]
    assert permitted == ["apis.contoso.com", "contoso.azure-api.net", "api.internal.example"]
    assert "isCA" not in certificates["try-apim-auth-proxy-serving"]
