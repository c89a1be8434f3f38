"""What admission policies make of a pod, by other engines than a cluster's: CEL by cel-python, strategic merge by Kustomize.

The API server and Kyverno are not run here. The expressions and patches are read from the policies as they are, so that what is
shown about the pods they make holds for them as far as the engines agree.
"""

from __future__ import annotations

import copy
import re
import subprocess
from typing import TYPE_CHECKING, Any

import celpy
import yaml
from celpy import celtypes
from celpy.adapter import json_to_cel

from tests.deploy.programs import TOOLS, Document, documents

if TYPE_CHECKING:
    from pathlib import Path


def apply_mutating_admission_policy(policy: Document, pod: Document) -> Document:
    """Return what a MutatingAdmissionPolicy makes of a pod; the pod itself where a condition does not hold."""
    if not all(_evaluate(each["expression"], pod) for each in policy["spec"].get("matchConditions", [])):
        return pod
    for mutation in policy["spec"]["mutations"]:
        pod = copy.deepcopy(pod)
        if mutation["patchType"] == "JSONPatch":
            for operation in _evaluate(mutation["jsonPatch"]["expression"], pod):
                _add(pod, operation)
        else:
            _merge(pod, _evaluate(mutation["applyConfiguration"]["expression"], pod))
    return pod


def type_paths(expression: str) -> list[str]:
    """Return the path that each object of an expression claims as its type, such as spec.volumes."""
    return re.findall(r"\bObject((?:\.\w+)*)\{", expression)


def _evaluate(expression: str, pod: Document) -> Any:
    environment = celpy.Environment()
    # The types of Kubernetes are named after the field they are for. To this engine each is just a message.
    program = environment.program(environment.compile(re.sub(r"\bObject(?:\.\w+)*\{", "Object{", expression)))
    message = celtypes.MessageType
    found = program.evaluate({"object": json_to_cel(pod), "JSONPatch": message, "Object": message})
    return _to_python(found)


def _to_python(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _to_python(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_to_python(inner) for inner in value]
    for kind, plain in ((celtypes.BoolType, bool), (celtypes.IntType, int), (celtypes.StringType, str)):
        if isinstance(value, kind):
            return plain(value)
    assert isinstance(value, bool), f"CEL could not say what this is: {value!r}"
    return value


def _add(pod: Document, operation: dict[str, Any]) -> None:
    """Apply one `add` of RFC 6902."""
    assert operation["op"] == "add"
    *parents, last = operation["path"].removeprefix("/").split("/")
    place: Any = pod
    for name in parents:
        place = place[name]
    if isinstance(place, list):
        place.insert(len(place) if last == "-" else int(last), operation["value"])
    else:
        place[last] = operation["value"]


def _merge(place: dict[str, Any], applied: dict[str, Any]) -> None:
    """Merge as server-side apply does where lists are maps by `name`, as containers and env are."""
    for name, value in applied.items():
        if isinstance(value, dict):
            _merge(place.setdefault(name, {}), value)
        elif isinstance(value, list):
            present = {each["name"]: each for each in place.setdefault(name, [])}
            for each in value:
                if each["name"] in present:
                    _merge(present[each["name"]], each)
                else:
                    place[name].append(each)
        else:
            place[name] = value


def apply_kyverno_policy(policy: Document, pod: Document, scratch: Path) -> Document:
    """Return what a patchStrategicMerge of Kyverno makes of a pod; the anchor `(name): "*"` stands for each container."""
    (rule,) = policy["spec"]["rules"]
    patch = copy.deepcopy(rule["mutate"]["patchStrategicMerge"])
    (for_each,) = patch["spec"]["containers"]
    assert for_each.pop("(name)") == "*"
    patch["spec"]["containers"] = [for_each | {"name": each["name"]} for each in pod["spec"]["containers"]]
    target = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod["metadata"]["name"]}}
    (scratch / "pod.yaml").write_text(yaml.safe_dump(pod))
    (scratch / "patch.yaml").write_text(yaml.safe_dump(target | patch))
    kustomization = {"resources": ["pod.yaml"], "patches": [{"path": "patch.yaml"}]}
    (scratch / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    done = subprocess.run([TOOLS / "kubectl", "kustomize", scratch], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = documents(done.stdout)
    return made
