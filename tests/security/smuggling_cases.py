"""Requests made to be read in two ways, written from RFC 9112 and the published lists of desync techniques. Pure.

In each, `{T}` is the request target, `{N}` the target of a second request that is sound, and `{E}` the path of a request that
must never be seen as one. A case says what has to become of it: refused, or passed on as so many requests; or it leaves that open,
because RFC 9112 does, and then what passes has to be one request, equal to what was validated.

Sources: RFC 9112 §2.2, §3.2, §5, §6, §7.1, §11.2; James Kettle's "HTTP Desync Attacks" (2019), "HTTP/1.1 Must Die" (2025) and
the mutations of his and defparam's smuggling tools; Amit Klein's "HTTP Request Smuggling in 2020"; Jeppe Weikop's "Funky Chunks"
(2025); Ben Kallus' HTTP Garden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST: Final = b"api.example.test"
HOST_LINE: Final = b"Host: " + HOST + b"\r\n"
SMUGGLED: Final = b"GET {E} HTTP/1.1\r\n" + HOST_LINE + b"\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
H2C: Final = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
Fate = Literal["refused", "passed", "open"]


@dataclass(frozen=True, slots=True)
class Case:
    """One request, or what passes for one.

    Attributes:
        family: the technique.
        name: what is special about it; unique within the family.
        wire: the bytes.
        fate: what has to become of it.
        contents: where it passes: the content of each request that the upstream sees.
    """

    family: str
    name: str
    wire: bytes
    fate: Fate = "refused"
    contents: tuple[bytes, ...] = (b"",)


def post(fields: bytes, body: bytes = b"", *, line: bytes = b"POST {T} HTTP/1.1\r\n", host: bytes = HOST_LINE) -> bytes:
    return line + host + fields + b"\r\n" + body


def show(value: bytes) -> str:
    """A value as it stands in the table."""
    return "`" + repr(value)[2:-1] + "`" if value.strip() else "blank" if value else "empty"


def length(body: bytes) -> bytes:
    # `{E}` is replaced by a path of the same length.
    return b"Content-Length: %d\r\n" % len(body)


def cases() -> list[Case]:
    """All of them."""
    families = (
        _two_framings,
        _lengths,
        _codings,
        _mutations,
        _chunks,
        _trailers,
        _lines,
        _fields,
        _targets,
        _connection,
        _expectations,
        _methods,
        _pipelines,
        _versions,
    )
    return [case for family in families for case in family()]


def _two_framings() -> Iterator[Case]:
    body = b"0\r\n\r\n" + SMUGGLED
    family = "Content-Length and Transfer-Encoding"
    yield Case(family, "length first, all of it", post(length(body) + CHUNKED, body))
    yield Case(family, "coding first, all of it", post(CHUNKED + length(body), body))
    yield Case(family, "length of the chunks", post(length(b"0\r\n\r\n") + CHUNKED, body))
    yield Case(family, "length zero", post(b"Content-Length: 0\r\n" + CHUNKED, body))
    yield Case(family, "length zero, behind", post(CHUNKED + b"Content-Length: 0\r\n", body))
    yield Case(family, "a field between", post(length(body) + b"X: y\r\n" + CHUNKED, body))
    yield Case(family, "in capitals", post(b"CONTENT-LENGTH: 4\r\nTRANSFER-ENCODING: CHUNKED\r\n", body))
    yield Case(family, "HTTP/1.0", post(length(body) + CHUNKED, body, line=b"POST {T} HTTP/1.0\r\n"))
    yield Case(family, "identity beside a length", post(length(body) + b"Transfer-Encoding: identity\r\n", body))
    yield Case(family, "empty coding beside a length", post(length(body) + b"Transfer-Encoding:\r\n", body))
    yield Case(family, "GET", post(length(body) + CHUNKED, body, line=b"GET {T} HTTP/1.1\r\n"))


def _lengths() -> Iterator[Case]:
    family = "Content-Length"
    for value in (
        b"+5", b"-5", b"5,5", b"5, 5", b"5,6", b"5 5", b"5;a", b"0x5", b"5e0", b"5.0", b"5_0", b'"5"', b"five", b"", b" ", b"5\x00",
        b"5\x0b", b"\x0b5", b"5\x0c", b"\xa05", b"18446744073709551621", b"4294967301,5", b"0,5", b"5,", b",5", b"\xef\xbc\x95",
        b"9" * 30, b"5\xa0", b"5#", b"NaN", b"0b101", b"'5'",
    ):  # fmt: skip
        yield Case(family, f"value {show(value)}", post(b"Content-Length: " + value + b"\r\n", b"hello"))
    yield Case(family, "leading zeros", post(b"Content-Length: 005\r\n", b"hello"), "open", (b"hello",))
    yield Case(family, "spaces around", post(b"Content-Length:   5  \r\n", b"hello"), "open", (b"hello",))
    yield Case(family, "tab before", post(b"Content-Length:\t5\r\n", b"hello"), "open", (b"hello",))
    yield Case(family, "no space", post(b"Content-Length:5\r\n", b"hello"), "passed", (b"hello",))
    for first, second in ((b"5", b"5"), (b"5", b"6"), (b"0", b"5"), (b"5", b"0"), (b"5", b""), (b"5", b"+5")):
        fields = b"Content-Length: " + first + b"\r\nContent-Length: " + second + b"\r\n"
        yield Case(family, f"twice, {show(first)} and {show(second)}", post(fields, b"hello"))
    yield Case(family, "twice, in other case", post(b"Content-Length: 5\r\ncontent-length: 6\r\n", b"hello!"))
    yield Case(
        family, "twice, far apart", post(b"Content-Length: 5\r\nA: b\r\nC: d\r\nContent-Length: 6\r\n", b"hello!")
    )
    yield Case(family, "folded", post(b"Content-Length:\r\n 5\r\n", b"hello"))
    yield Case(family, "with an underscore in its name", post(b"Content_Length: 5\r\n"), "open")
    yield Case(family, "another name that ends alike", post(b"X-Content-Length: 5\r\n"), "passed")
    yield Case(
        family,
        "an underscored one beside it",
        post(b"Content_Length: 0\r\n" + length(SMUGGLED), SMUGGLED),
        "open",
        (SMUGGLED,),
    )
    yield Case(family, "none, and a body all the same", post(b"", b"hello"), "passed")
    yield Case(family, "shorter than what follows", post(b"Content-Length: 2\r\n", b"hello"), "passed", (b"he",))
    yield Case(family, "a whole request as content", post(length(SMUGGLED), SMUGGLED), "passed", (SMUGGLED,))


def _codings() -> Iterator[Case]:
    family = "Transfer-Encoding"
    body = b"5\r\nhello\r\n0\r\n\r\n"
    for value in (
        b"identity", b"identity, chunked", b"chunked, identity", b"chunked, chunked", b"chunked,chunked", b"gzip, chunked",
        b"chunked, gzip", b"xchunked", b"chunkedx", b"x chunked", b"chunked x", b"chunked;q=1", b"chunked;foo=bar", b"chunked,",
        b",chunked", b'"chunked"', b"'chunked'", b"chunk", b"cow", b"", b" ", b"deflate", b"compress", b"chunked\x00",
        b"\x00chunked",
        b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"\xa0chunked", b"\xffchunked", b"chunked\xff", b"chu\x00nked",
        b"{chunked}",
        b"chun\xe2\x80\x8bked", b"c\xc4\xa7unked", b"trailers", b"chunked, trailers", b"chunked ,", b"chunked/1",
    ):  # fmt: skip
        yield Case(family, f"value {show(value)}", post(b"Transfer-Encoding: " + value + b"\r\n", body))
    yield Case(family, "in mixed case", post(b"tRaNsFeR-eNcOdInG: cHuNkEd\r\n", body), "open", (b"hello",))
    yield Case(family, "tab before", post(b"Transfer-Encoding:\tchunked\r\n", body), "open", (b"hello",))
    yield Case(family, "space behind", post(b"Transfer-Encoding: chunked \r\n", body), "open", (b"hello",))
    yield Case(family, "no space", post(b"Transfer-Encoding:chunked\r\n", body), "open", (b"hello",))
    yield Case(family, "as it should be", post(CHUNKED, body), "passed", (b"hello",))
    yield Case(family, "twice", post(CHUNKED + CHUNKED, body))
    yield Case(family, "twice, first another", post(b"Transfer-Encoding: x\r\n" + CHUNKED, body))
    yield Case(family, "twice, then another", post(CHUNKED + b"Transfer-Encoding: x\r\n", body))
    yield Case(family, "twice, then identity", post(CHUNKED + b"Transfer-encoding: identity\r\n", body))
    yield Case(family, "folded", post(b"Transfer-Encoding:\r\n chunked\r\n", body))
    yield Case(family, "folded with a tab", post(b"Transfer-Encoding:\r\n\tchunked\r\n", body))
    yield Case(family, "behind a folded field", post(b"X: y\r\n Transfer-Encoding: chunked\r\n", body))
    yield Case(family, "HTTP/1.0", post(CHUNKED, body, line=b"POST {T} HTTP/1.0\r\n"))
    yield Case(family, "with an underscore in its name", post(b"Transfer_Encoding: chunked\r\n"), "open")
    yield Case(
        family,
        "nominated by Connection",
        post(b"Connection: transfer-encoding\r\n" + CHUNKED, body),
        "open",
        (b"hello",),
    )


def _mutations() -> Iterator[Case]:
    """A Transfer-Encoding that is none to one reader and one to another, beside a length: the bytes of the smuggling tools."""
    body = b"0\r\n\r\n" + SMUGGLED
    for byte in (0x00, 0x01, 0x04, 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1F, 0x20, 0x7F, 0x80, 0xA0, 0xFF):
        x = bytes([byte])
        for place, line in (
            ("before the name", x + b"Transfer-Encoding: chunked\r\n"),
            ("behind the name", b"Transfer-Encoding" + x + b": chunked\r\n"),
            ("inside the name", b"Transfer" + x + b"Encoding: chunked\r\n"),
            ("before the value", b"Transfer-Encoding:" + x + b"chunked\r\n"),
            ("behind the value", b"Transfer-Encoding: chunked" + x + b"\r\n"),
            ("in another field", b"X: y" + x + b"Transfer-Encoding: chunked\r\n"),
            ("at the end of another field", b"X: y\r" + x + b"\nTransfer-Encoding: chunked\r\n"),
            ("instead of the colon", b"Transfer-Encoding" + x + b"chunked\r\n"),
        ):
            yield Case(f"0x{byte:02x} near Transfer-Encoding", place, post(length(body) + line, body), "open", (body,))


def _chunks() -> Iterator[Case]:
    family = "chunks"
    sound = b"0\r\n\r\n"
    for name, body in (
        ("size with 0x", b"0x5\r\nhello\r\n" + sound),
        ("size with a plus", b"+5\r\nhello\r\n" + sound),
        ("size with a minus", b"-5\r\nhello\r\n" + sound),
        ("size with a space before", b" 5\r\nhello\r\n" + sound),
        ("size with a tab before", b"\t5\r\nhello\r\n" + sound),
        ("size with a letter that is no digit", b"g\r\nhello\r\n" + sound),
        ("size empty", b"\r\nhello\r\n" + sound),
        ("size over 64 bits", b"10000000000000005\r\nhello\r\n" + sound),
        ("size with NUL", b"5\x00\r\nhello\r\n" + sound),
        ("size in quotes", b'"5"\r\nhello\r\n' + sound),
        ("size with an underscore", b"0_5\r\nhello\r\n" + sound),
        ("bare LF behind the size", b"5\nhello\r\n" + sound),
        ("bare CR behind the size", b"5\rhello\r\n" + sound),
        ("bare LF behind the content", b"5\r\nhello\n" + sound),
        ("bare CR behind the content", b"5\r\nhello\r" + sound),
        ("nothing behind the content", b"5\r\nhello" + sound),
        ("two bytes more behind the content", b"5\r\nhelloXX\r\n" + sound),
        ("two other bytes behind the content", b"5\r\nhelloXX" + sound),
        ("bare LF behind the last size", b"5\r\nhello\r\n0\n\r\n"),
        ("bare LF for the empty line", b"5\r\nhello\r\n0\r\n\n"),
        ("bare LF, CR behind the size", b"5\n\rhello\r\n" + sound),
        ("extension ended by LF", b"5;a\nhello\r\n" + sound),
        ("extension with LF and another chunk", b"5;\n" + b"hello\r\n0\r\n\r\n" + SMUGGLED + b"\r\n" + sound),
        ("extension with a bare CR", b"5;a\rb\r\nhello\r\n" + sound),
        ("extension with NUL", b"5;a\x00\r\nhello\r\n" + sound),
        ("extension over the limit", b"5;" + b"a" * 20_000 + b"\r\nhello\r\n" + sound),
        ("extension in quotes over a line end", b'5;a="\r\nhello\r\n' + sound),
        ("extension without a semicolon", b"5 a\r\nhello\r\n" + sound),
        ("extension with DEL", b"5;a\x7f\r\nhello\r\n" + sound),
        ("a line end before the first size", b"\r\n5\r\nhello\r\n" + sound),
        ("a size larger than what comes", b"6\r\nhello\r\n" + sound),
    ):
        yield Case(family, name, post(CHUNKED, body))
    for name, body, content in (
        ("several", b"2\r\nhe\r\n3\r\nllo\r\n" + sound, b"hello"),
        ("size in capitals", b"A\r\n0123456789\r\n" + sound, b"0123456789"),
        ("size of seventeen digits", b"00000000000000005\r\nhello\r\n" + sound, b"hello"),
        ("sizes with zeros before", b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
        ("an extension", b"5;a=b\r\nhello\r\n" + sound, b"hello"),
        ("an extension in quotes", b'5;a="b;c"\r\nhello\r\n' + sound, b"hello"),
        ("an extension on the last one", b"5\r\nhello\r\n0;a\r\n\r\n", b"hello"),
        ("a space behind the size", b"5 \r\nhello\r\n" + sound, b"hello"),
        ("a tab behind the size", b"5\t\r\nhello\r\n" + sound, b"hello"),
        ("a whole request as content", b"%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n" + sound, SMUGGLED),
        ("content that looks like the end", b"7\r\n\r\n0\r\n\r\n\r\n" + sound, b"\r\n0\r\n\r\n"),
        ("none", sound, b""),
    ):
        yield Case(family, name, post(CHUNKED, body), "open", (content,))


def _trailers() -> Iterator[Case]:
    family = "trailers"
    for name, trailer in (
        ("Content-Length", b"Content-Length: 5\r\n"),
        ("Transfer-Encoding", b"Transfer-Encoding: chunked\r\n"),
        ("Host", b"Host: evil.test\r\n"),
        ("Authorization", b"Authorization: Bearer x\r\n"),
        ("Connection", b"Connection: close\r\n"),
        ("Expect", b"Expect: 100-continue\r\n"),
        ("space before the colon", b"X : y\r\n"),
        ("folded", b"X: y\r\n z\r\n"),
        ("bare LF", b"X: y\nZ: z\r\n"),
        ("bare CR", b"X: y\rZ: z\r\n"),
        ("no colon", b"nothing\r\n"),
        ("NUL", b"X: \x00\r\n"),
        ("empty name", b": y\r\n"),
        ("over the limit", b"X: " + b"y" * 20_000 + b"\r\n"),
    ):
        yield Case(family, name, post(CHUNKED, b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n"))
    yield Case(family, "an ordinary one", post(CHUNKED, b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"), "passed", (b"hello",))
    yield Case(family, "one ended by LF LF", post(CHUNKED, b"5\r\nhello\r\n0\r\nX: y\n\n" + SMUGGLED))


def _lines() -> Iterator[Case]:
    family = "request line"
    for name, line in (
        ("ended by LF", b"GET {T} HTTP/1.1\n"),
        ("ended by CR", b"GET {T} HTTP/1.1\r"),
        ("two spaces before the target", b"GET  {T} HTTP/1.1\r\n"),
        ("two spaces behind the target", b"GET {T}  HTTP/1.1\r\n"),
        ("tabs", b"GET\t{T}\tHTTP/1.1\r\n"),
        ("space before", b" GET {T} HTTP/1.1\r\n"),
        ("space behind", b"GET {T} HTTP/1.1 \r\n"),
        ("CR behind", b"GET {T} HTTP/1.1\r\r\n"),
        ("no version", b"GET {T}\r\n"),
        ("version in small letters", b"GET {T} http/1.1\r\n"),
        ("version 1.2", b"GET {T} HTTP/1.2\r\n"),
        ("version 2.0", b"GET {T} HTTP/2.0\r\n"),
        ("version 0.9", b"GET {T} HTTP/0.9\r\n"),
        ("version 1.10", b"GET {T} HTTP/1.10\r\n"),
        ("version 01.1", b"GET {T} HTTP/01.1\r\n"),
        ("version with a comma", b"GET {T} HTTP/1,1\r\n"),
        ("two versions", b"GET {T} HTTP/1.1 HTTP/1.0\r\n"),
        ("method with a colon", b"GE:T {T} HTTP/1.1\r\n"),
        ("method with NUL", b"GET\x00 {T} HTTP/1.1\r\n"),
        ("method empty", b" {T} HTTP/1.1\r\n"),
        ("target with NUL", b"GET {T}\x00 HTTP/1.1\r\n"),
        ("target with LF", b"GET {T}\n HTTP/1.1\r\n"),
        ("target with CR", b"GET {T}\rx HTTP/1.1\r\n"),
        ("target with a space and a version", b"GET {T} HTTP/1.1\r\nX: HTTP/1.1\r\nA B\r\n"),
        ("target with a form feed", b"GET {T}\x0cx HTTP/1.1\r\n"),
        ("target with DEL", b"GET {T}\x7f HTTP/1.1\r\n"),
        ("a field in it", b"GET {T} HTTP/1.1 Host: x\r\n"),
    ):
        yield Case(family, name, post(b"", line=line))
    yield Case(family, "an empty line before", post(b"", line=b"\r\nGET {T} HTTP/1.1\r\n"), "open")
    yield Case(family, "several empty lines before", post(b"", line=b"\r\n\r\n\r\nGET {T} HTTP/1.1\r\n"), "open")
    yield Case(family, "an empty line of LF before", post(b"", line=b"\nGET {T} HTTP/1.1\r\n"))


def _fields() -> Iterator[Case]:
    family = "fields"
    for name, line in (
        ("space before the colon", b"X : y\r\n"),
        ("tab before the colon", b"X\t: y\r\n"),
        ("space in the name", b"X Y: z\r\n"),
        ("space before the name", b" X: y\r\n"),
        ("empty name", b": y\r\n"),
        ("no colon", b"nothing\r\n"),
        ("folded", b"X: y\r\n z\r\n"),
        ("folded with a tab", b"X: y\r\n\tz\r\n"),
        ("folded with nothing", b"X: y\r\n \r\n"),
        ("ended by LF", b"X: y\n"),
        ("ended by CR", b"X: y\rZ: z\r\n"),
        ("CR CR LF", b"X: y\r\r\n"),
        ("NUL in the value", b"X: a\x00b\r\n"),
        ("NUL in the name", b"X\x00: y\r\n"),
        ("control in the value", b"X: a\x01b\r\n"),
        ("DEL in the value", b"X: a\x7fb\r\n"),
        ("8 bits in the name", b"X\xff: y\r\n"),
        ("parenthesis in the name", b"X(: y\r\n"),
        ("quotation mark in the name", b'"X": y\r\n'),
        ("slash in the name", b"X/Y: z\r\n"),
        ("LF in the value and a length", b"X: y\nContent-Length: 50\r\n"),
        ("CR in the value and a length", b"X: y\rContent-Length: 50\r\n"),
        ("second Host", b"Host: evil.test\r\n"),
        ("second Host, the same", HOST_LINE),
        ("second Host, in capitals", b"HOST: evil.test\r\n"),
        ("second Host behind a space", b" Host: evil.test\r\n"),
        ("second Host before a space", b"Host : evil.test\r\n"),
    ):
        yield Case(family, name, post(line, line=b"GET {T} HTTP/1.1\r\n"))
    yield Case(family, "head ended by LF LF", post(b"X: y\n\n" + SMUGGLED, line=b"GET {T} HTTP/1.1\r\n"))
    yield Case(family, "head ended by CR LF LF", b"GET {T} HTTP/1.1\r\n" + HOST_LINE + b"X: y\r\n\n" + SMUGGLED)
    yield Case(family, "head ended by LF CR LF", b"GET {T} HTTP/1.1\r\n" + HOST_LINE + b"X: y\n\r\n" + SMUGGLED)
    yield Case(family, "8 bits in the value", post(b"X: \xff\xfe\r\n", line=b"GET {T} HTTP/1.1\r\n"), "open")
    yield Case(family, "empty value", post(b"X:\r\n", line=b"GET {T} HTTP/1.1\r\n"), "passed")
    for host in (
        b"", b"evil.test", b"api.example.test, evil.test", b"api.example.test evil.test", b"evil.test@api.example.test",
        b"api.example.test@evil.test", b"api.example.test/x", b"api.example.test#x", b"api.example.test?x",
        b"api.example.test:443:80",
        b"api.example.test:99", b"api.example.test:-1", b"api.example.test:0443", b"api.example.test%00", b"api.example.test\x00",
        b"http://api.example.test", b"api.example.test\tx", b"[api.example.test]", b"api.example.test\\evil.test",
    ):  # fmt: skip
        # Beside an absolute-form target, a Host that names another authority is ignored (RFC 9112 §3.2.2).
        fate: Fate = "open" if host in (b"evil.test", b"api.example.test:99") else "refused"
        wire = post(b"", line=b"GET {T} HTTP/1.1\r\n", host=b"Host: " + host + b"\r\n")
        yield Case("Host", f"value {show(host)}", wire, fate)
    yield Case("Host", "none", b"GET {T} HTTP/1.1\r\nX: y\r\n\r\n")


def _targets() -> Iterator[Case]:
    family = "target"
    for name, target in (
        ("fragment", b"{T}#x"),
        ("user information", b"http://a:b@api.example.test{P}"),
        ("another host", b"http://evil.example{P}"),
        ("another port", b"http://api.example.com:99{P}"),
        ("backslash for a slash", b"http:\\\\api.example.test{P}"),
        ("one slash", b"http:/api.example.test{P}"),
        ("no scheme", b"//evil.test{P} x"),
        ("other scheme", b"ftp://api.example.test{P}"),
        ("empty authority", b"http://{P}"),
        ("host with a space", b"http://api.example.test {P}"),
        ("host with an encoded slash", b"http://api.example.test%2f{P}"),
        ("authority-form", b"api.example.test:443"),
    ):
        yield Case(family, name, b"GET " + target + b" HTTP/1.1\r\n" + HOST_LINE + b"\r\n")
    for name, suffix in (
        ("dot segments", b"/../x"),
        ("encoded dots", b"/%2e%2e/x"),
        ("encoded CR LF", b"%0d%0aX:y"),
        ("encoded NUL", b"%00"),
        ("double slash", b"//x"),
        ("8 bits", b"\xe4"),
        ("question marks", b"??x=%zz"),
    ):
        yield Case(family, name, post(b"", line=b"GET {T}" + suffix + b" HTTP/1.1\r\n"), "open")


def _connection() -> Iterator[Case]:
    family = "Connection"
    for name, fields, body in (
        ("nominates Content-Length", b"Connection: content-length\r\nContent-Length: 5\r\n", b"hello"),
        ("nominates Host", b"Connection: host\r\nContent-Length: 5\r\n", b"hello"),
        ("nominates Authorization", b"Connection: authorization\r\nContent-Length: 5\r\n", b"hello"),
        ("nominates Cookie", b"Connection: cookie, close\r\nCookie: a\r\nContent-Length: 5\r\n", b"hello"),
        ("nominates nothing", b"Connection: ,,\r\nContent-Length: 5\r\n", b"hello"),
        ("twice", b"Connection: keep-alive\r\nConnection: close\r\nContent-Length: 5\r\n", b"hello"),
        ("Proxy-Connection", b"Proxy-Connection: content-length\r\nContent-Length: 5\r\n", b"hello"),
        ("Keep-Alive", b"Keep-Alive: timeout=0, max=0\r\nContent-Length: 5\r\n", b"hello"),
        ("an upgrade to h2c", H2C + b"Content-Length: 5\r\n", b"hello"),
        ("an upgrade to another protocol", b"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\nContent-Length: 5\r\n", b"hello"),
        ("an upgrade to WebSocket with content", b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", b"hello"),
    ):  # fmt: skip
        yield Case(family, name, post(fields, body), "open", (body,))
    body = b"0\r\n\r\n" + SMUGGLED
    yield Case(
        family,
        "nominates both framings",
        post(b"Connection: content-length, transfer-encoding\r\n" + length(body) + CHUNKED, body),
    )


def _expectations() -> Iterator[Case]:
    family = "Expect"
    for value in (
        b"100-continue",
        b"100-CONTINUE",
        b" 100-continue",
        b"100-continue, x",
        b"y 100-continue",
        b"x=y",
        b"200-ok",
        b"",
    ):
        fields = b"Expect: " + value + b"\r\nContent-Length: 5\r\n"
        yield Case(family, f"value {show(value)}", post(fields, b"hello"), "open", (b"hello",))
    yield Case(
        family,
        "twice",
        post(b"Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 5\r\n", b"hello"),
        "open",
        (b"hello",),
    )
    yield Case(family, "without content", post(b"Expect: 100-continue\r\n", line=b"GET {T} HTTP/1.1\r\n"), "open")
    yield Case(
        family,
        "with a request as content",
        post(b"Expect: 100-continue\r\n" + length(SMUGGLED), SMUGGLED, line=b"GET {T} HTTP/1.1\r\n"),
        "open",
        (SMUGGLED,),
    )
    yield Case(
        family,
        "HTTP/1.0",
        post(b"Expect: 100-continue\r\nContent-Length: 5\r\n", b"hello", line=b"POST {T} HTTP/1.0\r\n"),
        "open",
        (b"hello",),
    )


def _methods() -> Iterator[Case]:
    family = "method with content"
    for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"PUT", b"PATCH", b"PROPFIND", b"BREW", b"get"):
        line = method + b" {T} HTTP/1.1\r\n"
        yield Case(family, method.decode(), post(length(SMUGGLED), SMUGGLED, line=line), "open", (SMUGGLED,))
    yield Case(family, "TRACE", post(b"", line=b"TRACE {T} HTTP/1.1\r\n"))
    yield Case(family, "CONNECT", post(length(SMUGGLED), SMUGGLED, line=b"CONNECT api.example.test:443 HTTP/1.1\r\n"))
    yield Case(family, "PRI", b"PRI * HTTP/2.0\r\n\r\nSMTP\r\n\r\n")


def _pipelines() -> Iterator[Case]:
    """Several requests that are sound: they arrive one by one, whatever they look like to somebody who guesses."""
    family = "pipelines"
    second = b"GET {N} HTTP/1.1\r\n" + HOST_LINE + b"\r\n"
    body = b"5\r\nhello\r\n0\r\n\r\n"
    yield Case(family, "behind a length", post(b"Content-Length: 5\r\n", b"hello" + second), "passed", (b"hello", b""))
    yield Case(family, "behind chunks", post(CHUNKED, body + second), "passed", (b"hello", b""))
    yield Case(family, "behind nothing", post(b"", second, line=b"GET {T} HTTP/1.1\r\n"), "passed", (b"", b""))
    yield Case(
        family, "behind an empty line", post(b"Content-Length: 5\r\n", b"hello\r\n" + second), "open", (b"hello", b"")
    )
    yield Case(
        family, "rubbish behind it", post(b"Content-Length: 5\r\n", b"hello\x00\x01\x02\r\n\r\n"), "open", (b"hello",)
    )
    yield Case(
        family, "TLS behind it", post(b"Content-Length: 5\r\n", b"hello\x16\x03\x01\x02\x00"), "open", (b"hello",)
    )
    yield Case(
        family,
        "a bad one behind it",
        post(
            b"Content-Length: 5\r\n",
            b"hello" + post(b"Content-Length: 5\r\n" + CHUNKED, SMUGGLED, line=b"POST {N} HTTP/1.1\r\n"),
        ),
        "open",
        (b"hello",),
    )


def _versions() -> Iterator[Case]:
    family = "HTTP/1.0"
    line = b"POST {T} HTTP/1.0\r\n"
    yield Case(family, "with a length", post(b"Content-Length: 5\r\n", b"hello", line=line), "passed", (b"hello",))
    yield Case(
        family,
        "kept alive",
        post(b"Connection: keep-alive\r\nContent-Length: 5\r\n", b"hello", line=line),
        "passed",
        (b"hello",),
    )
    yield Case(family, "no Host", b"GET {T} HTTP/1.0\r\n\r\n", "open")
    yield Case(family, "a request behind one that closes", post(b"", SMUGGLED, line=b"GET {T} HTTP/1.0\r\n"), "open")
    yield Case(family, "content without a length", post(b"", b"hello", line=line), "open")
