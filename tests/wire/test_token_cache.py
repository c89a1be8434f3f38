"""Replicas that share their tokens in a real Redis: one token request for all, and no failed request whatever Redis does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import math
import signal
import subprocess
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import trustme

from proxy.config.loading import load_settings
from proxy.config.redis_url import REDIS_SCOPE
from proxy.identity.credential import Target
from proxy.identity.sharing.building import find_object_id
from proxy.identity.sharing.sealing import MARK_NAME
from proxy.identity.sharing.shared_token import STORE_TIMEOUT_S
from proxy.identity.sources import TokenSources
from proxy.sandbox import (
    ResourceApplication,
    Sandbox,
    SandboxKeys,
    SandboxSettings,
    TokenEndpointFault,
    TokenFault,
    create_keys,
)
from tests.redis_server import RedisServer, cluster, sentinel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from proxy.identity.access_token import AccessToken
    from proxy.identity.sharing.shared_token import SharingStatistics

FLIP = (
    "local v = redis.call('get', KEYS[1]); local b = bit.bxor(string.byte(v, {at}), 1);"
    "redis.call('set', KEYS[1], string.sub(v, 1, {at} - 1) .. string.char(b) .. string.sub(v, {at} + 1), 'KEEPTTL')"
)
CUT = "redis.call('set', KEYS[1], string.sub(redis.call('get', KEYS[1]), 1, 30), 'KEEPTTL')"
ACL = "~aap:* -@all +get +set +pttl +ping +hello +auth"


@pytest.fixture(scope="module")
def keys() -> SandboxKeys:
    return create_keys(datetime.now(UTC))


@pytest_asyncio.fixture
async def sandbox(keys: SandboxKeys) -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(keys=keys)) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as running:
        yield running


class Fleet:
    """Replicas of one configuration."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        self.sandbox = sandbox
        self.directory = directory
        self.built: list[TokenSources] = []
        self.timeout_s = 20.0
        sandbox.write_directory(directory)
        self.write_key("cache.key", 1)

    def write_key(self, name: str, seed: int) -> None:
        file = self.directory / name
        file.touch(0o600)
        file.write_bytes(base64.b64encode(bytes([seed]) * 32) + b"\n")

    def replica(self, url: str, *more: str, keys: str = "cache.key") -> TokenSources:
        text = [
            "listeners: [{address: '127.0.0.1:0'}]",
            "state_directory: state",
            "credentials:",
            "  mine:",
            f"    tenant_id: {self.sandbox.tenant_id}",
            f"    client_id: {self.sandbox.client_id}",
            f"    authority: {self.sandbox.identity_url}",
            "    ca_file: ca.pem",
            "    certificate: clientapp.pem",
            "token_cache:",
            f"  url: {url}",
            f"  key_files: [{keys}]",
            *[f"  {line}" for line in more],
            "routes:",
            f"  - {{hosts: [api.example.com], credential: mine, scope: '{self.sandbox.scope}'}}",
        ]
        file = self.directory / "own.yaml"
        file.write_text("\n".join(text))
        built = TokenSources.from_settings(load_settings(file, {"HOME": str(self.directory)}))
        assert built._shared is not None
        # A quarter of a second is little for a machine that runs all tests at a time; only one test measures it.
        built._shared.timeout_s = self.timeout_s
        self.built.append(built)
        return built

    async def acquire(self, replica: TokenSources) -> AccessToken:
        return await replica.source_for("mine", Target(scope=self.sandbox.scope)).acquire()

    async def renew(self, replica: TokenSources) -> AccessToken:
        """Has it replace its token, as when that is due, and waits for the flight's end."""
        source = replica.source_for("mine", Target(scope=self.sandbox.scope))
        before = source.statistics().flights
        source.renew()
        assert source.statistics().flights == before + 1
        flight = source._flight
        assert flight is not None
        await asyncio.wait({flight})
        return await source.acquire()


def sharing(replica: TokenSources) -> SharingStatistics:
    found = replica.statistics().sharing
    assert found is not None
    return found


@pytest_asyncio.fixture
async def fleet(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(sandbox, tmp_path)
    yield fleet
    for replica in fleet.built:
        await replica.close()


@pytest.mark.asyncio
async def test_a_hundred_cold_replicas_make_one_token_request(fleet: Fleet, server: RedisServer) -> None:
    fleet.sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SLOW, delay_s=0.3)
    replicas = [fleet.replica(f"redis://127.0.0.1:{server.port}/0") for _ in range(100)]

    # One after the other within the platform's time to answer: a hundred processes have more than two cores between them.
    async def start(index: int, replica: TokenSources) -> AccessToken:
        await asyncio.sleep(index * 0.01)
        return await fleet.acquire(replica)

    tokens = await asyncio.gather(*(start(index, replica) for index, replica in enumerate(replicas)))

    assert fleet.sandbox.token_request_count == 1
    assert len({token.value for token in tokens}) == 1
    assert all(sharing(replica).is_shared for replica in replicas)
    outcomes = [sharing(replica).outcomes for replica in replicas]
    assert sum(one.get("requested", 0) for one in outcomes) == 1
    assert sum(one.get("adopted", 0) for one in outcomes) == 99


