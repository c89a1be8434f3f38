"""Where the fuzzer starts from, and every input that once broke a target. Data only."""

from __future__ import annotations

import struct
from typing import Final

from tests.client_hellos import ECH, GREASE, USUAL, extension, message, protocols, records, server_name


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return a frame of HTTP/2."""
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


_REQUEST_BLOCK: Final = b"\x82\x87\x84\x41\x10api.example.test"
_GET: Final = b"GET /a?b HTTP/1.1\r\nHost: api.example.test\r\n"

_CONFIGURATION: Final = b"""\
listeners: [{address: '127.0.0.1:8080'}]
credentials: {c: {token_endpoint: 'https://l.example/t', client_id: i, certificate: c.pem}}
routes: [{hosts: [a.example], credential: c, scope: s}]
"""
_POST: Final = b"POST http://api.example.test/ HTTP/1.1\r\nHost: api.example.test\r\n"

SEEDS: Final[dict[str, tuple[bytes, ...]]] = {
    "request_head": (
        _GET + b"\r\n",
        _GET + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        _GET + b"Transfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE, x-a\r\nX-A: 1\r\n\r\n",
        _GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        _GET + b"Proxy-Authorization: Basic bjpw\r\nAuthorization: Bearer x\r\nProxy-Connection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.0\r\nConnection: host, content-length\r\n\r\n",
        _GET + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        _GET + b"X: a\r\n b\r\n\r\n",
        _GET + b"X : a\r\n\r\n",
        _GET + b"X: a\rb\r\n\r\n",
    ),
    "response_head": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.0 404 \r\nConnection: keep-alive\r\n\r\n",
        b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer error="x"\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n',
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n",
    ),
    "field_lines": (
        b"Host: api.example.test\r\nAccept: */*\r\nConnection: keep-alive\r\n",
        b"Content-Length: 5\r\nX: \x80\xff\t \r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 18446744073709551615\r\nContent-Length :+5\r\n",
        b"Transfer-Encoding: chunked\r\nTrailer: X\r\n",
        b"Transfer-Encoding: gzip, chunked\t\r\nContent-Length: 0\r\n",
        b"Connection: Upgrade, close\r\nUpgrade: h2c\r\nProxy-Connection: keep-alive\r\n",
        b"X: a\r\n b\r\n",
        b"X : a\r\n:b\r\n",
        b"X: a\rb\r\nY: c\nd\r\nZ: \x00\x7f\r\n",
    ),
    "chunked_body": (
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\r\nhello\r\n3\r\n\r\n\r\r\n0\r\nX-T: 1\r\n\r\nGET /",
        b"a\r\n0123456789\r\n00\r\n\r\n",
        b"-1\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"fffffffffffffffff\r\n",
    ),
    "authority": (
        b"api.example.com",
        b"API.Example.COM.:443",
        b"[::ffff:10.0.0.1]:8443",
        b"127.1",
        b"0x7f.0.0.1",
        b"017700000001:80",
        b"user@host:1",
        b"[fe80::1%25eth0]",
        "m\u00fcnchen.example:80".encode(),
        b"xn--mnchen-3ya.example",
    ),
    "configuration": (
        _CONFIGURATION,
        b"listeners: &a [*a]\n",
        b"a: ${KEY}\nb: ${KEY:-x}\nc: $${\n",
        b"clients: [{name: a, networks: [10.0.0.0/8], password_hash: x}]\n",
        b"? [a]\n: {b: !!python/object:os.system x}\n",
        b"\xff\xfe",
    ),
    "token_response": (
        b"\x00" + b'{"access_token":"abc","token_type":"Bearer","expires_in":3599}',
        b"\x00" + b'{"access_token":"abc","token_type":"Bearer","expires_in":"3599","ext_expires_in":"1"}',
        b"\x64" + b'{"error":"invalid_client","error_description":"AADSTS700027: x","error_codes":[700027]}',
        b"\x72" + b"too many\x0060\x00Mon, 01 Jan 2024 00:00:00 GMT",
        b"\x00" + b"<html>",
    ),
    "proxy_authorization": (b"Basic bmFtZTpwYXNz", b"basic  bmFtZQ==", b"Bearer x", b"Basic \xff"),
    "client_connection": (
        b"\x00\x10GET http://api.example.test/ HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
        b"\x00\x40" + _POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"\x00\x00CONNECT other.example.test:443 HTTP/1.1\r\nHost: other.example.test:443\r\n\r\n",
        b"\x01\x08HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"\x02\x03\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03",
        b"\x02\x00GET / HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
        b"\x02\x00SSH-2.0-x\r\n",
        b"\x02\x00\x00\x00\x00",
    ),
    "client_hello": (
        USUAL,
        records(message()),
        records(message(server_name(b"a.test"), extension(ECH, bytes(40)), extension(GREASE, b""))),
        records(USUAL[5:], [1, 2, 3, 50]),
        records(message(server_name(b"a.test"), protocols(b"h2"))) + b"\x17\x03\x03\x00\x01x",
        b"\x80\x2e\x01\x00\x02",
    ),
    # A step, then frames behind the preface and SETTINGS, which the target adds.
    "http2_connection": (
        b"".join((b"\x00", _frame(1, 5, 1, _REQUEST_BLOCK))),
        b"".join(
            (b"\x01", _frame(1, 4, 1, _REQUEST_BLOCK), _frame(0, 0, 1, b"hello"), _frame(0, 9, 1, b"\x02a\x00\x00"))
        ),
        b"".join(
            (
                b"\x02",
                _frame(1, 0, 1, _REQUEST_BLOCK[:3]),
                _frame(9, 4, 1, _REQUEST_BLOCK[3:]),
                _frame(3, 0, 1, bytes(4)),
            )
        ),
        b"\x03"
        + _frame(4, 0, 0, b"\x00\x04\x00\x00\x00\x02\x00\x01\x00\x00\x00\x00")
        + _frame(1, 5, 1, _REQUEST_BLOCK),
        b"\x00"
        + _frame(1, 4, 1, _REQUEST_BLOCK + b"\x0f\x0d\x015")
        + _frame(0, 0, 1, b"hello")
        + _frame(1, 5, 1, b"\x40\x01x\x01y"),
        b"\x05"
        + _frame(6, 0, 0, bytes(8))
        + _frame(7, 0, 0, bytes(8))
        + _frame(8, 0, 0, b"\x00\x00\x00\x01")
        + _frame(2, 0, 3, bytes(5)),
        b"".join((b"\x00", _frame(1, 5, 1, _REQUEST_BLOCK + b"\x60\x03a=b\x60\x03c=d\x00\x02te\x08trailers"))),
        b"".join((b"\x00", _frame(1, 5, 1, b"\x82\x87\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\x84"))),
    ),
    "http2_upstream": (
        b"".join((b"\x00", _frame(1, 5, 1, b"\x88"))),
        b"".join((b"\x01", _frame(1, 4, 1, b"\x88\x0f\x0d\x015"), _frame(0, 1, 1, b"hello"))),
        b"\x00"
        + _frame(1, 4, 1, b"\x08\x03103")
        + _frame(1, 4, 1, b"\x88")
        + _frame(0, 0, 1, b"a")
        + _frame(1, 5, 1, b"\x00\x01x\x01y"),
        b"".join((b"\x00", _frame(7, 0, 0, bytes(4) + b"\x00\x00\x00\x07"), _frame(1, 5, 1, b"\x89"))),
        b"".join((b"\x02", _frame(3, 0, 1, b"\x00\x00\x00\x07"), _frame(4, 0, 0, b"\x00\x03\x00\x00\x00\x00"))),
    ),
    # A length, then a block, again and again: RFC 7541 C.3, C.4, C.2.3, and a change of the table's size.
    "http2_fields": (
        bytes.fromhex("14828684410f7777772e6578616d706c652e636f6d 0e828684be58086e6f2d6361636865"),
        bytes.fromhex("11828684418cf1e3c2e5f23a6ba0ab90f4ff 0c828684be5886a8eb10649cbf"),
        bytes.fromhex("11100870617373776f726406736563726574 043fe11fbe"),
    ),
    # What Hypothesis makes rules of; see `tests.fuzz.machines`.
    "exchange_events": (b"", bytes(400), bytes(range(256)) * 3),
    "draining_events": (b"", bytes(400), bytes(range(256)) * 3),
    "redirected_connection": (
        b"\x00\x3f" + USUAL,
        b"\x00\x01" + records(message(server_name(b"api.example.test"), protocols(b"http/1.1"))),
        b"\x80\x3f" + _GET + b"\r\n",
        b"\x80\x07" + _POST + b"Content-Length: 5\r\n\r\nhello",
        b"\x80\x3fGET / HTTP/1.1\r\nHost: other.test\r\n\r\n",
        b"\x80\x3fPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00\x3f\x80\x2e\x01\x00\x02",
    ),
}
