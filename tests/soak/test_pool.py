"""A connection that reaches a waiter in the very moment it gives up is not lost to all the others."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from proxy.errors import Overloaded
from proxy.policy.authority import Authority
from proxy.relay.pool import UpstreamPool
from proxy.relay.secure import SecureTransport
from proxy.relay.upstream import UpstreamConnection

if TYPE_CHECKING:
    import ssl

    from proxy.relay.state import Relay

WAIT_S = 0.02


def full_pool() -> UpstreamPool:
    """A pool that may open no connection."""
    limits = SimpleNamespace(upstream_connections=0, idle_upstream_connections=9)
    timeouts = SimpleNamespace(connect_s=WAIT_S, upstream_idle_s=9.0)
    relay = SimpleNamespace(limits=limits, timeouts=timeouts, now=0.0, upstreams=set(), idle={}, session_reads=3)
    return UpstreamPool(cast("Relay", relay), Authority("upstream.example", 443), None, None)


def open_connection(pool: UpstreamPool) -> UpstreamConnection:
    connection = UpstreamConnection(pool)
    connection.transport = cast("asyncio.Transport", SimpleNamespace(is_closing=lambda: False))
    return connection


def in_the_turn_of_the_timeout(happens: object) -> None:
    """Lets something happen, and the waiter's time end, in one turn of the event loop."""
    assert callable(happens)
    loop = asyncio.get_running_loop()
    loop.call_at(loop.time() + WAIT_S / 2, happens)
    loop.call_soon(time.sleep, WAIT_S * 2)


@pytest.mark.asyncio
async def test_a_connection_that_comes_as_its_waiter_gives_up_serves_the_next() -> None:
    pool = full_pool()
    connection = open_connection(pool)
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    in_the_turn_of_the_timeout(lambda: pool.release(connection))
    with pytest.raises(Overloaded):
        await waiting
    assert pool.take() is connection


@pytest.mark.asyncio
async def test_a_connection_that_comes_as_its_client_goes_serves_the_next() -> None:
    pool = full_pool()
    connection = open_connection(pool)
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    pool.release(connection)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pool.take() is connection


class Tls:
    """A TLS object whose session is counted when it is read."""

    def __init__(self, *, session_reused: bool) -> None:
        self.session_reused = session_reused
        self.reads = 0

    @property
    def session(self) -> object:
        self.reads += 1
        return object()


@pytest.mark.parametrize("session_reused", [False, True], ids=["refused", "accepted"])
def test_a_tls_session_is_not_read_from_every_connection(session_reused: bool) -> None:
    """Each reading costs 7 KB that CPython never gives back."""
    pool = full_pool()
    first, later = Tls(session_reused=False), Tls(session_reused=session_reused)
    for tls in (first, *[later] * 1_000):
        transport = SecureTransport.__new__(SecureTransport)
        transport.tls = cast("ssl.SSLObject", tls)
        connection = UpstreamConnection(pool)
        connection.transport = transport
        pool.forget(connection)
    assert first.reads == 1
    assert later.reads == 0


def test_tls_sessions_of_many_pools_are_read_a_bounded_number_of_times() -> None:
    """A client may name any number of hosts below a wildcard, and each has a pool of its own."""
    first = full_pool()
    connections = [Tls(session_reused=False) for _ in range(10)]
    for tls in connections:
        pool = UpstreamPool(first.relay, Authority("upstream.example", 443), None, None)
        transport = SecureTransport.__new__(SecureTransport)
        transport.tls = cast("ssl.SSLObject", tls)
        connection = UpstreamConnection(pool)
        connection.transport = transport
        pool.forget(connection)
    assert sum(tls.reads for tls in connections) == 3