@pytest.mark.asyncio
async def test_a_renewed_token_is_adopted_by_whoever_looks_next(fleet: Fleet, server: RedisServer) -> None:
    first, second = (fleet.replica(f"redis://127.0.0.1:{server.port}") for _ in range(2))
    old = await fleet.acquire(first)
    assert (await fleet.acquire(second)).value == old.value
    # A second passes in the life of a token, so that the next one is newer by more than a round trip.
    server.call("keys", "*")
    await asyncio.sleep(1.1)
    for name in server.call("keys", "*:lock").split():
        server.call("del", name)  # Which time does.

    new = await fleet.renew(first)
    assert new.value != old.value
    adopted = await fleet.renew(second)

    assert adopted.value == new.value
    assert adopted.expires_at_mono == pytest.approx(new.expires_at_mono, abs=0.5)
    assert fleet.sandbox.token_request_count == 2


@pytest.mark.asyncio
async def test_nothing_in_redis_tells_what_it_is_or_can_be_used(fleet: Fleet, server: RedisServer) -> None:
    token = await fleet.acquire(fleet.replica(f"redis://127.0.0.1:{server.port}"))

    names = server.call("keys", "*").split()

    assert len([name for name in names if name.endswith(":lock")]) == 1
    (name,) = [name for name in names if not name.endswith(":lock") and name != MARK_NAME]
    dumped = server.call("--no-raw", "get", name)
    for secret in (token.value, token.value.split(".")[1][:20], fleet.sandbox.client_id, "orders"):
        assert secret not in dumped
        assert secret not in " ".join(names)
    assert 0 < int(server.call("pttl", name)) <= 3_600_000


@pytest.mark.asyncio
async def test_a_token_that_an_upstream_refused_is_not_adopted_again(fleet: Fleet, server: RedisServer) -> None:
    first, second = (fleet.replica(f"redis://127.0.0.1:{server.port}") for _ in range(2))
    refused = await fleet.acquire(first)
    await fleet.acquire(second)
    for name in server.call("keys", "*:lock").split():
        server.call("del", name)
    source = second.source_for("mine", Target(scope=fleet.sandbox.scope))
    current = source.peek(time.monotonic())
    assert current is not None

    assert source.report_refusal(current, time.monotonic(), certain=True)
    replaced = await source.acquire()

    assert replaced.value != refused.value
    assert fleet.sandbox.token_request_count == 2
    assert (await fleet.acquire(fleet.replica(f"redis://127.0.0.1:{server.port}"))).value == replaced.value


def _kill(server: RedisServer) -> None:
    server.stop()


def _freeze(server: RedisServer) -> None:
    server.signal(signal.SIGSTOP)


def _fill(server: RedisServer) -> None:
    server.call("config", "set", "maxmemory", "1")


def _demote(server: RedisServer) -> None:
    server.call("config", "set", "replica-serve-stale-data", "yes")
    server.call("replicaof", "127.0.0.1", "1")


