"""Messages nobody thought of: valid ones pass with declared differences only, broken ones get a declared answer or a cut.

What reaches either side is judged by a reader written here from RFC 9112's grammar, which shares nothing with the product's.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.corpus import Case
from tests.wire.declared import Sent, expected_request, expected_response, read_request, read_response
from tests.wire.messages import Head, Incomplete, chunked, split_chunked, split_head
from tests.wire.rig import AUTHORIZATION, HOST, MODES, Mode, Peer, Rig, Trust, Wire, address_form, eventually, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST_LINE: Final = b"Host: " + HOST.encode()
TOKEN_CHARACTERS: Final = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Fields by which the relay decides; the corpus has those.
RESERVED: Final = re.compile(
    rb"(?:host|connection|proxy-.*|keep-alive|te|upgrade|trailer|transfer-encoding|content-length|authorization|expect"
    rb"|http2-settings|www-authenticate)",
    re.IGNORECASE,
)
OWN_STATUSES: Final = {400, 403, 408, 413, 414, 421, 431}

SLOW: Final = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

REQUEST_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [^\x00-\x20\x7f]+ HTTP/1\.1")
STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 [1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?")
FIELD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
DIGITS: Final = re.compile(rb"[0-9]+")

names = (
    st.text(TOKEN_CHARACTERS, min_size=1, max_size=20).map(str.encode).filter(lambda name: not RESERVED.fullmatch(name))
)
values = st.binary(max_size=40).map(lambda raw: bytes(byte for byte in raw if byte == 9 or 32 <= byte != 127))
fields = st.lists(st.tuples(names, st.sampled_from([b":", b": ", b":\t "]), values).map(b"".join), max_size=8)
targets = st.binary(max_size=40).map(
    lambda raw: b"/" + bytes(byte for byte in raw if byte > 32 and byte not in (127, 35))
)
methods = st.one_of(
    st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT"]),
    st.text(TOKEN_CHARACTERS, min_size=1, max_size=12)
    .map(str.encode)
    .filter(lambda method: method not in (b"TRACE", b"CONNECT")),
)
pieces = st.lists(st.binary(min_size=1, max_size=60), max_size=6)
trailer_lines = st.lists(st.tuples(names, st.just(b": "), values.map(bytes.strip)).map(b"".join), max_size=2)
cuts = st.lists(st.integers(0, 400), max_size=6)
modes = st.sampled_from(MODES)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Framing fields, and a body they fit."""
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    content = draw(pieces)
    if kind == "none":
        return [], b""
    if kind == "length":
        body = b"".join(content)
        return [b"Content-Length: %d" % len(body)], body
    trailers = b"".join(line + b"\r\n" for line in draw(trailer_lines))
    return [b"Transfer-Encoding: chunked"], chunked(*content, trailers=trailers)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    framing, body = draw(bodies())
    lines = draw(st.permutations([HOST_LINE, *framing, *draw(fields)]))
    return bytes(Head(b"%b %b HTTP/1.1" % (draw(methods), draw(targets)), tuple(lines))) + body


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    interim = b"".join(
        bytes(Head(b"HTTP/1.1 %d Interim" % draw(st.sampled_from([100, 102, 103, 199])), tuple(draw(fields))))
        for _ in range(draw(st.integers(0, 2)))
    )
    framing, body = draw(bodies())
    status = draw(st.integers(200, 999).filter(lambda status: status not in (204, 304, 401, 426)))
    reason = draw(st.one_of(st.just(b""), values.map(lambda value: b" " + value)))
    lines = draw(st.permutations([*(framing or [b"Content-Length: 0"]), *draw(fields)]))
    return interim + bytes(Head(b"HTTP/1.1 %d%b" % (status, reason), tuple(lines))) + body


