"""Replicas that share tokens in Redis, as real proxies: the holder of the lock stops, Redis stops, and what people are told."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.sandbox import TokenEndpointFault, TokenFault
from tests.end_to_end.programs import (
    COMMAND,
    PATIENCE_S,
    Program,
    ProxyProgram,
    configuration,
    run_program,
    write_configuration,
)
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.sandbox import Sandbox
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Configuration, Place


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as running:
        yield running


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "cache.key"
    file.touch(0o600)
    file.write_bytes(base64.b64encode(os.urandom(32)))
    return file


def settings(place: Place, redis: RedisServer, key: Path, workers: int = 1) -> Configuration:
    cache = {"url": f"redis://127.0.0.1:{redis.port}/0", "key_files": [str(key)]}
    return configuration(place, token_cache=cache, workers=workers)


def owners(port: int) -> set[int]:
    """Returns the processes that have a connection to a port of 127.0.0.1."""
    remote = f"0100007F:{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{line[9]}]" for line in lines if line[2] == remote and line[3] == "01"}
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) in inodes:
                found.add(int(link.parts[2]))
        except OSError:
            continue
    return found


def test_the_control_process_alone_speaks_to_redis(
    place: Place, redis: RedisServer, key: Path, start_proxy: StartProxy, curl: Curl
) -> None:
    proxy = start_proxy(settings(place, redis, key, workers=2))
    assert curl("--proxy", proxy.forward, f"http://{place.alias_host}/orders").status == 200
    give_up_at = time.monotonic() + 30
    while True:  # /proc may leave a connection out while others come and go
        found = owners(redis.port)
        assert found <= {proxy.process.pid}
        if found:
            break
        assert time.monotonic() < give_up_at, "nobody has a connection to Redis"
        time.sleep(0.05)


@pytest.mark.asyncio
async def test_a_thousand_requests_go_on_while_redis_hangs_and_people_are_told(
    own_place: Place,
    sandbox: Sandbox,
    redis: RedisServer,
    key: Path,
    start_proxy: StartProxy,
    curl: Curl,
    tmp_path: Path,
) -> None:
    """The token is being replaced all the while: neither Redis nor the identity platform answers, and no request waits."""
    url = f"http://{own_place.alias_host}/orders"

    def work() -> None:
        certificate = tmp_path / "own.pem"
        certificate.touch(0o600)
        certificate.write_bytes(Path(own_place.certificate).read_bytes())
        chosen = settings(own_place, redis, key)
        chosen["credentials"]["orders-client"]["certificate"] = str(certificate)  # type: ignore[index]  # ours
        proxy = start_proxy(chosen)
        assert curl("--proxy", proxy.forward, url).status == 200
        assert json.loads(proxy.ask_admin("/api/state"))["sharing"] == {
            "shared": True,
            "alone_since_at": None,
            "reason": "",
        }
        assert "apim_auth_proxy_token_cache_shared 1.0" in proxy.ask_admin("/metrics").decode()
        sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SLOW, delay_s=60, times=1)
        redis.signal(signal.SIGSTOP)
        try:
            # As if the certificate had changed: the token is replaced, and cannot be shared.
            whole = certificate.with_suffix(".new")
            whole.touch(0o600)
            whole.write_bytes(certificate.read_bytes())
            whole.replace(certificate)
            proxy.signal(signal.SIGHUP)
            proxy.wait_for_line("Tokens are not shared meanwhile")
            done = run_program(
                ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}\\n", "--proxy", proxy.forward, f"{url}/[1-1000]"]
            )
        finally:
            redis.signal(signal.SIGCONT)
        assert done.stdout.split() == [b"200"] * 1_000
        state = json.loads(proxy.ask_admin("/api/state"))["sharing"]
        # The reload tries to connect anew; else it is the renewal that meets the silence first.
        assert not state["shared"]
        assert state["reason"] in {"does not answer within 250 ms", "did not connect within 1 s"}
        assert "apim_auth_proxy_token_cache_shared 0.0" in proxy.ask_admin("/metrics").decode()

    await asyncio.to_thread(work)
    assert sandbox.token_request_count == 2, "the first, and the one that is still waited for"


@pytest.mark.asyncio
async def test_a_replica_that_stops_with_the_lock_holds_nobody_up_for_long(
    own_place: Place, sandbox: Sandbox, redis: RedisServer, key: Path, tmp_path: Path, curl: Curl
) -> None:
    """The lock ends by itself, after three to five seconds."""
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SLOW, delay_s=60, times=1)

    def work() -> None:
        config = write_configuration(settings(own_place, redis, key), tmp_path / "first")
        with Program([COMMAND, "run", "--config", config], tmp_path, "first") as first:
            give_up_at = time.monotonic() + PATIENCE_S
            while not redis.call("keys", "*:lock"):
                assert time.monotonic() < give_up_at
                time.sleep(0.05)
            first.signal(signal.SIGSTOP)
            try:
                own = tmp_path / "second"
                with ProxyProgram(settings(own_place, redis, key), own, tmp_path, "second") as second:
                    answer = curl("--proxy", second.forward, f"http://{own_place.alias_host}/orders")
                assert answer.status == 200
            finally:
                first.signal(signal.SIGKILL)  # which ends one that is stopped, too

    await asyncio.to_thread(work)
    assert sandbox.token_request_count == 2


def test_check_says_whether_redis_can_be_used(place: Place, redis: RedisServer, key: Path, tmp_path: Path) -> None:
    config = write_configuration(settings(place, redis, key), tmp_path)
    done = run_program([COMMAND, "check", "--online", "--config", config])
    assert "Redis answers, and takes what replicas share." in done.stdout.decode()
    redis.call("config", "set", "maxmemory", "1")
    done = run_program([COMMAND, "check", "--online", "--config", config])
    assert "The token cache has no memory left (maxmemory)." in done.stdout.decode()
    assert done.status == 0, "a warning: the proxy works without"
