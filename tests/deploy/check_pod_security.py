"""The check of Pod Security objects to what it should."""

from __future__ import annotations

import copy
from typing import Any, Final

import pytest

from tests.deploy.pod_security import find_violations

GOOD: Final[dict[str, Any]] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {"name": "a", "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
    ],
    "volumes": [{"name": "v", "secret": {}}],
}


def test_a_restricted_pod_is_admitted() -> None:
    assert find_violations(GOOD) == []


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("pod", "hostNetwork", True),
        ("pod", "hostPID", True),
        ("pod", "hostIPC", True),
        ("pod", "volumes", [{"name": "v", "hostPath": {"path": "/"}}]),
        ("pod", "initContainers", [{"name": "b"}]),
        ("pod context", "runAsNonRoot", False),
        ("pod context", "runAsUser", 0),
        ("pod context", "seccompProfile", {"type": "Unconfined"}),
        ("pod context", "sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
        ("container", "ports", [{"containerPort": 1, "hostPort": 1}]),
        ("container", "livenessProbe", {"httpGet": {"path": "/", "port": 1, "host": "10.0.0.1"}}),
        ("container context", "privileged", True),
        ("container context", "allowPrivilegeEscalation", True),
        ("container context", "runAsNonRoot", False),
        ("container context", "runAsUser", 0),
        ("container context", "procMount", "Unmasked"),
        ("container context", "capabilities", {"drop": ["NET_RAW"]}),
        ("container context", "capabilities", {"drop": ["ALL"], "add": ["NET_ADMIN"]}),
        ("container context", "seccompProfile", {"type": "Unconfined"}),
        ("container context", "appArmorProfile", {"type": "Unconfined"}),
        ("container context", "seLinuxOptions", {"type": "spc_t"}),
    ],
)
def test_what_the_standard_forbids_is_found(where: str, key: str, value: Any) -> None:
    pod = copy.deepcopy(GOOD)
    place = pod if where.startswith("pod") else pod["containers"][0]
    place = place["securityContext"] if where.endswith("context") else place
    place[key] = value
    assert find_violations(pod) != []