# What desynchronisation is made of.
WOUNDS: Final = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"\x00",
        b"\x0b",
        b"\x7f",
        b"\x80",
        b"0",
        b"ffffffff",
    ),
    *(b"0\r\n\r\n", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"chunked"),
    *(
        b"Host: other.example\r\n",
        b"Transfer-Encoding: x\r\n",
        b"Connection: close\r\n",
        b"Connection: Content-Length\r\n",
    ),
    *(b"GET / HTTP/1.1\r\nHost: api.example.test\r\n\r\n", b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\n"),
    *(b" HTTP/1.1", b"HTTP/1.0"),
)
fragments = st.sampled_from(WOUNDS)


@st.composite
def mutations(draw: st.DrawFn, of: st.SearchStrategy[bytes]) -> bytes:
    """A valid message with a few wounds."""
    raw = draw(of)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        removed = draw(st.integers(0, 6))
        inserted = draw(st.one_of(fragments, st.binary(max_size=3)))
        raw = raw[:at] + inserted + raw[at + removed :]
    return raw


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rig = Rig(Trust.create())
        runner.run(rig.start())
        yield Wire(runner, rig)
        runner.run(rig.stop())


@given(request=requests(), response=responses(), mode=modes, request_cuts=cuts, response_cuts=cuts)
@settings(max_examples=80, suppress_health_check=SLOW)
def test_valid_messages_pass_with_declared_differences_only(
    wire: Wire, request: bytes, response: bytes, mode: Mode, request_cuts: list[int], response_cuts: list[int]
) -> None:
    if request.startswith(b"HEAD "):
        response = response[: response.rindex(split_head(response)[0].start)]  # interim responses have no content
        response += b"HTTP/1.1 200 OK\r\nContent-Length: 4711\r\n\r\n"
    case = Case("generated", request, response)

    async def work(rig: Rig) -> None:
        client = await rig.client(mode)
        await send_in_pieces(client, address_form(request, mode), request_cuts)
        upstream = await rig.upstream.next()
        assert await arrival(upstream, read_request) == expected_request(case)
        upstream.received.clear()
        await send_in_pieces(upstream, response, response_cuts)
        assert await arrival(client, lambda raw: read_response(case, raw, ended=client.ended)) == expected_response(
            case
        )
        await check_in_step(rig, client, upstream, mode)

    wire.run(work)


@given(raw=mutations(requests()), mode=modes, where=cuts)
@settings(max_examples=150, suppress_health_check=SLOW)
def test_a_broken_request_is_refused_or_reaches_the_upstream_as_something_sound(
    wire: Wire, raw: bytes, mode: Mode, where: list[int]
) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client(mode)
        await send_in_pieces(client, address_form(raw, mode) if raw.count(b" ") > 1 else raw, where)
        served = 0
        await settle()
        while rig.upstream.heard():
            upstream = await rig.upstream.next()
            await settle()
            if not judge_request(bytes(upstream.received)):
                break  # never completed: the client has not sent the rest, or was refused
            upstream.received.clear()
            served += 1
            upstream.send(b"HTTP/1.1 299 Number %d\r\nContent-Length: 0\r\n\r\n" % served)
            rig.upstream.release(upstream)
            await settle()
        judge_answers(bytes(client.received), served, ended=client.ended, heads=b"HEAD " in raw)
        client.cut()
        await eventually(lambda: not rig.relay.clients)

    wire.run(work)


@given(raw=mutations(responses()), mode=modes, where=cuts)
@settings(max_examples=120, suppress_health_check=SLOW)
def test_a_broken_response_is_refused_or_cut_or_reaches_the_client_as_something_sound(
    wire: Wire, raw: bytes, mode: Mode, where: list[int]
) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client(mode)
        client.send(address_form(b"GET / HTTP/1.1\r\n" + HOST_LINE + b"\r\n\r\n", mode))
        upstream = await rig.upstream.next()
        await upstream.read_until()
        await send_in_pieces(upstream, raw, where)
        await settle()
        if not upstream.lost:
            upstream.close()
        await settle(40)
        if client.reset:
            return  # visibly cut
        received = bytes(client.received)
        end = judge_response(received, ended=client.ended)
        assert end == len(received), "nothing stands behind a response"

    wire.run(work)


