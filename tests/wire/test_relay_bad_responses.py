"""Responses that are not passed on: 502 where nothing has been, else a connection that is visibly cut; the upstream's is closed."""

from __future__ import annotations

import pytest

from tests.wire.corpus_bad_responses import BAD_BODIES, BAD_HEADS
from tests.wire.messages import split_head
from tests.wire.rig import HOST, MODES, Mode, Rig, Wire, address_form
from tests.wire.test_relay_refusals import check_problem

REQUEST = b"GET /x HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\n\r\n"
SPLIT_BYTES = 200


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_head_that_cannot_be_trusted_becomes_502(uv_wire: Wire, name: str, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        for split in (False, True):
            client = await rig.client(mode)
            client.send(address_form(REQUEST, mode))
            upstream = await rig.upstream.next()
            await upstream.read_until()
            if split:
                await upstream.send_split(BAD_HEADS[name][:SPLIT_BYTES])
                upstream.send(BAD_HEADS[name][SPLIT_BYTES:])
            else:
                upstream.send(BAD_HEADS[name])
            raw = b""
            while raw[:12] in (b"", b"HTTP/1.1 103"):  # sound interim responses have passed
                raw = await client.read_until()
            head, _ = split_head(raw)
            assert head.status == 502
            content = await client.read(int(head.values(b"content-length")[0]))
            check_problem(head, content, "connection_terminated" if "101" in name else "http_protocol_error")
            await upstream.until(lambda peer: peer.lost)
            # The client's connection is sound; nothing of the bad response is on it.
            client.send(address_form(REQUEST, mode))
            upstream = await rig.upstream.next()
            await upstream.read_until()
            upstream.send(b"HTTP/1.1 204 Fine\r\n\r\n")
            assert await client.read_until() == b"HTTP/1.1 204 Fine\r\n\r\n"
            rig.upstream.release(upstream)

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_breaks_ends_in_a_cut_and_never_in_an_end(uv_wire: Wire, name: str, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        for split in (False, True):
            client = await rig.client(mode)
            client.send(address_form(REQUEST, mode))
            upstream = await rig.upstream.next()
            await upstream.read_until()
            if split:
                await upstream.send_split(BAD_BODIES[name][:SPLIT_BYTES])
                upstream.send(BAD_BODIES[name][SPLIT_BYTES:])
            else:
                upstream.send(BAD_BODIES[name])
            await client.until(lambda peer: peer.lost)
            assert client.reset
            assert b"\r\n0\r\n" not in client.received
            await upstream.until(lambda peer: peer.lost)
            assert rig.records[-1].outcome == "aborted_upstream"
            assert rig.records[-1].code in {"chunked_malformed", "chunk_overhead", "trailer_refused"}  # E3

    uv_wire.run(work)


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(BAD_HEADS) + len(BAD_BODIES) >= 30
