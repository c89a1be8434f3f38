"""Clients that speak HTTP/2 to the relay, and upstreams that do not: each stream is an exchange of its own."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final

import h2.config
import h2.connection
import h2.events
import pytest

from tests.http2_peer import read_frames
from tests.wire.messages import split_head
from tests.wire.rig import AUTHORIZATION, HOST, MODES, Mode, Rig, Wire, eventually, settle

if TYPE_CHECKING:
    from tests.wire.rig import Peer


class Client:
    """A client of HTTP/2 on a connection of the rig."""

    def __init__(self, peer: Peer, mode: str) -> None:
        self.peer = peer
        self.mode = mode
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.events: list[h2.events.Event] = []
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.peer.send(self.h2.data_to_send())

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        fields: tuple[tuple[str, str], ...] = (),
        *,
        ends: bool = True,
        authority: str = HOST,
    ) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        scheme = "http" if self.mode == "forward" else "https"
        head = [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path), *fields]
        self.h2.send_headers(stream_id, head, end_stream=ends)
        self.flush()
        return stream_id

    async def until(self, kind: type[Any], stream_id: int) -> Any:
        while True:
            for event in self.events:
                if isinstance(event, kind) and event.stream_id == stream_id:
                    return event
            await self.more()

    async def more(self) -> None:
        await self.peer.until(lambda peer: peer.received)
        self.events += self.h2.receive_data(self.peer.take())
        self.flush()

    def content(self, stream_id: int) -> bytes:
        return b"".join(
            event.data
            for event in self.events
            if isinstance(event, h2.events.DataReceived) and event.stream_id == stream_id
        )


async def connect(rig: Rig, mode: Mode) -> Client:
    return Client(await rig.client(mode), mode)


async def serve(rig: Rig, answer: bytes, mark: bytes = b"\r\n\r\n") -> bytes:
    """Reads one request at the upstream, and answers it."""
    upstream = await rig.upstream.next()
    received = await upstream.read_until(mark)
    upstream.send(answer)
    return received


OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("mode", MODES)
def test_a_request_goes_to_an_upstream_of_http_1_with_a_token(wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, mode)
        stream_id = client.request("POST", "/a?b", (("x-a", "1"), ("authorization", "mine")), ends=False)
        client.h2.send_data(stream_id, b"hello", end_stream=True)
        client.flush()
        upstream = await rig.upstream.next()
        head, _ = split_head(await upstream.read_until(b"0\r\n\r\n"))
        assert head.start == b"POST /a?b HTTP/1.1"
        assert b"Authorization: " + head.values(b"authorization")[0] == AUTHORIZATION
        assert len(head.values(b"authorization")) == 1
        assert head.values(b"host") == [HOST.encode()]
        upstream.send(b"HTTP/1.1 201 Made\r\nContent-Length: 2\r\nServer: x\r\n\r\nok")
        await client.until(h2.events.StreamEnded, stream_id)
        response = await client.until(h2.events.ResponseReceived, stream_id)
        assert [tuple(field) for field in response.headers] == [
            (":status", "201"),
            ("content-length", "2"),
            ("server", "x"),
        ]
        assert client.content(stream_id) == b"ok"
        await eventually(lambda: len(rig.records) == 1)
        assert (rig.records[0].status, rig.records[0].outcome) == (201, "ok")

    wire.run(work)


@pytest.mark.parametrize("protocols", [["h2", "http/1.1"], ["http/1.1"], ["h2"], []])
def test_http_1_is_chosen_in_a_tunnel_wherever_the_client_has_it(wire: Wire, protocols: list[str]) -> None:
    async def work(rig: Rig) -> None:
        plain = await rig.client("forward")
        plain.send(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode())
        assert (await plain.read_until()).startswith(b"HTTP/1.1 200 ")
        context = ssl.create_default_context()
        context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(rig.trust.client_context.get_ca_certs(True)[0]))
        if protocols:
            context.set_alpn_protocols(protocols)
        peer = type(plain)()
        loop = asyncio.get_running_loop()
        secured = await loop.start_tls(plain.transport, peer, context, server_hostname=HOST)
        assert secured is not None
        peer.connection_made(secured)
        chosen = secured.get_extra_info("ssl_object").selected_alpn_protocol()
        assert chosen == ("http/1.1" if "http/1.1" in protocols else "h2" if protocols else None)
        if chosen == "h2":
            client = Client(peer, "connect")
            stream_id = client.request()
            await serve(rig, OK)
            await client.until(h2.events.StreamEnded, stream_id)
        secured.close()

    wire.run(work)


def test_streams_are_served_at_the_same_time_and_out_of_order(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        first, second = client.request(path="/1"), client.request(path="/2")
        upstreams = [await rig.upstream.next(), await rig.upstream.next()]
        heads = [await upstream.read_until() for upstream in upstreams]
        by_path = {head.split(b" ")[1]: upstream for head, upstream in zip(heads, upstreams, strict=True)}
        by_path[b"/2"].send(OK)
        await client.until(h2.events.StreamEnded, second)
        by_path[b"/1"].send(OK)
        await client.until(h2.events.StreamEnded, first)

    wire.run(work)


@pytest.mark.parametrize("authority", ["other.example.test", f"{HOST}:8443"])
def test_another_authority_is_421_and_reaches_nobody(wire: Wire, authority: str) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "connect")
        stream_id = client.h2.get_next_available_stream_id()
        head = [(":method", "GET"), (":scheme", "https"), (":authority", authority), (":path", "/")]
        client.h2.send_headers(stream_id, head, end_stream=True)
        client.flush()
        response = await client.until(h2.events.ResponseReceived, stream_id)
        assert dict(response.headers)[":status"] == "421"
        await client.until(h2.events.StreamEnded, stream_id)
        assert b"another authority" in client.content(stream_id)
        assert not rig.upstream.heard()
        assert [record.status for record in rig.records] == [421]

    wire.run(work)


def test_a_refusal_of_grpc_says_why_in_the_protocols_words(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "connect")
        stream_id = client.h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "https"), (":authority", "other.example.test"), (":path", "/a/b")]
        client.h2.send_headers(stream_id, [*head, ("content-type", "application/grpc+proto"), ("te", "trailers")])
        client.flush()
        response = await client.until(h2.events.ResponseReceived, stream_id)
        fields = dict(response.headers)
        assert (fields[":status"], fields["grpc-status"]) == ("200", "7")
        assert "another authority" in fields["grpc-message"]
        assert fields["content-type"] == "application/grpc"
        assert "apim-auth-proxy" in fields["proxy-status"]
        await client.until(h2.events.StreamEnded, stream_id)
        assert not rig.upstream.heard()

    wire.run(work)


def test_a_malformed_request_ends_its_stream_and_its_siblings_live(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        stream_id = client.request()
        upstream = await rig.upstream.next()
        await upstream.read_until()
        client.h2.config.validate_outbound_headers = False
        client.h2.config.normalize_outbound_headers = False
        bad = client.request(path="/a HTTP/1.1\r\nX: y")
        reset = await client.until(h2.events.StreamReset, bad)
        assert reset.error_code == 1
        assert rig.relay.counters.http2_faults["malformed"]
        upstream.send(OK)
        await client.until(h2.events.StreamEnded, stream_id)
        assert len(rig.upstream.connections) == 1

    wire.run(work)


def test_too_many_fields_are_431_and_a_long_target_is_414(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        many = client.request(fields=tuple((f"x-{number}", "a") for number in range(300)))
        long = client.request(path="/" + "a" * 20_000)
        for stream_id, status in ((many, "431"), (long, "414")):
            response = await client.until(h2.events.ResponseReceived, stream_id)
            assert dict(response.headers)[":status"] == status
        stream_id = client.request()
        await serve(rig, OK)
        await client.until(h2.events.StreamEnded, stream_id)

    wire.run(work)


def test_trailers_and_interim_responses_pass(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        stream_id = client.request("POST", fields=(("te", "trailers"),), ends=False)
        client.h2.send_data(stream_id, b"hello")
        client.h2.send_headers(stream_id, [("x-checksum", "1")], end_stream=True)
        client.flush()
        answer = (
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"
        )
        received = await serve(rig, answer, b"0\r\nx-checksum: 1\r\n\r\n")
        assert b"TE: trailers\r\n" in received
        interim = await client.until(h2.events.InformationalResponseReceived, stream_id)
        assert tuple(interim.headers[1]) == ("link", "</a>")
        trailers = await client.until(h2.events.TrailersReceived, stream_id)
        assert [tuple(field) for field in trailers.headers] == [("x-t", "1")]
        assert client.content(stream_id) == b"ok"

    wire.run(work)


def test_a_truncated_response_is_a_reset_and_never_an_end(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        stream_id = client.request()
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        await client.until(h2.events.DataReceived, stream_id)
        upstream.close()
        reset = await client.until(h2.events.StreamReset, stream_id)
        assert reset.error_code == 2
        assert not any(isinstance(event, h2.events.StreamEnded) for event in client.events)

    wire.run(work)


def test_a_cancelled_request_cancels_the_upstream_at_once(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        stream_id = client.request()
        upstream = await rig.upstream.next()
        await upstream.read_until()
        client.h2.reset_stream(stream_id, 8)
        client.flush()
        await upstream.until(lambda peer: peer.lost)
        await eventually(lambda: [record.outcome for record in rig.records] == ["aborted_client"])

    wire.run(work)


def test_an_early_response_leaves_the_rest_of_the_request_to_be_dropped(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        stream_id = client.request("POST", ends=False)
        client.h2.send_data(stream_id, b"hello")
        client.flush()
        upstream = await rig.upstream.next()
        await upstream.read_until(b"hello\r\n")
        upstream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await client.until(h2.events.StreamEnded, stream_id)
        client.h2.send_data(stream_id, bytes(10_000), end_stream=True)
        client.flush()
        again = client.request()
        await serve(rig, OK)
        await client.until(h2.events.StreamEnded, again)
        assert not any(isinstance(event, h2.events.StreamReset) for event in client.events)

    wire.run(work)


def test_a_slow_reader_stalls_its_stream_and_no_other(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        client.h2.increment_flow_control_window(1 << 20)  # the connection's is wide open, the streams' are not
        slow = client.request(path="/slow")
        upstream = await rig.upstream.next()
        await upstream.read_until()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n" + bytes(4_000_000))
        (connection,) = rig.relay.clients
        await eventually(lambda: connection.core.streams[slow].is_blocked)
        await settle()
        assert connection.core.streams[slow].pending_bytes < 1 << 20  # of the four that were sent
        stream_id = client.request(path="/quick")
        await serve(rig, OK)
        await client.until(h2.events.StreamEnded, stream_id)

    wire.run(work)


def test_a_client_that_takes_nothing_of_its_response_is_given_up(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        client.h2.update_settings({4: 0})
        stream_id = client.request()
        await serve(rig, OK)
        await eventually(lambda: [record.outcome for record in rig.records] == ["ok"])
        rig.later(1)
        rig.later(rig.timeouts.body_idle_s + 1)
        reset = await client.until(h2.events.StreamReset, stream_id)
        assert reset.error_code == 8

    wire.run(work)


def test_a_request_whose_content_stops_is_408(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        stream_id = client.request("POST", ends=False)
        upstream = await rig.upstream.next()
        await upstream.read_until()
        rig.later(rig.timeouts.body_idle_s + 1)
        response = await client.until(h2.events.ResponseReceived, stream_id)
        assert dict(response.headers)[":status"] == "408"

    wire.run(work)


def test_a_client_that_sends_no_settings_is_closed(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        peer = await rig.client("reverse")
        peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        await peer.until(lambda peer: peer.received)
        rig.later(11)
        rig.later(1)
        await peer.until(lambda peer: peer.ended)

    wire.run(work)


def test_draining_asks_for_no_more_streams_and_finishes_those_there_are(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        client.request()
        upstream = await rig.upstream.next()
        await upstream.read_until()
        client.peer.take()
        (connection,) = rig.relay.clients
        connection.close_if_idle()
        await client.peer.until(lambda peer: len(peer.received) >= 17)
        upstream.send(OK)
        await client.peer.until(lambda peer: peer.received.endswith(b"ok"))
        rig.later(2)
        rig.later(1)
        await client.peer.until(lambda peer: peer.ended)
        frames = read_frames(bytes(client.peer.received))  # `h2` reads nothing behind GOAWAY
        goaways = [int.from_bytes(one.payload[:4], "big") for one in frames if one.kind == 7]
        assert goaways == [(1 << 31) - 1, 1]
        assert [one.kind for one in frames if one.stream_id] == [1, 0]

    wire.run(work)


def test_connect_over_http_2_is_refused_with_words(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "forward")
        stream_id = client.h2.get_next_available_stream_id()
        client.h2.send_headers(stream_id, [(":method", "CONNECT"), (":authority", f"{HOST}:443")])
        client.flush()
        response = await client.until(h2.events.ResponseReceived, stream_id)
        assert dict(response.headers)[":status"] == "400"
        await client.until(h2.events.StreamEnded, stream_id)
        assert b"over HTTP/1.1" in client.content(stream_id)
        assert not rig.upstream.heard()

    wire.run(work)


def test_a_connection_is_kept_between_requests_and_closed_when_it_is_idle_for_too_long(wire: Wire) -> None:
    async def work(rig: Rig) -> None:
        client = await connect(rig, "reverse")
        for _ in range(2):
            stream_id = client.request()
            upstream = await rig.upstream.next()
            await upstream.read_until()
            rig.later(1)
            upstream.send(OK)
            await client.until(h2.events.StreamEnded, stream_id)
            for _ in range(3):
                rig.later(1)
            assert not client.peer.ended
            rig.upstream.release(upstream)
        rig.later(rig.timeouts.client_idle_s + 1)
        await client.peer.until(lambda peer: peer.ended)

    wire.run(work)
