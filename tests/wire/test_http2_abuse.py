"""Clients of HTTP/2 that send what costs them little and others much: how much of it is borne, and a normal client beside each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from proxy.relay.http2 import frames
from proxy.relay.http2.client import Http2ClientConnection
from proxy.relay.http2.faults import ENHANCE_YOUR_CALM
from tests.http2_peer import block, data, frame, headers, reset, settings, window_update
from tests.wire.rig import HOST, Rig, Wire, eventually, settle
from tests.wire.test_http2_clients import OK

if TYPE_CHECKING:
    from collections.abc import Callable

GET: Final = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", HOST.encode())]
POST: Final = [(b":method", b"POST"), *GET[1:]]
# A field of 4,000 bytes that enters the table; one byte, 0xbe, is a reference to it.
LARGE: Final = block(GET) + b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4_000
BOMB: Final = block(GET) + b"\xbe" * 60
MEBIBYTE: Final = 1 << 20


def of_streams(make: Callable[[int], bytes]) -> list[bytes]:
    return [b"".join(make(1 + 2 * (start + each)) for each in range(50)) for start in range(0, 20_000, 50)]


def over(one: bytes, beginning: bytes = b"") -> list[bytes]:
    pack = one * (8_192 // len(one) + 1)
    return [beginning, *[pack] * (24 * MEBIBYTE // len(pack))]


# What is sent, the most of it in bytes that is read, and the most exchanges that come of it.
ATTACKS: Final[dict[str, tuple[Callable[[], list[bytes]], int, int]]] = {
    "rapid reset": (lambda: of_streams(lambda one: headers(one, GET) + reset(one)), MEBIBYTE // 4, 1_200),
    "reset by a fault": (
        lambda: of_streams(lambda one: headers(one, POST, ends=False) + frame(frames.WINDOW_UPDATE, 0, one, bytes(4))),
        MEBIBYTE // 4,
        1_200,
    ),
    "more streams than allowed": (lambda: of_streams(lambda one: headers(one, POST, ends=False)), MEBIBYTE // 4, 100),
    "references to a large field": (
        lambda: [frame(1, 5, 1, LARGE), *of_streams(lambda one: frame(1, 5, one + 2, BOMB))],
        24 * MEBIBYTE,
        20_001,
    ),
    "CONTINUATION": (lambda: over(frame(9, 0, 1, b"\x82"), frame(1, 0, 1, block(GET))), MEBIBYTE // 4, 0),
    "empty SETTINGS": (lambda: over(settings()), 9 * MEBIBYTE, 0),
    "SETTINGS for open streams": (
        lambda: over(
            settings(*[(4, each % 2) for each in range(32)]),
            b"".join(of_streams(lambda one: headers(one, POST, ends=False))[:2]),
        ),
        9 * MEBIBYTE,
        100,
    ),
    "PING": (lambda: over(frame(frames.PING, 0, 0, b"12345678")), 9 * MEBIBYTE, 0),
    "empty DATA": (lambda: over(data(1, b""), headers(1, POST, ends=False)), 9 * MEBIBYTE, 1),
    "WINDOW_UPDATE": (lambda: over(window_update(1, 1), headers(1, POST, ends=False)), 9 * MEBIBYTE, 1),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_abuse_is_borne_up_to_a_bound_and_a_client_beside_it_is_served(uv_wire: Wire, name: str) -> None:
    async def work(rig: Rig) -> None:
        make, most_bytes, most_exchanges = ATTACKS[name]
        attacker = await rig.client("reverse")
        attacker.discards = True
        attacker.send(frames.PREFACE + settings())
        await eventually(lambda: any(isinstance(each, Http2ClientConnection) for each in rig.relay.clients))
        (ours,) = (each for each in rig.relay.clients if isinstance(each, Http2ClientConnection))
        server = asyncio.create_task(answer_all(rig))
        beside = await rig.client("reverse")
        served = 0
        for number, piece in enumerate(make()):
            await attacker.may_write.wait()
            if attacker.lost:
                break
            attacker.send(piece)
            if number % 64 == 1 and served < 20:
                beside.send(b"GET /beside HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST.encode())
                assert (await beside.read_until(b"ok")).startswith(b"HTTP/1.1 200 ")
                served += 1
            assert ours.core.places <= 100
            await asyncio.sleep(0)
        await attacker.until(lambda peer: peer.lost)
        assert served
        fault = ours.core.fault
        assert fault is not None
        assert fault.code == ENHANCE_YOUR_CALM
        assert ours.core._received_bytes <= most_bytes
        await eventually(lambda: rig.relay.streams == 0)
        await settle()
        assert len([record for record in rig.records if record.target != b"/beside"]) <= most_exchanges
        server.cancel()

    uv_wire.run(work)


async def answer_all(rig: Rig) -> None:
    while True:
        upstream = await rig.upstream.next(within_s=600)
        if b"\r\n\r\n" in upstream.received:
            upstream.take()
            upstream.send(OK)
            rig.upstream.release(upstream)
