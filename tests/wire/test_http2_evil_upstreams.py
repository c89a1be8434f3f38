"""Upstreams of HTTP/2 that break its rules, change their mind, go or say nothing: what clients get, and what becomes of others."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
from msgspec.structs import replace

from proxy.relay.http2 import frames
from proxy.relay.http2.upstream import Http2UpstreamConnection
from tests.http2_peer import block, data, frame, headers, reset, settings, window_update
from tests.wire.evil_upstream import FOUND, EvilConnection, EvilUpstream, evil_upstream
from tests.wire.rig import HOST, Peer, Rig, Wire, create_token, eventually, settle

if TYPE_CHECKING:
    from collections.abc import Callable


OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
REFUSED_STREAM: Final = 7
ENHANCE_YOUR_CALM: Final = 11
OPEN: Final = [*FOUND, (b"content-type", b"text/plain")]
HEAD_ENDS: Final = frames.END_HEADERS | frames.END_STREAM


def push_promise(stream: int) -> bytes:
    return frame(frames.PUSH_PROMISE, frames.END_HEADERS, stream, (2).to_bytes(4, "big") + block(FOUND))


def goaway(last_id: int, code: int = 0) -> bytes:
    return frame(frames.GOAWAY, 0, 0, struct.pack(">LL", last_id, code))


# What leaves nothing behind it that could be relied on: the name, and the frames, given a stream whose request is complete.
BROKEN: Final[dict[str, Callable[[int], bytes]]] = {
    "push": push_promise,
    "data-on-an-idle-stream": lambda _: data(99, b"x"),
    "data-on-the-connection": lambda _: data(0, b"x"),
    "a-response-on-an-idle-stream": lambda _: headers(99, OPEN),
    "a-response-on-an-even-stream": lambda _: headers(2, OPEN),
    "a-reset-of-an-idle-stream": lambda _: reset(99),
    "a-window-of-an-idle-stream": lambda _: window_update(99, 1),
    "a-window-that-overflows": lambda _: window_update(0, frames.WINDOW_LIMIT),
    "a-window-that-grows-by-nothing": lambda _: window_update(0, 0),
    "initial-windows-that-overflow": lambda one: window_update(one, 1 << 30) + settings((4, frames.WINDOW_LIMIT)),
    "continuation-of-nothing": lambda one: frame(frames.CONTINUATION, frames.END_HEADERS, one, b""),
    "a-block-that-is-interrupted": lambda one: frame(frames.HEADERS, 0, one, block(OPEN)) + data(one, b"x"),
    "a-block-of-another-stream-within": lambda one: frame(frames.HEADERS, 0, one, block(OPEN)) + headers(one + 2, OPEN),
    "continuation-without-end": lambda one: (
        frame(frames.HEADERS, 0, one, block(OPEN)) + frame(frames.CONTINUATION, 0, one, b"\x82") * 20
    ),
    "empty-continuation": lambda one: frame(frames.HEADERS, 0, one, block(OPEN)) + frame(frames.CONTINUATION, 0, one),
    "a-block-that-cannot-be-decoded": lambda one: frame(frames.HEADERS, HEAD_ENDS, one, b"\xff\xff\xff\xff\xff\xff"),
    "an-index-of-nothing": lambda one: frame(frames.HEADERS, HEAD_ENDS, one, b"\xc0"),
    "fields-out-of-all-proportion": lambda one: frame(
        frames.HEADERS, HEAD_ENDS, one, b"\x88\x40\x01a\x7f\xb1\x1e" + b"b" * 4000 + b"\xbe" * 200
    ),
    "a-frame-that-is-too-large": lambda one: frame(frames.DATA, 0, one, bytes(16_385)),
    "settings-on-a-stream": lambda one: frame(frames.SETTINGS, 0, one),
    "settings-cut-short": lambda _: frame(frames.SETTINGS, 0, 0, b"12345"),
    "settings-without-end": lambda _: settings(*[(4, 1)] * 33),
    "settings-that-allow-us-pushes": lambda _: settings((2, 1)),
    "settings-with-a-frame-size-of-1": lambda _: settings((5, 1)),
    "a-short-ping": lambda _: frame(frames.PING, 0, 0, b"1234567"),
    "a-short-goaway": lambda _: frame(frames.GOAWAY, 0, 0, b"1234567"),
    "a-long-reset": lambda one: frame(frames.RST_STREAM, 0, one, b"12345"),
    "padding-and-nothing-else": lambda one: headers(one, OPEN, ends=False) + frame(frames.DATA, 8, one, b"\x05abc"),
    "http-1": lambda _: b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
}


async def ask(rig: Rig, path: bytes, method: bytes = b"GET") -> Peer:
    client = await rig.client("reverse")
    content = b"content-length: 4\r\n\r\nping" if method == b"POST" else b"\r\n"
    client.send(b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (method, path, HOST.encode(), content))
    return client


async def warm_up(rig: Rig, evil: EvilUpstream) -> EvilConnection:
    """A connection that has served a request already."""
    client = await ask(rig, b"/first")
    connection = await evil.connection()
    connection.answer(await connection.stream(b"/first"))
    assert await client.read(len(OK)) == OK
    await eventually(lambda: rig.records)
    rig.records.clear()
    return connection


def record_of(rig: Rig, target: bytes) -> Any:
    (found,) = [record for record in rig.records if record.target == target]
    return found


async def recorded(rig: Rig, *targets: bytes) -> None:
    """Waits until each exchange has its record; none has two."""
    await eventually(lambda: {record.target for record in rig.records} >= set(targets))
    await settle()
    assert len(rig.records) == len(targets)


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_rule_ends_the_connection_and_is_said_and_what_is_harmless_is_repeated(wire: Wire, what: str) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            connection = await warm_up(rig, evil)
            post, beside = await ask(rig, b"/post", b"POST"), await ask(rig, b"/get")
            stream_id = await connection.stream(b"/post")
            await connection.stream(b"/get")
            connection.send(BROKEN[what](stream_id))
            again = await evil.connection(1)
            again.answer(await again.stream(b"/get"))
            assert await beside.read(len(OK)) == OK
            if what == "padding-and-nothing-else":
                await post.until(lambda peer: peer.lost)
            else:
                head = await post.read_until()
                assert head.startswith(b"HTTP/1.1 502 "), head
                assert b"http_protocol_error" in head, head
            await recorded(rig, b"/post", b"/get")
            assert record_of(rig, b"/get").outcome == "ok"
            await connection.until(lambda peer: peer.lost)
            (farewell,) = connection.find(frames.GOAWAY)
            assert farewell.code
            assert list(again.paths.values()) == [b"/get"]  # the POST was not repeated

    wire.run(work)


FIELDS_TOO_MANY: Final = [*OPEN, *((b"x-%d" % each, b"") for each in range(250))]
# What is wrong with one response, and what a client gets: an answer of ours where nothing has been passed on, a cut otherwise.
SPOILT: Final[dict[str, tuple[Callable[[int], bytes], str]]] = {
    "content-before-the-response": (lambda one: data(one, b"x"), "502"),
    "an-interim-response-that-ends": (lambda one: headers(one, [(b":status", b"103")]), "502"),
    "interim-responses-without-end": (lambda one: headers(one, [(b":status", b"102")], ends=False) * 40, "102"),
    "a-window-that-grows-by-nothing": (lambda one: window_update(one, 0), "502"),
    "a-window-that-overflows": (lambda one: window_update(one, frames.WINDOW_LIMIT), "502"),
    "a-stream-that-depends-on-itself": (lambda one: frame(frames.PRIORITY, 0, one, struct.pack(">LB", one, 9)), "502"),
    "too-many-fields": (lambda one: headers(one, FIELDS_TOO_MANY), "502"),
    "trailers-without-end": (
        lambda one: headers(one, OPEN, ends=False) + headers(one, [(b"a", b"b")], ends=False),
        "cut",
    ),
    "a-second-response": (lambda one: headers(one, OPEN, ends=False) + headers(one, OPEN), "cut"),
    "too-many-trailers": (lambda one: headers(one, OPEN, ends=False) + headers(one, FIELDS_TOO_MANY[2:]), "cut"),
    "trailers-that-frame": (
        lambda one: headers(one, OPEN, ends=False) + headers(one, [(b"content-length", b"1")]),
        "cut",
    ),
    "too-little-content": (
        lambda one: headers(one, [*OPEN, (b"content-length", b"9")], ends=False) + data(one, b"begun", ends=True),
        "cut",
    ),
    "too-little-before-trailers": (
        lambda one: (
            headers(one, [*OPEN, (b"content-length", b"9")], ends=False)
            + data(one, b"begun")
            + headers(one, [(b"a", b"b")])
        ),
        "cut",
    ),
    "too-much-content": (
        lambda one: headers(one, [*OPEN, (b"content-length", b"2")], ends=False) + data(one, b"begun", ends=True),
        "cut",
    ),
    "content-of-304": (
        lambda one: headers(one, [(b":status", b"304")], ends=False) + data(one, b"x", ends=True),
        "cut",
    ),
    "content-and-then-a-reset": (lambda one: headers(one, OPEN, ends=False) + data(one, b"x") + reset(one, 0), "cut"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_wrong_with_one_response_leaves_the_others_alone(wire: Wire, what: str) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            connection = await warm_up(rig, evil)
            spoilt, beside = await ask(rig, b"/spoilt", b"POST"), await ask(rig, b"/beside", b"POST")
            stream_id = await connection.stream(b"/spoilt")
            other_id = await connection.stream(b"/beside")
            say, gets = SPOILT[what]
            connection.send(say(stream_id))
            if gets == "cut":
                await spoilt.until(lambda peer: peer.lost)
                assert not spoilt.received.endswith(b"0\r\n\r\n")
            else:
                if gets == "102":
                    assert (await spoilt.read_until()).startswith(b"HTTP/1.1 102 ")
                    await spoilt.until(lambda peer: b"HTTP/1.1 502 " in peer.received)
                    spoilt.take(spoilt.received.index(b"HTTP/1.1 502 "))
                head = await spoilt.read_until()
                assert head.startswith(b"HTTP/1.1 502 "), head
                assert b"http_protocol_error" in head, head
            connection.answer(other_id)
            assert await beside.read(len(OK)) == OK
            await recorded(rig, b"/spoilt", b"/beside")
            spoilt_record = record_of(rig, b"/spoilt")
            assert spoilt_record.outcome == ("aborted_upstream" if gets == "cut" else "http_protocol_error")
            assert len(evil.connections) == 1

    wire.run(work)


def test_fields_behind_the_end_of_a_response_end_no_more_than_the_upload(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            client = await rig.client("reverse")
            client.send(b"POST /a HTTP/1.1\r\nHost: %b\r\nContent-Length: 9\r\n\r\nping" % HOST.encode())
            connection = await evil.connection()
            await connection.until(lambda _: connection.content.get(1) == 4)
            connection.answer(1)
            assert await client.read(len(OK)) == OK
            connection.send(headers(1, OPEN))
            await connection.until(lambda _: connection.find(frames.RST_STREAM))
            await recorded(rig, b"/a")
            assert record_of(rig, b"/a").outcome == "ok"

    wire.run(work)


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_request_that_is_refused_twice_is_said_so_and_may_be_repeated(wire: Wire, method: bytes) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            client = await ask(rig, b"/a", method)
            connection = await evil.connection()
            connection.send(reset(await connection.stream(b"/a"), REFUSED_STREAM))
            await connection.until(lambda _: 3 in connection.complete)
            connection.send(reset(3, REFUSED_STREAM))
            answer = await client.read_until(b"}")
            assert answer.startswith(b"HTTP/1.1 502 ")
            assert b"unprocessed (RFC 9113 \xc2\xa78.7), twice. To repeat it is safe." in answer
            await recorded(rig, b"/a")
            assert connection.complete == {1, 3}

    wire.run(work)


def test_content_that_was_not_kept_is_not_repeated_and_that_is_said(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        limits = rig.relay.limits
        rig.relay.limits = replace(limits, replay_bytes=2)
        try:
            async with evil_upstream(rig) as evil:
                client = await ask(rig, b"/a", b"POST")
                connection = await evil.connection()
                connection.send(reset(await connection.stream(b"/a"), REFUSED_STREAM))
                answer = await client.read_until(b"}")
                assert b"was not sent again, because its content is over 2 bytes" in answer
        finally:
            rig.relay.limits = limits

    wire.run(work)


@pytest.mark.parametrize("code", [0, 1, 2, 8, ENHANCE_YOUR_CALM, 4_000_000])
def test_a_stream_that_is_reset_is_said_with_its_code(wire: Wire, code: int) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            connection = await warm_up(rig, evil)
            post, get = await ask(rig, b"/post", b"POST"), await ask(rig, b"/get")
            for path in (b"/post", b"/get"):
                connection.send(reset(await connection.stream(path), code))
            answer = await post.read_until(b"}")
            assert answer.startswith(b"HTTP/1.1 502 ")
            assert b"reset the stream with code %d " % code in answer
            assert b"The POST may have been carried out" in answer
            await connection.until(lambda _: len(connection.complete) == 4)
            connection.answer(max(connection.complete))
            assert await get.read(len(OK)) == OK
            await recorded(rig, b"/post", b"/get")

    wire.run(work)


def test_a_connection_that_is_lost_is_no_stream_that_was_reset(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            client = await ask(rig, b"/a", b"POST")
            connection = await evil.connection()
            await connection.stream(b"/a")
            connection.cut()
            answer = await client.read_until(b"}")
            assert b"closed the connection before it had answered" in answer
            assert b"reset the stream" not in answer

    wire.run(work)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_goaway_in_flight_finishes_what_is_below_and_repeats_what_is_above(
    wire: Wire, steps: int, method: bytes
) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            below = await ask(rig, b"/below", method)
            connection = await evil.connection()
            below_id = await connection.stream(b"/below")
            above = await ask(rig, b"/above", method)
            await connection.stream(b"/above")
            if steps == 2:
                connection.send(goaway(frames.HIGHEST_STREAM))
                later = await ask(rig, b"/later", method)
                again = await evil.connection(1)
                again.answer(await again.stream(b"/later"))
                assert await later.read(len(OK)) == OK
            connection.send(goaway(below_id))
            again = await evil.connection(1)
            again.answer(await again.stream(b"/above"))
            assert await above.read(len(OK)) == OK
            connection.answer(below_id)
            assert await below.read(len(OK)) == OK
            await connection.until(lambda peer: peer.lost)  # with nothing under way, it is closed
            await recorded(rig, b"/below", b"/above", *([b"/later"] if steps == 2 else []))
            assert {record.outcome for record in rig.records} == {"ok"}

    wire.run(work)


def test_what_is_repeated_has_a_token_that_is_good_by_then(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            client = await ask(rig, b"/a", b"POST")
            connection = await evil.connection()
            await connection.stream(b"/a")
            rig.tokens.token, rig.tokens.successor = None, create_token("the-next-token")
            connection.send(reset(1, REFUSED_STREAM))
            await connection.until(lambda _: 3 in connection.complete)
            assert (b"authorization", b"Bearer the-next-token") in connection.fields[3]
            assert connection.content[3] == 4
            connection.answer(3)
            assert await client.read(len(OK)) == OK

    wire.run(work)


@pytest.mark.parametrize("way", ["reset", "goaway", "close", "cut"])
def test_an_early_answer_is_whole_whatever_becomes_of_its_stream(wire: Wire, way: str) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            client = await rig.client("reverse")
            client.send(
                b"POST /a HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n" % HOST.encode()
            )
            connection = await evil.connection()
            await connection.until(lambda _: connection.content.get(1) == 4)
            early = headers(1, [(b":status", b"413"), (b"content-length", b"2")], ends=False) + data(
                1, b"no", ends=True
            )
            connection.send(early + {"reset": reset(1, 0), "goaway": goaway(1)}.get(way, b""))
            if way in ("goaway", "close"):
                connection.close()
            assert (await client.read_until(b"no")).startswith(b"HTTP/1.1 413 ")
            if way == "cut":
                connection.cut()
            await recorded(rig, b"/a")
            assert (rig.records[0].status, rig.records[0].outcome) == (413, "ok")

    wire.run(work)


def test_padding_is_taken_off(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            client = await ask(rig, b"/a")
            connection = await evil.connection()
            one = await connection.stream(b"/a")
            head = b"\x07" + block([*FOUND, (b"content-length", b"600")]) + bytes(7)
            connection.send(frame(frames.HEADERS, frames.PADDED | frames.END_HEADERS, one, head))
            connection.send(frame(frames.DATA, frames.PADDED, one, b"\xff" + b"a" + bytes(255)) * 599)
            connection.send(frame(frames.DATA, frames.PADDED | frames.END_STREAM, one, b"\x00b"))
            assert (await client.read_until(b"b")).endswith(b"\r\n\r\n" + b"a" * 599 + b"b")
            # All of it is given back, padding and its length included.
            given = sum(int.from_bytes(each.payload, "big") for each in connection.find(frames.WINDOW_UPDATE, one))
            assert given >= 599 * 256 // 2

    wire.run(work)


def test_windows_below_zero_are_paid_back_before_anything_is_sent(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            client = await rig.client("reverse")
            client.send(
                b"POST /a HTTP/1.1\r\nHost: %b\r\nContent-Length: 44000\r\n\r\n" % HOST.encode() + bytes(40_000)
            )
            connection = await evil.connection()
            await connection.until(lambda _: connection.content.get(1) == 40_000)
            connection.send(settings((frames.INITIAL_WINDOW_SIZE, 10_000)))
            await connection.until(
                lambda _: any(each.flags & frames.ACK for each in connection.find(frames.SETTINGS)[2:])
            )
            client.send(bytes(4_000))
            connection.send(window_update(1, 30_000) + frame(frames.PING, 0, 0, b"nothing!"))
            await connection.until(lambda _: connection.find(frames.PING))
            assert connection.content[1] == 40_000
            connection.send(window_update(1, 100))
            await connection.until(lambda _: connection.content[1] > 40_000)
            assert connection.content[1] == 40_100
            connection.send(settings((frames.INITIAL_WINDOW_SIZE, 65_535)))
            await connection.until(lambda _: 1 in connection.complete)
            assert connection.content[1] == 44_000
            connection.answer(1)
            assert await client.read(len(OK)) == OK

    wire.run(work)


def test_a_request_waits_for_an_upstream_that_allows_none_at_the_time(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        limits = rig.relay.limits
        rig.relay.limits = replace(limits, upstream_connections=1)
        try:
            async with evil_upstream(rig) as evil:
                connection = await warm_up(rig, evil)
                connection.send(settings((frames.MAX_CONCURRENT_STREAMS, 0)) + frame(frames.PING, 0, 0, b"settings"))
                await connection.until(lambda _: connection.find(frames.PING))
                first, second = await ask(rig, b"/a", b"POST"), await ask(rig, b"/b", b"POST")
                pool: Any = cast("Any", rig.reverse.destination.pool)._preferred()
                await eventually(lambda: len(pool._queue) == 2)
                assert len(connection.paths) == 1
                connection.send(settings((frames.MAX_CONCURRENT_STREAMS, 1)))
                for number in (2, 3):
                    await connection.until(lambda _: len(connection.complete) == number)  # noqa: B023  # called at once
                    assert len(connection.paths) == number
                    connection.answer(max(connection.complete))
                assert await first.read(len(OK)) == await second.read(len(OK)) == OK
                await recorded(rig, b"/a", b"/b")
        finally:
            rig.relay.limits = limits

    wire.run(work)


def test_a_smaller_table_is_kept_to(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            connection = await warm_up(rig, evil)
            expected = connection.fields[1][1:]
            for number, size in enumerate((0, 4_096, 60, 0, 1 << 20, 100)):
                connection.send(settings((frames.HEADER_TABLE_SIZE, size)))
                connection._decoder.max_allowed_table_size = size  # `hpack` objects to an encoder that does not follow
                await connection.until(
                    lambda _: sum(each.flags & 1 for each in connection.find(frames.SETTINGS)) == number + 2  # noqa: B023
                )
                for each in range(2):
                    path = b"/%d-%d" % (number, each)
                    client = await ask(rig, path)
                    one = await connection.stream(path)
                    assert connection.fields[one][1:3] == expected[:2]
                    connection.answer(one)
                    assert await client.read(len(OK)) == OK

    wire.run(work)


@pytest.mark.parametrize("size", [4, 1 << 20])
def test_a_window_that_is_never_opened_ends_the_exchange_in_time(wire: Wire, size: int) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            evil.greeting = settings((frames.INITIAL_WINDOW_SIZE, 0))
            connection = await warm_up(rig, evil)
            client = await rig.client("reverse")
            client.send(b"POST /a HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n" % (HOST.encode(), size))
            client.send(bytes(size))
            await connection.until(lambda _: 3 in connection.paths)
            if size > 4:
                await client.is_stopped()
            await settle()
            rig.later(max(rig.timeouts.response_s, rig.timeouts.body_idle_s) + 1)
            assert (await client.read_until()).startswith(b"HTTP/1.1 504 ")
            await recorded(rig, b"/a")
            beside = await ask(rig, b"/beside")
            await eventually(lambda: any(b"/beside" in one.paths.values() for one in evil.connections))
            (connection,) = (one for one in evil.connections if b"/beside" in one.paths.values())
            connection.answer(await connection.stream(b"/beside"))
            assert await beside.read(len(OK)) == OK

    wire.run(work)


def test_frames_that_say_nothing_are_no_answer(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            client = await ask(rig, b"/a")
            connection = await evil.connection()
            one = await connection.stream(b"/a")
            connection.send(headers(one, OPEN, ends=False) + data(one, b"begun"))
            await client.read_until(b"begun\r\n")
            for each in range(6):
                rig.later(rig.timeouts.body_idle_s / 4)
                connection.send(
                    data(one, b"") + window_update(one, 1) + settings() + frame(frames.PING, 0, 0, b"%08d" % each)
                )
                if each < 3:
                    await connection.until(lambda _: len(connection.find(frames.PING)) > each)  # noqa: B023  # called at once
            await client.until(lambda peer: peer.lost)
            await recorded(rig, b"/a")
            assert rig.records[0].outcome == "aborted_timeout"

    wire.run(work)


def test_a_response_that_drips_goes_on(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            client = await ask(rig, b"/a")
            connection = await evil.connection()
            one = await connection.stream(b"/a")
            connection.send(headers(one, [*FOUND, (b"content-length", b"9")], ends=False))
            await client.read_until()
            for each in range(9):
                rig.later(rig.timeouts.body_idle_s * 0.9)
                for octet in data(one, b"%d" % each, ends=each == 8):
                    connection.send(bytes((octet,)))
                    await asyncio.sleep(0)
                assert await client.read(1) == b"%d" % each
            await recorded(rig, b"/a")
            assert rig.records[0].outcome == "ok"

    wire.run(work)


@pytest.mark.parametrize("way", ["nothing", "half a frame", "half a block"])
def test_a_connection_on_which_nothing_comes_any_more_is_not_used_again(wire: Wire, way: str) -> None:
    """Each request that followed waited for `response_s` and got a 504, for as long as requests came."""

    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            connection = await warm_up(rig, evil)
            silent = await ask(rig, b"/silent")
            one = await connection.stream(b"/silent")
            connection.send(
                {
                    "nothing": b"",
                    "half a frame": headers(one, OPEN)[:11],
                    "half a block": frame(frames.HEADERS, frames.END_STREAM, one, block(OPEN)),
                }[way]
            )
            await settle()
            rig.later(rig.timeouts.response_s / 2)
            under_way = await ask(rig, b"/under-way")
            await connection.stream(b"/under-way")
            rig.later(rig.timeouts.response_s / 2 + 1)
            assert (await silent.read_until()).startswith(b"HTTP/1.1 504 ")
            after = await ask(rig, b"/after")
            other = await evil.connection(1)
            other.answer(await other.stream(b"/after"))
            assert await after.read(len(OK)) == OK
            if way == "nothing":  # and it comes to life again
                connection.answer(await connection.stream(b"/under-way"))
                assert await under_way.read(len(OK)) == OK
            else:
                rig.later(rig.timeouts.response_s + 1)
                assert (await under_way.read_until()).startswith(b"HTTP/1.1 504 ")
            await connection.until(lambda peer: peer.lost)
            await recorded(rig, b"/silent", b"/under-way", b"/after")

    wire.run(work)


async def fill(rig: Rig, evil: EvilUpstream) -> tuple[Peer, EvilConnection, Http2UpstreamConnection]:
    """An upload to an upstream that has opened every window, and reads nothing."""
    evil.greeting = settings((frames.INITIAL_WINDOW_SIZE, frames.WINDOW_LIMIT)) + window_update(0, 1 << 30)
    connection = await warm_up(rig, evil)
    connection.transport.pause_reading()
    (ours,) = (each for each in rig.relay.upstreams if isinstance(each, Http2UpstreamConnection))
    client = await rig.client("reverse")
    client.send(b"POST /a HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n" % (HOST.encode(), 16 << 20))
    client.send(bytes(16 << 20))
    await eventually(lambda: ours.core.is_held)
    return client, connection, ours


def test_a_connection_that_is_closed_and_never_read_is_cut(wire: Wire) -> None:
    """It kept its place among the upstream's connections for as long as the upstream liked."""

    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            client, connection, ours = await fill(rig, evil)
            connection.send(data(99, b"x"))
            assert b"http_protocol_error" in await client.read_until()
            assert ours in rig.relay.upstreams
            rig.later(31)
            await eventually(lambda: ours not in rig.relay.upstreams)
            pool: Any = cast("Any", rig.reverse.destination.pool)._preferred()
            assert pool.size == 0

    wire.run(work)


