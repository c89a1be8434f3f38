"""A client that walks through many upstreams (G3): what is kept is bounded, and no exchange costs more than the first."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from proxy.policy.authority import Authority
from proxy.policy.routing import RouteTable, parse_host_pattern
from proxy.relay.destinations import _REMEMBERED, Destinations, Route
from tests.wire.rig import Rig, Upstream, Wire, settle
from tests.wire.test_relay_answers import limited

if TYPE_CHECKING:
    from types import FrameType

    from _typeshed import TraceFunction

    from proxy.identity.source import TokenSource
    from proxy.relay.pool import UpstreamPool

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_of_more_idle_connections_than_are_kept_the_longest_unused_is_closed(uv_wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        upstreams = [Upstream() for _ in range(4)]
        usual = rig.relay.destinations
        rig.relay.destinations = rig.destinations(rig.upstream.port, tunnels=True)
        try:
            for upstream in upstreams:
                await upstream.start(None)
            client = await rig.client("forward")

            async def call(number: int) -> None:
                port = upstreams[number].port
                client.send(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                peer = await upstreams[number].next()
                await peer.read_until()
                peer.send(OK)
                assert await client.read(len(OK)) == OK
                upstreams[number].release(peer)
                await settle()

            with limited(rig, idle_upstream_connections=2):
                for number in (0, 1, 0, 2):
                    await call(number)
                assert [len(upstream.connections) for upstream in upstreams] == [1, 0, 1, 0]
                await call(3)
                assert [len(upstream.connections) for upstream in upstreams] == [0, 0, 1, 1]
                assert len(rig.relay.idle) == len(rig.relay.upstreams) == 2
                assert [upstream.opened for upstream in upstreams] == [1, 1, 1, 1]
                await call(0)
                assert upstreams[0].opened == 2
            rig.relay.destinations.close_idle()
            assert not rig.relay.idle
        finally:
            rig.relay.destinations = usual
            for upstream in upstreams:
                upstream.close()

    uv_wire.run(work)


def wildcard(rig: Rig) -> Destinations:
    route = Route(
        name="*.example.test",
        tokens=cast("TokenSource", rig.tokens),
        fields=b"",
        field_names=frozenset(),
        dial=Authority("127.0.0.1", 1),
        context=rig.trust.relay_context,
    )
    return Destinations(rig.relay, RouteTable([(parse_host_pattern("*.example.test"), 0)]), [route], None)


def test_finding_the_next_name_below_a_wildcard_costs_what_the_first_did(uv_wire: Wire) -> None:
    """Counts lines, not time: with every pool in use, so that none can be forgotten."""

    async def work(rig: Rig) -> None:
        destinations = wildcard(rig)
        lines = 0

        def count(_frame: FrameType, event: str, _argument: object) -> TraceFunction:
            nonlocal lines
            lines += event == "line"
            return count

        def walk(first: int, last: int) -> int:
            nonlocal lines
            lines = 0
            usual = sys.gettrace()
            sys.settrace(count)
            try:
                for number in range(first, last):
                    destinations.for_target(b"http", b"n%d.example.test" % number).pool.size = 1
            finally:
                sys.settrace(usual)
            return lines

        few = walk(0, 1_000)
        many = walk(1_000, 3 * _REMEMBERED + 1_000)
        assert many <= few * 3 * _REMEMBERED / 1_000 * 1.5

    uv_wire.run(work)


def test_pools_without_a_connection_are_forgotten(uv_wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        destinations = wildcard(rig)
        used: UpstreamPool = destinations.for_target(b"http", b"used.example.test").pool
        used.size = 1
        for number in range(3 * _REMEMBERED):
            destinations.for_target(b"http", b"n%d.example.test" % number)
        assert len(destinations._by_authority) <= _REMEMBERED
        assert len(destinations._routed_pools) <= _REMEMBERED
        assert destinations.for_target(b"https", b"used.example.test").pool is used
        assert destinations.for_target(b"http", b"used.example.test").pool is used

    uv_wire.run(work)
