"""A hosts file that sends the API's name to the proxy: no setting in the program, and no capability for the proxy."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.end_to_end.leaks import KNOWN, learn_key
from tests.end_to_end.programs import (
    COMMAND,
    Place,
    Program,
    ProxyProgram,
    configuration,
    run_program,
    write_configuration,
)
from tests.network_namespaces import Namespace, made_namespace, needs_namespaces
from tests.other_user import open_directory
from tests.wire.name_server import NameServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.programs import Configuration, Finished

pytestmark = needs_namespaces

# Only name servers know where it is; the hosts file names an address at which nothing listens.
ORIGIN = "orders.origin.test"


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """Share loopback between a program and the proxy, as a pod does, with a name server of its own."""
    directory = tmp_path_factory.mktemp("pod")
    with made_namespace() as namespace:
        namespace.allow_low_ports()
        resolv = directory / "resolv.conf"
        resolv.write_text("nameserver 127.0.0.1\noptions timeout:5 attempts:2\n", encoding="ascii")
        namespace.files["/etc/resolv.conf"] = resolv
        with namespace.call(lambda: NameServer({ORIGIN: ["127.0.0.1"]}, port=53)):
            yield namespace


@pytest.fixture(scope="module")
def there(pod: Namespace, evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Start a sandbox in the pod's network, and write the hosts file that steers its API's name."""
    directory = tmp_path_factory.mktemp("sandbox")
    command = pod.command(COMMAND, "sandbox", "--directory", directory)
    with Program(command, evidence, f"sandbox-{pod.name}") as program:
        program.wait_for_line("sandbox ready")
        place = Place.read(directory)
        KNOWN["the pod's subscription key"] = place.subscription_key
        learn_key("the pod's client key", (directory / "clientapp.pem").read_text(encoding="ascii"))
        hosts = directory / "hosts"
        hosts.write_text(
            f"127.0.0.1 localhost\n::1 localhost\n127.0.0.1 {place.alias_host}\n127.0.0.66 {ORIGIN}\n", encoding="ascii"
        )
        pod.files["/etc/hosts"] = hosts
        yield place


def _settings(place: Place, directory: Path, dial: str | None) -> Configuration:
    """Route the API's name, with a listener for https and one for http at the ports that programs use."""
    certificate = trustme.CA()
    leaf = certificate.issue_cert(place.alias_host)
    leaf.private_key_and_cert_chain_pem.write_to_path(directory / "listener.pem")
    certificate.cert_pem.write_to_path(directory / "trusted.pem")
    for name in (place.certificate, place.ca_file):
        copy = directory / name.rpartition("/")[2]
        copy.write_bytes(Path(name).read_bytes())  # the user cannot read the sandbox's directory
        copy.chmod(0o600)
    (directory / "listener.pem").chmod(0o600)
    upstream = {"mode": "reverse", "upstream": f"https://{place.alias_host}"}
    own = {"certificate": "clientapp.pem", "ca_file": "ca.pem"}
    return configuration(
        place,
        credential=own,
        route={"hosts": [place.alias_host], "dial": dial, "ca_file": "ca.pem"},
        listeners=[
            {"address": "127.0.0.1:443", **upstream, "tls": {"certificate": "listener.pem"}},
            {"address": "127.0.0.1:80", **upstream},
        ],
    )


def _ask(pod: Namespace, url: str, ca_file: Path) -> tuple[int, str]:
    """Return status and content, as a program gets them that knows nothing of a proxy."""
    arguments = ("--silent", "--show-error", "--cacert", ca_file, "--write-out", "\n%{http_code}", url)
    done = run_program(pod.command("curl", *arguments))
    content, _, status = done.stdout.decode().rpartition("\n")
    assert done.status == 0, done.stderr
    return int(status), content


def test_a_name_in_dial_is_looked_up_by_dns_alone(pod: Namespace, there: Place, evidence: Path) -> None:
    """The program's hosts file is the proxy's, too; ports 443 and 80 take no capability; whose certificate is meant stays."""
    with ExitStack() as stack:
        directory = stack.enter_context(open_directory())
        settings = _settings(there, directory, f"{ORIGIN}:{there.port}")
        proxy = stack.enter_context(
            ProxyProgram(settings, directory, evidence, f"steered-{pod.name}", wrapper=pod.command(owns=directory))
        )
        status = _proc_status(proxy.process.pid)
        assert (status["Uid"].split()[0], int(status["CapEff"], 16)) == ("65532", 0)
        for scheme in ("https", "http"):
            code, content = _ask(pod, f"{scheme}://{there.alias_host}/orders", directory / "trusted.pem")
            assert code == 200, (content, proxy.lines)
            line = proxy.wait_for_exchange(mode="reverse", status=200, authority=there.alias_host + ":443")
            assert line["outcome"] == "ok"


def test_without_dial_the_proxy_would_call_itself(pod: Namespace, there: Place, evidence: Path) -> None:
    """508 says what to write, and so does the doctor, before anything runs."""
    with ExitStack() as stack:
        directory = stack.enter_context(open_directory())
        settings = _settings(there, directory, None)
        proxy = stack.enter_context(
            ProxyProgram(settings, directory, evidence, f"looping-{pod.name}", wrapper=pod.command(owns=directory))
        )
        code, content = _ask(pod, f"https://{there.alias_host}/orders", directory / "trusted.pem")
        problem = json.loads(content)
        assert (code, problem["code"]) == (508, "hosts_file_loop")
        assert f"`dial: {there.alias_host}:443`" in problem["detail"]
        assert proxy.wait_for_exchange(status=508)["code"] == "hosts_file_loop"
        advice = [one["advice"] for one in _check(pod, settings, directory) if one["level"] == "error"]
        assert any(f"`dial: {there.alias_host}:443`" in one for one in advice), advice


def test_a_name_that_only_the_hosts_file_knows_is_said_to_be_one(pod: Namespace, there: Place, evidence: Path) -> None:
    """Whoever had such a name in `dial` learns why it does not resolve, from the answer and from `check --online`."""
    hosts = pod.files["/etc/hosts"]
    hosts.write_text(f"{hosts.read_text()}127.0.0.1 only.hosts.test\n", encoding="ascii")
    with ExitStack() as stack:
        directory = stack.enter_context(open_directory())
        settings = _settings(there, directory, f"only.hosts.test:{there.port}")
        stack.enter_context(
            ProxyProgram(settings, directory, evidence, f"unknown-{pod.name}", wrapper=pod.command(owns=directory))
        )
        code, content = _ask(pod, f"http://{there.alias_host}/orders", directory / "trusted.pem")
        problem = json.loads(content)
        assert (code, problem["code"]) == (502, "name_not_resolved")
        assert "Write the address in `dial`" in problem["detail"]
        found = _check(pod, settings, directory, "--online")
        assert any("Write the address in `dial`" in one["advice"] for one in found), found


def _check(pod: Namespace, settings: Configuration, directory: Path, *options: str) -> list[dict[str, str]]:
    file = write_configuration(settings, directory)
    done: Finished = run_program(pod.command(COMMAND, "check", *options, "--json", "--config", file))
    findings: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    return findings


def _proc_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
