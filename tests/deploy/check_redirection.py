"""A pod whose connections are redirected: an init container sets the rules of deploy/nftables, and the proxy has no capability."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trustme
import yaml

from tests.deploy.container import Mount, Settings, is_root, run_once, running, wait_until
from tests.deploy.programs import DEPLOY
from tests.end_to_end.redirected import LOGIN, ORDERS, OTHER, TOKEN, attach, made_world, write_hosts
from tests.network_namespaces import made_namespace

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not is_root(), reason="makes networks and runs containers, so it needs root")

USER = (65532, 65532)


def _write_keys(directory: Path, ca: trustme.CA) -> None:
    """Write what the pod's Secret and ConfigMap have, readable for the proxy alone."""
    directory.mkdir()
    pair = ca.issue_cert("clientapp.example.test", key_type=trustme.KeyType.RSA).private_key_and_cert_chain_pem
    pair.write_to_path(directory / "clientapp.pem")
    ca.cert_pem.write_to_path(directory / "world.pem")
    configuration = {
        "listeners": [{"address": f"{host}:8085", "mode": "transparent"} for host in ("127.0.0.1", "[::1]")],
        "credentials": {
            "client": {
                "token_endpoint": f"https://{LOGIN}/token",
                "client_id": "client",
                "certificate": "clientapp.pem",
                "ca_file": "world.pem",
            }
        },
        "routes": [{"hosts": [ORDERS], "credential": "client", "scope": "orders", "ca_file": "world.pem"}],
        "state_directory": "/state",
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    for file in directory.iterdir():
        file.chmod(0o400)
        shutil.chown(file, *USER)


def test_a_pod_with_an_init_container_for_the_rules_needs_no_setting_in_the_program(tmp_path: Path) -> None:
    """Read-only, no capability, no privilege to gain for the proxy; NET_ADMIN alone, and for a moment, for who sets the rules."""
    ca = trustme.CA()
    keys, state, rules = tmp_path / "keys", tmp_path / "state", DEPLOY / "nftables/sidecar.nft"
    _write_keys(keys, ca)
    state.mkdir(0o700)
    shutil.chown(state, *USER)
    with ExitStack() as stack:
        world, pod = stack.enter_context(made_world(ca)), stack.enter_context(made_namespace())
        attach(pod, world.namespace, 6, "eth6")
        hosts = pod.files["/etc/hosts"] = write_hosts(tmp_path)
        init = Settings(
            ["-f", str(rules)],
            [],
            (0, 0),
            is_read_only=True,
            drops_capabilities=True,
            may_gain_privileges=False,
            network=pod.name,
            program="/usr/sbin/nft",
            capabilities=("CAP_NET_ADMIN",),
        )
        done = run_once(init, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        settings = Settings(
            ["run", "--config", "/keys/config.yaml"],
            [
                Mount(keys, "/keys", is_read_only=True),
                Mount(state, "/state", is_read_only=False),
                Mount(hosts, "/etc/hosts", is_read_only=True),
            ],
            USER,
            is_read_only=True,
            drops_capabilities=True,
            may_gain_privileges=False,
            network=pod.name,
        )
        proxy = stack.enter_context(running(settings, tmp_path))
        ask = ("curl", "--silent", "--cacert", state / "ca.pem", "--write-out", "\n%{http_code}")

        def get(url: str) -> tuple[str, str]:
            done = subprocess.run(pod.command(*ask, url), stdout=subprocess.PIPE, text=True)
            content, _, status = done.stdout.rpartition("\n")
            return status, content

        def serves(url: str) -> bool:
            status, content = get(url)
            return status == "200" and json.loads(content)["authorization"] == f"Bearer {TOKEN}"

        for scheme in ("https", "http"):
            wait_until(partial(serves, f"{scheme}://{ORDERS}/"), proxy.log.read_text)
        assert get(f"http://{OTHER}/")[0] == "403"
        assert get(f"https://{OTHER}/")[0] == "000"
        checked = proxy.run("check", "--config", "/keys/config.yaml")
        assert "not redirected back to the proxy" in checked.stdout, checked.stdout + checked.stderr
        assert proxy.stop() == 0