FAULTS = {
    "killed": (_kill, "cannot be reached"),
    "stopped": (_freeze, "does not answer within 250 ms"),
    "full": (_fill, "has no memory left"),
    "read_only": (_demote, "may only be read"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_redis_does_every_replica_has_a_token(
    fleet: Fleet, server: RedisServer, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    url = f"redis://127.0.0.1:{server.port}"
    fleet.timeout_s = STORE_TIMEOUT_S if fault == "stopped" else fleet.timeout_s
    warm, cold = fleet.replica(url), fleet.replica(url)
    before = await fleet.acquire(warm)
    # A connection that is there already, as in life.
    await fleet.acquire(cold)
    for replica in (warm, cold):
        assert replica._shared is not None
        replica._shared.outcomes.clear()
    server.call("flushall")
    strike, reason = FAULTS[fault]
    strike(server)

    for replica in (warm, cold):
        token = await fleet.renew(replica)
        assert token.value != before.value
        state = sharing(replica)
        assert not state.is_shared
        assert reason in state.reason
        assert state.alone_since_at is not None
        assert state.outcomes["alone"] == 1
    for _ in range(5):
        await fleet.renew(warm)
    lines = [line for line in caplog.messages if "Tokens are not shared" in line]
    assert len(lines) == 2, "one line a minute of each replica"

    if fault == "stopped":
        server.signal(signal.SIGCONT)
    elif fault == "killed":
        server.start()
    elif fault == "full":
        server.call("config", "set", "maxmemory", "0")
    else:
        server.call("replicaof", "no", "one")
    async with asyncio.timeout(30):
        while not sharing(warm).is_shared:
            await asyncio.sleep(0.2)
            await fleet.renew(warm)


@pytest.mark.asyncio
async def test_a_token_in_hand_is_given_out_while_redis_hangs_for_ever(fleet: Fleet, server: RedisServer) -> None:
    """Nothing ends the question but Redis itself, so whoever waited for it would wait for ever."""
    fleet.timeout_s = math.inf
    replica = fleet.replica(f"redis://127.0.0.1:{server.port}")
    token = await fleet.acquire(replica)
    source = replica.source_for("mine", Target(scope=fleet.sandbox.scope))
    server.call("flushall")  # the lock: it would hold the renewal up once Redis goes on
    server.signal(signal.SIGSTOP)
    source.renew()
    flight = source._flight
    assert flight is not None
    for _ in range(1_000):
        assert source.peek(time.monotonic()) is token
        assert await source.acquire() is token
    assert not flight.done()
    assert fleet.sandbox.token_request_count == 1

    server.signal(signal.SIGCONT)
    await asyncio.wait({flight})
    assert (await source.acquire()).value != token.value
    assert fleet.sandbox.token_request_count == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "version", "other_key"])
async def test_what_does_not_open_is_as_good_as_absent_and_told(
    fleet: Fleet, server: RedisServer, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"redis://127.0.0.1:{server.port}"
    await fleet.acquire(fleet.replica(url))
    (name,) = [name for name in server.call("keys", "*").split() if not name.endswith(":lock") and name != MARK_NAME]
    if damage == "flipped":
        server.call("eval", FLIP.format(at=41), "1", name)
    elif damage == "cut":
        server.call("eval", CUT, "1", name)
    elif damage == "empty":
        server.call("set", name, "", "KEEPTTL")
    elif damage == "version":
        server.call("eval", FLIP.format(at=1), "1", name)
    fleet.write_key("another.key", 2)
    for lock in server.call("keys", "*:lock").split():
        server.call("del", lock)

    reader = fleet.replica(url, keys="another.key" if damage == "other_key" else "cache.key")
    token = await fleet.acquire(reader)

    assert token.value
    assert fleet.sandbox.token_request_count == 2
    assert sharing(reader).is_shared
    # What another key has sealed has another name: only who puts a token there meets the other's mark.
    assert sharing(reader).outcomes["unreadable"] == (1 if damage == "other_key" else 2)
    lines = [line for line in caplog.messages if "cannot open" in line]
    assert len(lines) == 1, "one line a minute"
    assert "Compare key_files" in lines[0]


@pytest.mark.asyncio
async def test_keys_are_changed_one_replica_after_the_other(fleet: Fleet, server: RedisServer) -> None:
    """Everybody opens the new key before anybody seals with it."""
    url = f"redis://127.0.0.1:{server.port}"
    fleet.write_key("new.key", 2)
    for keys in ("cache.key", "cache.key, new.key", "new.key, cache.key", "new.key, cache.key"):
        await fleet.acquire(fleet.replica(url, keys=keys))
    assert fleet.sandbox.token_request_count == 1


@pytest.mark.asyncio
async def test_tls_and_an_acl_with_just_what_is_needed(fleet: Fleet, tmp_path: Path) -> None:
    tls = _write_tls(tmp_path)
    password = tmp_path / "redis.pass"
    password.touch(0o600)
    password.write_text("s3cr3t\n")
    with RedisServer(tmp_path / "redis", tls=tls) as server:
        server.call("acl", "setuser", "orders", "on", ">s3cr3t", *ACL.split())
        server.call("acl", "setuser", "default", "-get", "-set")
        url = f"rediss://orders@127.0.0.1:{server.port}"
        first, second = (fleet.replica(url, "password_file: redis.pass", "ca_file: tls/ca.pem") for _ in range(2))
        assert (await fleet.acquire(first)).value == (await fleet.acquire(second)).value
        assert sharing(second).is_shared

        for more, reason in (
            (("password_file: redis.pass",), "its certificate is not trusted"),
            (("ca_file: tls/ca.pem",), "does not"),
        ):
            alone = fleet.replica(url, *more)
            assert (await fleet.acquire(alone)).value
            assert reason in sharing(alone).reason
        password.write_text("wrong")
        alone = fleet.replica(url, "password_file: redis.pass", "ca_file: tls/ca.pem")
        await fleet.acquire(alone)
        assert "does not accept the user or its password" in sharing(alone).reason


@pytest.mark.asyncio
async def test_an_access_token_of_entra_id_is_the_password(fleet: Fleet, tmp_path: Path) -> None:
    """As Azure Managed Redis has it: the user is the service principal's object id."""
    sandbox = fleet.sandbox
    sandbox.tenant.register_resource(
        ResourceApplication("99999999-aaaa-aaaa-aaaa-999999999999", ("https://redis.azure.com",))
    )
    tls = _write_tls(tmp_path)
    with RedisServer(tmp_path / "redis", tls=tls) as server:
        url = f"rediss://127.0.0.1:{server.port}"
        first = fleet.replica(url, "credential: mine", "ca_file: tls/ca.pem")
        password = await first.source_for("mine", Target(scope=REDIS_SCOPE)).acquire()
        server.call("acl", "setuser", find_object_id(password.value), "on", f">{password.value}", *ACL.split())
        server.call("acl", "setuser", "default", "-get", "-set")

        token = await fleet.acquire(first)

        assert sharing(first).is_shared, sharing(first).reason
        assert sharing(first).outcomes["requested"] == 1
        assert token.value != password.value
        # Another replica has another password, which this Redis does not know.
        second = fleet.replica(url, "credential: mine", "ca_file: tls/ca.pem")
        assert (await fleet.acquire(second)).value != token.value
        assert "does not accept the user or its password" in sharing(second).reason


def _write_tls(directory: Path) -> Path:
    ca = trustme.CA()
    tls = directory / "tls"
    tls.mkdir()
    ca.cert_pem.write_to_path(str(tls / "ca.pem"))
    ca.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tls / "server.pem"))
    return tls


