"""Requests that are refused: each gets its declared answer, the connection ends, and nothing of it has reached the upstream."""

from __future__ import annotations

import json

import pytest

from tests.wire.corpus_refused import REFUSED_BODIES, REFUSED_HEADS, Refused
from tests.wire.messages import Head, split_head
from tests.wire.rig import HOST, Mode, Peer, Rig, Wire, address_form

HEADS = [pytest.param(case, mode, id=f"{case.name}-{mode}") for case in REFUSED_HEADS for mode in case.modes]
BODIES = [pytest.param(case, mode, id=f"{case.name}-{mode}") for case in REFUSED_BODIES for mode in case.modes]
SPLIT_BYTES = 400


@pytest.mark.parametrize(("case", "mode"), HEADS)
def test_a_refused_request_gets_its_answer_and_nothing_of_it_goes_upstream(
    uv_wire: Wire, case: Refused, mode: Mode
) -> None:
    async def work(rig: Rig) -> None:
        request = case.request if case.verbatim else address_form(case.request, mode)
        client = await rig.client(mode)
        client.send(request)
        await check_answer(client, case)
        client = await rig.client(mode)
        await send_in_pieces(client, request)
        await check_answer(client, case)
        assert not rig.upstream.heard()

    uv_wire.run(work)


@pytest.mark.parametrize(("case", "mode"), BODIES)
def test_broken_chunks_are_refused_and_never_completed_upstream(uv_wire: Wire, case: Refused, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        request = address_form(case.request, mode)
        client = await rig.client(mode)
        client.send(request)
        await check_answer(client, case)
        assert not rig.upstream.heard()
        client = await rig.client(mode)
        await send_in_pieces(client, request)
        await check_answer(client, case)
        # Its head was sound, so it may be there already; then its end is a cut.
        if rig.upstream.heard():
            upstream = await rig.upstream.next()
            await upstream.until(lambda peer: peer.lost)
            assert b"\r\n0\r\n" not in upstream.received

    uv_wire.run(work)


@pytest.mark.parametrize("case", [case for case in REFUSED_HEADS if "length" in case.name], ids=lambda case: case.name)
def test_what_is_pipelined_behind_a_refused_request_is_never_carried_out(uv_wire: Wire, case: Refused) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.send(case.request + b"GET /smuggled HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\n\r\n")
        await check_answer(client, case)
        assert not rig.upstream.heard()

    uv_wire.run(work)


def test_the_corpus_is_as_large_as_promised() -> None:
    names = [case.name for case in (*REFUSED_HEADS, *REFUSED_BODIES)]
    assert len(set(names)) == len(names) >= 60


async def check_answer(client: Peer, case: Refused) -> None:
    """Reads the answer to the end of the connection."""
    head, content = split_head(await client.read_to_end())
    assert not client.reset
    assert head.status == case.status, (head.start, content)
    check_problem(head, content, case.token)
    assert head.values(b"connection") == [b"close"]
    client.close()


def check_problem(head: Head, content: bytes, token: str) -> None:
    """An answer in the proxy's own name: RFC 9457 with RFC 9209."""
    assert head.values(b"content-type") == [b"application/problem+json"]
    assert head.values(b"content-length") == [b"%d" % len(content)]
    [status] = head.values(b"proxy-status")
    assert status.startswith(f"apim-auth-proxy; error={token};".encode()), status
    problem = json.loads(content)
    assert problem["status"] == head.status
    assert problem["title"]
    assert problem["detail"]
    assert problem["type"] == f"urn:apim-auth-proxy:{token}"


async def send_in_pieces(client: Peer, data: bytes) -> None:
    await client.send_split(data[:SPLIT_BYTES])
    for start in range(SPLIT_BYTES, len(data), 997):
        if client.ended or client.lost:
            return
        client.send(data[start : start + 997])
        await client.send_split(b"")
