"""What replicas share, as values: sealed entries, URLs, the state of being alone, and decisions against a store in memory."""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import TYPE_CHECKING

import pytest

from proxy.config.faults import ConfigurationFaults
from proxy.config.loading import load_settings
from proxy.config.redis_url import Topology, parse_redis_url
from proxy.errors import ConfigurationError, IdentityPlatformUnavailable
from proxy.identity.access_token import create_access_token
from proxy.identity.credential import IssuedToken
from proxy.identity.sharing.availability import Availability, StoreError
from proxy.identity.sharing.sealing import Entry, KeyRing, read_key
from proxy.identity.sharing.shared_token import SharedCache, SharedToken

if TYPE_CHECKING:
    from pathlib import Path

ENTRY = Entry("token", 3_600.0, None, "certificate A")
RING = KeyRing([b"1" * 32])


def test_an_entry_opens_under_its_own_name_alone() -> None:
    (name,) = RING.names("orders")
    sealed = RING.seal(name, ENTRY)
    assert RING.open(name, sealed) == ENTRY
    assert RING.open(RING.names("reports")[0], sealed) is None
    assert KeyRing([b"2" * 32]).open(name, sealed) is None
    assert KeyRing([b"2" * 32, b"1" * 32]).open(name, sealed) == ENTRY


def test_no_changed_byte_opens_and_no_bytes_break_it() -> None:
    (name,) = RING.names("orders")
    sealed = RING.seal(name, ENTRY)
    for index in range(len(sealed)):
        assert RING.open(name, sealed[:index] + bytes([sealed[index] ^ 1]) + sealed[index + 1 :]) is None
        assert RING.open(name, sealed[:index]) is None
    assert RING.open(name, sealed + b"x") is None


def test_the_same_entry_is_never_sealed_alike() -> None:
    (name,) = RING.names("orders")
    assert RING.seal(name, ENTRY) != RING.seal(name, ENTRY)
    assert "token" not in repr(ENTRY)


