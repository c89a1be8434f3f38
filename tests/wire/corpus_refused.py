"""Requests that the relay refuses: the bytes, and the status and RFC 9209 token of the answer. Pure.

RFC 9112 lets a recipient repair some of these. Whoever repairs a message can disagree with the next recipient about what it
says, so none is repaired here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.wire.rig import MODES, Mode

HOST_LINE: Final = b"Host: api.example.test\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"


@dataclass(frozen=True, slots=True)
class Refused:
    """A request and the answer it gets.

    Attributes:
        name: what is wrong with it.
        request: in origin-form, unless `verbatim`.
        status: of the answer.
        token: the error type in Proxy-Status.
        modes: the ways in for which this holds.
        verbatim: whether the request is sent as it stands in every mode.
    """

    name: str
    request: bytes
    status: int = 400
    token: str = "http_request_error"
    modes: tuple[Mode, ...] = MODES
    verbatim: bool = False


def with_fields(fields: bytes, body: bytes = b"", method: bytes = b"POST") -> bytes:
    """A request that is sound but for these."""
    return b"%b /x HTTP/1.1\r\n%b%b\r\n%b" % (method, HOST_LINE, fields, body)


def _framing() -> list[Refused]:
    lengths = {
        "two that agree": b"Content-Length: 3\r\nContent-Length: 3\r\n",
        "two that differ": b"Content-Length: 3\r\nContent-Length: 4\r\n",
        "two, in different case": b"Content-Length: 3\r\ncontent-LENGTH: 4\r\n",
        "a list": b"Content-Length: 3, 3\r\n",
        "with a plus": b"Content-Length: +3\r\n",
        "negative": b"Content-Length: -3\r\n",
        "hexadecimal": b"Content-Length: 0x3\r\n",
        "with a letter": b"Content-Length: 3a\r\n",
        "with an underscore": b"Content-Length: 1_0\r\n",
        "with a decimal point": b"Content-Length: 3.0\r\n",
        "with a space inside": b"Content-Length: 1 0\r\n",
        "in quotes": b'Content-Length: "3"\r\n',
        "empty": b"Content-Length:\r\n",
        "blank": b"Content-Length: \t\r\n",
        "in Arabic digits": "Content-Length: ٣\r\n".encode(),
        "of 19 digits": b"Content-Length: 1000000000000000000\r\n",
        "of 40 digits": b"Content-Length: " + b"9" * 40 + b"\r\n",
        "over 64 bits": b"Content-Length: 18446744073709551619\r\n",
        "over 32 bits, zeros in front": b"Content-Length: 000000000000000000000003\r\n",
    }
    codings = {
        "gzip": b"gzip",
        "gzip, chunked": b"gzip, chunked",
        "chunked, gzip": b"chunked, gzip",
        "identity": b"identity",
        "chunked, identity": b"chunked, identity",
        "chunked twice in a list": b"chunked, chunked",
        "chunked with a parameter": b"chunked;q=1",
        "chunked in quotes": b'"chunked"',
        "chunked with a vertical tab": b"\x0bchunked",
        "chunked with a comma behind": b"chunked,",
        "a prefix": b"xchunked",
        "a part": b"chunke",
        "empty": b"",
        "chunked with a no-break space": b"\xa0chunked",
    }
    return [
        *(Refused(f"length: {name}", with_fields(fields, b"abc")) for name, fields in lengths.items()),
        *(
            Refused(f"coding: {name}", with_fields(b"Transfer-Encoding: " + value + b"\r\n", b"3\r\nabc\r\n0\r\n\r\n"))
            for name, value in codings.items()
        ),
        Refused("coding: two lines", with_fields(CHUNKED + CHUNKED, b"0\r\n\r\n")),
        Refused(
            "coding: two lines, the second another", with_fields(CHUNKED + b"Transfer-Encoding: x\r\n", b"0\r\n\r\n")
        ),
        Refused(
            "coding: two lines, the first another", with_fields(b"Transfer-Encoding: x\r\n" + CHUNKED, b"0\r\n\r\n")
        ),
        Refused("both framings", with_fields(b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n")),
        Refused("both framings, the other way round", with_fields(CHUNKED + b"Content-Length: 5\r\n", b"0\r\n\r\n")),
        Refused("both framings, length 0", with_fields(CHUNKED + b"Content-Length: 0\r\n", b"0\r\n\r\n")),
        Refused("both framings, other coding", with_fields(b"Transfer-Encoding: x\r\nContent-Length: 5\r\n", b"abcde")),
        Refused("coding in HTTP/1.0", b"POST /x HTTP/1.0\r\n" + HOST_LINE + CHUNKED + b"\r\n0\r\n\r\n"),
        Refused("coding in HTTP/1.0, without Host", b"POST /x HTTP/1.0\r\n" + CHUNKED + b"\r\n0\r\n\r\n"),
        Refused("a malformed length in HTTP/1.0, without Host", b"POST /x HTTP/1.0\r\nContent-Length: x\r\n\r\n"),
    ]


def _fields() -> list[Refused]:
    lines = {
        "space before the colon of Content-Length": b"Content-Length : 3\r\n",
        "tab before the colon of Transfer-Encoding": b"Transfer-Encoding\t: chunked\r\n",
        "space before the colon of any": b"X : 1\r\n",
        "folded with a space": b"X: a\r\n b\r\n",
        "folded with a tab": b"X: a\r\n\tb\r\n",
        "folded Transfer-Encoding": b"Transfer-Encoding:\r\n chunked\r\n",
        "folded with a field inside": b"X: a\r\n Content-Length: 3\r\n",
        "no colon": b"NoColonHere\r\n",
        "empty name": b": value\r\n",
        "space in the name": b"X Y: 1\r\n",
        "parenthesis in the name": b"X(Y): 1\r\n",
        "at-sign in the name": b"X@Y: 1\r\n",
        "slash in the name": b"X/Y: 1\r\n",
        "obs-text in the name": b"X\xe4: 1\r\n",
        "NUL in the name": b"X\x00Y: 1\r\n",
        "control in the name": b"X\x01: 1\r\n",
        "NUL in the value": b"X: a\x00b\r\n",
        "bell in the value": b"X: a\x07b\r\n",
        "vertical tab in the value": b"X: a\x0bb\r\n",
        "form feed in the value": b"X: a\x0cb\r\n",
        "DEL in the value": b"X: a\x7fb\r\n",
        "escape in the value": b"X: a\x1bb\r\n",
        "bare CR in the value": b"X: a\rb\r\n",
        "bare CR before CRLF": b"X: a\r\r\n",
        "bare LF in the value": b"X: a\nY: b\r\n",
        "bare LF that hides a length": b"X: a\nContent-Length: 3\r\n",
        "bare CR that hides a coding": b"X: a\rTransfer-Encoding: chunked\r\n",
        "Proxy-Authorization twice": b"Proxy-Authorization: Basic YTpi\r\nProxy-Authorization: Basic YTpj\r\n",
    }
    return [
        *(Refused(f"field: {name}", with_fields(line)) for name, line in lines.items()),
        Refused("field: white space in front of the first", b"GET / HTTP/1.1\r\n " + HOST_LINE + b"\r\n"),
        Refused("field: white space line", b"GET / HTTP/1.1\r\n" + HOST_LINE + b" \r\n\r\n"),
        Refused("lines end with LF", b"GET / HTTP/1.1\nHost: api.example.test\n\n"),
        Refused("lines end with CR", b"GET / HTTP/1.1\rHost: api.example.test\r\r"),
        Refused("the head ends with LF CRLF", b"GET / HTTP/1.1\r\nHost: api.example.test\n\r\n"),
        Refused("the first line ends with LF", b"GET / HTTP/1.1\n" + HOST_LINE + b"\r\n"),
    ]


def _request_lines() -> list[Refused]:
    origin = {
        "no version": b"GET /x",
        "HTTP/0.9": b"GET /x HTTP/0.9",
        "HTTP/2.0": b"GET /x HTTP/2.0",
        "HTTP/1.2": b"GET /x HTTP/1.2",
        "HTTP/1.10": b"GET /x HTTP/1.10",
        "HTTP/01.1": b"GET /x HTTP/01.1",
        "HTTP/1": b"GET /x HTTP/1",
        "version in lower case": b"GET /x http/1.1",
        "another protocol": b"GET /x RTSP/1.0",
        "space behind": b"GET /x HTTP/1.1 ",
        "two spaces": b"GET  /x HTTP/1.1",
        "two spaces before the version": b"GET /x  HTTP/1.1",
        "tab": b"GET\t/x\tHTTP/1.1",
        "space in front": b" GET /x HTTP/1.1",
        "space in the target": b"GET /a b HTTP/1.1",
        "colon in the method": b"GE:T /x HTTP/1.1",
        "bracket in the method": b"G[T /x HTTP/1.1",
        "obs-text in the method": b"G\xc9T /x HTTP/1.1",
        "no method": b"/x HTTP/1.1",
        "method of 100 letters": b"M" * 100 + b" /x HTTP/1.1",
        "fragment": b"GET /x#top HTTP/1.1",
        "NUL in the target": b"GET /a\x00b HTTP/1.1",
        "DEL in the target": b"GET /a\x7fb HTTP/1.1",
        "control in the target": b"GET /a\x01b HTTP/1.1",
        "CR in the target": b"GET /a\rb HTTP/1.1",
        "no slash in front": b"GET x HTTP/1.1",
        "authority-form": b"GET api.example.test:443 HTTP/1.1",
        "asterisk without OPTIONS": b"GET * HTTP/1.1",
        "query alone": b"GET ?x HTTP/1.1",
        "another scheme": b"GET ftp://api.example.test/x HTTP/1.1",
        "user information": b"GET http://user@api.example.test/x HTTP/1.1",
        "user information with password": b"GET https://u:p@api.example.test/x HTTP/1.1",
        "no host": b"GET http:///x HTTP/1.1",
        "no slashes": b"GET http:api.example.test/x HTTP/1.1",
        "backslash for a slash": b"GET http://api.example.test\\@other.example/x HTTP/1.1",
        "port 0": b"GET http://api.example.test:0/x HTTP/1.1",
        "port over 65535": b"GET http://api.example.test:65979/x HTTP/1.1",
        "empty port": b"GET http://api.example.test:/x HTTP/1.1",
        "port of letters": b"GET http://api.example.test:https/x HTTP/1.1",
        "encoded host": b"GET http://api%2eexample.test/x HTTP/1.1",
        "half an IPv6 address": b"GET http://[::1/x HTTP/1.1",
        "IPv4 in octal": b"GET http://0177.0.0.1/x HTTP/1.1",
    }
    return [
        *(Refused(f"request line: {name}", line + b"\r\n" + HOST_LINE + b"\r\n", verbatim=True) for name, line in origin.items()),
        Refused(
            "request line: origin-form to a forward proxy", with_fields(b"", method=b"GET"), modes=("forward",), verbatim=True
        ),
        Refused("TLS to a port that speaks HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", verbatim=True),
        Refused("greeting of SOCKS 5", b"\x05\x01\x00", verbatim=True),
        Refused("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", verbatim=True),
        Refused("a response", b"HTTP/1.1 200 OK\r\n\r\n", verbatim=True),
        Refused("TRACE", with_fields(b"", method=b"TRACE"), 403, "http_request_denied"),
    ]  # fmt: skip


def _hosts() -> list[Refused]:
    hosts = {
        "none": b"",
        "two that agree": HOST_LINE + HOST_LINE,
        "two that differ": HOST_LINE + b"Host: other.example\r\n",
        "empty": b"Host:\r\n",
        "a list": b"Host: api.example.test, other.example\r\n",
        "with user information": b"Host: user@api.example.test\r\n",
        "with a path": b"Host: api.example.test/x\r\n",
        "with a scheme": b"Host: https://api.example.test\r\n",
        "with a space": b"Host: api.example.test other.example\r\n",
        "encoded": b"Host: api%2Eexample.test\r\n",
        "with port 0": b"Host: api.example.test:0\r\n",
        "with two ports": b"Host: api.example.test:443:443\r\n",
        "with a port of letters": b"Host: api.example.test:https\r\n",
        "with an empty label": b"Host: api..example.test\r\n",
        "in octal": b"Host: 0300.0.0.1\r\n",
        "with a null label": b"Host: .\r\n",
    }
    others = {
        "another": b"Host: other.example\r\n",
    }
    # To a reverse listener these are names that nobody on the internet can own, and so may be its own.
    local_names = {
        "a sub-domain": b"Host: x.api.example.test\r\n",
        "the parent domain": b"Host: example.test\r\n",
        "another port": b"Host: api.example.test:8443\r\n",
        "an address": b"Host: 192.0.2.1\r\n",
    }
    return [
        *(Refused(f"Host: {name}", b"GET / HTTP/1.1\r\n" + fields + b"\r\n") for name, fields in hosts.items()),
        *(
            Refused(f"Host: {name}", b"GET / HTTP/1.1\r\n" + fields + b"\r\n", 421, modes=("connect", "reverse"))
            for name, fields in others.items()
        ),
        *(
            Refused(f"Host: {name}", b"GET / HTTP/1.1\r\n" + fields + b"\r\n", 421, modes=("connect",))
            for name, fields in local_names.items()
        ),
        Refused(
            "target and Host name different authorities",
            b"GET http://api.example.test/ HTTP/1.1\r\nHost: other.example\r\n\r\n",
            421,
            modes=("connect", "reverse"),
            verbatim=True,
        ),
        Refused(
            "target of the tunnel's host at another port",
            b"GET http://api.example.test/ HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
            421,
            modes=("connect",),
            verbatim=True,
        ),
        Refused(
            "target of a host that no route names",
            b"GET http://other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n",
            403,
            "http_request_denied",
            modes=("forward",),
            verbatim=True,
        ),
        Refused(
            "target of another host than the connection's",
            b"GET https://other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n",
            421,
            modes=("connect", "reverse"),
            verbatim=True,
        ),
    ]


def _connects() -> list[Refused]:
    lines = {
        "without a port": b"api.example.test",
        "with a path": b"api.example.test:443/x",
        "with user information": b"u@api.example.test:443",
        "of a URL": b"https://api.example.test:443",
        "of nothing": b":443",
    }
    host = b"Host: api.example.test:443\r\n"
    return [
        *(
            Refused(
                f"CONNECT {name}",
                b"CONNECT " + target + b" HTTP/1.1\r\n" + host + b"\r\n",
                modes=("forward",),
                verbatim=True,
            )
            for name, target in lines.items()
        ),
        Refused(
            "CONNECT with content",
            b"CONNECT api.example.test:443 HTTP/1.1\r\n" + host + b"Content-Length: 3\r\n\r\nabc",
            modes=("forward",),
            verbatim=True,
        ),
        Refused(
            "CONNECT with a Host that is no authority",
            b"CONNECT api.example.test:443 HTTP/1.1\r\nHost: api.example.test:443, other.example\r\n\r\n",
            modes=("forward",),
            verbatim=True,
        ),
        Refused(
            "CONNECT to a host that no route names",
            b"CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n",
            403,
            "http_request_denied",
            modes=("forward",),
            verbatim=True,
        ),
        Refused(
            "CONNECT where there is one destination only",
            b"CONNECT api.example.test:443 HTTP/1.1\r\n" + host + b"\r\n",
            modes=("connect", "reverse"),
            verbatim=True,
        ),
    ]


def _limits() -> list[Refused]:
    return [
        Refused("a target over the limit", b"GET /" + b"x" * 16_384 + b" HTTP/1.1\r\n" + HOST_LINE + b"\r\n", 414),
        Refused("a target without end", b"GET /" + b"x" * 20_000, 414),
        Refused("too many fields", with_fields(b"".join(b"X-%d: 1\r\n" % i for i in range(200))), 431),
        Refused("a field over the limit", with_fields(b"X: " + b"x" * 65_536 + b"\r\n"), 431),
        Refused("a field without end", b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
    ]


REFUSED_HEADS: Final = (*_framing(), *_fields(), *_request_lines(), *_hosts(), *_connects(), *_limits())

_BODIES: Final = {
    "size empty": b"\r\nabc\r\n0\r\n\r\n",
    "size of letters": b"xyz\r\nabc\r\n0\r\n\r\n",
    "size negative": b"-3\r\nabc\r\n0\r\n\r\n",
    "size with a plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "size with 0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size with an underscore": b"0_3\r\nabc\r\n0\r\n\r\n",
    "size with a space in front": b" 3\r\nabc\r\n0\r\n\r\n",
    "size over 64 bits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "size followed by LF": b"3\nabc\r\n0\r\n\r\n",
    "size followed by CR": b"3\rabc\r\n0\r\n\r\n",
    "content followed by LF": b"3\r\nabc\n0\r\n\r\n",
    "content longer than its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "content shorter than its size": b"5\r\nabc\r\n0\r\n\r\n",
    "LF in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "NUL in an extension": b"3;a\x00\r\nabc\r\n0\r\n\r\n",
    "extensions over 16 KiB": b"3;" + b"e" * 17_000 + b"\r\nabc\r\n0\r\n\r\n",
    "many extensions over 16 KiB": (b"1;" + b"e" * 400 + b"\r\na\r\n") * 60 + b"0\r\n\r\n",
    "trailers over 16 KiB": b"0\r\n" + b"X: %b\r\n" % (b"x" * 17_000) + b"\r\n",
    "trailer: Content-Length": b"0\r\nContent-Length: 3\r\n\r\n",
    "trailer: Transfer-Encoding": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer: Host": b"0\r\nHost: other.example\r\n\r\n",
    "trailer: Authorization": b"0\r\nAuthorization: Basic dTpw\r\n\r\n",
    "trailer: Connection": b"0\r\nConnection: close\r\n\r\n",
    "trailer without a colon": b"0\r\nNoColon\r\n\r\n",
    "trailer with a space before the colon": b"0\r\nX : 1\r\n\r\n",
    "trailer folded": b"0\r\nX: a\r\n b\r\n\r\n",
    "trailer with NUL": b"0\r\nX: a\x00\r\n\r\n",
    "trailer with a bare LF": b"0\r\nX: a\nY: b\r\n\r\n",
    "trailer section ends with LF": b"0\r\nX: a\r\n\n",
    "last chunk ends with LF": b"0\r\n\n",
}

REFUSED_BODIES: Final = tuple(Refused(f"chunked: {name}", with_fields(CHUNKED, body)) for name, body in _BODIES.items())
