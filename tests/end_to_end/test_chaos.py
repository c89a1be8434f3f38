"""Ten thousand requests through a real proxy while the identity platform comes and goes, or everybody arrives at once."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.end_to_end.programs import Place, configuration

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.sandbox import Sandbox
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.programs import ProxyProgram

REQUESTS = 10_000


@dataclass
class Answers:
    """What a crowd of clients was answered.

    Attributes:
        statuses: how often each.
        foreign: answers that were neither the API's 200 nor the proxy's own, each with its head.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    foreign: list[bytes] = field(default_factory=list)

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


async def crowd(proxy: ProxyProgram, url: str, *, clients: int, requests: int, pause_s: float = 0.0) -> Answers:
    """Lets several clients make requests, each on a connection of its own, until there have been enough."""
    answers = Answers()
    place = urlsplit(url)
    request = f"GET {url} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode()
    host, _, port = proxy.address("forward").rpartition(":")
    left = requests

    async def client() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            while left > 0:
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


async def start(
    sandbox: Sandbox, tmp_path: Path, start_proxy: StartProxy, **settings: object
) -> tuple[ProxyProgram, str]:
    """Starts a proxy before a sandbox; returns it and a URL behind it."""
    await asyncio.to_thread(sandbox.write_directory, tmp_path / "sandbox")
    place = Place.read(tmp_path / "sandbox")
    proxy = await asyncio.to_thread(start_proxy, configuration(place) | settings)
    return proxy, f"http://{place.api_url.removeprefix('https://')}/status/200"


@pytest.mark.asyncio
@pytest.mark.timeout(120)
async def test_no_expired_token_and_no_bare_request_leaves_during_an_outage(
    sandbox: Sandbox, tmp_path: Path, start_proxy: StartProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    """The platform is down across the expiry and back later: whatever fails fails here, with a reason, and it ends by itself."""
    sandbox.faults.token_lifetime_s = 8
    proxy, url = await start(sandbox, tmp_path, start_proxy)

    async def outage() -> None:
        await asyncio.sleep(3)
        await sandbox.close_identity_platform()
        await asyncio.sleep(11)
        await sandbox.open_identity_platform()

    down = asyncio.create_task(outage())
    during = await crowd(proxy, url, clients=32, requests=REQUESTS - 500, pause_s=0.05)
    await down
    async with asyncio.timeout(40):
        while (await crowd(proxy, url, clients=1, requests=1, pause_s=0.2)).statuses[200] == 0:
            pass
    after = await crowd(proxy, url, clients=8, requests=500)

    assert not during.foreign
    assert set(during.statuses) <= {200, 502, 503}
    assert during.statuses[200] > 1000
    assert during.statuses[502] + during.statuses[503] > 100, "the outage was to outlast the token"
    assert after.statuses == Counter({200: 500})
    assert not sandbox.refusals, "the gateway refused something: it was bare, or its token had expired"
    # A token of 8 s is renewed every 6 s; an outage of 11 s sees a retry each second at most.
    assert sandbox.token_request_count < 40
    summary = (
        f"chaos: {dict(during.statuses)}, then {dict(after.statuses)}; {sandbox.token_request_count} token requests"
    )
    with capsys.disabled():
        sys.stdout.write(f"\n  {summary}\n")


@pytest.mark.asyncio
@pytest.mark.timeout(120)
async def test_ten_thousand_requests_on_an_empty_cache_make_one_token_request(
    sandbox: Sandbox, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """A thousand clients arrive at once and find no token; they and all that follow them share one."""
    place_credentials = {"lazy": True}
    await asyncio.to_thread(sandbox.write_directory, tmp_path / "sandbox")
    place = Place.read(tmp_path / "sandbox")
    settings = configuration(place)
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
@pytest.mark.timeout(120)
async def test_requests_across_refreshes_share_each_token_and_none_fails(
    sandbox: Sandbox, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """With tokens of 12 s, some seconds of load see a renewal: one request for each, none for a client."""
    sandbox.faults.token_lifetime_s = 12
    proxy, url = await start(sandbox, tmp_path, start_proxy)
    loop = asyncio.get_running_loop()
    began = loop.time()
    answers = await crowd(proxy, url, clients=32, requests=REQUESTS, pause_s=0.03)
    took_s = loop.time() - began
    assert answers.statuses == Counter({200: REQUESTS})
    assert 2 <= sandbox.token_request_count <= 3 + took_s / 6
    assert not sandbox.refusals
