"""What the resolver shares, keeps, and refuses; by a look-up whose answers the test gives, and a clock that it turns."""

from __future__ import annotations

import asyncio

import pytest

from proxy.dialing.lookup import Answer, Outcome
from proxy.dialing.resolver import Attempt, Resolver, describe_name_timeout
from proxy.dialing.system_files import find_in_hosts, list_sources
from proxy.errors import NameTimeout, Overloaded, UpstreamUnreachable

NAME = "api.example"


class Asked:
    """A way to look names up that does nothing until the test answers."""

    limit = 2

    def __init__(self) -> None:
        self.open: dict[str, asyncio.Future[Answer]] = {}
        self.asked: list[str] = []
        self.now = 1_000.0

    def start(self, name: str) -> asyncio.Future[Answer]:
        self.asked.append(name)
        self.open[name] = asyncio.get_running_loop().create_future()
        return self.open[name]

    async def answer(self, name: str, *addresses: str, ttl_s: float = 60, outcome: Outcome = Outcome.FOUND) -> None:
        await turns()
        self.open.pop(name).set_result(Answer(outcome, addresses, ttl_s))
        await turns()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def build() -> tuple[Asked, Resolver]:
    asked = Asked()
    return asked, Resolver(asked, clock=lambda: asked.now)


async def find(asked: Asked, resolver: Resolver, *addresses: str, ttl_s: float = 60) -> tuple[str, ...]:
    waiting = asyncio.create_task(resolver.resolve(NAME))
    await asked.answer(NAME, *addresses, ttl_s=ttl_s)
    return await waiting


@pytest.mark.asyncio
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
async def test_an_address_is_never_looked_up(address: str) -> None:
    """A1."""
    asked, resolver = build()
    assert await resolver.resolve(address) == (address,)
    assert asked.asked == []


@pytest.mark.asyncio
async def test_look_ups_of_one_name_are_shared_and_outlive_who_gave_up() -> None:
    """A1."""
    asked, resolver = build()
    first, second = asyncio.create_task(resolver.resolve(NAME)), asyncio.create_task(resolver.resolve(NAME.upper()))
    await turns()
    first.cancel()
    await turns()
    assert resolver.pending == 1
    await asked.answer(NAME, "192.0.2.1")
    assert await second == ("192.0.2.1",)
    assert asked.asked == [NAME]
    assert resolver.outcomes == {"found": 1}


@pytest.mark.asyncio
async def test_look_ups_are_bounded_and_names_in_use_are_not_subject_to_that() -> None:
    """A1: whoever asks for names that hang keeps nobody from a name that was found before."""
    asked, resolver = build()
    await find(asked, resolver, "192.0.2.1", ttl_s=1)
    hanging = [asyncio.create_task(resolver.resolve(f"h{number}.example")) for number in range(asked.limit)]
    await turns()
    with pytest.raises(Overloaded) as refused:
        await resolver.resolve("another.example")
    assert refused.value.code == "name_lookups_exhausted"
    asked.now += 100
    assert await find(asked, resolver, "192.0.2.2") == ("192.0.2.2",)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


@pytest.mark.asyncio
async def test_an_answer_is_kept_for_as_long_as_it_says() -> None:
    asked, resolver = build()
    await find(asked, resolver, "192.0.2.1", ttl_s=60)
    asked.now += 59
    assert await resolver.resolve(NAME) == ("192.0.2.1",)
    assert asked.asked == [NAME]
    asked.now += 2  # stale: used at once, while a newer one is sought
    assert await resolver.resolve(NAME) == ("192.0.2.1",)
    await asked.answer(NAME, "192.0.2.2")
    assert await resolver.resolve(NAME) == ("192.0.2.2",)
    assert asked.asked == [NAME, NAME]


@pytest.mark.asyncio
async def test_a_stale_answer_bridges_silent_name_servers_for_a_day() -> None:
    asked, resolver = build()
    await find(asked, resolver, "192.0.2.1")
    asked.now += 3_600
    waiting = asyncio.create_task(resolver.resolve(NAME))
    await asked.answer(NAME, outcome=Outcome.TIMED_OUT)
    assert await waiting == ("192.0.2.1",)
    assert await resolver.resolve(NAME) == ("192.0.2.1",)  # at once: it was just tried
    await asked.answer(NAME, outcome=Outcome.TIMED_OUT)
    asked.now += 86_400
    waiting = asyncio.create_task(resolver.resolve(NAME))
    await asked.answer(NAME, outcome=Outcome.TIMED_OUT)
    with pytest.raises(NameTimeout):
        await waiting


@pytest.mark.asyncio
async def test_a_name_that_is_gone_is_not_bridged() -> None:
    asked, resolver = build()
    await find(asked, resolver, "192.0.2.1")
    asked.now += 3_600
    waiting = asyncio.create_task(resolver.resolve(NAME))
    await asked.answer(NAME, outcome=Outcome.NOT_FOUND)
    with pytest.raises(UpstreamUnreachable, match="does not resolve"):
        await waiting


@pytest.mark.asyncio
async def test_an_attempt_says_which_name_it_waited_for() -> None:
    """A1: the words of a time-out."""
    asked, resolver = build()
    attempt = Attempt()
    waiting = asyncio.create_task(resolver.resolve(NAME, attempt))
    await turns()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    late = describe_name_timeout(attempt, 10, "timeouts.connect_s")
    assert late is not None
    assert f"The name {NAME} did not resolve within 10 s (timeouts.connect_s)" in late.detail
    assert attempt.name_wait is not None

    waiting = asyncio.create_task(resolver.resolve(NAME, attempt))
    await asked.answer(NAME, "192.0.2.1")
    await waiting
    assert describe_name_timeout(attempt, 10) is None


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("localhost", ("127.0.0.1", "::1")),
        ("db.example", ("10.0.0.1",)),  # not those of the other line with `shared`
        ("shared", ("10.0.0.1", "10.0.0.2")),
        ("example", ()),
        ("commented", ()),
        ("10.0.0.1", ()),
        ("bad", ()),
    ],
)
def test_the_hosts_file(name: str, addresses: tuple[str, ...]) -> None:
    text = "127.0.0.1\tlocalhost\n::1 LocalHost ip6\n10.0.0.1 db.example shared # commented\n10.0.0.2 shared\nx bad\n"
    assert find_in_hosts(text, name) == addresses


@pytest.mark.parametrize(
    ("nsswitch", "resolv", "sources"),
    [
        ("", "", ["files", "dns"]),
        ("passwd: files\nhosts: files dns # usual\n", "nameserver 10.0.0.1", ["files", "dns"]),
        (
            "hosts: files mdns4_minimal [NOTFOUND=return] dns",
            "nameserver 127.0.0.53",
            ["files", "mdns4_minimal", "dns"],
        ),
        ("hosts: files resolve [!UNAVAIL=return] dns", "nameserver 127.0.0.53", ["files", "dns"]),
        ("hosts: files resolve [!UNAVAIL=return] dns", "nameserver 10.0.0.1", ["files", "resolve", "dns"]),
    ],
)
def test_where_a_system_looks_names_up(nsswitch: str, resolv: str, sources: list[str]) -> None:
    assert list_sources(nsswitch, resolv) == sources