def test_an_upstream_that_reads_nothing_gets_no_answers_without_end(wire: Wire) -> None:
    """Its PINGs were answered into a buffer that had no bound."""

    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            client, connection, ours = await fill(rig, evil)
            bound = rig.relay.limits.buffer_bytes * 4 + (2 << 20)
            for _ in range(600):
                connection.send(frame(frames.PING, 0, 0, b"12345678") * 2_048)
                await settle()
                if not connection.may_write.is_set() and await connection.is_stopped():
                    break
                assert ours.transport.get_write_buffer_size() < bound
            assert not connection.may_write.is_set()
            connection.transport.resume_reading()
            await connection.until(lambda _: connection.find(frames.PING))
            client.cut()
            await recorded(rig, b"/a")
            assert rig.records[0].outcome == "aborted_client"

    wire.run(work)


@pytest.mark.parametrize("way", ["close", "cut"])
def test_a_response_in_very_many_frames_is_whole_although_the_connection_ends_behind_it(wire: Wire, way: str) -> None:
    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            client = await ask(rig, b"/a")
            connection = await evil.connection()
            one = await connection.stream(b"/a")
            connection.send(headers(one, [*FOUND, (b"content-length", b"3000")], ends=False))
            connection.send(data(one, b"x") * 2_999 + data(one, b"y", ends=True))
            connection.close()
            if way == "cut":
                connection.transport.abort()
            assert (await client.read_until(b"y")).endswith(b"\r\n\r\n" + b"x" * 2_999 + b"y")
            await recorded(rig, b"/a")
            assert rig.records[0].outcome == "ok"

    wire.run(work)


def test_a_connection_that_leaves_before_a_request_is_sent_on_it_is_closed(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was under way on it, and nothing closed it."""

    async def work(rig: Rig) -> None:
        async with evil_upstream(rig) as evil:
            connection = await warm_up(rig, evil)
            (ours,) = (each for each in rig.relay.upstreams if isinstance(each, Http2UpstreamConnection))
            looks = iter(range(1_000))

            def peek(_now: float) -> Any:
                look = next(looks)
                if look == 2:  # the connection has been found, and nothing is sent yet
                    ours.data_received(goaway(1))
                return None if look == 0 else rig.tokens.token

            monkeypatch.setattr(rig.tokens, "peek", peek)
            client = await ask(rig, b"/a", b"POST")
            other = await evil.connection(1)
            other.answer(await other.stream(b"/a"))
            assert await client.read(len(OK)) == OK
            await connection.until(lambda peer: peer.lost)
            assert list(connection.paths.values()) == [b"/first"]

    wire.run(work)
