"""Responses that are not passed on: no HTTP/1.x, or such that a client could misjudge where they end. Pure."""

from __future__ import annotations

from typing import Final

CODED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _with(fields: bytes, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n" + body


BAD_HEADS: Final[dict[str, bytes]] = {
    "no HTTP": b"+OK POP3 server ready\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/2 frames": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "ICY": b"ICY 200 OK\r\n\r\n",
    "version in lower case": b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    "status of letters": b"HTTP/1.1 2OO OK\r\nContent-Length: 2\r\n\r\nok",
    "status 0": b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nok",
    "no status": b"HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nok",
    "two spaces before the status": b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
    "control in the reason phrase": b"HTTP/1.1 200 O\x07K\r\nContent-Length: 2\r\n\r\nok",
    "bare CR in the reason phrase": b"HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok",
    "an empty line in front": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "lines end with LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "one line ends with LF": b"HTTP/1.1 200 OK\r\nX: 1\nContent-Length: 2\r\n\r\nok",
    "both framings": _with(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "both framings, the other way round": _with(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"),
    "two lengths that differ": _with(b"Content-Length: 2\r\nContent-Length: 3\r\n", b"ok"),
    "two lengths of one value, written in two ways": _with(b"Content-Length: 2\r\nContent-Length: 02\r\n", b"ok"),
    "a list of lengths that differ": _with(b"Content-Length: 2, 3\r\n", b"ok"),
    "identity and a length": _with(b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n", b"ok"),
    "identity and chunked": _with(b"Transfer-Encoding: identity, chunked\r\n", b"0\r\n\r\n"),
    "a negative length": _with(b"Content-Length: -1\r\n"),
    "a length with a plus": _with(b"Content-Length: +2\r\n", b"ok"),
    "an empty length": _with(b"Content-Length:\r\n", b"ok"),
    "a length over 64 bits": _with(b"Content-Length: 99999999999999999999\r\n", b"ok"),
    "gzip as transfer coding": _with(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
    "chunked not last": _with(b"Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n"),
    "chunked twice": _with(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "white space within a name": _with(b"Content Length: 2\r\n", b"ok"),
    "both framings, one with space before its colon": _with(
        b"Content-Length : 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"
    ),
    "folded field": _with(b"X: a\r\n b\r\nContent-Length: 2\r\n", b"ok"),
    "no colon": _with(b"NoColon\r\nContent-Length: 2\r\n", b"ok"),
    "empty field name": _with(b": x\r\nContent-Length: 2\r\n", b"ok"),
    "NUL in a field": _with(b"X: a\x00b\r\nContent-Length: 2\r\n", b"ok"),
    "bare CR in a field": _with(b"X: a\rb\r\nContent-Length: 2\r\n", b"ok"),
    "control in a field": _with(b"X: a\x01b\r\nContent-Length: 2\r\n", b"ok"),
    "interim with content": b"HTTP/1.1 103 E\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "101 that nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "interim responses without end": b"HTTP/1.1 103 E\r\n\r\n" * 40,
    "too many fields": _with(b"".join(b"X-%d: 1\r\n" % i for i in range(201)) + b"Content-Length: 0\r\n"),
    "a field over the limit": _with(b"X: " + b"x" * 65_536 + b"\r\nContent-Length: 0\r\n"),
    "a head without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
}
# Broken behind a sound head.
BAD_BODIES: Final[dict[str, bytes]] = {
    "chunk size of letters": CODED + b"xyz\r\n",
    "chunk size with a blank in front": CODED + b" 3\r\nabc\r\n0\r\n\r\n",
    "chunk size with a blank inside": CODED + b"1 0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "chunk size empty": CODED + b"3\r\nabc\r\n\r\n",
    "chunk size negative": CODED + b"-1\r\n",
    "chunk size over 64 bits": CODED + b"10000000000000001\r\n",
    "chunk longer than its size": CODED + b"3\r\nabcdef\r\n",
    "chunk size followed by LF": CODED + b"3\nabc\r\n0\r\n\r\n",
    "chunk content followed by LF": CODED + b"3\r\nabc\n0\r\n\r\n",
    "chunk extensions over the limit": CODED + b"3;" + b"e" * 17_000 + b"\r\n",
    "trailers over the limit": CODED + b"0\r\nX: " + b"x" * 17_000 + b"\r\n",
    "trailer: Content-Length": CODED + b"3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
    "trailer: Transfer-Encoding": CODED + b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer: Host": CODED + b"0\r\nhost: api.example.test\r\n\r\n",
    "trailer folded": CODED + b"0\r\nX: a\r\n b\r\n\r\n",
    "trailer with NUL": CODED + b"0\r\nX: \x00\r\n\r\n",
}
