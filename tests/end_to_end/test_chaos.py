"""Ten thousand requests through a real proxy while the identity platform comes and goes, or everybody arrives at once."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from proxy.sandbox import Sandbox, SandboxSettings
from tests.end_to_end.leaks import KNOWN
from tests.end_to_end.programs import Place, configuration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from proxy.sandbox import SandboxKeys
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.programs import ProxyProgram

REQUESTS = 10_000
OUTAGE = 2_000


class OwnTime:
    """A clock that stands still for as long as this process does, which would else be the token's time on its way."""

    _TICK_S = 0.02
    _LONGEST_S = 0.5

    def __init__(self) -> None:
        self._now = time.time()

    def __call__(self) -> float:
        """Returns Unix seconds."""
        return self._now

    async def run(self) -> None:
        """Lets time go by."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(self._TICK_S)
            now = time.monotonic()
            self._now += min(now - before, self._LONGEST_S)
            before = now


@pytest_asyncio.fixture
async def sandbox(sandbox_keys: SandboxKeys) -> AsyncIterator[Sandbox]:
    """A sandbox of the test's own whose gateway takes no token for expired because this process was held up."""
    clock = OwnTime()
    async with Sandbox(SandboxSettings(keys=sandbox_keys, clock=clock)) as running:
        KNOWN["a subscription key of a sandbox under load"] = running.subscription_key
        ticking = asyncio.create_task(clock.run())
        try:
            yield running
        finally:
            ticking.cancel()
            await asyncio.wait({ticking})


