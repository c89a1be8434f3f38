"""Networks of containers, made of network namespaces, bridges and veth pairs as Docker makes them. Runs programs; needs root.

An internal network is one without a way out: its containers have no default route. Every other network has an address of the
internet behind it.
"""

from __future__ import annotations

import subprocess
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# TEST-NET-3 (RFC 5737) stands for the internet.
INTERNET: Final = "203.0.113.10"


@dataclass(frozen=True, slots=True)
class Networks:
    """What was made: the namespace of each service and network, and each service's address in each of its networks."""

    services: dict[str, str]
    networks: dict[str, str]
    addresses: dict[tuple[str, str], str]

    def command(self, service: str, *arguments: str, hosts: Path | None = None) -> list[str]:
        """Return the command that runs a program where a service is, with a hosts file of its own."""
        inside = ["ip", "netns", "exec", self.services[service]]
        if hosts is None:
            return [*inside, *arguments]
        return [*inside, "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$0" "$@"', *arguments]


@contextmanager
def made_networks(compose: dict[str, Any]) -> Iterator[Networks]:
    """Make the networks of a compose file; whatever happens, nothing of them is left."""
    run = uuid.uuid4().hex[:6]
    made = Networks({}, {}, {})
    with ExitStack() as stack:
        for name in compose["services"]:
            made.services[name] = _add_namespace(stack, f"aap-{run}-{name}")
        for index, (name, network) in enumerate(compose["networks"].items()):
            is_internal = bool((network or {}).get("internal"))
            namespace = made.networks[name] = _add_namespace(stack, f"aap-{run}-net-{name}")
            prefix = f"172.30.{index}"
            _ip(namespace, "link", "add", "bridge", "type", "bridge")
            _ip(namespace, "address", "add", f"{prefix}.1/24", "dev", "bridge")
            _ip(namespace, "link", "set", "bridge", "up")
            if not is_internal:
                _ip(namespace, "address", "add", f"{INTERNET}/32", "dev", "lo")
            members = [each for each, of in compose["services"].items() if name in of["networks"]]
            for number, service in enumerate(members, start=2):
                made.addresses[service, name] = f"{prefix}.{number}"
                _connect(namespace, made.services[service], number, index, f"{prefix}.{number}")
                if not is_internal:
                    _ip(made.services[service], "route", "add", "default", "via", f"{prefix}.1")
        yield made


def _connect(network: str, service: str, number: int, index: int, address: str) -> None:
    port, interface = f"port{number}", f"eth{index}"
    _ip(network, "link", "add", port, "type", "veth", "peer", "name", interface, "netns", service)
    _ip(network, "link", "set", port, "master", "bridge", "up")
    _ip(service, "address", "add", f"{address}/24", "dev", interface)
    _ip(service, "link", "set", interface, "up")


def _add_namespace(stack: ExitStack, name: str) -> str:
    subprocess.run(["ip", "netns", "add", name], check=True)
    stack.callback(subprocess.run, ["ip", "netns", "delete", name])
    _ip(name, "link", "set", "lo", "up")
    return name


def _ip(namespace: str, *arguments: str) -> None:
    subprocess.run(["ip", "-netns", namespace, *arguments], check=True)
