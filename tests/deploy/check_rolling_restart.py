"""Two rendered pods behind a load balancer, HAProxy with health checks on /readyz, are replaced under load: no request fails.

HAProxy stands for the Service and its endpoints: it, too, hears from /readyz with a delay that a pod no longer takes connections.
"""

from __future__ import annotations

import http.client
import subprocess
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.deploy.check_pod import answers, sandbox_values
from tests.deploy.container import Container, Settings, is_root, running, wait_until
from tests.deploy.kubelet import settings_of
from tests.deploy.programs import CHART, of_kind, template
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not is_root(), reason="mounts volumes and runs containers, so it needs root")

# Of each kind: connections of their own, and one that is kept.
CLIENTS: Final = 2


@dataclass(frozen=True, slots=True)
class Pod:
    settings: Settings
    port: int
    admin: int

    @property
    def readiness(self) -> str:
        return f"http://127.0.0.1:{self.admin}/readyz"


def make_pod(sandbox: dict[str, Any], scratch: Path) -> Pod:
    """Render the chart with ports of the pod's own, since both share this machine's addresses."""
    scratch.mkdir()
    port, admin = free_port(), free_port()
    file = scratch / "values.yaml"
    file.write_text(yaml.safe_dump(sandbox_values(sandbox, forward={"port": port}, admin={"port": admin})))
    rendered = template(CHART, file)
    (deployment,) = of_kind(rendered, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    directory = sandbox["directory"]
    content = {
        "config": of_kind(rendered, "ConfigMap")[0]["data"],
        "key-clientapp": {"clientapp.pem": (directory / "clientapp.pem").read_text()},
        "key-sandbox": {"ca.pem": (directory / "ca.pem").read_text()},
    }
    (scratch / "volumes").mkdir()
    settings, _ = settings_of(pod, pod["containers"][0], content, scratch / "volumes")
    return Pod(settings, port, admin)


@contextmanager
def balanced(pods: list[Pod], port: int, scratch: Path) -> Iterator[None]:
    servers = "\n".join(f"  server pod{n} 127.0.0.1:{pod.port} check port {pod.admin}" for n, pod in enumerate(pods))
    file = scratch / "haproxy.cfg"
    file.write_text(f"""
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen service
  bind 127.0.0.1:{port}
  balance roundrobin
  option httpchk GET /readyz
  timeout check 5s
  default-server inter 200ms fall 1 rise 1
{servers}
""")
    process = subprocess.Popen(["haproxy", "-db", "-f", str(file)])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@dataclass(slots=True)
class Load:
    """Clients that ask without a pause, and what came of it."""

    port: int
    target: str
    statuses: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def ask(self, *, keeps_connection: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.is_over.is_set():
            try:
                connection.request("GET", self.target)
                response = connection.getresponse()
                response.read()
                self.statuses.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                kind = "kept" if keeps_connection else "own"
                self.failures.append(f"{kind} connection: {error!r}")
                connection.close()
            if not keeps_connection:
                connection.close()
        connection.close()


@contextmanager
def under_load(load: Load) -> Iterator[None]:
    threads = [
        threading.Thread(target=load.ask, kwargs={"keeps_connection": kept})
        for kept in (False, True)
        for _ in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        load.is_over.set()
        for thread in threads:
            thread.join()


def ready(pod: Pod, container: Container) -> None:
    wait_until(partial(answers, pod.readiness), container.log.read_text)


def test_a_rolling_restart_under_load_fails_no_request(sandbox: dict[str, Any], tmp_path: Path) -> None:
    pods = [make_pod(sandbox, tmp_path / f"pod{n}") for n in range(2)]
    port = free_port()
    host = sandbox["api_alias"].removeprefix("https://")
    load = Load(port, f"http://{host}/orders")
    with ExitStack() as stack:
        present = [stack.enter_context(running(pod.settings, tmp_path)) for pod in pods]
        for pod, container in zip(pods, present, strict=True):
            ready(pod, container)
        stack.enter_context(balanced(pods, port, tmp_path))
        wait_until(partial(_serves, load), lambda: "HAProxy sends nothing on")
        with under_load(load):
            for pod, container in zip(pods, present, strict=True):
                assert container.stop() == 0
                replacement = stack.enter_context(running(pod.settings, tmp_path))
                ready(pod, replacement)
                # HAProxy has found it, too: only then may the next one go.
                wait_until(partial(_has_served, replacement, host), replacement.log.read_text)
    assert load.failures == [], f"{Counter(load.failures)} beside {len(load.statuses)} answers"
    assert set(load.statuses) == {200}


def _has_served(container: Container, host: str) -> bool:
    """Whether the access log has an exchange."""
    return any(host in line and '"status"' in line for line in container.log.read_text().splitlines())


def _serves(load: Load) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", load.port, timeout=60)
    try:
        connection.request("GET", load.target)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