@dataclass
class Answers:
    """What a crowd of clients was answered.

    Attributes:
        statuses: how often each.
        foreign: answers that were neither the API's 200 nor the proxy's own, each with its head.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    foreign: list[bytes] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many were not the API's 200."""
        return self.statuses.total() - self.statuses[200]

    def add(self, head: bytes) -> None:
        """Counts one answer."""
        status = int(head[9:12])
        self.statuses[status] += 1
        if status != 200 and b"\r\nproxy-status: apim-auth-proxy; error=" not in head.lower():
            self.foreign.append(head)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """Makes one request on a kept-alive connection; returns the response's head."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return head


async def crowd(
    proxy: ProxyProgram,
    url: str,
    *,
    clients: int,
    requests: int,
    pause_s: float = 0.0,
    answers: Answers | None = None,
    until: Callable[[], bool] = lambda: True,
) -> Answers:
    """Lets several clients make requests, each on a connection of its own, until there have been enough.

    Args:
        proxy: in between.
        url: what they ask for.
        clients: they begin together.
        requests: at least so many in all.
        pause_s: each client's between two requests.
        answers: filled while they go on; by default a new one.
        until: they go on until this holds, too.

    Returns:
        The answers.
    """
    answers = Answers() if answers is None else answers
    place = urlsplit(url)
    request = f"GET {url} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode()
    host, _, port = proxy.address("forward").rpartition(":")
    left = requests
    everybody = asyncio.Barrier(clients)

    async def client() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            await everybody.wait()
            while left > 0 or not until():
                left -= 1
                answers.add(await ask(reader, writer, request))
                if pause_s:
                    await asyncio.sleep(pause_s)
        finally:
            writer.close()
            await writer.wait_closed()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return answers


async def reached(condition: Callable[[], bool]) -> None:
    """Waits for something that the crowd brings about."""
    while not condition():  # noqa: ASYNC110  # a count, which has no event
        await asyncio.sleep(0.02)


async def start(
    sandbox: Sandbox, tmp_path: Path, start_proxy: StartProxy, **settings: object
) -> tuple[ProxyProgram, str]:
    """Starts a proxy before a sandbox; returns it and a URL behind it."""
    await asyncio.to_thread(sandbox.write_directory, tmp_path / "sandbox")
    place = Place.read(tmp_path / "sandbox")
    proxy = await asyncio.to_thread(start_proxy, configuration(place) | settings)
    return proxy, f"http://{place.api_url.removeprefix('https://')}/status/200"


@pytest.mark.asyncio
@pytest.mark.timeout(240)
async def test_no_expired_token_and_no_bare_request_leaves_during_an_outage(
    sandbox: Sandbox, tmp_path: Path, start_proxy: StartProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    """The platform is down across the expiry and back later: whatever fails fails here, with a reason, and it ends by itself."""
    sandbox.faults.token_lifetime_s = 8
    proxy, url = await start(sandbox, tmp_path, start_proxy, timeouts={"drain_s": 5, "token_s": 2})
    during = Answers()
    began = time.monotonic()

    async def outage() -> None:
        await reached(lambda: during.statuses[200] >= 1_000)
        await sandbox.close_identity_platform()
        await reached(lambda: during.failed >= OUTAGE)  # so it has outlasted the token
        await sandbox.open_identity_platform()

    async with asyncio.TaskGroup() as group:
        down = group.create_task(outage())
        group.create_task(
            crowd(proxy, url, clients=32, requests=REQUESTS - 500, pause_s=0.05, answers=during, until=down.done)
        )
    async with asyncio.timeout(60):
        while (await crowd(proxy, url, clients=1, requests=1, pause_s=0.2)).statuses[200] == 0:
            pass
    after = await crowd(proxy, url, clients=8, requests=500)
    took_s = time.monotonic() - began

    assert not during.foreign
    assert set(during.statuses) <= {200, 502, 503}
    assert after.statuses == Counter({200: 500})
    assert not sandbox.refusals, "the gateway refused something: it was bare, or its token had expired"
    # A token of 8 s is renewed every 6 s; while the platform is away, nothing gets there.
    assert sandbox.token_request_count < 5 + took_s / 4
    summary = (
        f"chaos: {dict(during.statuses)}, then {dict(after.statuses)}; {sandbox.token_request_count} token requests"
    )
    with capsys.disabled():
        sys.stdout.write(f"\n  {summary}\n")


@pytest.mark.asyncio
@pytest.mark.timeout(240)
async def test_ten_thousand_requests_on_an_empty_cache_make_one_token_request(
    sandbox: Sandbox, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """A thousand clients arrive at once and find no token; they and all that follow them share one."""
    place_credentials = {"lazy": True}
    await asyncio.to_thread(sandbox.write_directory, tmp_path / "sandbox")
    place = Place.read(tmp_path / "sandbox")
    # A thousand handshakes at once take as long as they take, on both sides.
    settings = configuration(place, timeouts={"drain_s": 5, "connect_s": 60, "token_s": 60})
    credentials = settings["credentials"]
    assert isinstance(credentials, dict)
    for credential in credentials.values():
        credential.update(place_credentials)
    proxy = await asyncio.to_thread(start_proxy, settings)
    assert sandbox.token_request_count == 0
    answers = await crowd(
        proxy, f"http://{place.api_url.removeprefix('https://')}/status/200", clients=1_000, requests=REQUESTS
    )
    assert answers.statuses == Counter({200: REQUESTS})
    assert sandbox.token_request_count == 1


@pytest.mark.asyncio
@pytest.mark.timeout(240)
async def test_requests_across_refreshes_share_each_token_and_none_fails(
    sandbox: Sandbox, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """With tokens of 12 s, load goes on until one has been renewed: one request for each, none for a client."""
    sandbox.faults.token_lifetime_s = 12
    proxy, url = await start(sandbox, tmp_path, start_proxy)
    began = time.monotonic()
    answers = await crowd(
        proxy, url, clients=32, requests=REQUESTS, pause_s=0.03, until=lambda: sandbox.token_request_count > 1
    )
    took_s = time.monotonic() - began
    assert set(answers.statuses) == {200}
    assert answers.statuses[200] >= REQUESTS
    assert 2 <= sandbox.token_request_count <= 3 + took_s / 6
    assert not sandbox.refusals
