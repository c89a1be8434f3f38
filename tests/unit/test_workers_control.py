"""What control owes its relay processes: an answer to each request, and each renewed token, whatever goes wrong once."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any, Self, cast

import pytest
from msgspec.structs import replace

from proxy.config.validation import restore
from proxy.dialing.resolver import Resolver
from proxy.errors import ProxyError
from proxy.identity.access_token import AccessToken, create_access_token
from proxy.workers.channel import Channel
from proxy.workers.control import Control, RelayProcess, target_of
from proxy.workers.messages import TO_RELAY, Answered, Failed, Leaf, Reload, SourceKey, Token, ToRelay, WantLeaf
from proxy.workers.relays import RelayProcesses
from proxy.workers.tokens import RemoteSources

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from proxy.identity.credential import Target
    from proxy.identity.sources import TokenSources
    from proxy.interception.leaf import Leaf as LeafCertificate
    from proxy.interception.signing import Authority

pytestmark = pytest.mark.logs_own_fault
SECRET = "what-the-exception-says"
HOST, SCOPE = "contoso.azure-api.net", "api://orders/.default"
CONFIGURATION: dict[str, Any] = {
    "listeners": [{"address": "127.0.0.1:8080"}],
    "credentials": {
        "orders": {"tenant_id": "contoso.onmicrosoft.com", "client_id": "me", "certificate": "clientapp.pem"}
    },
    "routes": [{"hosts": [HOST], "credential": "orders", "scope": SCOPE}],
    "state_directory": "state",
}
NO_PROCESS = replace(restore(CONFIGURATION), workers=0)


class FaultySource:
    """A token source that makes a mistake, once in each way."""

    def __init__(self) -> None:
        self.acquired = 0
        self.looks = 0
        self._token = create_access_token(
            "a-token", requested_at_mono=time.monotonic(), expires_in_s=3600, refresh_in_s=None, jitter=0
        )

    def source_for(self, _credential: str, _target: Target) -> FaultySource:
        return self

    async def acquire(self) -> AccessToken:
        self.acquired += 1
        if self.acquired == 1:
            raise RuntimeError(SECRET)
        return self._token

    def look(self, _now_mono: float) -> AccessToken:
        self.looks += 1
        if self.looks == 1:
            raise RuntimeError(SECRET)
        return self._token


def create_control(source: FaultySource) -> Control:
    def mint(_host: str, _key: RSAPrivateKey | None) -> LeafCertificate:
        raise RuntimeError(SECRET)

    return Control(NO_PROCESS, cast("TokenSources", source), mint)


class RelaySide:
    """The other end of a relay process's channel."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.channel: Channel[ToRelay] = Channel(TO_RELAY, self._take, lambda: None)
        self.sources = RemoteSources(self.channel.send)
        self.sources.number([SourceKey(number=0, credential="orders", scope=SCOPE)])
        self.leaves: asyncio.Queue[Leaf] = asyncio.Queue()
        self.reloaded = asyncio.Event()

    async def __aenter__(self) -> Self:
        ours, theirs = socket.socketpair()
        self.process = RelayProcess(0, self._control._on_message)  # as `_keep_running` makes it
        await self.process.channel.open(ours)
        await self.channel.open(theirs)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.process.channel.close()
        self.channel.close()
        await self._control.drain()

    def _take(self, message: ToRelay) -> None:
        match message:
            case Token():
                self.sources.take_token(message)
            case Answered():
                self.sources.answer(message.request)
            case Failed():
                self.sources.fail(message)
            case Leaf():
                self.leaves.put_nowait(message)
            case Reload():
                self.sources.number(message.sources)
                self.reloaded.set()
            case _:
                raise AssertionError(message)


def test_a_fault_with_one_request_for_a_token_is_told_and_the_next_one_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A relay process asks once for all its requests: without an answer, they would wait for ever, and those behind them."""

    async def work() -> None:
        source = FaultySource()
        source.looks = 1
        async with RelaySide(create_control(source)) as relay:
            remote = relay.sources.source_for("orders", target_of(SCOPE, None))
            with pytest.raises(ProxyError) as caught:
                await asyncio.wait_for(remote.acquire(), 10)
            assert (caught.value.status, caught.value.proxy_status) == (500, "proxy_internal_error")
            assert (await asyncio.wait_for(remote.acquire(), 10)).value == "a-token"

    asyncio.run(work())
    assert "giving a token to a relay process failed: RuntimeError" in caplog.text
    assert SECRET not in caplog.text


def test_a_fault_with_an_rsa_certificate_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    """Without an answer, every client that takes RSA only would wait for it."""

    async def work() -> None:
        async with RelaySide(create_control(FaultySource())) as relay:
            relay.channel.send(WantLeaf(host=HOST, rsa=True))
            leaf = await asyncio.wait_for(relay.leaves.get(), 20)
            assert (leaf.host, leaf.rsa, leaf.pem) == (HOST, True, None)

    asyncio.run(work())
    assert SECRET not in caplog.text


def test_a_fault_while_looking_for_renewed_tokens_does_not_end_the_looking(caplog: pytest.LogCaptureFixture) -> None:
    """Else no relay process would get another token before its last one had ended."""

    async def work() -> None:
        source = FaultySource()
        control = create_control(source)
        await control.start(NO_PROCESS, [8080])
        async with asyncio.timeout(20):
            while source.looks < 2:  # noqa: ASYNC110  # nothing announces it
                await asyncio.sleep(0.01)
        await control.drain()

    asyncio.run(work())
    assert "looking for renewed tokens failed: RuntimeError" in caplog.text
    assert SECRET not in caplog.text


def test_reloads_leave_no_sources_behind_and_whoever_waits_for_an_old_one_is_answered() -> None:
    """Each reload that replaces a credential's file makes new sources; nobody asks for those of long ago."""

    async def work() -> None:
        sources = [FaultySource() for _ in range(40)]
        for source in sources:
            source.acquired = source.looks = 1
        control = create_control(sources[0])
        async with RelaySide(control) as relay:
            control._processes[0] = relay.process
            first = relay.sources.source_for("orders", target_of(SCOPE, None))
            for source in sources[1:]:
                relay.reloaded.clear()
                control.reload(control._settings, cast("TokenSources", source), control._mint)
                await asyncio.wait_for(relay.reloaded.wait(), 10)
                assert len(control._sources) <= 2
                assert len(relay.sources._by_number) <= 2
            current = relay.sources.source_for("orders", target_of(SCOPE, None))
            assert (await asyncio.wait_for(current.acquire(), 10)).value == "a-token"
            assert (await asyncio.wait_for(first.acquire(), 10)).value == "a-token"  # the last one it was sent
            del control._processes[0]

    asyncio.run(work())


def test_what_the_control_process_s_own_event_log_drops_is_counted() -> None:
    async def work() -> None:
        tokens, ca = cast("TokenSources", FaultySource()), cast("Authority", None)
        relays = RelayProcesses(NO_PROCESS, tokens, ca, Resolver(), lambda: 7)
        assert sum(snapshot.events_dropped for snapshot in relays.counted()) == 7
        await relays.drain()

    asyncio.run(work())
