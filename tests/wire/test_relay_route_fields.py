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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [b"X-Key", b"x-KEY", b"Authorization", b"X-New"])
def test_a_trailer_does_not_take_the_name_of_a_field_that_the_proxy_sets(
    uv_wire: Wire, mode: Mode, name: bytes
) -> None:
    """G10: it reached the upstream behind the real one, and some merge trailers into the head."""

    async def work(rig: Rig) -> None:
        with rig.leading_to(rig.upstream.port, fields=b"X-Key: theirs\r\nX-New: 1\r\n"):
            client = await rig.client(mode)
            lines = (b"POST / HTTP/1.1", HOST_LINE, b"Transfer-Encoding: chunked", b"", b"1\r\nx\r\n")
            client.send(address_form(b"\r\n".join(lines), mode))
            upstream = await rig.upstream.next()
            await upstream.read_until(b"1\r\nx\r\n")
            client.send(b"0\r\n%b: mine\r\n\r\n" % name)
            head, content = split_head(await client.read_to_end())
            assert head.status == 400
            assert b"%b may not be a trailer" % name in content
            assert b'"code": "trailer_refused"' in content
            await upstream.until(lambda peer: peer.lost)
            assert not upstream.received

    uv_wire.run(work)


def test_a_trailer_of_a_name_that_only_another_route_sets_passes(uv_wire: Wire) -> None:
    async def work(rig: Rig) -> bytes:
        client = await rig.client("reverse")
        lines = (b"POST / HTTP/1.1", HOST_LINE, b"Transfer-Encoding: chunked", b"", b"0\r\nX-Key: mine\r\n\r\n")
        client.send(b"\r\n".join(lines))
        upstream = await rig.upstream.next()
        await upstream.read_until()
        return await upstream.read_until()

    assert uv_wire.run(work) == b"0\r\nX-Key: mine\r\n\r\n"
