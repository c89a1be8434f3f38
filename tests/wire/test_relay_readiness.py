"""What stands between a request and its being sent: a token at its end, and a fault of the proxy's own."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from proxy.dialing.dialer import Dialer
from proxy.policy.access import Client, PasswordClaim
from proxy.policy.passwords import parse_password_hash
from proxy.relay.admission import Admission
from proxy.relay.passwords import PasswordChecker
from proxy.tasks import keep_going
from tests.security.boundary import light_hash
from tests.wire.messages import split_head
from tests.wire.rig import HOST, FixedTokens, Peer, Rig, Wire, create_token, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.identity.access_token import AccessToken

GET = f"GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
GOOD, ENDING = "token-that-lasts", "token-at-its-end"


class ScriptedTokens(FixedTokens):
    """Hands out tokens in turn; the last one stays. None: `peek` has none, and so the request waits for the next one."""

    def __init__(self, *values: str | None) -> None:
        super().__init__()
        self.values = list(values)

    def peek(self, now_mono: float) -> AccessToken | None:  # noqa: ARG002  # the seam's signature
        value = self.values[0]
        if len(self.values) > 1:
            self.values.pop(0)
        if value is None:
            return None
        token = create_token(value)
        # It is still good as it is handed out, and no more once a connection has been found, however quickly.
        return dataclasses.replace(token, usable_until_mono=time.monotonic()) if value == ENDING else token

    async def acquire(self) -> AccessToken:
        await asyncio.sleep(0)
        token = self.peek(0.0)
        assert token is not None
        return token

    def report_refusal(self, *_: object, **__: object) -> bool:
        self.rejections += 1
        return True


@contextmanager
def scripted(rig: Rig, *values: str | None) -> Iterator[ScriptedTokens]:
    usual, tokens = rig.tokens, ScriptedTokens(*values)
    rig.tokens = tokens
    try:
        with rig.leading_to(rig.upstream.port):
            yield tokens
    finally:
        rig.tokens = usual


def token_of(head: bytes) -> str:
    return head.partition(b"Authorization: Bearer ")[2].partition(b"\r\n")[0].decode()


async def check_answered(client: Peer, upstream: Peer) -> None:
    upstream.send(OK)
    assert await client.read(len(OK)) == OK


@pytest.mark.parametrize("values", [(None, ENDING, GOOD), (None, ENDING, ENDING, GOOD), (None, ENDING, None, GOOD)])
def test_a_token_that_ends_while_the_first_connection_is_opened_is_not_sent(uv_wire: Wire, values: tuple[str]) -> None:
    """B3: invariant 2, behind the wait for a connection."""

    async def work(rig: Rig) -> None:
        with scripted(rig, *values):
            client = await rig.client("reverse")
            client.send(GET)
            upstream = await rig.upstream.next()
            assert token_of(await upstream.read_until()) == GOOD
            await check_answered(client, upstream)

    uv_wire.run(work)


def test_a_token_that_a_sleep_has_aged_while_the_connection_is_opened_is_not_sent(uv_wire: Wire) -> None:
    """Only the source knows: the token that the request waits with says what it said before the machine slept."""

    async def work(rig: Rig) -> None:
        with scripted(rig, None, "before-the-sleep", None, GOOD):
            client = await rig.client("reverse")
            client.send(GET)
            upstream = await rig.upstream.next()
            assert token_of(await upstream.read_until()) == GOOD
            await check_answered(client, upstream)

    uv_wire.run(work)


def test_a_token_that_ends_while_the_connection_for_a_replay_is_opened_is_not_sent(uv_wire: Wire) -> None:
    """B1: a replay gets ready as the first sending does."""

    async def work(rig: Rig) -> None:
        with scripted(rig, "first", "first", "first", ENDING, GOOD) as tokens:
            client = await rig.client("reverse")
            client.send(GET)
            upstream = await rig.upstream.next()
            assert token_of(await upstream.read_until()) == "first"
            rig.upstream.release(upstream)
            upstream.send(REFUSED)
            upstream.close()
            upstream = await rig.upstream.next()
            assert token_of(await upstream.read_until()) == GOOD
            await check_answered(client, upstream)
            assert tokens.rejections == 1

    uv_wire.run(work)


def test_a_token_that_ends_while_the_connection_for_a_repetition_is_opened_is_not_sent(uv_wire: Wire) -> None:
    """B1: nor does a request whose kept-alive connection turned out to be dead take it along."""

    async def work(rig: Rig) -> None:
        with scripted(rig, "first", "first", "first", "second", ENDING, GOOD):
            client = await rig.client("reverse")
            client.send(GET)
            upstream = await rig.upstream.next()
            await upstream.read_until()
            await check_answered(client, upstream)
            client.send(GET)
            assert token_of(await upstream.read_until()) == "second"
            rig.upstream.release(upstream)
            upstream.close()
            upstream = await rig.upstream.next()
            assert token_of(await upstream.read_until()) == GOOD
            await check_answered(client, upstream)

    uv_wire.run(work)


def test_tokens_that_all_end_at_once_are_an_error_and_no_loop(uv_wire: Wire) -> None:
    """B1: whatever the identity platform hands out, a request does not go round in circles."""

    async def work(rig: Rig) -> None:
        with scripted(rig, ENDING):
            rig.tokens.values = [None, ENDING]  # type: ignore[attr-defined]  # scripted just now
            client = await rig.client("reverse")
            client.send(GET)
            await check_problem(client, 503, b"expired_on_arrival")
            assert not rig.upstream.heard()

    uv_wire.run(work)


# Faults of our own. What raises has a secret for its text.

SECRET = "a secret of the exception"


class BrokenDialer(Dialer):
    async def connect(self, *_: object, **__: object) -> object:  # type: ignore[override]  # never returns
        raise RuntimeError(SECRET)


class BrokenChecker(PasswordChecker):
    async def verify(self, claim: PasswordClaim, address: str) -> None:  # noqa: ARG002  # the seam's signature
        raise RuntimeError(SECRET)


async def check_problem(client: Peer, status: int, word: bytes) -> None:
    head, content = split_head(await client.read_until(b"\n}\n"))
    assert head.status == status
    assert word in content
    assert SECRET.encode() not in content


def check_logged(caplog: pytest.LogCaptureFixture, what: str) -> None:
    """One line, with the way to the fault and without its text."""
    [record] = [record for record in caplog.records if record.name == "proxy.tasks"]
    line = record.getMessage()
    assert line.startswith(what)
    assert "RuntimeError at" in line
    assert "test_relay_readiness.py" in line
    assert "\n" not in line
    assert SECRET not in line
    caplog.clear()


@contextmanager
def broken_dialer(rig: Rig) -> Iterator[None]:
    usual, rig.relay.dialer = rig.relay.dialer, BrokenDialer()
    try:
        yield
    finally:
        rig.relay.dialer = usual


@pytest.mark.logs_own_fault
def test_a_fault_while_a_request_gets_ready_is_told(uv_wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """B2."""

    async def work(rig: Rig) -> None:
        with broken_dialer(rig):
            client = await rig.client("reverse")
            client.send(GET)
            await check_problem(client, 500, b"proxy_internal_error")
        check_logged(caplog, f"an exchange with {HOST}:443 failed")

    uv_wire.run(work)


@pytest.mark.logs_own_fault
def test_a_fault_during_a_replay_is_told(uv_wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """B2: the client waited for ever."""

    async def work(rig: Rig) -> None:
        with scripted(rig, "first", "first", "first", GOOD):
            client = await rig.client("reverse")
            client.send(GET)
            upstream = await rig.upstream.next()
            await upstream.read_until()
            with broken_dialer(rig):
                upstream.send(REFUSED)
                upstream.close()
                await check_problem(client, 500, b"proxy_internal_error")
        assert [record.status for record in rig.records] == [500]
        check_logged(caplog, f"an exchange with {HOST}:443 failed")

    uv_wire.run(work)


@pytest.mark.logs_own_fault
def test_a_fault_while_a_tunnel_is_opened_is_told(uv_wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """B2: the client waited for ever."""

    async def work(rig: Rig) -> None:
        usual, rig.relay.destinations = rig.relay.destinations, rig.destinations(rig.upstream.port, tunnels=True)
        try:
            with broken_dialer(rig):
                client = await rig.client("forward")
                client.send(b"CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n")
                await check_problem(client, 500, b"proxy_internal_error")
        finally:
            rig.relay.destinations = usual
        check_logged(caplog, "a tunnel to other.example:443 failed")

    uv_wire.run(work)


@pytest.mark.logs_own_fault
def test_a_fault_while_a_password_is_checked_is_told(uv_wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """B2: the client waited for ever."""

    async def work(rig: Rig) -> None:
        entry = Client("worker", password=parse_password_hash(light_hash("right")))
        rig.relay.admission = Admission([entry], None, BrokenChecker())
        try:
            client = await rig.client("forward")
            client.send(
                f"GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\nProxy-Authorization: Basic d29ya2VyOnJpZ2h0\r\n\r\n".encode()
            )
            await check_problem(client, 500, b"proxy_internal_error")
        finally:
            rig.relay.admission = None
        check_logged(caplog, "a check of a password failed")

    uv_wire.run(work)


@pytest.mark.logs_own_fault
def test_a_fault_with_one_overdue_connection_is_not_the_others(uv_wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """B2: the relay's clock goes on, and what is at fault is cut."""

    class Broken:
        deadline = 0.0
        cut = False

        def on_deadline(self) -> None:
            raise RuntimeError(SECRET)

        def abort(self) -> None:
            self.cut = True

    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.send(b"GET /")
        await eventually(lambda: any(one._buffer for one in rig.relay.clients))  # nothing announces it
        broken = Broken()
        rig.relay.clients.add(broken)  # has a deadline like any other
        try:
            rig.later(rig.timeouts.head_s + 1)
            head, _ = split_head(await client.read_to_end())
            assert head.status == 408
            assert broken.cut
        finally:
            rig.relay.clients.discard(broken)
        check_logged(caplog, "giving up on a connection failed")

    uv_wire.run(work)


@pytest.mark.logs_own_fault
def test_work_that_has_to_go_on_is_begun_again_after_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    """B2: what keeps a process in order does not end with one fault."""
    begun: list[int] = []

    async def work() -> None:
        begun.append(len(begun))
        if len(begun) < 3:
            raise RuntimeError(SECRET)

    asyncio.run(keep_going(work, "something", pause_s=0))
    assert begun == [0, 1, 2]
    assert (
        len([record for record in caplog.records if record.getMessage().startswith("something failed: RuntimeError")])
        == 2
    )
    assert SECRET not in caplog.text
