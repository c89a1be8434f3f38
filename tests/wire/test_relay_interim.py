"""What goes on while neither message is complete: interim responses, early answers, both directions at once, pipelining."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
from typing import TYPE_CHECKING, cast

import pytest

from proxy.relay.presence import is_gone
from tests.wire.messages import chunked, split_chunked, split_head
from tests.wire.rig import AUTHORIZATION, HOST, MODES, Mode, Peer, Rig, Wire, address_form, eventually, settle

if TYPE_CHECKING:
    import asyncio

HOST_LINE = b"Host: " + HOST.encode() + b"\r\n"
EXPECTING = b"POST /up HTTP/1.1\r\n" + HOST_LINE + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
POST_CHUNKED = b"POST /up HTTP/1.1\r\n" + HOST_LINE + b"Transfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def get(target: bytes) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST_LINE + b"\r\n"


async def begin(rig: Rig, mode: Mode, request: bytes) -> tuple[Peer, Peer, bytes]:
    """Sends a request; returns both ends, and the head as it reached the upstream."""
    client = await rig.client(mode)
    client.send(address_form(request, mode))
    upstream = await rig.upstream.next()
    return client, upstream, await upstream.read_until()


@pytest.mark.parametrize("mode", MODES)
def test_the_upstream_decides_about_100_continue(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream, head = await begin(rig, mode, EXPECTING)
        assert b"\r\nExpect: 100-continue\r\n" in head
        await settle()
        assert not client.received, "nobody but the upstream says 100"
        upstream.send(b"HTTP/1.1 100 Continue\r\nX: 1\r\n\r\n")
        assert await client.read_until() == b"HTTP/1.1 100 Continue\r\nX: 1\r\n\r\n"
        client.send(b"12345")
        assert await upstream.read(5) == b"12345"
        upstream.send(OK)
        assert await client.read(len(OK)) == OK

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("status", [b"417 Expectation Failed", b"401 Unauthorized", b"200 OK"])
def test_a_final_answer_instead_of_100_is_passed_on_and_ends_the_connection(
    uv_wire: Wire, mode: Mode, status: bytes
) -> None:
    """The client may send its content or not (RFC 9110 §10.1.1), so nobody can know what its next bytes are."""

    async def work(rig: Rig) -> None:
        client, upstream, _ = await begin(rig, mode, EXPECTING)
        upstream.send(b"HTTP/1.1 " + status + b"\r\nWWW-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno")
        received = await client.read_to_end()
        assert received == (
            b"HTTP/1.1 " + status + b"\r\nWWW-Authenticate: Basic\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
        )
        await upstream.until(lambda peer: peer.lost)

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_client_need_not_wait_for_100(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream, _ = await begin(rig, mode, EXPECTING + b"12345")
        assert await upstream.read(5) == b"12345"
        upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
        assert await client.read(len(OK) + 25) == b"HTTP/1.1 100 Continue\r\n\r\n" + OK

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_an_upload_after_100_may_take_longer_than_any_limit(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream, _ = await begin(rig, mode, EXPECTING)
        upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await client.read_until()
        for byte in (b"1", b"2", b"3", b"4"):
            rig.later(rig.timeouts.body_idle_s - 1)
            client.send(byte)
            assert await upstream.read(1) == byte
        client.send(b"5")
        await upstream.read(1)
        rig.later(rig.timeouts.response_s - 1)
        upstream.send(OK)
        assert await client.read(len(OK)) == OK

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_early_hints_arrive_before_the_answer_is_known(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream, _ = await begin(rig, mode, get(b"/slow"))
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
        upstream.send(hints)
        assert await client.read(len(hints)) == hints
        upstream.send(OK)
        assert await client.read(len(OK)) == OK

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_an_early_answer_lets_the_upload_go_on(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream, _ = await begin(rig, mode, POST_CHUNKED + b"3\r\nabc\r\n")
        await upstream.read_until(b"abc\r\n")
        upstream.send(OK)
        assert await client.read(len(OK)) == OK
        rig.later(rig.timeouts.body_idle_s - 1)
        client.send(b"3\r\ndef\r\n")
        await upstream.read_until(b"def\r\n")
        rig.later(rig.timeouts.body_idle_s - 1)
        client.send(b"0\r\n\r\n" + address_form(get(b"/next"), mode))
        await upstream.read_until(b"0\r\n\r\n")
        assert (await upstream.read_until()).startswith(b"GET /next HTTP/1.1\r\n"), "both connections are in step"
        upstream.send(OK)
        assert await client.read(len(OK)) == OK

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_an_early_answer_that_closes_reaches_a_client_that_goes_on_sending(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream, _ = await begin(
            rig, mode, b"PUT /big HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: 50000000\r\n\r\n"
        )
        upstream.send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")
        upstream.close()
        for _ in range(50):
            if not client.transport.is_closing():
                client.send(b"x" * 10_000)
            await settle(2)
        received = await client.read_to_end()
        assert received == b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"
        assert not client.reset

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_bytes_behind_an_early_answer_reach_nobody(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        for response in (
            OK,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"ok"),
            b"HTTP/1.1 204 N\r\n\r\n",
        ):
            client, upstream, _ = await begin(rig, mode, POST_CHUNKED)
            upstream.send(response)
            received = await client.read(len(response))
            upstream.send(b"HTTP/1.1 200 Stolen\r\nContent-Length: 0\r\n\r\n")
            await upstream.until(lambda peer: peer.lost)
            assert received + await client.read_to_end() == response

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_both_directions_flow_at_once(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream, _ = await begin(rig, mode, POST_CHUNKED)
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.read_until()
        for turn in range(50):
            word = b"turn %02d" % turn
            chunk = b"7\r\n" + word + b"\r\n"
            client.send(chunk)
            assert await upstream.read(len(chunk)) == chunk
            upstream.send(chunk)
            assert await client.read(len(chunk)) == chunk
        client.send(b"0\r\n\r\n")
        await upstream.read(5)
        upstream.send(b"0\r\nX-Turns: 50\r\n\r\n")
        assert await client.read_until() == b"0\r\nX-Turns: 50\r\n\r\n"

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_one_direction_may_be_silent_while_the_other_moves(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream, _ = await begin(rig, mode, POST_CHUNKED)
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.read_until()
        for talker, listener in ((upstream, client), (client, upstream)):
            for _ in range(5):
                rig.later(rig.timeouts.body_idle_s * 0.7)
                talker.send(b"1\r\nx\r\n")
                assert await listener.read(6) == b"1\r\nx\r\n"
        rig.later(rig.timeouts.body_idle_s * 3)
        rig.later(1)
        await client.until(lambda peer: peer.lost)
        await upstream.until(lambda peer: peer.lost)

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_each_server_sent_event_arrives_as_it_is_sent(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        for fields in (b"Transfer-Encoding: chunked\r\n", b""):
            client, upstream, _ = await begin(rig, mode, get(b"/events"))
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + fields + b"\r\n")
            await client.read_until()
            for number in range(20):
                event = b"data: %d\n\n" % number
                upstream.send(b"%x\r\n%b\r\n" % (len(event), event) if fields else event)
                await client.read_until(event)
                rig.later(rig.timeouts.body_idle_s - 1)

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_pipelined_requests_are_answered_in_order(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        posts = b"POST /3 HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: 3\r\n\r\nabc"
        requests = [get(b"/1"), get(b"/2"), posts, POST_CHUNKED + chunked(b"x"), get(b"/5")]
        client = await rig.client(mode)
        client.send(b"".join(address_form(request, mode) for request in requests))
        for number in range(1, 6):
            upstream = await rig.upstream.next()
            head, _ = split_head(await upstream.read_until())
            assert head.fields[-1] == AUTHORIZATION
            if number == 3:
                assert await upstream.read(3) == b"abc"
            if number == 4:
                body = await upstream.read_until(b"0\r\n\r\n")
                assert split_chunked(body) == (b"x", (), b"")
            await settle()
            assert not upstream.received, "the next request waits for this response"
            response = b"HTTP/1.1 200 %d\r\nContent-Length: 0\r\n\r\n" % number
            upstream.send(response)
            assert await client.read(len(response)) == response
            rig.upstream.release(upstream)

    wire.run(work)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_pipelined_requests_before_a_half_close_are_all_answered(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client(mode)
        client.send(b"".join(address_form(get(b"/%d" % number), mode) for number in range(4)) + b"GET /unfinished HT")
        await end_sending(client)
        for number in range(4):
            upstream = await rig.upstream.next()
            assert (await upstream.read_until()).startswith(b"GET /%d " % number)
            upstream.send(b"HTTP/1.1 200 %d\r\nContent-Length: 0\r\n\r\n" % number)
            rig.upstream.release(upstream)
        received = await client.read_to_end()
        assert [line[9:14] for line in received.split(b"\r\n") if line.startswith(b"HTTP")] == [
            b"200 %d" % n for n in range(4)
        ]
        assert not rig.upstream.heard()

    wire.run(work)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_a_client_that_has_only_ended_sending_gets_its_answer(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream, _ = await begin(rig, mode, get(b"/x"))
        await end_sending(client)
        upstream.send(OK)
        assert await client.read_to_end() == OK.replace(b"2\r\n\r\n", b"2\r\nConnection: close\r\n\r\n")
        assert not client.reset

    wire.run(work)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_a_client_that_has_ended_sending_is_sent_nothing_but_its_answer(wire: Wire, mode: Mode) -> None:
    """C7: it was sent a 100 Continue, which `nc -N` and socat show their user."""

    async def work(rig: Rig) -> None:
        client, upstream, _ = await begin(rig, mode, get(b"/slow"))
        await end_sending(client)
        for _ in range(5):
            rig.later(0.5)
            await settle()
        assert not client.received
        upstream.send(OK)
        assert await client.read_to_end() == OK.replace(b"2\r\n\r\n", b"2\r\nConnection: close\r\n\r\n")

    wire.run(work)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel's probes tell, minutes later")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("minor", [0, 1])
def test_a_client_that_has_gone_while_it_waited_ends_the_exchange(wire: Wire, mode: Mode, minor: int) -> None:
    """C7: found out without a byte to the client, on this machine."""

    async def work(rig: Rig) -> None:
        client, upstream, _ = await begin(rig, mode, get(b"/slow").replace(b"HTTP/1.1", b"HTTP/1.%d" % minor))
        client.vanish()
        while not upstream.lost:
            await settle()
            rig.later(0.5)
        assert rig.records[-1].outcome == "aborted_client"
        assert rig.relay.clients == set()

    wire.run(work)


@pytest.mark.skipif(sys.platform != "linux", reason="the test looks at Linux' options")
def test_a_client_that_has_ended_sending_is_watched_by_the_kernel(wire: Wire) -> None:
    """C7: of a client elsewhere, only its kernel can tell."""

    async def work(rig: Rig) -> None:
        client, upstream, _ = await begin(rig, "reverse", get(b"/slow"))
        await end_sending(client)
        [connection] = rig.relay.clients
        connected = connection.transport.get_extra_info("socket")
        await eventually(lambda: connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1)
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        upstream.send(OK)
        await client.read_to_end()

    wire.run(work)


class Holding:
    """A transport of a socket, as far as presence asks it."""

    def __init__(self, connected: socket.socket) -> None:
        self.connected = connected

    def get_extra_info(self, _name: str) -> socket.socket:
        return self.connected


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere this cannot be told")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_who_has_gone_is_told_from_who_only_ended_sending(family: socket.AddressFamily) -> None:
    for is_closed in (False, True):
        if family == socket.AF_UNIX:
            here, there = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1" if family == socket.AF_INET else "::1", 0), family=family) as server:
                there = socket.create_connection(server.getsockname()[:2])
                here, _ = server.accept()
        there.close() if is_closed else there.shutdown(socket.SHUT_WR)
        assert is_gone(cast("asyncio.Transport", Holding(here))) == is_closed
        here.close()
        there.close()


def test_a_half_close_inside_tls_is_a_half_close(wire: Wire) -> None:
    """asyncio's own TLS cannot do this, so the client's records are made by hand."""

    async def work(rig: Rig) -> None:
        client = await rig.client("forward")
        client.send(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode())
        await client.read_until()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = rig.trust.client_context.wrap_bio(incoming, outgoing, server_hostname=HOST)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.send(outgoing.read())
                await client.until(lambda peer: peer.received)
                incoming.write(client.take())
        tls.write(get(b"/x"))
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.unwrap()
        client.send(outgoing.read())
        await end_sending(client)
        upstream = await rig.upstream.next()
        await upstream.read_until()
        rig.later(0.5)
        await settle()
        upstream.send(OK)
        incoming.write(await client.read_to_end())
        received = b""
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while piece := tls.read(65_536):
                received += piece
        assert received == OK.replace(b"2\r\n\r\n", b"2\r\nConnection: close\r\n\r\n")

    wire.run(work)


async def end_sending(client: Peer) -> None:
    client.end()
    await settle()


def test_a_switch_of_protocols_before_the_requests_end_is_502(uv_wire: Wire) -> None:
    """B3: what is left of the content would be taken for the first bytes of the other protocol (RFC 9110 §7.8)."""

    async def work(rig: Rig) -> None:
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nab"
        client, upstream, _ = await begin(rig, "reverse", b"GET /x HTTP/1.1\r\n" + HOST_LINE + upgrade)
        await upstream.read(2)
        upstream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        head, _ = split_head(await client.read_to_end())
        assert head.status == 502
        await upstream.until(lambda peer: peer.lost)
        assert not rig.relay.splices

    uv_wire.run(work)
