"""The admission policies put a sidecar into labelled pods that Kubernetes takes, Pod Security admits, and that works."""

from __future__ import annotations

import re
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.deploy.admission import apply_kyverno_policy, apply_mutating_admission_policy, type_paths
from tests.deploy.check_chart import validate_strictly
from tests.deploy.check_pod import key_files
from tests.deploy.container import is_root, run_once
from tests.deploy.kubelet import settings_of
from tests.deploy.pod_security import find_violations
from tests.deploy.programs import DEPLOY, Document, documents

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["key_files"]

INJECTION: Final = DEPLOY / "kubernetes/injection"
# The first version that has MutatingAdmissionPolicy as v1, and the newest schema there is.
KUBERNETES: Final = ("1.36.0", "1.37.0")

PROGRAM: Final[dict[str, Any]] = {
    "name": "legacy",
    "image": "vendor/legacy:1",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}
BARE: Final[Document] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "orders", "labels": {"apim-auth-proxy/inject": "true"}},
    "spec": {
        "containers": [PROGRAM],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
    },
}
FULL: Final[Document] = BARE | {
    "spec": BARE["spec"]
    | {
        "containers": [
            PROGRAM | {"env": [{"name": "KEPT", "value": "1"}, {"name": "http_proxy", "value": "http://old:1"}]},
            PROGRAM | {"name": "second"},
        ],
        "initContainers": [PROGRAM | {"name": "migrate"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
}

each_pod = pytest.mark.parametrize("pod", [BARE, FULL], ids=["bare", "full"])


def policy_of(name: str) -> Document:
    found: Document = documents((INJECTION / name).read_text())[0]
    return found


@pytest.fixture(params=["mutating-admission-policy.yaml", "kyverno.yaml"])
def inject(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    policy = policy_of(request.param)
    if policy["kind"] == "MutatingAdmissionPolicy":
        return lambda pod: apply_mutating_admission_policy(policy, pod)
    return lambda pod: apply_kyverno_policy(policy, pod, tmp_path)


@each_pod
def test_an_injected_pod_is_one_that_kubernetes_takes_and_pod_security_admits(
    inject: Any, pod: Document, tmp_path: Path
) -> None:
    injected = inject(pod)
    (sidecar,) = (each for each in injected["spec"]["initContainers"] if each["name"] == "apim-auth-proxy")
    assert sidecar["restartPolicy"] == "Always"
    assert find_violations(injected["spec"]) == []
    assert find_violations({"initContainers": [sidecar]}) == []
    assert {mount["name"] for mount in sidecar["volumeMounts"]} <= {
        each["name"] for each in injected["spec"]["volumes"]
    }
    validate_strictly([injected], "1.29.0", tmp_path)


@each_pod
def test_every_program_is_told_where_it_is_and_keeps_the_rest(inject: Any, pod: Document) -> None:
    injected = inject(pod)["spec"]
    assert [each["name"] for each in injected["containers"]] == [each["name"] for each in pod["spec"]["containers"]]
    for before, after in zip(pod["spec"]["containers"], injected["containers"], strict=True):
        told = {each["name"]: each["value"] for each in after["env"]}
        assert told["http_proxy"] == told["HTTP_PROXY"] == "http://127.0.0.1:8080"
        kept = {each["name"]: each["value"] for each in before.get("env", []) if each["name"] != "http_proxy"}
        assert kept.items() <= told.items()
        assert before | {"env": None} == after | {"env": None}
    names = {each["name"] for each in injected["initContainers"]} - {"apim-auth-proxy"}
    assert names == {each["name"] for each in pod["spec"].get("initContainers", [])}
    assert {each["name"] for each in pod["spec"].get("volumes", [])} <= {each["name"] for each in injected["volumes"]}


def test_both_policies_inject_the_same(tmp_path: Path) -> None:
    native = apply_mutating_admission_policy(policy_of("mutating-admission-policy.yaml"), BARE)
    kyverno = apply_kyverno_policy(policy_of("kyverno.yaml"), BARE, tmp_path)

    def in_order(pod: Document) -> Document:
        (program,) = pod["spec"]["containers"]
        return {
            "sidecar": pod["spec"]["initContainers"],
            "volumes": sorted(pod["spec"]["volumes"], key=itemgetter("name")),
            "env": sorted(program["env"], key=itemgetter("name")),
        }

    assert in_order(native) == in_order(kyverno)


def test_a_pod_that_has_the_sidecar_gets_no_second_one() -> None:
    policy = policy_of("mutating-admission-policy.yaml")
    once = apply_mutating_admission_policy(policy, FULL)
    assert apply_mutating_admission_policy(policy, once) == once


def test_only_labelled_pods_are_matched_as_they_are_made() -> None:
    labels = {"matchLabels": {"apim-auth-proxy/inject": "true"}}
    native = policy_of("mutating-admission-policy.yaml")["spec"]["matchConstraints"]
    assert native["objectSelector"] == labels
    assert native["resourceRules"] == [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    ]
    (rule,) = policy_of("kyverno.yaml")["spec"]["rules"]
    (match,) = rule["match"]["any"]
    assert match["resources"] == {"kinds": ["Pod"], "operations": ["CREATE"], "selector": labels}


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_policy_its_binding_and_the_configuration(version: str, tmp_path: Path) -> None:
    names = ("mutating-admission-policy.yaml", "configuration.yaml")
    validate_strictly([each for name in names for each in documents((INJECTION / name).read_text())], version, tmp_path)
    policy, binding = documents((INJECTION / names[0]).read_text())
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]


def test_each_object_has_the_type_of_the_field_it_stands_in() -> None:
    """Kubernetes refuses `a: Object.b{…}`, which the engine of these tests would not notice."""
    for mutation in policy_of("mutating-admission-policy.yaml")["spec"]["mutations"]:
        (way,) = (mutation[name] for name in ("jsonPatch", "applyConfiguration") if name in mutation)
        expression = way["expression"]
        assert type_paths(expression) != []
        for field, path in re.findall(r"(\w+): Object((?:\.\w+)+)\{", expression):
            assert field == "value" or path.endswith(f".{field}"), (field, path)
        for field, path in re.findall(r"(\w+): \[\s*Object((?:\.\w+)+)\{", expression):
            assert path.endswith(f".{field}"), (field, path)


@pytest.mark.skipif(not is_root(), reason="runs a container, so it needs root")
def test_the_injected_sidecar_takes_the_configuration_and_the_key(
    inject: Any, key_files: Mapping[str, dict[str, str]], tmp_path: Path
) -> None:
    """Also in a pod without fsGroup, whose Secret belongs to root."""
    pod = inject(BARE)["spec"]
    (sidecar,) = pod["initContainers"]
    (config,) = documents((INJECTION / "configuration.yaml").read_text())
    content = {"apim-auth-proxy-config": config["data"], "apim-auth-proxy-keys": key_files["leaf"]}
    (tmp_path / "volumes").mkdir()
    checking = sidecar | {"args": ["check", *sidecar["args"][1:]]}
    settings, _ = settings_of(pod, checking, content, tmp_path / "volumes")
    done = run_once(settings, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {volume.get("configMap", {}).get("name") for volume in pod["volumes"]} >= {config["metadata"]["name"]}


def test_the_example_names_the_secret_that_is_mounted() -> None:
    text = (INJECTION / "configuration.yaml").read_text()
    secrets = re.findall(r"kubectl create secret tls (\S+)", text)
    patch = policy_of("kyverno.yaml")["spec"]["rules"][0]["mutate"]["patchStrategicMerge"]
    assert secrets == [each["secret"]["secretName"] for each in patch["spec"]["volumes"] if "secret" in each]
    assert "/keys/tls.key" in yaml.safe_load(text)["data"]["config.yaml"]
