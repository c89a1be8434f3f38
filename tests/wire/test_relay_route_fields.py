"""The fields that a route sets stand in every request to it, in place of the client's own of these names."""

from __future__ import annotations

import pytest

from tests.wire.messages import split_head
from tests.wire.rig import AUTHORIZATION, HOST, MODES, Mode, Rig, Wire, address_form

HOST_LINE = b"Host: " + HOST.encode()


@pytest.mark.parametrize("mode", MODES)
def test_a_routes_fields_replace_the_clients(uv_wire: Wire, mode: Mode) -> None:
    async def work(rig: Rig) -> tuple[bytes, ...]:
        with rig.leading_to(rig.upstream.port, fields=b"X-Key: theirs\r\nX-New: 1\r\n"):
            client = await rig.client(mode)
            lines = (HOST_LINE, b"x-key: mine", b"X-Stays: 2", b"X-KEY: mine too")
            client.send(address_form(b"GET / HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n", mode))
            upstream = await rig.upstream.next()
            head, _ = split_head(await upstream.read_until())
            return head.fields

    assert uv_wire.run(work) == (HOST_LINE, b"X-Stays: 2", b"X-Key: theirs", b"X-New: 1", AUTHORIZATION)