@pytest.mark.parametrize("content", ["", "short", base64.b64encode(b"x" * 31).decode(), "!" * 44])
def test_a_key_is_32_bytes_in_base64(tmp_path: Path, content: str) -> None:
    file = tmp_path / "cache.key"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match="openssl rand -base64 32"):
        read_key(file)
    for form in (base64.b64encode, base64.urlsafe_b64encode):
        file.write_bytes(form(b"\xfb\xff" * 16) + b"\n")
        assert read_key(file) == b"\xfb\xff" * 16
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_key(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "topology", "addresses", "user", "service", "db"),
    [
        ("redis://localhost", Topology.SERVER, (("localhost", 6379),), None, "", 0),
        ("rediss://orders@redis.example.com:6380/3", Topology.SERVER, (("redis.example.com", 6380),), "orders", "", 3),
        ("redis+cluster://a,b:7000", Topology.CLUSTER, (("a", 6379), ("b", 7000)), None, "", 0),
        ("rediss+sentinel://a,[::1]:1/mymaster/2", Topology.SENTINEL, (("a", 26379), ("::1", 1)), None, "mymaster", 2),
    ],
)
def test_a_url_says_where_redis_is(
    text: str, topology: Topology, addresses: tuple[tuple[str, int], ...], user: str | None, service: str, db: int
) -> None:
    url = parse_redis_url(text)
    assert (url.topology, url.addresses, url.user, url.service, url.db) == (topology, addresses, user, service, db)
    assert url.is_tls is text.startswith("rediss")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://a", "write redis://"),
        ("redis:a", "write redis://"),
        ("redis://orders:secret@a", "password_file"),
        ("redis://a,b", "several hosts"),
        ("redis+sentinel://a", "service"),
        ("redis+cluster://a/1", "cluster has no other"),
        ("redis://a/x", "number of a database"),
        ("redis://a/0?timeout=1", "no query"),
        ("redis://", "host of the URL"),
        ("redis://a b", "host of the URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_told_why(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        parse_redis_url(text)
    assert "secret" not in caught.value.detail


def test_being_alone_is_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    state = Availability("Redis at a:1", clock=lambda: now[0], wall_clock=lambda: 1_000 + now[0], jitter=lambda: 0.5)
    for now[0] in range(0, 121, 2):
        assert state.may_be_asked
        state.fail(StoreError("is away"))
        assert not state.may_be_asked
    assert len(caplog.messages) == 3
    assert state.alone_since_at == 1_000
    now[0] = 200
    state.succeed()
    assert not state.alone_since_at
    assert state.reason == ""
    assert "works again" in caplog.messages[-1]


class Memory:
    """A store in memory; `answers` are what its commands wait for."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.values: dict[str, tuple[bytes, float]] = {}
        self.locks: list[int] = []
        self.is_away = False

    def _find(self, name: str) -> tuple[bytes, float] | None:
        if self.is_away:
            raise StoreError("is away")
        found = self.values.get(name)
        return found if found is not None and found[1] > self.clock.now else None

    async def get(self, name: str) -> tuple[bytes, float] | None:
        found = self._find(name)
        return None if found is None else (found[0], found[1] - self.clock.now)

    async def set(self, name: str, value: bytes, life_ms: int) -> None:
        self._find(name)
        self.values[name] = (value, self.clock.now + life_ms / 1000)

    async def lock(self, name: str, life_ms: int) -> bool:
        if self._find(name) is not None:
            return False
        self.locks.append(life_ms)
        self.values[name] = (b"1", self.clock.now + life_ms / 1000)
        return True

    async def close(self) -> None:
        return None


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Stage:
    def __init__(self) -> None:
        self.clock = Clock()
        self.store = Memory(self.clock)
        self.issued = 0
        self.took_s = 2.0

    def replica(self) -> SharedToken:
        cache = SharedCache(self.store, RING, "memory", clock=self.clock, jitter=lambda: 0.0)
        return SharedToken(cache, lambda claims: f"orders {claims}")

    async def ask(self) -> IssuedToken:
        self.issued += 1
        began = self.clock.now
        self.clock.now += self.took_s
        return IssuedToken(f"token-{self.issued}", began, 3_600.0, 1_800.0, "proof")


@pytest.mark.asyncio
async def test_a_token_lives_as_long_everywhere_as_where_it_was_asked_for() -> None:
    stage = Stage()
    own = await stage.replica().request(stage.ask, None, None)
    stage.clock.now += 100
    adopted = await stage.replica().request(stage.ask, None, None)
    assert (adopted.value, adopted.proof, stage.issued) == (own.value, "proof", 1)
    expiry = own.requested_at_mono + own.expires_in_s
    assert adopted.requested_at_mono + adopted.expires_in_s == pytest.approx(expiry, abs=0.01)
    assert adopted.requested_at_mono - adopted.age_s == pytest.approx(own.requested_at_mono, abs=stage.took_s)
    assert adopted.refresh_in_s is not None
    assert own.refresh_in_s is not None
    assert adopted.requested_at_mono + adopted.refresh_in_s == pytest.approx(
        own.requested_at_mono + own.refresh_in_s, abs=0.01
    )


@pytest.mark.asyncio
async def test_no_entry_lives_longer_than_it_says_itself() -> None:
    """As where an older token is written between the two commands of a reader."""
    stage = Stage()
    await stage.replica().request(stage.ask, None, None)
    for name, (value, _) in list(stage.store.values.items()):
        stage.store.values[name] = (value, stage.clock.now + 1_000_000)
    adopted = await stage.replica().request(stage.ask, None, None)
    assert adopted.expires_in_s <= 3_600


@pytest.mark.asyncio
async def test_no_store_gives_a_token_another_life() -> None:
    """As where its clock was set back, or an old value was put there again."""
    stage = Stage()
    replica = stage.replica()
    first = await replica.request(stage.ask, None, None)
    stage.clock.now += 7_200
    stage.store.values = {
        name: (value, stage.clock.now + 3_600)
        for name, (value, _) in stage.store.values.items()
        if not name.endswith(":lock")
    }
    assert (await replica.request(stage.ask, None, None)).value != first.value


@pytest.mark.asyncio
async def test_a_token_near_its_end_is_not_adopted_and_other_claims_are_another_token() -> None:
    stage = Stage()
    await stage.replica().request(stage.ask, None, None)
    other = await stage.replica().request(stage.ask, '{"nbf": 1}', None)
    assert other.value == "token-2"
    stage.clock.now += 3_400
    assert (await stage.replica().request(stage.ask, None, None)).value == "token-3"


@pytest.mark.asyncio
async def test_the_lock_ends_before_a_short_token_does() -> None:
    stage = Stage()
    current = create_access_token("old", requested_at_mono=stage.clock.now, expires_in_s=5, refresh_in_s=None, jitter=0)
    await stage.replica().request(stage.ask, None, current)
    assert stage.store.locks == [500]


@pytest.mark.asyncio
async def test_who_waits_for_others_that_get_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    name = RING.names("orders None")[0]
    stage.store.values[f"{name}:lock"] = (b"1", stage.clock.now + 3)
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        stage.clock.now += seconds
        stage.store.values[f"{name}:lock"] = (b"1", stage.clock.now + 3)  # the next replica tries

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(IdentityPlatformUnavailable) as caught:
        await stage.replica().request(stage.ask, None, None)
    assert caught.value.code == "shared_token_awaited"
    assert 5.9 < sum(slept) < 6.5
    assert stage.issued == 0


@pytest.mark.asyncio
async def test_a_lock_that_does_not_end_keeps_nobody_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after Redis' clock was set back, or where somebody else writes to it."""
    stage = Stage()
    name = RING.names("orders None")[0]
    stage.store.values[f"{name}:lock"] = (b"1", stage.clock.now + 3_600)

    async def sleep(seconds: float) -> None:
        stage.clock.now += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await stage.replica().request(stage.ask, None, None)
    assert stage.issued == 1


@pytest.mark.asyncio
async def test_a_store_that_was_away_rests_and_is_asked_again() -> None:
    stage = Stage()
    replica = stage.replica()
    stage.store.is_away = True
    stage.took_s = 0
    assert (await replica.request(stage.ask, None, None)).value == "token-1"
    stage.store.is_away = False
    await replica.request(stage.ask, None, None)
    assert stage.store.locks == [], "it rests"
    stage.clock.now += 1
    await replica.request(stage.ask, None, None)
    assert stage.store.locks == [3_000]


CACHE_FAULTS = {
    "no_key": (["url: redis://a"], "key_files", "required"),
    "password_in_url": (["url: 'redis://u:s3cr3t@a'", "key_files: [k]"], "url", "password_file"),
    "ca_without_tls": (["url: redis://a", "key_files: [k]", "ca_file: c"], "ca_file", "rediss"),
    "two_logins": (
        ["url: rediss://a", "key_files: [k]", "password_file: p", "credential: mine"],
        "password_file",
        "already says",
    ),
    "no_such_credential": (["url: rediss://a", "key_files: [k]", "credential: nobody"], "credential", "no credential"),
    "not_entra": (["url: rediss://a", "key_files: [k]", "credential: other"], "credential", "Entra ID"),
    "token_without_tls": (["url: redis://a", "key_files: [k]", "credential: mine"], "url", "over TLS only"),
}


@pytest.mark.parametrize(("lines", "key", "reason"), CACHE_FAULTS.values(), ids=CACHE_FAULTS)
def test_a_cache_that_cannot_be_meant_is_refused(tmp_path: Path, lines: list[str], key: str, reason: str) -> None:
    file = tmp_path / "config.yaml"
    text = [
        "listeners: [{address: 127.0.0.1:8080}]",
        "state_directory: state",
        "credentials:",
        "  mine: {tenant_id: contoso.com, client_id: me, certificate: c.pem}",
        "  other: {token_endpoint: 'https://a.example/token', client_id: me, certificate: c.pem}",
        "routes: [{hosts: [api.example.com], credential: mine, scope: api://orders/.default}]",
        "token_cache:",
        *[f"  {line}" for line in lines],
    ]
    file.write_text("\n".join(text))
    with pytest.raises(ConfigurationFaults) as caught:
        load_settings(file, {"HOME": str(tmp_path)}, check_files=False)
    (fault,) = caught.value.faults
    assert fault.path == f"token_cache.{key}"
    assert reason in fault.message
    assert "s3cr3t" not in str(caught.value)