@pytest.mark.asyncio
async def test_a_cluster(fleet: Fleet, tmp_path: Path) -> None:
    """With the two commands more that docs/scaling.md names for its ACL."""
    password = tmp_path / "redis.pass"
    password.touch(0o600)
    password.write_text("s3cr3t")
    with cluster(tmp_path / "cluster") as nodes:
        for node in nodes:
            node.call("acl", "setuser", "orders", "on", ">s3cr3t", *ACL.split(), "+cluster", "+command")
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        first, second = (
            fleet.replica(f"redis+cluster://orders@{hosts}", "password_file: redis.pass") for _ in range(2)
        )
        tokens = [await fleet.acquire(replica) for replica in (first, second)]
        assert tokens[0].value == tokens[1].value
        assert sharing(first).is_shared, sharing(first).reason


@pytest.mark.asyncio
async def test_sentinels_name_another_master_after_the_first_has_gone(fleet: Fleet, tmp_path: Path) -> None:
    """The value is kept: it was there before the master went."""
    with sentinel(tmp_path / "sentinel") as (master, replica, watcher):
        url = f"redis+sentinel://127.0.0.1:{watcher.port}/mymaster"
        first = fleet.replica(url)
        token = await fleet.acquire(first)
        await _until(
            lambda: any(not name.endswith(":lock") and name != MARK_NAME for name in replica.call("keys", "*").split())
        )
        master.stop()
        await _until(lambda: _is_master(replica))
        async with asyncio.timeout(60):
            late = fleet.replica(url)
            adopted = await fleet.acquire(late)
            while not sharing(late).is_shared:  # Perhaps the sentinel has not told yet.
                await asyncio.sleep(0.3)
                late = fleet.replica(url)
                adopted = await fleet.acquire(late)
        assert adopted.value == token.value


@pytest.mark.asyncio
async def test_a_reload_goes_on_with_the_same_cache_or_over_to_another_one(
    fleet: Fleet, server: RedisServer, tmp_path: Path
) -> None:
    url = f"redis://127.0.0.1:{server.port}"
    earlier = fleet.replica(url)
    token = await fleet.acquire(earlier)
    same = fleet.replica(url)
    same.adopt(earlier, ["mine"])
    await earlier.retire(same)
    assert (await fleet.acquire(same)).value == token.value
    assert sharing(same).outcomes["requested"] == 1

    with RedisServer(tmp_path / "other") as other:
        moved = fleet.replica(f"redis://127.0.0.1:{other.port}")
        moved.adopt(same, ["mine"])
        await same.retire(moved)
        await fleet.renew(moved)
        assert other.call("keys", "aap:1:*")
        await moved.close()
    with contextlib.suppress(ValueError):
        fleet.built.remove(moved)


def _is_master(server: RedisServer) -> bool:
    with contextlib.suppress(subprocess.CalledProcessError):  # the sentinel cuts connections as it promotes
        return "role:master" in server.call("info", "replication")
    return False


async def _until(condition: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)
