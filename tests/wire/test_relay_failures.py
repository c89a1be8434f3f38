"""What becomes of an exchange when one side goes, stops, or never comes: always visible, never another request's response."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.wire.messages import Head, split_head
from tests.wire.rig import HOST, MODES, FixedTokens, Mode, Peer, Rig, Wire, address_form, eventually, settle
from tests.wire.test_relay_refusals import check_problem

if TYPE_CHECKING:
    from proxy.identity.access_token import AccessToken

HOST_LINE = b"Host: " + HOST.encode() + b"\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST_LINE + b"\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
IDEMPOTENT = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"]
NOT_IDEMPOTENT = ["POST", "PATCH", "LINK", "get"]

BEGUN = {
    "of a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b"12345"),
    "of a length, none of it": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b""),
    "in chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\n12345\r\n"),
    "in chunks, within one": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"a\r\n12345"),
    "in chunks, before the last CRLF": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5\r\n12345\r\n0\r\n",
    ),
}


async def begin(rig: Rig, mode: Mode, request: bytes = GET, client: Peer | None = None) -> tuple[Peer, Peer]:
    """Sends a request and waits until its head has reached the upstream."""
    client = client or await rig.client(mode)
    client.send(address_form(request, mode))
    upstream = await rig.upstream.next()
    await upstream.read_until()
    return client, upstream


async def read_problem(client: Peer, status: int, token: str) -> bytes:
    head, _ = split_head(await client.read_until())
    assert head.status == status, head
    content = await client.read(int(head.values(b"content-length")[0]))
    check_problem(head, content, token)
    return content


def bodiless(method: str) -> bytes:
    return f"{method} /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


async def keep_one_alive(rig: Rig, mode: Mode) -> tuple[Peer, Peer]:
    """An exchange that leaves a connection on either side."""
    client, upstream = await begin(rig, mode)
    upstream.send(OK)
    await client.read(len(OK))
    rig.upstream.release(upstream)
    return client, upstream


# The upstream goes.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "begun", [b"", b"HTTP/1.", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 103 E\r\n\r\nHTTP/1.1 2"]
)
def test_an_upstream_that_hangs_up_before_its_answer_is_502(wire: Wire, mode: Mode, begun: bytes) -> None:
    async def work(rig: Rig) -> None:
        for cut in (False, True):
            client, upstream = await begin(rig, mode)
            upstream.send(begun)
            if b"103" in begun:
                await client.read_until()
            await settle()
            if cut:
                upstream.cut()
            else:
                upstream.close()
            await read_problem(client, 502, "connection_terminated")
            client, upstream = await begin(rig, mode, client=client)
            upstream.send(OK)
            assert await client.read(len(OK)) == OK
            upstream.cut()
            await settle()

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("framing", BEGUN)
def test_an_upstream_that_dies_in_its_answer_leaves_a_visible_cut(wire: Wire, mode: Mode, framing: str) -> None:
    async def work(rig: Rig) -> None:
        head, body = BEGUN[framing]
        for cut in (False, True):
            client, upstream = await begin(rig, mode)
            upstream.send(head + body)
            await client.read_until(b"12345" if b"12345" in body else b"\r\n\r\n")
            await settle()
            if cut:
                upstream.cut()
            else:
                upstream.close()
            await client.until(lambda peer: peer.lost)
            assert client.reset, "a reset, which nothing can take for an end"
            assert not client.ended
            assert b"0\r\n\r\n" not in client.received
            assert rig.records[-1].outcome == "aborted_upstream"
            # E3: close_notify comes with an orderly end, and with nothing else.
            assert rig.records[-1].code == ("connection_reset" if cut else "response_incomplete")

    wire.run(work)


def test_an_upload_that_breaks_behind_the_head_of_its_response_is_the_clients_fault(uv_wire: Wire) -> None:
    """E3: whose fault the cut was, and what it was."""

    async def work(rig: Rig) -> None:
        client, upstream = await begin(
            rig, "reverse", b"POST / HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % HOST.encode()
        )
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        await client.read_until(b"12345")
        client.send(b"z\r\n")
        await client.until(lambda peer: peer.lost)
        assert (rig.records[-1].outcome, rig.records[-1].code) == ("aborted_client", "chunked_malformed")

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_response_until_close_that_is_cut_does_not_look_complete(wire: Wire, mode: Mode) -> None:
    """Under TLS only close_notify is an end; FIN alone is what an attacker can do, too (RFC 9112 §9.8)."""

    async def work(rig: Rig) -> None:
        for cut in (Peer.cut, Peer.vanish):
            client, upstream = await begin(rig, mode)
            upstream.send(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
            await client.read_until(b"half of it")
            cut(upstream)
            await client.until(lambda peer: peer.lost)
            assert client.reset
            assert not client.ended

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", IDEMPOTENT)
def test_a_dead_kept_alive_connection_is_replaced_once_for_idempotent_requests(
    wire: Wire, mode: Mode, method: str
) -> None:
    async def work(rig: Rig) -> None:
        client, first = await keep_one_alive(rig, mode)
        request = f"{method} /x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\nabc".encode()
        client.send(address_form(request, mode))
        again = await rig.upstream.next()
        assert again is first
        sent = await again.read_until(b"abc")
        again.cut()
        fresh = await rig.upstream.next()
        assert fresh is not first
        assert await fresh.read_until(b"abc") == sent
        answer = b"HTTP/1.1 201 Fresh\r\nContent-Length: 0\r\n\r\n"
        fresh.send(answer)
        assert await client.read(len(answer)) == answer
        assert rig.relay.counters.retries >= 1

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", NOT_IDEMPOTENT)
def test_no_other_request_is_sent_twice(wire: Wire, mode: Mode, method: str) -> None:
    async def work(rig: Rig) -> None:
        client, _ = await keep_one_alive(rig, mode)
        client, upstream = await begin(rig, mode, bodiless(method), client)
        upstream.cut()
        problem = await read_problem(client, 502, "connection_terminated")
        assert b"may have been carried out" in problem
        assert b"timeouts.upstream_idle_s" in problem, "E5: how to have it come back less often"
        await settle()
        assert not rig.upstream.heard()

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_request_too_large_to_be_kept_is_not_sent_twice_and_says_why(uv_wire: Wire, mode: Mode) -> None:
    """E5: it is idempotent, so what is in the way is `limits.replay_bytes`."""

    async def work(rig: Rig) -> None:
        client, _ = await keep_one_alive(rig, mode)
        size = rig.limits.replay_bytes + 1
        request = b"PUT /x HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n" % (HOST.encode(), size) + bytes(size)
        client, upstream = await begin(rig, mode, request, client)
        await upstream.until(lambda peer: len(peer.received) == size)
        upstream.cut()
        problem = await read_problem(client, 502, "connection_terminated")
        assert b"limits.replay_bytes" in problem
        assert b"may have been carried out" not in problem
        await settle()
        assert not rig.upstream.heard()

    uv_wire.run(work)


def test_a_request_of_as_much_as_is_kept_is_sent_again(uv_wire: Wire) -> None:
    """B3: `limits.replay_bytes` is the most that is kept, not the least that is not."""

    async def work(rig: Rig) -> None:
        client, _ = await keep_one_alive(rig, "reverse")
        size = rig.limits.replay_bytes
        request = b"PUT /x HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n" % (HOST.encode(), size) + bytes(size)
        client, upstream = await begin(rig, "reverse", request, client)
        await upstream.until(lambda peer: len(peer.received) == size)
        upstream.cut()
        upstream = await rig.upstream.next()
        await upstream.read_until()
        assert await upstream.read(size) == bytes(size)

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_request_is_repeated_once_and_never_on_a_new_connection_that_dies(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, _ = await keep_one_alive(rig, mode)
        client, upstream = await begin(rig, mode, client=client)
        upstream.cut()
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.cut()
        await read_problem(client, 502, "connection_terminated")
        await settle()
        assert not rig.upstream.heard()

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_request_whose_answer_had_begun_is_not_repeated(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, _ = await keep_one_alive(rig, mode)
        client, upstream = await begin(rig, mode, client=client)
        upstream.send(b"H")
        await settle()
        upstream.cut()
        await read_problem(client, 502, "connection_terminated")
        assert not rig.upstream.heard()

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_large_upload_is_not_repeated_because_it_is_not_kept(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, _ = await keep_one_alive(rig, mode)
        size = rig.limits.replay_bytes + 1
        client, upstream = await begin(
            rig, mode, b"PUT /x HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: %d\r\n\r\n" % size, client
        )
        client.send(b"x" * size)
        await upstream.read(size)
        upstream.cut()
        await read_problem(client, 502, "connection_terminated")

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_bytes_behind_a_response_spoil_the_connection_and_reach_nobody(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        stolen = b"HTTP/1.1 200 Stolen\r\nContent-Length: 0\r\n\r\n"
        for response in (
            OK,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 41\r\n\r\n",
        ):
            for at_once in (True, False):
                client, upstream = await begin(rig, mode)
                upstream.send(response + stolen if at_once else response)
                assert await client.read(len(response)) == response
                if not at_once:
                    upstream.send(stolen)
                await upstream.until(lambda peer: peer.lost)
                client, upstream = await begin(rig, mode, client=client)
                upstream.send(OK)
                assert await client.read(len(OK)) == OK
                rig.upstream.release(upstream)
                upstream.close()
                await settle()

    wire.run(work)


# The client goes.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", ["reset", "killed"])
def test_a_client_that_goes_during_its_upload_takes_the_upstream_request_with_it(
    wire: Wire, mode: Mode, how: str
) -> None:
    async def work(rig: Rig) -> None:
        for fields, body in (
            (b"Content-Length: 10\r\n", b"12345"),
            (b"Transfer-Encoding: chunked\r\n", b"5\r\n12345\r\n"),
        ):
            client, upstream = await begin(rig, mode, b"POST /x HTTP/1.1\r\n" + HOST_LINE + fields + b"\r\n" + body)
            await upstream.read_until(b"12345")
            if how == "reset":
                client.cut()
            else:
                client.vanish()
            await upstream.until(lambda peer: peer.lost)
            assert b"0\r\n\r\n" not in upstream.received
            assert rig.records[-1].outcome == "aborted_client"

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_goes_during_its_response_ends_the_exchange_and_nobody_gets_the_rest(
    wire: Wire, mode: Mode
) -> None:
    async def work(rig: Rig) -> None:
        client, upstream = await begin(rig, mode)
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun")
        await client.read_until(b"begun")
        client.cut()
        await upstream.until(lambda peer: peer.lost)
        other, fresh = await begin(rig, mode)
        assert fresh is not upstream
        fresh.send(OK)
        assert await other.read(len(OK)) == OK

    wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_goes_while_its_connection_is_opened_leaves_nothing(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        [pool] = {destination.pool for destination in rig.relay.destinations._by_authority.values()}
        client = await rig.client(mode)
        client.send(address_form(GET, mode))
        while pool.size == len(rig.relay.upstreams):  # noqa: ASYNC110  # every turn counts: it is opened in few
            await asyncio.sleep(0)
        client.cut()
        await eventually(lambda: not rig.relay.clients and pool.size == len(rig.relay.upstreams))

    uv_wire.run(work)


# Nobody is there, or it is somebody else.


@pytest.mark.parametrize("mode", MODES)
def test_a_port_where_nothing_listens_is_502(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            await with_destination(rig, reserved.getsockname()[1], mode, 502, "destination_unavailable")

    uv_wire.run(work)


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        ("another authority's", b"`ca_file`"),
        ("another name's", b"is for other names"),
        ("an expired one", b"has expired"),
    ],
)
def test_a_certificate_that_does_not_verify_is_502_and_gets_no_request(
    uv_wire: Wire, certificate: str, words: bytes
) -> None:
    """What is wrong with it is told in the words of `check --online`."""

    async def work(rig: Rig) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority = trustme.CA() if certificate == "another authority's" else rig.trust.upstream_authority
        name = "other.example" if certificate == "another name's" else HOST
        end = datetime.now(UTC) - timedelta(days=1) if certificate == "an expired one" else None
        authority.issue_cert(name, not_after=end).configure_cert(context)
        impostor = Peer()
        server = await asyncio.get_running_loop().create_server(lambda: impostor, "127.0.0.1", 0, ssl=context)
        try:
            port = server.sockets[0].getsockname()[1]
            problem = await with_destination(rig, port, "forward", 502, "tls_certificate_error")
            assert words in problem
            assert b"No request was sent." in problem
        finally:
            server.close()
        assert not impostor.received

    uv_wire.run(work)


def test_an_upstream_that_closes_after_the_handshake_is_502(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        class Closing(Peer):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                self.transport.close()

        server = await asyncio.get_running_loop().create_server(Closing, "127.0.0.1", 0, ssl=rig.trust.upstream_context)
        try:
            await with_destination(rig, server.sockets[0].getsockname()[1], "forward", 502, "connection_terminated")
        finally:
            server.close()

    wire.run(work)


async def with_destination(rig: Rig, port: int, mode: Mode, status: int, token: str) -> bytes:
    """An exchange for which the route leads to another port; returns the problem."""
    with rig.leading_to(port):
        client = await rig.client(mode)
        client.send(address_form(GET, mode))
        return await read_problem(client, status, token)


@pytest.mark.logs_own_fault
def test_a_fault_of_the_proxys_own_is_500_and_says_nothing_of_its_cause(uv_wire: Wire) -> None:
    class Broken(FixedTokens):
        async def acquire(self) -> AccessToken:
            raise RuntimeError("secret text")

    async def work(rig: Rig) -> None:
        usual, rig.tokens = rig.tokens, Broken()
        try:
            rig.tokens.token = None
            with rig.leading_to(rig.upstream.port):
                client = await rig.client("reverse")
                client.send(GET)
                assert b"secret" not in await read_problem(client, 500, "proxy_internal_error")
        finally:
            rig.tokens = usual

    uv_wire.run(work)


# Nobody says anything.


@pytest.mark.parametrize("mode", MODES)
def test_an_upstream_that_does_not_answer_is_504(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream = await begin(rig, mode)
        rig.later(rig.timeouts.response_s - 1)
        await settle()
        assert not client.received
        rig.later(2)
        await read_problem(client, 504, "http_response_timeout")
        await upstream.until(lambda peer: peer.lost)

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_response_that_stops_is_cut_and_one_that_drips_is_not(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream = await begin(rig, mode)
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        await client.read_until()
        for _ in range(5):
            rig.later(rig.timeouts.body_idle_s - 1)
            upstream.send(b"x")
            assert await client.read(1) == b"x"
        rig.later(rig.timeouts.body_idle_s + 1)
        await client.until(lambda peer: peer.lost)
        assert client.reset
        await upstream.until(lambda peer: peer.lost)
        assert (rig.records[-1].outcome, rig.records[-1].code) == ("aborted_timeout", "http_response_timeout")

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_an_upload_that_stops_is_408_and_one_that_drips_is_not(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream = await begin(rig, mode, b"POST /x HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: 100\r\n\r\n")
        for _ in range(5):
            rig.later(rig.timeouts.body_idle_s - 1)
            client.send(b"x")
            assert await upstream.read(1) == b"x"
        rig.later(rig.timeouts.body_idle_s + 1)
        await read_problem(client, 408, "http_request_error")
        await upstream.until(lambda peer: peer.lost)

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_head_that_stops_is_408_and_silence_is_no_answer_at_all(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client(mode)
        client.send(address_form(GET, mode)[:20])
        await settle()
        rig.later(rig.timeouts.head_s + 1)
        await read_problem(client, 408, "http_request_error")
        silent = await rig.client(mode)
        await settle()
        rig.later(rig.timeouts.client_idle_s + 1)
        assert await silent.read_to_end() == b""
        assert not rig.upstream.heard()

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_an_upstream_that_takes_nothing_is_504(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        size = 100_000_000
        client, upstream = await begin(
            rig, mode, b"POST /x HTTP/1.1\r\n" + HOST_LINE + b"Content-Length: %d\r\n\r\n" % size
        )
        upstream.transport.pause_reading()
        await send_until_stopped(client)
        rig.later(rig.timeouts.body_idle_s - 1)
        await settle()
        assert not client.received
        rig.later(2)
        await read_problem(client, 504, "http_response_timeout")

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_takes_nothing_is_cut(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream = await begin(rig, mode)
        client.transport.pause_reading()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        await send_until_stopped(upstream)
        rig.later(rig.timeouts.body_idle_s + 1)  # it has taken something since it was stopped
        rig.later(rig.timeouts.body_idle_s + 1)
        await upstream.until(lambda peer: peer.lost)
        assert rig.records[-1].outcome == "aborted_client"

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_kept_alive_connections_end_when_they_have_been_idle(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client, upstream = await keep_one_alive(rig, mode)
        rig.later(rig.timeouts.upstream_idle_s + 1)
        await upstream.until(lambda peer: peer.lost)
        assert not client.ended
        rig.later(rig.timeouts.client_idle_s)
        await client.until(lambda peer: peer.ended)
        assert not client.reset

    uv_wire.run(work)


# Buffers that are full when an exchange ends.


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_paused_for_a_slow_client_serves_the_next_exchange(uv_wire: Wire, mode: Mode) -> None:
    """Somewhere among these sizes the response's last piece is what fills the client's buffer."""

    async def work(rig: Rig) -> None:
        for size in range(300_000, 1_300_000, 50_000):
            client = await rig.client(mode)
            client.transport.pause_reading()
            client, upstream = await begin(rig, mode, client=client)
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
            await settle(40)
            rig.upstream.release(upstream)
            other, again = await begin(rig, mode)
            again.send(OK)
            assert await other.read(len(OK)) == OK
            client.transport.resume_reading()
            await client.until(lambda peer, size=size: peer.total > size)  # type: ignore[misc]
            rig.upstream.release(again)

    uv_wire.run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_pipelines_and_reads_nothing_gets_no_more_than_its_buffer(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client = await rig.client(mode)
        client.transport.pause_reading()
        client.send(address_form(GET, mode) * 200)
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000
        served = 0
        while served < 200:
            try:
                upstream = await rig.upstream.next(within_s=0.3)
            except AssertionError:
                break
            await upstream.read_until()
            upstream.send(answer)
            served += 1
            rig.upstream.release(upstream)
        assert served < 100, "most requests wait until their answers can be written"
        client.discards = True
        client.transport.resume_reading()
        while served < 200:
            upstream = await rig.upstream.next()
            await upstream.read_until()
            upstream.send(answer)
            served += 1
            rig.upstream.release(upstream)
        await client.until(lambda peer: peer.total == 200 * len(answer))

    uv_wire.run(work)


def waiting(rig: Rig) -> int:
    """How many bytes the relay has for its clients."""
    return sum(end.transport.get_write_buffer_size() for end in rig.relay.clients)


@pytest.mark.parametrize("mode", MODES)
def test_a_slow_reader_is_not_cut_while_it_reads(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        for fields in (b"Connection: close\r\n", b""):
            size = 4_000_000  # many times what the kernel takes at a time, even where it takes much
            client = await rig.client(mode)
            client.transport.pause_reading()
            client, upstream = await begin(rig, mode, b"GET /x HTTP/1.1\r\n" + HOST_LINE + fields + b"\r\n", client)
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
            await settle(40)
            steps = 0
            while client.total <= size and not client.lost:
                before = waiting(rig)
                client.transport.resume_reading()
                while waiting(rig) >= before and client.total <= size and not client.lost:  # noqa: ASYNC110  # every turn counts
                    await asyncio.sleep(0)
                # Not behind the last byte: uvloop's own TLS, which is this client's, loses what is unread when close_notify comes.
                if waiting(rig) and not client.lost:
                    client.transport.pause_reading()
                rig.later(20)
                await settle(3)
                steps += 1
            assert client.total > size
            assert not client.reset
            assert steps > 2, steps
            client.transport.abort()
            rig.upstream.release(upstream)

    uv_wire.run(work)


async def send_until_stopped(peer: Peer) -> None:
    """Sends until the other side takes no more."""
    for _ in range(1_500):
        peer.send(b"x" * 65_536)
        if await peer.is_stopped():
            return
        await asyncio.sleep(0)
    raise AssertionError("100 MB were taken by somebody")


def test_heads_of_answers_are_complete(uv_wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client, upstream = await begin(rig, "reverse", b"HEAD /x HTTP/1.1\r\n" + HOST_LINE + b"\r\n")
        upstream.close()
        head, rest = split_head(await client.read_until())
        assert isinstance(head, Head)
        assert head.status == 502
        assert rest == b""
        await settle()
        assert not client.received, "an answer to HEAD has no content"

    uv_wire.run(work)
