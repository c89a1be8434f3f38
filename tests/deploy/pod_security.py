"""Which rules of the Pod Security Standards' level "restricted" a pod breaks. No I/O.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/, as of Kubernetes 1.34, whose rules hold earlier ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_VOLUMES: Final = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
_SYSCTLS: Final = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
_SECCOMP: Final = ("RuntimeDefault", "Localhost")


def find_violations(spec: dict[str, Any]) -> list[str]:
    """Return a sentence for each rule that a pod's spec breaks; empty for a pod that the level admits."""
    context = spec.get("securityContext", {})
    found = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    found += [
        f"volume {volume['name']} is of a type that is not permitted"
        for volume in spec.get("volumes", [])
        if not _VOLUMES & volume.keys()
    ]
    found += [f"sysctl {each['name']}" for each in context.get("sysctls", []) if each["name"] not in _SYSCTLS]
    found += _forbidden_in_context("pod", context)
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(kind, []):
            found += _container_violations(container, context)
    return found


def _container_violations(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    name, context = container["name"], container.get("securityContext", {})
    yield from _forbidden_in_context(name, context)
    if context.get("privileged"):
        yield f"{name} is privileged"
    if context.get("procMount", "Default") != "Default":
        yield f"{name} has another procMount"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{name} has a hostPort"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name} may gain privileges"
    if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield f"{name} may run as root"
    if context.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in _SECCOMP:
        yield f"{name} has no seccomp profile"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"{name} keeps capabilities"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{name} adds capabilities"
    for hook in ("livenessProbe", "readinessProbe", "startupProbe"):
        if any(container.get(hook, {}).get(way, {}).get("host") for way in ("httpGet", "tcpSocket")):
            yield f"{name} probes another host"


def _forbidden_in_context(name: str, context: dict[str, Any]) -> Iterator[str]:
    if context.get("runAsUser") == 0:
        yield f"{name} runs as root"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{name} is a host process"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined":
        yield f"{name} has no AppArmor profile"
    if context.get("seccompProfile", {}).get("type", "RuntimeDefault") not in _SECCOMP:
        yield f"{name} is without seccomp"
    selinux = context.get("seLinuxOptions", {})
    kinds = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
    if selinux.get("type", "") not in kinds or selinux.get("user") or selinux.get("role"):
        yield f"{name} has SELinux options of its own"
