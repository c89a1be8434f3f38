"""What a refused request asked for is told as far as it can be made out, and its secrets never (C6)."""

from __future__ import annotations

import pytest

from proxy.relay.asked import describe_raw

NOTHING = (b"", "", b"")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"GET /a/b?key=secret HTTP/1.1\r\nX: y\r\n\r\n", (b"GET", "", b"/a/b")),
        (b"\r\n\r\nGET /a HTTP/1.1\r\n\r\n", (b"GET", "", b"/a")),
        (b"HEAD http://api.test:81/x?q HTTP/1.1\r\n", (b"HEAD", "api.test:81", b"/x")),
        (b"GET HTTPS://me:secret@api.test HTTP/1.1\r\n", (b"GET", "api.test", b"")),
        (b"GET http://me:sec ret@api.test/x HTTP/1.1\r\n", (b"GET", "api.test", b"/x")),
        (b"GET http://me:sec/ret@api.test/x HTTP/1.1\r\n", (b"GET", "", b"")),
        (b"GET http://me:12/ret@api.test/x HTTP/1.1\r\n", (b"GET", "", b"")),
        (b"GET http://me:sec?ret@api.test/x HTTP/1.1\r\n", (b"GET", "", b"")),
        (b"GET http://me:12?ret@api.test/x HTTP/1.1\r\n", (b"GET", "", b"")),
        (b"GET http://me:12#ret@api.test/x HTTP/1.1\r\n", (b"GET", "", b"")),
        (b"GET http://m/e:sec?ret@api.test/x HTTP/1.1\r\n", (b"GET", "", b"")),
        (b"GET http://api.test/x?from=me@api.test HTTP/1.1\r\n", (b"GET", "api.test", b"/x")),
        (b"GET http://[::1]:80/x HTTP/1.1\r\n", (b"GET", "[::1]:80", b"/x")),
        (b"CONNECT me:sec/ret@api.test:443 HTTP/1.1\r\n", (b"CONNECT", "api.test:443", b"")),
        (b"CONNECT api.test:443 HTTP/1.1\r\n", (b"CONNECT", "api.test:443", b"")),
        (b"CONNECT me:secret@api.test:443 HTTP/1.1\r\n", (b"CONNECT", "api.test:443", b"")),
        (b"OPTIONS * HTTP/1.1\r\n", (b"OPTIONS", "", b"*")),
        (b"GET /with blanks in it HTTP/1.1\r\n", (b"GET", "", b"/with blanks in it")),
        (b"GET /page#secret HTTP/1.1\r\n", (b"GET", "", b"/page")),
        (b"GET /page?a b#c HTTP/1.1\r\n", (b"GET", "", b"/page")),
        (b"GET /a HTTP/2.0\r\n", (b"GET", "", b"/a")),
        (b"GET /never/end", (b"GET", "", b"/never/end")),
        (b"GET", (b"GET", "", b"")),
        (b"GET /\x00\x1b[2J HTTP/1.1\r\n", (b"GET", "", b"/\x00\x1b[2J")),
        (b"GET secret HTTP/1.1\r\n", (b"GET", "", b"")),
        (b"Authorization: Bearer secret\r\n", NOTHING),
        (b"Bearer secret", NOTHING),
        (b"secret", NOTHING),
        (b"\x16\x03\x01\x02\x00\x01", NOTHING),
        (b"", NOTHING),
    ],
)
def test_as_much_is_told_as_can_be_made_out(raw: bytes, expected: tuple[bytes, str, bytes]) -> None:
    assert describe_raw(raw) == expected


def test_what_is_told_is_bounded() -> None:
    method, authority, path = describe_raw(b"GET http://" + b"a" * 100_000 + b"/ HTTP/1.1\r\n")
    assert (method, len(authority), path) == (b"GET", 512, b"")
    _, _, path = describe_raw(b"GET /" + b"a" * 100_000)
    assert len(path) < 20_001
    assert describe_raw(b"A" * 100_000) == NOTHING
