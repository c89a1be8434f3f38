"""Every exchange of the corpus with HTTP/2 on one side or on both: what a version cannot say is declared, and nothing else differs.

Beside what each case declares, this holds wherever HTTP/2 is spoken: names are in lower case; blanks around values are gone; what
is of one connection, and the framing, is told by frames, or anew. Where the client alone speaks HTTP/1.1, the reason phrase is the
registered one, and a response without Content-Length is chunked, not ended by the connection. Where the client speaks HTTP/2, Host
stands first, and `cookie` is one field behind the others (RFC 9113 §8.2.3).
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import pytest

from proxy.config.settings import Http2
from tests.wire.corpus import CASES, Case
from tests.wire.http2_end import End, Message, http2_server
from tests.wire.messages import Head, Incomplete, name_of, split_chunked, split_head, split_responses
from tests.wire.rig import AUTHORIZATION, HOST, Peer, Rig, Wire, address_form
from tests.wire.test_relay_corpus import send

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.wire.http2_end import Field

# RFC 9113 §8.2.2, and what either side of the relay says for itself.
OF_A_CONNECTION: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings", b"te"}
)
TOKEN: Final = (b"authorization", AUTHORIZATION.partition(b": ")[2])
PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
# A protocol that HTTP/2 has no way to change to keeps to HTTP/1.1.
UPGRADE: Final = "request field: a WebSocket upgrade that is declined"
TO_HTTP2: Final = [case for case in CASES if case.name != UPGRADE]
FROM_HTTP2: Final = [case for case in TO_HTTP2 if b" HTTP/1.0\r\n" not in case.request and not case.host]


def lowered(lines: tuple[bytes, ...], drops: tuple[bytes, ...] = ()) -> tuple[Field, ...]:
    """Field lines, less what ends at a hop."""
    fields = [(name_of(line), line.partition(b":")[2].strip(b" \t")) for line in lines]
    return tuple(
        (name, b"%d" % int(value)) if name == b"content-length" else (name, value)
        for name, value in fields
        if name not in OF_A_CONNECTION and name not in drops
    )


def sent_request(case: Case) -> Message:
    """What the client says, less what ends here."""
    head, content = split_head(case.request.lstrip(b"\r\n"))
    trailers: tuple[bytes, ...] = ()
    method, target, _ = head.start.split(b" ")
    if head.is_chunked:
        content, trailers, _ = split_chunked(content)
    fields = lowered(head.fields, (b"host", *case.request_drops))
    return Message((method, case.target or target), fields, content, lowered(trailers, case.request_drops))


def sent_response(case: Case) -> Message:
    """What the upstream says, less what ends here."""
    interim, head, content = split_responses(case.response)
    trailers: tuple[bytes, ...] = ()
    if head.is_chunked and not is_without_content(case, head):
        content, trailers, _ = split_chunked(content)
    return Message(
        (b"%d" % head.status,),
        lowered(head.fields, case.response_drops),
        content,
        lowered(trailers, case.response_drops),
        tuple((b"%d" % one.status, lowered(one.fields)) for one in interim),
    )


def is_without_content(case: Case, head: Head) -> bool:
    return case.request.lstrip(b"\r\n").startswith(b"HEAD ") or head.status in (204, 304)


def read_request(raw: bytes) -> tuple[Head, Message]:
    """A request of HTTP/1.1; `Incomplete` while some of it is missing."""
    head, content = split_head(raw)
    method, target, _ = head.start.split(b" ")
    trailers: tuple[bytes, ...] = ()
    if head.is_chunked:
        content, trailers, rest = split_chunked(content)
        assert not rest
    elif len(content) < int(b"".join(head.values(b"content-length")) or b"0"):
        raise Incomplete
    return head, Message((method, target), lowered(head.fields), content, lowered(trailers))


def read_response(case: Case, raw: bytes, *, ended: bool) -> tuple[Head, Message]:
    """A response of HTTP/1.1; `Incomplete` while some of it is missing."""
    interim, head, content = split_responses(raw)
    trailers: tuple[bytes, ...] = ()
    lengths = head.values(b"content-length")
    if is_without_content(case, head):
        assert not content
    elif head.is_chunked:
        content, trailers, rest = split_chunked(content)
        assert not rest
    elif (lengths and len(content) < int(lengths[0])) or (not lengths and not ended):
        raise Incomplete
    for one in (*interim, head):
        assert one.start == b"HTTP/1.1 %d %b" % (one.status, PHRASES.get(one.status, b"Unknown"))
    before = tuple((b"%d" % one.status, lowered(one.fields)) for one in interim)
    return head, Message((b"%d" % head.status,), lowered(head.fields), content, lowered(trailers), before)


async def arrived(peer: Peer, read: Callable[[bytes], tuple[Head, Message]]) -> tuple[Head, Message]:
    """Waits for a whole message."""

    def is_whole(peer: Peer) -> bool:
        try:
            read(bytes(peer.received))
        except Incomplete:
            return peer.lost
        return True

    await peer.until(is_whole)
    return read(bytes(peer.received))


async def take_at_upstream(end: End, stream_id: int, case: Case) -> None:
    """The upstream has got the request over HTTP/2, and answers."""
    expected = sent_request(case)
    trailers = ((b"te", b"trailers"),) if case.request_adds else ()
    got = await end.read(stream_id)
    assert got == replace(expected, fields=(*expected.fields, *trailers, TOKEN))


@pytest.mark.parametrize("case", TO_HTTP2, ids=lambda case: case.name)
def test_a_client_of_http_1_and_an_upstream_of_http_2_read_what_the_other_sent(uv_wire: Wire, case: Case) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            for number, delivery in enumerate(("at once", "request byte by byte", "response byte by byte")):
                client = await rig.client("reverse")
                await send(client, address_form(case.request, "reverse"), split=delivery.startswith("request"))
                end, stream_id = await server.end(), 2 * number + 1
                await take_at_upstream(end, stream_id, case)
                await send(end.peer, end.say(stream_id, sent_response(case)), split=delivery.startswith("response"))
                await is_taken(client, case)
                client.close()
            assert len(server.ends) == 1

    uv_wire.run(work)


async def is_taken(client: Peer, case: Case) -> None:
    """The client of HTTP/1.1 has got the response, and can tell where it ends."""
    head, got = await arrived(client, lambda raw: read_response(case, raw, ended=client.ended))
    expected = sent_response(case)
    is_old = b" HTTP/1.0\r\n" in case.request
    if is_old:
        expected = replace(expected, trailers=(), interim=())
    if case.dechunked:
        expected = replace(expected, fields=tuple(field for field in expected.fields if field[0] != b"trailer"))
    assert got == expected
    has_length = any(name == b"content-length" for name, _ in got.fields)
    has_content = not is_without_content(case, head)
    assert head.is_chunked == (has_content and not has_length and not is_old)
    asks_to_close = b"close" in case.request.lower() or (is_old and not (b"keep-alive" in case.request and has_length))
    assert (b"close" in head.values(b"connection")) == asks_to_close


@pytest.mark.parametrize("case", FROM_HTTP2, ids=lambda case: case.name)
def test_a_client_of_http_2_and_an_upstream_of_http_1_read_what_the_other_sent(uv_wire: Wire, case: Case) -> None:
    async def work(rig: Rig) -> None:
        request = sent_request(case)
        client = End(await rig.client("reverse"), is_client=True)
        client.peer.send(client.say(1, request))
        upstream = await rig.upstream.next()
        head, got = await arrived(upstream, read_request)
        assert head.fields[0] == b"host: " + HOST.encode()
        crumbs = [value for name, value in request.fields if name == b"cookie"]
        others = tuple(field for field in request.fields if field[0] != b"cookie")
        cookie = ((b"cookie", b"; ".join(crumbs)),) if crumbs else ()
        assert got == replace(request, fields=((b"host", HOST.encode()), *others, *cookie, TOKEN))
        assert head.is_chunked == (bool(request.content or request.trailers) and not head.values(b"content-length"))
        upstream.send(case.response)
        if case.upstream_closes:
            upstream.close()
        assert await client.read(1) == sent_response(case)

    uv_wire.run(work)


@pytest.mark.parametrize("case", FROM_HTTP2, ids=lambda case: case.name)
def test_a_client_and_an_upstream_of_http_2_read_what_the_other_sent(uv_wire: Wire, case: Case) -> None:
    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED) as server:
            request, response = sent_request(case), sent_response(case)
            client = End(await rig.client("reverse"), is_client=True)
            client.peer.send(client.say(1, request))
            end = await server.end()
            got = await end.read(1)
            crumbs = [value for name, value in request.fields if name == b"cookie"]
            others = tuple(field for field in request.fields if field[0] != b"cookie")
            cookie = ((b"cookie", b"; ".join(crumbs)),) if crumbs else ()
            assert got == replace(request, fields=(*others, *cookie, TOKEN))
            end.peer.send(end.say(1, response))
            assert await client.read(1) == response

    uv_wire.run(work)
