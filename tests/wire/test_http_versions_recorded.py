"""What is told of each exchange's versions of HTTP: in its record, its line of the access log, and the metrics."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final, Literal

import h2.events
import pytest

from proxy.config.settings import Http2
from proxy.operations.log_lines import JsonFormat
from proxy.operations.metrics import relay_metrics
from proxy.operations.snapshot import format_snapshot, parse_snapshot, take_snapshot
from tests.wire.http2_end import Message, http2_server
from tests.wire.rig import HOST, Rig, Wire, eventually
from tests.wire.test_http2_clients import Client

if TYPE_CHECKING:
    from proxy.relay.record import ExchangeRecord

GET: Final = b"GET /a HTTP/1.%d\r\nHost: %b\r\nConnection: close\r\n\r\n"
OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FOUND: Final = Message((b"200",), ((b"content-length", b"2"),), b"ok")

Version = Literal["1.0", "1.1", "2"]


async def ask(rig: Rig, version: Version) -> None:
    peer = await rig.client("reverse")
    if version == "2":
        client = Client(peer, "reverse")
        await client.until(h2.events.StreamEnded, client.request())
    else:
        peer.send(GET % (int(version[-1]), HOST.encode()))
        await peer.read_to_end()


async def answer_over_http1(rig: Rig) -> None:
    peer = await rig.upstream.next()
    await peer.read_until()
    peer.send(OK)


def counted(rig: Rig) -> dict[tuple[str, str], float]:
    """What the metrics say, on the way that a worker's counters take."""
    snapshot = parse_snapshot(format_snapshot(take_snapshot(rig.relay)))
    (family,) = (one for one in relay_metrics(snapshot) if one.name == "apim_auth_proxy_exchange_http_versions")
    return {(one.labels["http_version"], one.labels["upstream_http_version"]): one.value for one in family.samples}


async def only_record(rig: Rig) -> ExchangeRecord:
    await eventually(lambda: len(rig.records) == 1)
    return rig.records[0]


@pytest.mark.parametrize("upstream", ["1.1", "2"])
@pytest.mark.parametrize("client", ["1.0", "1.1", "2"])
def test_an_exchange_is_recorded_with_the_versions_of_both_sides(
    wire: Wire, client: Version, upstream: Version
) -> None:
    async def work(rig: Rig) -> None:
        before = counted(rig).get((client, upstream), 0)
        if upstream == "2":
            async with http2_server(rig, Http2.PREFERRED) as server:
                asking = asyncio.create_task(ask(rig, client))
                end = await server.end()
                await end.read(1)
                end.peer.send(end.say(1, FOUND))
                await asking
        else:
            await asyncio.gather(ask(rig, client), answer_over_http1(rig))
        record = await only_record(rig)
        assert (record.http_version, record.upstream_http_version) == (client, upstream)
        line = json.loads(JsonFormat().format([record]))
        assert (line["http_version"], line["upstream_http_version"]) == (client, upstream)
        assert counted(rig)[client, upstream] == before + 1

    wire.run(work)


@pytest.mark.parametrize("client", ["1.1", "2", "-"])
def test_a_request_that_reaches_no_upstream_has_the_clients_version_alone(wire: Wire, client: str) -> None:
    async def work(rig: Rig) -> None:
        before = counted(rig).get((client, "-"), 0)
        peer = await rig.client("reverse")
        if client == "2":
            over_http2 = Client(peer, "reverse")
            await over_http2.until(h2.events.StreamEnded, over_http2.request("TRACE"))
        else:
            refused = b"TRACE / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % HOST.encode()
            peer.send(refused if client == "1.1" else b"GET /\r\n\r\n")
            await peer.read_to_end()
        record = await only_record(rig)
        assert (record.http_version or "-", record.upstream_http_version) == (client, "")
        assert counted(rig)[client, "-"] == before + 1

    wire.run(work)


def test_what_comes_after_a_failed_attempt_is_recorded_as_it_was_sent_last(wire: Wire) -> None:
    """An upstream that wants HTTP/1.1 after all is spoken to in it, and the record says so."""

    async def work(rig: Rig) -> None:
        async with http2_server(rig, Http2.PREFERRED, "h2", "http/1.1") as server:
            asking = asyncio.create_task(ask(rig, "1.1"))
            end = await server.end()
            await end.read(1)
            end.h2.reset_stream(1, 0xD)  # HTTP_1_1_REQUIRED
            end.flush()
            while not server.others:
                server.opened.clear()
                await server.opened.wait()
            await server.others[0].read_until()
            server.others[0].send(OK)
            await asking
        record = await only_record(rig)
        assert (record.http_version, record.upstream_http_version) == ("1.1", "1.1")

    wire.run(work)
