"""A 401 that blames the token: the request is sent once more with another one, and the client sees the second answer only."""

from __future__ import annotations

from typing import Final

import pytest

from tests.wire.messages import chunked, split_chunked
from tests.wire.rig import HOST, MODES, TOKEN, Mode, Peer, Rig, Wire, address_form, create_token, eventually, settle

HOST_LINE: Final = b"Host: " + HOST.encode() + b"\r\n"
GET: Final = b"GET /x HTTP/1.1\r\n" + HOST_LINE + b"\r\n"
OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NEXT_TOKEN: Final = "successor-of-the-fixed-token"
# What API Management's validate-jwt says, without a challenge.
GATEWAY: Final = b'{ "statusCode": 401, "message": "Unauthorized. Access token is missing or invalid." }'
START: Final = b"HTTP/1.1 401 Unauthorized\r\n"

ABOUT_THE_TOKEN: Final = {
    "the gateway's, of a length": START + b"Content-Length: %d\r\n\r\n" % len(GATEWAY) + GATEWAY,
    "the gateway's, in chunks": START + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(GATEWAY[:9], GATEWAY[9:]),
    "empty": START + b"Content-Length: 0\r\n\r\n",
    "empty, in chunks with a trailer": START + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(trailers=b"X: 1\r\n"),
    "a challenge that blames the token": START
    + b'WWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 3\r\n\r\nbad',
    "behind early hints": b"HTTP/1.1 103 E\r\n\r\n" + START + b"Content-Length: 0\r\n\r\n",
}
CLOSING: Final = {
    "and closes": START + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(GATEWAY) + GATEWAY,
    "until it closes": START + b"\r\n" + GATEWAY,
    "of HTTP/1.0": b"HTTP/1.0 401 Unauthorized\r\n\r\n" + GATEWAY,
}
OF_THE_API: Final = {
    "a challenge of its own": START + b'WWW-Authenticate: Basic realm="api"\r\nContent-Length: 2\r\n\r\nno',
    "a page": START + b"Content-Type: text/html\r\nContent-Length: 13\r\n\r\n<h1>401</h1>\n",
    "JSON of another shape": START + b'Content-Length: 15\r\n\r\n{"error":"who"}',
    "a missing subscription key": START
    + b'WWW-Authenticate: AzureApiManagementKey realm="x"\r\nContent-Length: 0\r\n\r\n',
    "a scope that is too small": START
    + b'WWW-Authenticate: Bearer error="insufficient_scope"\r\nContent-Length: 0\r\n\r\n',
    "20 kB": START + b"Content-Length: 20000\r\n\r\n" + b"x" * 20_000,
    "20 kB that blame the token": START
    + b'WWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 20000\r\n\r\n'
    + b"x" * 20_000,
    "20 kB in chunks": START + b"Transfer-Encoding: chunked\r\n\r\n" + b"4e20\r\n" + b"x" * 20_000 + b"\r\n0\r\n\r\n",
}


async def begin(rig: Rig, mode: Mode, request: bytes = GET) -> tuple[Peer, Peer, bytes]:
    client = await rig.client(mode)
    client.send(address_form(request, mode))
    upstream = await rig.upstream.next()
    return client, upstream, await upstream.read_until()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*ABOUT_THE_TOKEN, *CLOSING])