async def send_in_pieces(peer: Peer, data: bytes, where: list[int]) -> None:
    last = 0
    for cut in sorted({cut for cut in where if cut < len(data)}):
        if peer.transport.is_closing():
            return
        peer.send(data[last:cut])
        last = cut
        await settle(3)
    if not peer.transport.is_closing():
        peer.send(data[last:])


async def check_in_step(rig: Rig, client: Peer, upstream: Peer, mode: Mode) -> None:
    client.received.clear()
    rig.upstream.release(upstream)
    client.send(address_form(b"GET /in-step HTTP/1.1\r\n" + HOST_LINE + b"\r\n\r\n", mode))
    upstream = await rig.upstream.next()
    assert (await upstream.read_until()).startswith(b"GET /in-step HTTP/1.1\r\n")
    response = b"HTTP/1.1 200 In Step\r\nContent-Length: 0\r\n\r\n"
    upstream.send(response)
    assert await client.read(len(response)) == response


async def arrival(peer: Peer, read: Callable[[bytes], Sent]) -> Sent:
    def arrived(peer: Peer) -> bool:
        try:
            read(bytes(peer.received))
        except Incomplete:
            return peer.lost
        return True

    await peer.until(arrived)
    return read(bytes(peer.received))


def judge_fields(head: Head) -> int | None:
    """Holds a head to the grammar and to one framing; returns its Content-Length, -1 for chunked, None for neither."""
    for field in head.fields:
        assert FIELD.fullmatch(field), field
    lengths, codings = head.values(b"content-length"), head.values(b"transfer-encoding")
    assert len(lengths) + len(codings) <= 1, "one framing"
    if codings:
        assert codings[0].lower() == b"chunked"
        return -1
    if lengths:
        assert DIGITS.fullmatch(lengths[0]), lengths
        return int(lengths[0])
    return None


def judge_request(raw: bytes) -> bool:
    """Holds what reached the upstream to be one request, sound and complete; False: it is not complete."""
    try:
        head, rest = split_head(raw)
    except Incomplete:
        return False
    assert REQUEST_LINE.fullmatch(head.start), head.start
    assert head.values(b"host") == [HOST.encode()]
    assert [field for field in head.fields if field.lower().startswith(b"authorization:")] == [AUTHORIZATION]
    length = judge_fields(head)
    if length == -1:
        try:
            _, trailers, behind = split_chunked(rest)
        except Incomplete:
            return False
        for trailer in trailers:
            assert FIELD.fullmatch(trailer), trailer
        assert behind == b"", "one request at a time"
        return True
    assert len(rest) <= (length or 0), "one request at a time"
    return len(rest) == (length or 0)


def judge_answers(raw: bytes, served: int, *, ended: bool, heads: bool) -> None:
    """Holds what the client read to be the answers to what was served, in order, and at most one refusal behind them."""
    for number in range(1, served + 1):
        head, raw = split_head(raw)
        assert head.start == b"HTTP/1.1 299 Number %d" % number
    if raw.startswith(b"HTTP/1.1 200 Connection established\r\n\r\n"):
        return
    if not raw:
        return
    head, content = split_head(raw)
    assert head.status in OWN_STATUSES, head
    assert head.values(b"proxy-status")
    assert int(head.values(b"content-length")[0]) == len(content) or (heads and not content)
    assert head.values(b"connection") == [b"close"]
    assert ended


def judge_response(raw: bytes, *, ended: bool) -> int:
    """Holds what the client read to be one response, sound and complete; returns where it ends."""
    size = len(raw)
    while True:
        head, raw = split_head(raw)
        assert STATUS_LINE.fullmatch(head.start), head.start
        length = judge_fields(head)
        if head.status >= 200:
            break
        assert not length
    if head.status in (204, 304):
        return size - len(raw)
    if length == -1:
        _, _, raw = split_chunked(raw)
        return size - len(raw)
    if length is None:
        assert ended
        return size
    assert len(raw) >= length
    return size - len(raw) + length
