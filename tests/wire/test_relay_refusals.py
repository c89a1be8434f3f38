"""Requests that are refused: each gets its declared answer, the connection ends, and nothing of it has reached the upstream."""

from __future__ import annotations

import asyncio
import json

import pytest

from proxy.policy.access import Client
from proxy.policy.passwords import parse_password_hash
from proxy.relay.admission import Admission
from proxy.relay.arrival import accept
from proxy.relay.destination_rule import ForwardRule
from proxy.relay.listener_policy import ListenerPolicy
from proxy.relay.passwords import PasswordChecker
from tests.security.boundary import light_hash
from tests.wire.corpus_refused import REFUSED_BODIES, REFUSED_HEADS, Refused
from tests.wire.messages import Head, split_head
from tests.wire.rig import HOST, Mode, Peer, Rig, Wire, address_form, eventually

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


# What was asked for is in the access line, and the answer to HEAD has no content, wherever it is refused (C6).

API = "http://" + HOST
ASKED = {
    "no route": (b"HEAD http://other.example/a?q HTTP/1.1\r\nHost: other.example\r\n\r\n", 403, "other.example", b"/a"),
    "fields": (b"HEAD %b/a?q HTTP/1.1\r\nHost: x\r\n" % API.encode() + b"X: 1\r\n" * 300 + b"\r\n", 431, HOST, b"/a"),
    "framing": (b"HEAD %b/a HTTP/1.1\r\nHost: x\r\nContent-Length: z\r\n\r\n" % API.encode(), 400, HOST, b"/a"),
    "no Host": (b"HEAD %b/a HTTP/1.1\r\n\r\n" % API.encode(), 400, HOST, b"/a"),
    "version": (b"HEAD %b/a HTTP/3.0\r\nHost: x\r\n\r\n" % API.encode(), 400, HOST, b"/a"),
    "blank": (b"HEAD %b/a b HTTP/1.1\r\nHost: x\r\n\r\n" % API.encode(), 400, HOST, b"/a b"),
    "origin-form": (b"HEAD /a?q HTTP/1.1\r\nHost: x\r\n\r\n", 400, "", b"/a"),
    "too long": (b"HEAD %b/" % API.encode() + b"a" * 20_000, 414, HOST, b"/a"),
}


@pytest.mark.parametrize("name", ASKED)
def test_the_access_line_says_what_was_asked_and_the_answer_to_head_has_no_content(uv_wire: Wire, name: str) -> None:
    request, status, authority, path = ASKED[name]

    async def work(rig: Rig) -> None:
        client = await rig.client("forward")
        client.send(request)
        head, content = split_head(await client.read_to_end())
        assert (head.status, content) == (status, b"")
        assert int(head.values(b"content-length")[0]) > 100, "the length of what GET would have got"
        [record] = rig.records
        assert (record.method, record.authority, record.status) == (b"HEAD", authority, status)
        assert record.target.startswith(path)
        assert b"?" not in record.target

    uv_wire.run(work)


def test_a_head_that_stops_says_what_it_asked_for(uv_wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        client.send(b"HEAD /a?q HTTP/1.1\r\nHost:")
        await eventually(lambda: any(one._buffer for one in rig.relay.clients))  # nothing announces it
        rig.later(rig.timeouts.head_s + 1)
        head, content = split_head(await client.read_to_end())
        assert (head.status, content) == (408, b"")
        [record] = rig.records
        assert (record.method, record.authority, record.target) == (b"HEAD", f"{HOST}:443", b"/a")

    uv_wire.run(work)


def test_a_head_that_begins_at_the_end_of_the_idle_time_has_its_own(uv_wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        await eventually(lambda: bool(rig.relay.clients))
        rig.later(rig.timeouts.client_idle_s - 1)
        client.send(b"GET /a HTTP/1.1\r\nHost:")
        await eventually(lambda: any(one._buffer for one in rig.relay.clients))
        rig.later(rig.timeouts.head_s - 1)
        client.send(b" %b\r\n\r\n" % HOST.encode())
        upstream = await rig.upstream.next()
        assert (await upstream.read_until()).startswith(b"GET /a HTTP/1.1\r\n")

    uv_wire.run(work)


def test_empty_lines_are_no_request_and_keep_no_connection(uv_wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client("reverse")
        await eventually(lambda: bool(rig.relay.clients))
        for _ in range(3):
            rig.later(rig.timeouts.client_idle_s / 4)
            client.send(b"\r")
            await eventually(lambda: any(one._buffer for one in rig.relay.clients))
            client.send(b"\n")
            await eventually(lambda: not any(one._buffer for one in rig.relay.clients))
        rig.later(rig.timeouts.client_idle_s / 4 + 1)
        assert await client.read_to_end() == b""
        assert rig.records == []

    uv_wire.run(work)


@pytest.mark.parametrize("said", [b"", b"Proxy-Authorization: Basic d29ya2VyOndyb25n\r\n"], ids=["nothing", "wrong"])
def test_a_client_that_is_not_known_is_told_so_without_content_for_head(uv_wire: Wire, said: bytes) -> None:
    async def work(rig: Rig) -> None:
        rule = Client("worker", password=parse_password_hash(light_hash("right")))
        rig.relay.admission = Admission([rule], None, PasswordChecker())
        try:
            client = await rig.client("forward")
            client.send(b"HEAD %b/a?q HTTP/1.1\r\nHost: x\r\n%b\r\n" % (API.encode(), said))
            head, content = split_head(await client.read_to_end())
        finally:
            rig.relay.admission.passwords.close()
            rig.relay.admission = None
        assert (head.status, content) == (407, b"")
        [record] = rig.records
        assert (record.method, record.authority, record.target) == (b"HEAD", HOST, b"/a")

    uv_wire.run(work)


def test_a_port_that_takes_tls_only_answers_head_without_content(uv_wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        policy = ListenerPolicy(context=rig.trust.upstream_context)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: accept(rig.relay, ForwardRule(), policy), "127.0.0.1", 0)
        try:
            _, client = await loop.create_connection(Peer, *server.sockets[0].getsockname())
            client.send(b"HEAD %b/a HTTP/1.1\r\nHost: x\r\n\r\n" % API.encode())
            head, content = split_head(await client.read_to_end())
            client.close()
        finally:
            server.close()
        assert (head.status, content) == (400, b"")
        [record] = rig.records
        assert (record.method, record.authority, record.target) == (b"HEAD", HOST, b"/a")

    uv_wire.run(work)