def test_the_client_never_sees_a_refusal_that_another_token_cures(wire: Wire, mode: Mode, name: str) -> None:
    async def work(rig: Rig) -> None:
        rig.tokens.successor = create_token(NEXT_TOKEN)
        client, upstream, first = await begin(rig, mode)
        rig.upstream.release(upstream)
        upstream.send((ABOUT_THE_TOKEN | CLOSING)[name])
        if name in CLOSING:
            upstream.close()
        again = await rig.upstream.next()
        assert await again.read_until() == first.replace(TOKEN.encode(), NEXT_TOKEN.encode())
        again.send(OK)
        hints = b"HTTP/1.1 103 E\r\n\r\n" if "hints" in name else b""
        assert await client.read(len(hints + OK)) == hints + OK
        assert rig.tokens.rejections == 1
        assert (again is upstream) == (name in ABOUT_THE_TOKEN), "a connection that is sound is used again"

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", OF_THE_API)
def test_an_apis_own_401_is_a_response_like_any_other(wire: Wire, mode: Mode, name: str) -> None:
    async def work(rig: Rig) -> None:
        rig.tokens.successor = create_token(NEXT_TOKEN)
        client, upstream, _ = await begin(rig, mode)
        upstream.send(OF_THE_API[name])
        if "chunks" in name:
            received = await client.read_until(b"\r\n0\r\n\r\n")
            head, _, body = received.partition(b"\r\n\r\n")
            assert head == OF_THE_API[name].partition(b"\r\n\r\n")[0]
            assert split_chunked(body) == (b"x" * 20_000, (), b"")
        else:
            assert await client.read(len(OF_THE_API[name])) == OF_THE_API[name]
        await settle()
        assert not rig.upstream.heard()
        assert rig.tokens.token is not None, "the token is kept"

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_content_is_sent_again_as_it_was(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        rig.tokens.successor = create_token(NEXT_TOKEN)
        for fields, body in (
            (b"Content-Length: 5\r\n", b"12345"),
            (b"Transfer-Encoding: chunked\r\n", chunked(b"abc", b"de", trailers=b"X-Sum: 1\r\n")),
        ):
            rig.tokens.token = create_token(TOKEN)
            request = b"POST /x HTTP/1.1\r\n" + HOST_LINE + fields + b"\r\n"
            client, upstream, first = await begin(rig, mode, request + body)
            sent = await upstream.read_until(body[-5:])
            rig.upstream.release(upstream)
            upstream.send(ABOUT_THE_TOKEN["the gateway's, of a length"])
            again = await rig.upstream.next()
            assert await again.read_until() == first.replace(TOKEN.encode(), NEXT_TOKEN.encode())
            assert await again.read(len(sent)) == sent
            again.send(OK)
            assert await client.read(len(OK)) == OK
            rig.upstream.release(again)

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_content_that_was_not_kept_or_not_complete_is_not_sent_again(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        rig.tokens.successor = create_token(NEXT_TOKEN)
        size = rig.limits.replay_bytes + 1
        response = ABOUT_THE_TOKEN["the gateway's, of a length"]
        for sent in (size, 10):
            rig.tokens.token = create_token(TOKEN)
            request = b"POST /x HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: %d\r\n\r\n" % size
            client, upstream, _ = await begin(rig, mode, request + b"x" * sent)
            await upstream.read(sent)
            upstream.send(response)
            assert await client.read(len(response)) == response
            client.transport.abort()
            await settle()
            assert not rig.upstream.heard()
            rig.upstream.release(upstream)

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_second_refusal_is_the_answer(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        rig.tokens.successor = create_token(NEXT_TOKEN)
        client, upstream, _ = await begin(rig, mode)
        response = ABOUT_THE_TOKEN["a challenge that blames the token"]
        rig.upstream.release(upstream)
        upstream.send(response)
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.send(response)
        assert await client.read(len(response)) == response

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ABOUT_THE_TOKEN)
def test_without_another_token_the_refusal_is_the_answer(uv_wire: Wire, mode: Mode, name: str) -> None:
    async def work(rig: Rig) -> None:
        client, upstream, _ = await begin(rig, mode)
        upstream.send(ABOUT_THE_TOKEN[name])
        if "chunks" in name:
            received = await client.read_until(b"X: 1\r\n\r\n" if "trailer" in name else b"0\r\n\r\n")
            assert received.startswith(START)
        else:
            assert await client.read(len(ABOUT_THE_TOKEN[name])) == ABOUT_THE_TOKEN[name]

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_the_answer_to_head_is_repeated_too(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        rig.tokens.successor = create_token(NEXT_TOKEN)
        client, upstream, _ = await begin(rig, mode, GET.replace(b"GET", b"HEAD"))
        rig.upstream.release(upstream)
        upstream.send(START + b"Content-Length: 84\r\n\r\n")
        again = await rig.upstream.next()
        await again.read_until()
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4711\r\n\r\n"
        again.send(answer)
        assert await client.read(len(answer)) == answer

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_an_upstream_that_dies_in_its_refusal_is_502(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        rig.tokens.successor = create_token(NEXT_TOKEN)
        client, upstream, _ = await begin(rig, mode)
        upstream.send(START + b"Content-Length: 84\r\n\r\n{ ")
        await settle()
        upstream.cut()
        assert (await client.read_until()).startswith(b"HTTP/1.1 502 ")
        await client.until(lambda peer: b"in the middle of its answer" in peer.received or peer.lost)
        assert b"in the middle of its answer" in client.received

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_goes_while_another_token_is_fetched_ends_the_exchange(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        rig.tokens.successor = create_token(NEXT_TOKEN)
        client, upstream, _ = await begin(rig, mode)
        rig.upstream.release(upstream)
        client.cut()
        upstream.send(ABOUT_THE_TOKEN["empty"])
        await eventually(lambda: rig.records and not rig.relay.clients)
        assert rig.records[-1].outcome == "aborted_client"

    uv_wire.run(work)


@pytest.mark.parametrize(
    "behind", [b"HTTP/1.1 200 Smuggled\r\nContent-Length: 2\r\n\r\nno", b"x"], ids=["a response", "a byte"]
)
def test_bytes_behind_a_refusal_never_answer_its_replay(uv_wire: Wire, behind: bytes) -> None:
    """B3: invariant 6. They spoil the connection, so the replay takes another one."""

    async def work(rig: Rig) -> None:
        rig.tokens.successor = create_token(NEXT_TOKEN)
        client, upstream, _ = await begin(rig, "reverse")
        rig.upstream.release(upstream)
        upstream.send(START + b"Content-Length: 0\r\n\r\n" + behind)
        again = await rig.upstream.next()
        assert again is not upstream
        await again.read_until()
        again.send(OK)
        assert await client.read(len(OK)) == OK
        await upstream.until(lambda peer: peer.lost)

    uv_wire.run(work)
