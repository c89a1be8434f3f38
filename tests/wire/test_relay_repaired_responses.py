"""Responses that others take: passed on in the plain form, and the upstream's connection serves no other exchange."""

from __future__ import annotations

import pytest

from tests.wire.corpus_repaired_responses import PADDED_CHUNKS, REPAIRED
from tests.wire.messages import split_chunked, split_head
from tests.wire.rig import HOST, MODES, Mode, Peer, Rig, Wire, address_form

REQUEST = b"%b /x HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\n\r\n"
NEXT = b"HTTP/1.1 204 Fine\r\n\r\n"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", REPAIRED)
def test_what_has_one_reading_passes_in_the_plain_form(uv_wire: Wire, name: str, mode: Mode) -> None:
    """C3, C4: a write that was carried out is not reported as 502 because of how its response is written."""
    case = REPAIRED[name]

    async def work(rig: Rig) -> None:
        for split in (False, True):
            client = await rig.client(mode)
            client.send(address_form(REQUEST % case.method, mode))
            upstream = await rig.upstream.next()
            await upstream.read_until()
            await _send(upstream, case.sent, split=split)
            if case.until_close:
                upstream.close()
            assert await client.read(len(case.received)) == case.received
            await upstream.until(lambda peer: peer.lost)
            assert rig.records[-1].outcome == "ok"
            if not case.until_close:
                await _check_in_step(rig, client, mode)

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PADDED_CHUNKS)
def test_padded_chunk_sizes_are_read(uv_wire: Wire, name: str, mode: Mode) -> None:
    """C4: blanks behind a chunk's size, which old servers write to have it at a fixed width."""

    async def work(rig: Rig) -> None:
        for split in (False, True):
            client = await rig.client(mode)
            client.send(address_form(REQUEST % b"GET", mode))
            upstream = await rig.upstream.next()
            await upstream.read_until()
            sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + PADDED_CHUNKS[name]
            await _send(upstream, sent, split=split)
            received = await client.read_until(b"0\r\n")
            received += await client.read_until(b"\r\n\r\n" if b"X-T" in PADDED_CHUNKS[name] else b"\r\n")
            content, trailers, rest = split_chunked(split_head(received)[1])
            assert (content, trailers, rest) == (b"ok", (b"X-T: 1",) if b"X-T" in PADDED_CHUNKS[name] else (), b"")
            rig.upstream.release(upstream)
            await _check_in_step(rig, client, mode)

    uv_wire.run(work)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            b"Date: x\r\nNoColon eyJsecret\r\nContent-Length: 2\r\n",
            "A field line of the response, behind 'Date', has no colon",
        ),
        (b"NoColon\r\n", "A field line of the response, behind the first line, has no colon"),
        (b": x\r\n", "has no name before its colon"),
        (b"Con tent: secret\r\nContent-Length: 2\r\n", "no field name may have: 'Con tent'"),
        (b"N\xc3\xa4me: secret\r\n", r"no field name may have: 'N\xc3\xa4me'"),
        (b"X" * 50 + b"(: secret\r\n", "no field name may have: '" + "X" * 40 + "'…"),
        (b"X-A: secret\x01\r\n", "The field 'X-A' of the response has a control character in its value"),
        (b"Content-Length: secret\r\n", "a Content-Length that is not a plain number"),
        (b"Content-Length: 1\r\nContent-Length: 2\r\n", "more than one Content-Length"),
        (b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "both Content-Length and Transfer-Encoding"),
    ],
)
def test_the_refusal_of_a_head_names_the_field_line_and_its_fault(uv_wire: Wire, fields: bytes, words: str) -> None:
    """E4: in the words of the field line that is at fault, without any value."""

    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.send(REQUEST % b"GET")
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.send(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")
        head, _ = split_head(await client.read_until())
        content = (await client.read(int(head.values(b"content-length")[0]))).decode()
        assert head.status == 502
        assert words.replace("\\", "\\\\") in content.replace("\\u2026", "…")
        assert "secret" not in content

    uv_wire.run(work)


async def _send(upstream: Peer, data: bytes, *, split: bool) -> None:
    if split:
        await upstream.send_split(data)
    else:
        upstream.send(data)


async def _check_in_step(rig: Rig, client: Peer, mode: Mode) -> None:
    client.send(address_form(REQUEST % b"GET", mode))
    upstream = await rig.upstream.next()
    await upstream.read_until()
    upstream.send(NEXT)
    assert await client.read(len(NEXT)) == NEXT
    rig.upstream.release(upstream)
