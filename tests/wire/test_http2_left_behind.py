"""Streams of HTTP/2 that one side has finished with and the other has not: each is counted until it is gone, and it goes."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any, cast

import h2.events
import h2.settings
import pytest
from msgspec.structs import replace

from proxy.policy.access import Client
from proxy.policy.passwords import parse_password_hash
from proxy.relay.admission import Admission
from proxy.relay.http2 import frames
from proxy.relay.http2.client import Http2ClientConnection
from proxy.relay.http2.faults import REFUSED_STREAM
from proxy.relay.passwords import PasswordChecker
from tests.http2_peer import block, data, frame, headers, read_frames, settings
from tests.security.boundary import light_hash
from tests.wire.rig import HOST, eventually, settle
from tests.wire.test_http2_clients import OK, connect
from tests.wire.test_http2_upstreams import GRPC, upstream_of

if TYPE_CHECKING:
    from tests.wire.rig import Rig, Wire

MISDIRECTED = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"other.example.com")]
WELL_DIRECTED = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", HOST.encode())]
LONGER_THAN_ANY_TIME_OUT_S = 1_000


def connection_of(rig: Rig) -> Http2ClientConnection:
    return next(each for each in rig.relay.clients if isinstance(each, Http2ClientConnection))


def test_refused_requests_that_the_client_never_ends_take_places_and_are_given_up(wire: Wire) -> None:
    """Twenty bytes kept the head of a request in memory for as long as the connection lasted."""

    async def work(rig: Rig) -> None:
        peer = await rig.client("reverse")
        peer.send(frames.PREFACE + settings())
        for each in range(300):
            peer.send(headers(1 + 2 * each, MISDIRECTED, ends=False))
        await eventually(lambda: len(rig.records) >= 100)
        connection = connection_of(rig)
        await eventually(lambda: connection.core.places == 0)
        assert 0 < len(connection.core.streams) <= 100
        rig.later(LONGER_THAN_ANY_TIME_OUT_S)
        await eventually(lambda: not connection.core.streams)
        rig.later(LONGER_THAN_ANY_TIME_OUT_S)
        await eventually(lambda: not rig.relay.clients)
        assert rig.relay.streams == 0

    wire.run(work)


def test_responses_behind_a_closed_window_take_places(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        peer = await rig.client("reverse")
        peer.send(frames.PREFACE + settings((frames.INITIAL_WINDOW_SIZE, 0)))
        upstream = None
        for each in range(100):
            peer.send(headers(1 + 2 * each, WELL_DIRECTED))
            upstream = upstream or await rig.upstream.next()
            await upstream.read_until()
            upstream.send(OK)
            await eventually(lambda: len(rig.records) == each + 1)  # noqa: B023  # called at once
        peer.send(headers(201, WELL_DIRECTED))
        connection = connection_of(rig)
        await eventually(lambda: bytes(peer.received).endswith(REFUSED_STREAM.to_bytes(4, "big")))
        assert len(connection.core.streams) == 100
        assert connection.core.places == 0

    wire.run(work)


def test_a_response_before_the_end_of_its_request_ends_the_exchange(wire: Wire) -> None:
    """Gateways answer 401 or 413 like this, and keep the connection: nobody may wait for the rest of the request then."""

    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        stream_id = client.request("POST", "/", ends=False)
        client.h2.send_data(stream_id, b"begun")
        client.flush()
        upstream = await rig.upstream.next()
        await upstream.read_until(b"begun")
        upstream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await client.until(h2.events.StreamEnded, stream_id)
        await eventually(lambda: len(rig.records) == 1)
        assert rig.records[0].status == 413
        assert rig.relay.streams == 0
        client.h2.send_data(stream_id, b"more", end_stream=True)
        client.flush()
        connection = connection_of(rig)
        await eventually(lambda: not connection.core.streams)
        again = client.request()
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.send(OK)
        await client.until(h2.events.StreamEnded, again)
        assert len(rig.records) == 2

    wire.run(work)


def test_a_call_that_waited_is_not_put_on_a_connection_that_closes(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_of(rig) as upstream:
            upstream.settings = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1}
            limits = rig.relay.limits
            rig.relay.limits = replace(limits, upstream_connections=1)
            try:
                client = await connect(rig, "reverse")
                first = client.request("POST", "/a", GRPC)
                await upstream.until(h2.events.RequestReceived)
                second = client.request("POST", "/b", GRPC)
                pool: Any = cast("Any", rig.reverse.destination.pool)._preferred()
                await eventually(lambda: bool(pool._queue))
                upstream.connections[0].answer(1)
                upstream.connections[0].transport.close()
                await client.until(h2.events.StreamEnded, first)
                await eventually(lambda: len(upstream.connections) == 2)
                await eventually(lambda: bool(upstream.connections[1].find(h2.events.RequestReceived)))
                upstream.connections[1].answer(1)
                await client.until(h2.events.StreamEnded, second)
            finally:
                rig.relay.limits = limits

    wire.run(work)


def test_a_call_that_is_answered_before_its_content_has_left_leaves_no_stream_at_the_upstream(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_of(rig) as upstream:
            upstream.credits = False
            client = await connect(rig, "reverse")
            stream_id = client.request("POST", "/a", GRPC, ends=False)
            await client.peer.until(lambda peer: peer.received)
            client.events += client.h2.receive_data(client.peer.take())
            for _ in range(5):
                client.h2.send_data(stream_id, b"x" * 16_000)
            client.h2.end_stream(stream_id)
            client.flush()
            await upstream.until(h2.events.DataReceived, 4)
            upstream.connections[0].answer(1)
            await client.until(h2.events.StreamEnded, stream_id)
            (connection,) = (each for each in rig.relay.upstreams if hasattr(each, "core"))
            await eventually(lambda: not connection.core.streams)

    wire.run(work)


@pytest.mark.parametrize("kind", ["application/grpc-web+proto", "application/grpc-web", "application/grpcish"])
def test_grpc_web_is_no_grpc(wire: Wire, kind: str) -> None:
    """It is made for HTTP/1.1, so an upstream without HTTP/2 serves it."""

    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        stream_id = client.request("GET", "/", (("content-type", kind),))
        upstream = await rig.upstream.next()
        assert (await upstream.read_until()).startswith(b"GET / HTTP/1.1\r\n")
        upstream.send(OK)
        await client.until(h2.events.StreamEnded, stream_id)

    wire.run(work)


def test_a_name_in_dial_is_looked_up_by_dns_alone_for_calls_too(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with upstream_of(rig) as upstream:
            client = await connect(rig, "reverse")
            client.request("POST", "/a", GRPC)
            await upstream.until(h2.events.RequestReceived)
            pool: Any = cast("Any", rig.reverse.destination.pool)._preferred()
            assert pool._dns_only == rig.reverse.destination.pool._dns_only is True
            await asyncio.sleep(0)

    wire.run(work)


def test_content_over_its_limit_while_a_password_is_checked_is_refused_once(wire: Wire) -> None:
    """Each further piece of it was another answer, another record, and one exchange less on the books."""

    async def work(rig: Rig) -> None:
        limits = rig.relay.limits
        rig.relay.limits = replace(limits, body_bytes=10)
        admission = Admission([Client("me", password=parse_password_hash(light_hash("right")))], 9, PasswordChecker())
        rig.relay.admission = admission
        try:
            peer = await rig.client("reverse")
            credentials = b"Basic " + base64.b64encode(b"me:right")
            head = [*WELL_DIRECTED[1:], (b":method", b"POST"), (b"proxy-authorization", credentials)]
            pieces = b"".join(data(1, b"12345678901", ends=False) for _ in range(5))
            peer.send(frames.PREFACE + settings() + headers(1, head, ends=False) + pieces)
            await eventually(lambda: bool(rig.records))
            await settle(20)
        finally:
            admission.passwords.close()
            rig.relay.admission, rig.relay.limits = None, limits
        assert [record.status for record in rig.records] == [413]
        assert admission.exchanges == 0
        answers = [each for each in read_frames(peer.take()) if each.kind == frames.HEADERS]
        assert len(answers) == 1

    wire.run(work)


@pytest.mark.parametrize("has_another", [False, True], ids=["alone", "beside-another-stream"])
def test_a_head_that_drips_ends_the_connection_when_its_time_is_over(wire: Wire, has_another: bool) -> None:
    """Each byte put the end off, and nothing else can come on a connection until the head has."""

    async def work(rig: Rig) -> None:
        peer = await rig.client("reverse")
        peer.send(frames.PREFACE + settings())
        if has_another:
            peer.send(headers(1, WELL_DIRECTED))
            await (await rig.upstream.next()).read_until()
        peer.send(frame(frames.HEADERS, frames.END_STREAM, 3, block(WELL_DIRECTED)[:4]))
        dripping = frame(frames.CONTINUATION, frames.END_HEADERS, 3, block(WELL_DIRECTED)[4:])
        for each in range(3):
            await settle(20)
            rig.later(rig.timeouts.head_s / 2)
            peer.send(dripping[each : each + 1])
        await eventually(lambda: not rig.relay.clients)
        assert rig.relay.streams == 0

    wire.run(work)


def test_a_connection_without_a_head_under_way_is_left_its_time(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        first = client.request()
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.send(OK)
        await client.until(h2.events.StreamEnded, first)
        rig.later(rig.timeouts.head_s + 1)
        await settle(20)
        second = client.request()
        await upstream.read_until()
        upstream.send(OK)
        await client.until(h2.events.StreamEnded, second)

    wire.run(work)


def test_very_many_frames_in_one_read_are_taken_in_turns(wire: Wire) -> None:
    """One read brings as many as 29,000, and all other connections waited for the last of them."""

    async def work(rig: Rig) -> None:
        count = 20_000
        peer = await rig.client("reverse")
        peer.send(frames.PREFACE + settings())
        await peer.until(lambda peer: peer.received)
        connection = connection_of(rig)
        await eventually(lambda: connection.core.frame_count)
        peer.send(frame(frames.PING, 0, 0, b"12345678") * count)
        most, before = 0, connection.core.frame_count
        while before < count:
            await asyncio.sleep(0)
            most, before = max(most, connection.core.frame_count - before), connection.core.frame_count
        assert most <= 512
        await peer.until(lambda peer: peer.received.count(b"\x00\x00\x08\x06\x01") == count)

    wire.run(work)
