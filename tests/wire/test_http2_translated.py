"""Clients of HTTP/1.1 whose upstream speaks HTTP/2: what is repeated, cut and waited for, as between two of HTTP/1.1."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import h2.errors
import h2.events
import h2.settings
import pytest

from proxy.config.settings import Http2
from tests.wire.http2_end import End, Message, http2_server
from tests.wire.rig import HOST, Peer, Rig, Wire, create_token, eventually

if TYPE_CHECKING:
    from tests.wire.http2_end import Http2Server

GET: Final = b"GET /a HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST.encode()
POST: Final = b"POST /a HTTP/1.1\r\nHost: %b\r\nContent-Length: 4\r\n\r\nping" % HOST.encode()
UPLOAD: Final = b"POST /a HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % HOST.encode()
FOUND: Final = Message((b"200",), ((b"content-length", b"2"),), b"ok")
OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
SIZED: Final = [(b":status", b"200"), (b"content-length", b"9")]
ENDLESS: Final = [(b":status", b"200")]


async def ask(rig: Rig, request: bytes = GET) -> Peer:
    client = await rig.client("reverse")
    client.send(request)
    return client


async def got_request(server: Http2Server, stream_id: int, connection: int = 0) -> End:
    """The connection on which a whole request has come."""
    end = await server.end(connection)
    await end.read(stream_id)
    return end


def answer(end: End, stream_id: int, message: Message = FOUND) -> None:
    end.peer.send(end.say(stream_id, message))


@pytest.mark.parametrize(
    ("way", "head"),
    [
        *((way, SIZED) for way in ("reset", "gone away", "lost", "too short", "too long")),
        *((way, ENDLESS) for way in ("reset", "gone away", "lost")),
    ],
)
def test_a_response_that_breaks_off_is_cut_and_never_looks_complete(
    wire: Wire, way: str, head: list[tuple[bytes, bytes]]
) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            client = await ask(rig)
            end = await got_request(server, 1)
            end.h2.send_headers(1, head)
            end.h2.send_data(1, b"begun")
            end.flush()
            await client.until(lambda peer: b"begun" in peer.received)
            if way == "reset":
                end.h2.reset_stream(1, h2.errors.ErrorCodes.NO_ERROR)
            elif way == "gone away":
                end.h2.close_connection(last_stream_id=1)
            elif way == "too short":
                end.h2.end_stream(1)
            elif way == "too long":
                end.h2.send_data(1, b"far too much", end_stream=True)
            end.flush()
            if way in ("gone away", "lost"):
                end.peer.close()
            await client.until(lambda peer: peer.lost)
            assert client.reset
            assert not client.received.endswith(b"0\r\n\r\n")
            await eventually(lambda: [record.outcome for record in rig.records] == ["aborted_upstream"])

    wire.run(work)


@pytest.mark.parametrize("way", ["refused", "left behind"])
def test_what_the_upstream_did_not_process_is_repeated_once_whatever_its_method(wire: Wire, way: str) -> None:
    async def work(rig: Rig) -> None:
        before = rig.relay.counters.retries
        async with http2_server(rig, Http2.PREFERRED) as server:
            client = await ask(rig, POST)
            end = await got_request(server, 1)
            if way == "refused":
                end.h2.reset_stream(1, h2.errors.ErrorCodes.REFUSED_STREAM)
                end.flush()
                again, stream_id = await got_request(server, 3), 3
            else:
                end.h2.close_connection(last_stream_id=0)
                end.flush()
                again, stream_id = await got_request(server, 1, 1), 1
            assert (await again.read(stream_id)).content == b"ping"
            answer(again, stream_id)
            assert await client.read(len(OK)) == OK
            await eventually(lambda: rig.relay.counters.retries == before + 1)

    wire.run(work)


@pytest.mark.parametrize(("request_bytes", "is_repeated"), [(GET, True), (POST, False)], ids=["GET", "POST"])
def test_what_may_have_been_processed_is_repeated_only_where_that_is_harmless(
    wire: Wire, request_bytes: bytes, is_repeated: bool
) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            client = await ask(rig)
            answer(await got_request(server, 1), 1)
            assert await client.read(len(OK)) == OK
            client.send(request_bytes)
            (await got_request(server, 3)).peer.cut()
            if is_repeated:
                answer(await got_request(server, 1, 1), 1)
                assert await client.read(len(OK)) == OK
            else:
                assert (await client.read_until()).startswith(b"HTTP/1.1 502 ")

    wire.run(work)


def test_a_401_about_the_token_is_repeated_with_another_and_its_content(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            rig.tokens.successor = create_token("the-next-token")
            client = await ask(rig, UPLOAD + b"4\r\nping\r\n0\r\nX-Sum: 1\r\n\r\n")
            end = await got_request(server, 1)
            refusal = ((b"www-authenticate", b'Bearer error="invalid_token"'), (b"content-length", b"2"))
            answer(end, 1, Message((b"401",), refusal, b"no"))
            again = await end.read(3)
            assert (again.content, again.trailers) == (b"ping", ((b"x-sum", b"1"),))
            assert again.fields[-1] == (b"authorization", b"Bearer the-next-token")
            answer(end, 3)
            assert await client.read(len(OK)) == OK

    wire.run(work)


def test_a_client_that_waits_for_100_gets_it_and_then_its_response(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            head, _, content = POST.partition(b"\r\n\r\n")
            client = await ask(rig, head + b"\r\nExpect: 100-continue\r\n\r\n")
            end = await server.end()
            request = await end.until(h2.events.RequestReceived)
            assert (b"expect", b"100-continue") in [tuple(field) for field in request.headers]  # type: ignore[attr-defined]
            end.h2.send_headers(1, [(b":status", b"100")])
            end.flush()
            assert await client.read_until() == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(content)
            assert (await end.read(1)).content == b"ping"
            answer(end, 1)
            assert await client.read(len(OK)) == OK

    wire.run(work)


@pytest.mark.parametrize("is_reset", [True, False])
def test_an_early_response_reaches_a_client_that_is_still_sending(wire: Wire, is_reset: bool) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            client = await ask(rig, UPLOAD + b"4\r\nping\r\n")
            end = await server.end()
            await end.until(h2.events.DataReceived)
            answer(end, 1, Message((b"413",), ((b"content-length", b"2"),), b"no"))
            if is_reset:
                end.h2.reset_stream(1, h2.errors.ErrorCodes.NO_ERROR)
                end.flush()
            assert (await client.read_until(b"no")).startswith(b"HTTP/1.1 413 ")
            if not is_reset:
                client.send(b"4\r\nmore\r\n0\r\n\r\n")
                assert (await end.read(1)).content == b"pingmore"
            await eventually(lambda: [record.outcome for record in rig.records] == ["ok"])
            other = await ask(rig)
            await end.read(3)
            answer(end, 3)
            assert await other.read(len(OK)) == OK

    wire.run(work)


def test_both_directions_flow_at_once(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            client = await ask(rig, UPLOAD)
            end = await server.end()
            await end.until(h2.events.RequestReceived)
            end.h2.send_headers(1, ENDLESS)
            end.flush()
            await client.read_until()
            for number in range(3):
                client.send(b"1\r\n%d\r\n" % number)
                while sum(isinstance(event, h2.events.DataReceived) for event in end.events) <= number:
                    await end.more()
                end.h2.send_data(1, b"%d" % number)
                end.flush()
                assert await client.read_until(b"\r\n%d\r\n" % number)
            client.send(b"0\r\n\r\n")
            await end.read(1)
            end.h2.send_headers(1, [(b"x-sum", b"3")], end_stream=True)
            end.flush()
            assert await client.read_until() == b"0\r\nx-sum: 3\r\n\r\n"

    wire.run(work)


def test_a_client_that_reads_slowly_stalls_its_stream_and_no_other(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            slow = await ask(rig)
            end = await got_request(server, 1)
            slow.transport.pause_reading()
            end.h2.send_headers(1, ENDLESS)
            sent = 0
            piece = bytes(16_384)
            looks = 0
            while looks < 30:
                if end.h2.local_flow_control_window(1) >= len(piece) and sent < 64 << 20:
                    end.h2.send_data(1, piece)
                    sent += len(piece)
                    end.flush()
                    looks = 0
                looks += 1
                await asyncio.sleep(0.002 if looks > 1 else 0)
                if end.peer.received:
                    await end.more()
            assert sent < 8 << 20
            other = await ask(rig)
            await end.read(3)
            answer(end, 3)
            assert await other.read(len(OK)) == OK
            slow.transport.resume_reading()
            end.h2.end_stream(1)
            end.flush()
            await slow.until(lambda peer: peer.received.endswith(b"0\r\n\r\n"))
            assert slow.received.count(0) == sent

    wire.run(work)


def test_a_silent_upstream_is_504_and_its_other_streams_live(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            silent = await ask(rig)
            end = await got_request(server, 1)
            rig.later(rig.timeouts.response_s + 1)
            assert (await silent.read_until()).startswith(b"HTTP/1.1 504 ")
            reset = await end.until(h2.events.StreamReset, 1)
            assert getattr(reset, "error_code") == h2.errors.ErrorCodes.CANCEL  # noqa: B009  # not of all events
            other = await ask(rig)
            await end.read(3)
            answer(end, 3)
            assert await other.read(len(OK)) == OK

    wire.run(work)


def test_a_client_that_goes_cancels_its_stream_and_no_other(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            gone, stays = await ask(rig), await ask(rig)
            end = await got_request(server, 1)
            await end.read(3)
            gone.cut()
            reset = await end.until(h2.events.StreamReset)
            left = 4 - int(getattr(reset, "stream_id"))  # noqa: B009  # not of all events
            answer(end, left)
            assert await stays.read(len(OK)) == OK

    wire.run(work)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([(b":status", b"101")], id="101"),
        pytest.param([(b":status", b"200"), (b"connection", b"close")], id="a field of a connection"),
        pytest.param([(b":status", b"200"), (b"x", b"a\r\nb: c")], id="CR and LF in a value"),
        pytest.param([(b":status", b"200"), (b"X-Upper", b"a")], id="upper case"),
        pytest.param([(b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"2")], id="two lengths"),
        pytest.param([(b":status", b"20")], id="no status"),
    ],
)
def test_a_malformed_response_is_502_and_reaches_nobody(wire: Wire, fields: list[tuple[bytes, bytes]]) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            client = await ask(rig)
            end = await got_request(server, 1)
            end.h2.send_headers(1, fields)
            end.flush()
            assert (await client.read_until()).startswith(b"HTTP/1.1 502 ")

    wire.run(work)


def test_more_exchanges_than_the_upstream_takes_wait_or_get_another_connection(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            first = await ask(rig)
            end = await got_request(server, 1)
            end.h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1})
            end.flush()
            answer(end, 1)
            assert await first.read(len(OK)) == OK
            second, third = await ask(rig), await ask(rig)
            await end.read(3)
            other = await got_request(server, 1, 1)
            answer(end, 3)
            answer(other, 1)
            assert await second.read(len(OK)) == await third.read(len(OK)) == OK

    wire.run(work)


def test_an_idle_connection_ends_with_goaway_after_its_time_and_when_the_proxy_drains(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            client = await ask(rig)
            end = await got_request(server, 1)
            answer(end, 1)
            assert await client.read(len(OK)) == OK
            rig.later(rig.timeouts.upstream_idle_s + 1)
            await end.until(h2.events.ConnectionTerminated)
            client = await ask(rig)
            end = await got_request(server, 1, 1)
            answer(end, 1)
            assert await client.read(len(OK)) == OK
            rig.relay.destinations.close_idle()
            await end.until(h2.events.ConnectionTerminated)
            await eventually(lambda: not rig.relay.upstreams)

    wire.run(work)
