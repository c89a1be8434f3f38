"""Exchanges that are relayed: what the client sends, what the upstream answers, and every difference the relay may make. Pure.

Requests stand in origin-form; the forward mode sends them in absolute-form. Three differences hold for all and are not
repeated: an Authorization line is added behind the client's fields, whatever Authorization the client sent is dropped, and
chunk boundaries and extensions of a chunked body carry nothing (trailer lines are compared as ``name: value``).
"""

# ruff: noqa: E501  # one case a line reads as a table

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.wire.messages import chunked

NOTHING: Final = b"HTTP/1.1 204 No Content\r\n\r\n"
FOUND: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HOST_LINE: Final = b"Host: api.example.test\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """One exchange.

    Attributes:
        name: what it shows.
        request, response: as the client and the upstream send them.
        target: what the upstream sees as request target, where that differs.
        version: whether the request's version becomes HTTP/1.1.
        request_drops: lower-case names of the request's fields and trailers that do not reach the upstream.
        request_adds: lines that do, behind the client's and before Authorization.
        host: whether the Host line becomes the upstream's own; where there was none, it stands first.
        response_drops, response_adds: the same for the response; additions come last.
        dechunked: whether the client, of HTTP/1.0, gets the content without its chunked coding.
        interim_drops: whether interim responses are not passed on.
        upstream_closes: whether the upstream ends the connection behind the response.
        client_closes: whether the relay ends the client's connection behind the response.
    """

    name: str
    request: bytes
    response: bytes = FOUND
    target: bytes | None = None
    version: bool = False
    request_drops: tuple[bytes, ...] = ()
    request_adds: tuple[bytes, ...] = ()
    host: bool = False
    response_drops: tuple[bytes, ...] = ()
    response_adds: tuple[bytes, ...] = ()
    dechunked: bool = False
    interim_drops: bool = False
    upstream_closes: bool = False
    client_closes: bool = False


def get(target: bytes = b"/", fields: bytes = b"", method: bytes = b"GET") -> bytes:
    """A request without content."""
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, HOST_LINE, fields)


def put(body: bytes, fields: bytes, method: bytes = b"PUT") -> bytes:
    """A request with content."""
    return b"%b /resource HTTP/1.1\r\n%b%b\r\n%b" % (method, HOST_LINE, fields, body)


def answer(fields: bytes, body: bytes = b"", start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A response."""
    return b"%b\r\n%b\r\n%b" % (start, fields, body)


def _targets() -> list[Case]:
    unchanged = {
        "root": b"/",
        "trailing slash": b"/a/",
        "double slashes": b"//a//b//",
        "dot segments": b"/a/../b/./c/..",
        "dot segments above the root": b"/../../etc/passwd",
        "encoded dot segments": b"/a/%2e%2e/%2E/b",
        "encoded slash": b"/a%2Fb%2fc",
        "encoded backslash": b"/a%5cb",
        "twice encoded dot": b"/%252e%252e/",
        "encoded NUL": b"/a%00b",
        "encoded CRLF": b"/a%0d%0aHost:%20evil",
        "encoded space and plus": b"/a%20b+c",
        "invalid percent-encoding": b"/%zz%1",
        "lone percent at the end": b"/%",
        "path parameters": b"/a;v=1;w=2/b;x",
        "empty query": b"/a?",
        "question marks in the query": b"/a?b?c??",
        "query of names without values": b"/a?x&y&&z&",
        "repeated query names": b"/a?x=1&x=2&X=3",
        "query with a URL in it": b"/a?u=https://other.example/p?q=1",
        "query with encoded ampersand": b"/a?x=1%26y=2",
        "sub-delims": b"/!$&'()*+,;=:@",
        "unreserved": b"/-._~AZaz09",
        "brackets, braces, pipes": b"/a[1]{2}|3^4`5",
        "quotes and angle brackets": b"/\"<>'",
        "backslashes": b"/a\\b\\..\\c",
        "UTF-8 octets as they are": "/grüße/日本".encode(),
        "Latin-1 octets": b"/gr\xfc\xdfe",
        "octet 0xFF": b"/\xff\xfe",
        "UTF-8 octets in the query": "/a?n=ä".encode(),
        "at-sign in the path": b"/user@host/x",
        "colon in the first segment": b"/a:b",
        "scheme within the path": b"/http://other.example/",
        "asterisk in the path": b"/*",
        "upper and lower case": b"/AbC?DeF=GhI",
        "upper and lower case in percent-encoding": b"/%aA%Aa",
        "session id in a semicolon": b"/app;jsessionid=AB12?x=1",
        "matrix parameters": b"/map;lat=1;long=2/layer",
        "long path": b"/" + b"p" * 4_000,
        "long query": b"/?q=" + b"0123456789" * 400,
    }
    cases = [Case(f"target: {name}", get(target)) for name, target in unchanged.items()]
    return [
        *cases,
        Case("target: asterisk of OPTIONS", get(b"*", method=b"OPTIONS")),
    ]


def _request_lines() -> list[Case]:
    methods = (
        b"HEAD",
        b"OPTIONS",
        b"PATCH",
        b"DELETE",
        b"PROPFIND",
        b"QUERY",
        b"PURGE",
        b"M-SEARCH",
        b"get",
        b"BREW",
        b"!#$%&'*+-.^_`|~",
        b"X" * 40,
    )
    without_content = answer(b"Content-Length: 4711\r\n")
    return [
        *(
            Case(f"method: {method.decode()}", get(method=method), without_content if method == b"HEAD" else FOUND)
            for method in methods
        ),
        Case("method: POST without content or length", get(method=b"POST")),
        Case("method: POST of length 0", put(b"", b"Content-Length: 0\r\n", b"POST")),
        Case("method: GET with content", put(b"why not", b"Content-Length: 7\r\n", b"GET")),
        Case("method: DELETE with content", put(b"{}", b"Content-Length: 2\r\n", b"DELETE")),
        Case("an empty line before the request", b"\r\n" + get(b"/after-crlf")),
        Case("three empty lines before the request", b"\r\n\r\n\r\n" + get(b"/after-crlf")),
    ]


def _request_fields() -> list[Case]:
    kept = {
        "case of names": b"x-LOWER-upper: 1\r\nUSER-AGENT: t\r\naCCEPT: */*\r\n",
        "order": b"Z: 1\r\nA: 2\r\nM: 3\r\nB: 4\r\n",
        "duplicates": b"X-Twice: one\r\nX-Other: o\r\nX-Twice: two\r\nx-twice: one\r\n",
        "empty value": b"X-Empty:\r\n",
        "value of white space": b"X-Blank:   \t \r\n",
        "no white space behind the colon": b"X-Tight:value\r\n",
        "white space around the value": b"X-Wide: \t  value \t \r\n",
        "white space within the value": b"X-In: a  b\t\tc\r\n",
        "obs-text": b"X-Obs: \x80\xe4\xff\r\n",
        "UTF-8": "X-Name: Jürgen\r\n".encode(),
        "punctuation in the name": b"!#$%&'*+-.^_`|~: 1\r\n",
        "underscores in the name": b"X_Under_Score: 1\r\n",
        "digits as name": b"1234: 1\r\n",
        "one letter as name": b"A: 1\r\n",
        "colons in the value": b"X-Colon: a:b::c:\r\n",
        "quotes and commas": b'X-List: "a, b", c,,d ,\r\n',
        "long value": b"X-Long: " + b"v" * 8_000 + b"\r\n",
        "many fields": b"".join(b"X-%d: %d\r\n" % (i, i) for i in range(150)),
        "cookies in several lines": b"Cookie: a=1\r\nCookie: b=2; c=3\r\n",
        "Accept-Encoding": b"Accept-Encoding: br;q=1.0, gzip;q=0.8, *;q=0.1\r\n",
        "Range and conditions": b'Range: bytes=0-0,-1\r\nIf-None-Match: W/"x", "y"\r\nIf-Range: "z"\r\n',
        "Via and Forwarded of others": b"Via: 1.0 fred\r\nForwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\n",
        "Max-Forwards": b"Max-Forwards: 0\r\n",
        "Upgrade-Insecure-Requests": b"Upgrade-Insecure-Requests: 1\r\n",
        "Cache-Control and Pragma": b"Cache-Control: no-cache\r\nPragma: no-cache\r\n",
        "Date and Server of a client": b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: none\r\n",
        "pseudo-fields' names": b"X-Method-Override: PUT\r\nX-HTTP-Method-Override: DELETE\r\n",
        "Expect of something else": b"Expect: something\r\n",
    }
    return [
        *(Case(f"request field: {name}", get(fields=fields)) for name, fields in kept.items()),
        Case(
            "request field: Host between others",
            b"GET / HTTP/1.1\r\nX-Before: 1\r\nHost: api.example.test\r\nX-After: 2\r\n\r\n",
        ),
        Case(
            "request field: Host in capitals",
            b"GET / HTTP/1.1\r\nX: 1\r\nHost: API.Example.Test\r\nY: 2\r\n\r\n",
            host=True,
        ),
        Case(
            "request field: Host with a dot at its end", b"GET / HTTP/1.1\r\nHost: api.example.test.\r\n\r\n", host=True
        ),
        Case("request field: name of Host in capitals", b"GET / HTTP/1.1\r\nHOST: api.example.test\r\n\r\n"),
        Case("request field: white space around Host", b"GET / HTTP/1.1\r\nHost:   api.example.test  \r\n\r\n"),
        Case(
            "request field: Authorization is replaced",
            get(fields=b"X: 1\r\nAuthorization: Basic dTpw\r\nY: 2\r\n"),
            request_drops=(b"authorization",),
        ),
        Case(
            "request field: two Authorizations are replaced",
            get(fields=b"authorization: Bearer other\r\nAUTHORIZATION: x\r\n"),
            request_drops=(b"authorization",),
        ),
        Case(
            "request field: Proxy-Authorization ends here",
            get(fields=b"Proxy-Authorization: Basic dTpw\r\nX: 1\r\n"),
            request_drops=(b"proxy-authorization",),
        ),
        Case(
            "request field: Connection: keep-alive and Keep-Alive end here",
            get(fields=b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nX: 1\r\n"),
            request_drops=(b"connection", b"keep-alive"),
        ),
        Case(
            "request field: Proxy-Connection ends here",
            get(fields=b"Proxy-Connection: Keep-Alive\r\nX: 1\r\n"),
            request_drops=(b"proxy-connection",),
        ),
        Case(
            "request field: what is for one hop by its name ends here",
            get(
                fields=b"Proxy-Authenticate: x\r\nProxy-Authentication-Info: x\r\nHTTP2-Settings: x\r\nKeep-Alive: x\r\n"
                b"Proxy-Connection: keep-alive\r\nTE: x\r\nUpgrade: x\r\nX: 1\r\n"
            ),
            request_drops=(
                b"proxy-authenticate",
                b"proxy-authentication-info",
                b"http2-settings",
                b"keep-alive",
                b"proxy-connection",
                b"te",
                b"upgrade",
            ),
        ),
        Case(
            "request field: Proxy-Connection is read as Connection",
            get(fields=b"X-Hop: 1\r\nProxy-Connection: x-hop\r\nX-Stays: 2\r\n"),
            request_drops=(b"proxy-connection", b"x-hop"),
        ),
        Case(
            "request field: Connection: close is the client's own affair",
            get(fields=b"Connection: close\r\n"),
            request_drops=(b"connection",),
            response_adds=(b"Connection: close",),
            client_closes=True,
        ),
        Case(
            "request field: Connection: close among others, in capitals",
            get(fields=b"Connection: X-Gone , CLOSE\r\nX-Gone: 1\r\n"),
            request_drops=(b"connection", b"x-gone"),
            response_adds=(b"Connection: close",),
            client_closes=True,
        ),
        Case(
            "request field: what Connection nominates ends here",
            get(fields=b"X-Hop: 1\r\nConnection: x-hop, X-OTHER\r\nX-Stays: 2\r\nX-Other: 3\r\nx-hop: 4\r\n"),
            request_drops=(b"connection", b"x-hop", b"x-other"),
        ),
        Case(
            "request field: Connection in two lines",
            get(fields=b"Connection: x-a\r\nConnection: x-b\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n"),
            request_drops=(b"connection", b"x-a", b"x-b"),
        ),
        Case(
            "request field: Connection cannot nominate Host away",
            get(fields=b"Connection: host\r\n"),
            request_drops=(b"connection",),
        ),
        Case(
            "request field: Connection cannot nominate the framing away",
            put(b"abc", b"Connection: content-length\r\nContent-Length: 3\r\n"),
            request_drops=(b"connection",),
        ),
        Case(
            "request field: TE: trailers is said again",
            get(fields=b"TE: trailers, deflate;q=0.5\r\nConnection: TE\r\n"),
            request_drops=(b"te", b"connection"),
            request_adds=(b"Connection: TE", b"TE: trailers"),
        ),
        Case("request field: other TE ends here", get(fields=b"TE: deflate\r\n"), request_drops=(b"te",)),
        Case(
            "request field: an upgrade to h2c is not passed on",
            get(fields=b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
            request_drops=(b"connection", b"upgrade", b"http2-settings"),
        ),
        Case(
            "request field: Upgrade without Connection is not passed on",
            get(fields=b"Upgrade: websocket\r\n"),
            request_drops=(b"upgrade",),
        ),
        Case(
            "request field: a WebSocket upgrade that is declined",
            get(fields=b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
            answer(b"Content-Length: 2\r\nSec-WebSocket-Version: 13\r\n", b"no", b"HTTP/1.1 400 Bad Request"),
            request_drops=(b"connection", b"upgrade"),
            request_adds=(b"Connection: Upgrade", b"Upgrade: websocket"),
        ),
    ]


def _request_framing() -> list[Case]:
    every = bytes(range(256))
    return [
        Case("request body: one byte", put(b"x", b"Content-Length: 1\r\n")),
        Case("request body: every octet", put(every, b"Content-Length: 256\r\n")),
        Case(
            "request body: looks like a request",
            put(get(b"/smuggled"), b"Content-Length: %d\r\n" % len(get(b"/smuggled"))),
        ),
        Case("request body: Content-Length with leading zeros", put(b"abc", b"Content-Length: 0003\r\n")),
        Case("request body: 20 kB", put(every * 80, b"Content-Length: %d\r\n" % (256 * 80))),
        Case("request body: empty, chunked", put(chunked(), b"Transfer-Encoding: chunked\r\n")),
        Case("request body: one chunk", put(chunked(b"abc"), b"Transfer-Encoding: chunked\r\n")),
        Case(
            "request body: many chunks",
            put(chunked(*(b"%d" % i for i in range(50))), b"Transfer-Encoding: chunked\r\n"),
        ),
        Case("request body: chunks of every octet", put(chunked(every, every), b"Transfer-Encoding: chunked\r\n")),
        Case("request body: name of the coding in capitals", put(chunked(b"abc"), b"Transfer-Encoding: CHUNKED\r\n")),
        Case(
            "request body: chunk size in capitals",
            put(b"A\r\n0123456789\r\n0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"),
        ),
        Case(
            "request body: chunk size with leading zeros",
            put(b"0003\r\nabc\r\n000\r\n\r\n", b"Transfer-Encoding: chunked\r\n"),
        ),
        Case(
            "request body: chunk extensions",
            put(b'3;a=b;c="d";e\r\nabc\r\n0;last\r\n\r\n', b"Transfer-Encoding: chunked\r\n"),
        ),
        Case(
            "request body: trailers",
            put(
                chunked(b"abc", trailers=b"X-Sum: 1\r\nx-sum: 2\r\nX-Obs: \xe4\r\n"),
                b"Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n",
            ),
        ),
        Case(
            "request body: a trailer without value",
            put(chunked(b"abc", trailers=b"X-Empty: \r\n"), b"Transfer-Encoding: chunked\r\n"),
        ),
        Case(
            "request body: a trailer that Connection nominates ends here",
            put(
                chunked(b"abc", trailers=b"X-Sum: 1\r\nx-hop: 2\r\n"),
                b"Connection: X-Hop\r\nTransfer-Encoding: chunked\r\n",
            ),
            request_drops=(b"connection", b"x-hop"),
        ),
        Case(
            "request body: CRLF CRLF in chunks",
            put(chunked(b"\r\n\r\n", b"a\r\n\r\n0\r\n\r\n"), b"Transfer-Encoding: chunked\r\n"),
        ),
        Case("request body: GET, chunked", put(chunked(b"abc"), b"Transfer-Encoding: chunked\r\n", b"GET")),
        Case(
            "request body: Content-Encoding untouched",
            put(b"\x1f\x8b\x00", b"Content-Encoding: gzip\r\nContent-Length: 3\r\n"),
        ),
        Case(
            "request body: multipart untouched",
            put(
                b"--x\r\n\r\n1\r\n--x--\r\n", b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 17\r\n"
            ),
        ),
        Case(
            "request of HTTP/1.0",
            b"GET /old HTTP/1.0\r\n\r\n",
            version=True,
            host=True,
            response_adds=(b"Connection: close",),
            client_closes=True,
        ),
        Case(
            "request of HTTP/1.0 with Host",
            b"GET /old HTTP/1.0\r\nX: 1\r\nHost: api.example.test\r\n\r\n",
            version=True,
            response_adds=(b"Connection: close",),
            client_closes=True,
        ),
        Case(
            "request of HTTP/1.0 that keeps alive",
            b"GET /old HTTP/1.0\r\nHost: api.example.test\r\nConnection: keep-alive\r\n\r\n",
            version=True,
            request_drops=(b"connection",),
            response_adds=(b"Connection: keep-alive",),
        ),
        Case(
            "request of HTTP/1.0 with content",
            b"POST /old HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
            version=True,
            host=True,
            response_adds=(b"Connection: close",),
            client_closes=True,
        ),
        Case(
            "request of HTTP/1.0, answered in chunks",
            b"GET /old HTTP/1.0\r\n\r\n",
            answer(
                b"X: 1\r\nTransfer-Encoding: chunked\r\nTrailer: Y\r\n", chunked(b"abc", b"def", trailers=b"Y: 1\r\n")
            ),
            version=True,
            host=True,
            response_drops=(b"transfer-encoding", b"trailer"),
            response_adds=(b"Connection: close",),
            dechunked=True,
            client_closes=True,
        ),
        Case(
            "request of HTTP/1.0 that keeps alive, answered in chunks",
            b"GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            answer(b"Transfer-Encoding: chunked\r\n", chunked(b"abc")),
            version=True,
            host=True,
            request_drops=(b"connection",),
            response_drops=(b"transfer-encoding",),
            response_adds=(b"Connection: close",),
            dechunked=True,
            client_closes=True,
        ),
        Case(
            "request of HTTP/1.0, interim responses",
            b"GET /old HTTP/1.0\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + FOUND,
            version=True,
            host=True,
            response_adds=(b"Connection: close",),
            interim_drops=True,
            client_closes=True,
        ),
        Case(
            "request of HTTP/1.0 cannot upgrade",
            b"GET /old HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            version=True,
            host=True,
            request_drops=(b"connection", b"upgrade"),
            response_adds=(b"Connection: close",),
            client_closes=True,
        ),
    ]


def _status_lines() -> list[Case]:
    lines = {
        "201": b"201 Created",
        "202": b"202 Accepted",
        "203": b"203 Non-Authoritative Information",
        "206": b"206 Partial Content",
        "207": b"207 Multi-Status",
        "226": b"226 IM Used",
        "299": b"299 Unknown",
        "300": b"300 Multiple Choices",
        "399": b"399 Unknown",
        "400": b"400 Bad Request",
        "403": b"403 Forbidden",
        "404": b"404 Not Found",
        "407": b"407 Proxy Authentication Required",
        "418": b"418 I'm a teapot",
        "421": b"421 Misdirected Request",
        "429": b"429 Too Many Requests",
        "451": b"451 Unavailable For Legal Reasons",
        "499": b"499 Client Closed Request",
        "500": b"500 Internal Server Error",
        "502": b"502 Bad Gateway",
        "599": b"599 Unknown",
        "600": b"600 Out Of Range",
        "999": b"999 Request denied",
        "empty reason phrase": b"200 ",
        "no reason phrase and no space": b"200",
        "reason phrase with obs-text": b"200 Zul\xe4ssig",
        "reason phrase in UTF-8": "200 Zulässig".encode(),
        "reason phrase with tabs and spaces": b"200  a\tb  c ",
        "reason phrase that is another's": b"200 Not Found",
        "long reason phrase": b"200 " + b"r" * 1_000,
    }
    redirects = {
        "301": b"Location: http://other.example/a/../b?c#d\r\n",
        "302": b"Location: //other.example\r\n",
        "307": b"Location: ../x\r\nLocation: twice\r\n",
        "308": b"Location: http://api.example.test/\r\n",
    }
    return [
        *(
            Case(f"status line: {name}", get(), answer(b"Content-Length: 2\r\n", b"ok", b"HTTP/1.1 " + line))
            for name, line in lines.items()
        ),
        *(
            Case(
                f"redirect {code} is passed back",
                get(),
                answer(fields + b"Content-Length: 0\r\n", b"", b"HTTP/1.1 %b Moved" % code.encode()),
            )
            for code, fields in redirects.items()
        ),
        Case(
            "status line: an API's own 401",
            get(),
            answer(b'WWW-Authenticate: Basic realm="x"\r\nContent-Length: 2\r\n', b"no", b"HTTP/1.1 401 Unauthorized"),
        ),
    ]


def _response_fields() -> list[Case]:
    kept = {
        "case of names": b"x-LOWER-upper: 1\r\nETAG: 2\r\ncOnTeNt-TyPe: text/plain\r\n",
        "order": b"Z: 1\r\nA: 2\r\nM: 3\r\n",
        "several Set-Cookie": b"Set-Cookie: a=1; Path=/\r\nset-cookie: b=2; HttpOnly\r\nSet-Cookie: a=3\r\n",
        "duplicates apart": b"X-Twice: 1\r\nX: 0\r\nX-Twice: 2\r\n",
        "empty value": b"X-Empty:\r\nX-Empty-Too: \r\n",
        "white space around the value": b"X-Wide:  \t v \t\r\nX-Tight:v\r\n",
        "obs-text": b"X-Obs: \x80\xe4\xff\r\n",
        "UTF-8": "Content-Disposition: attachment; filename=ä.txt\r\n".encode(),
        "Content-Encoding": b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n",
        "unknown Content-Encoding": b"Content-Encoding: x-unheard-of\r\n",
        "Date, Server and Via of the upstream": b"Date: Mon, 23 Nov 2026 18:00:00 GMT\r\nServer: apim\r\nVia: 1.1 a, 1.1 b\r\n",
        "caching": b'Cache-Control: max-age=0\r\nAge: 12\r\nExpires: 0\r\nETag: W/"x"\r\n',
        "security fields": b"Strict-Transport-Security: max-age=1\r\nContent-Security-Policy: default-src 'self'\r\n",
        "challenges of others": b'WWW-Authenticate: Basic realm="a", Digest realm="b"\r\nWWW-Authenticate: Negotiate\r\n',
        "Proxy-Status of others": b"Proxy-Status: cdn.example; error=http_response_timeout\r\n",
        "Alt-Svc": b'Alt-Svc: h3=":443"; ma=86400\r\n',
        "Trailer without trailers": b"Trailer: X-Sum\r\n",
        "many": b"".join(b"X-%d: %d\r\n" % (i, i) for i in range(150)),
        "a long one": b"X-Long: " + b"v" * 16_000 + b"\r\n",
        "punctuation in names": b"!#$%&'*+-.^_`|~: 1\r\n1: 2\r\n",
    }
    return [
        *(
            Case(f"response field: {name}", get(), answer(fields + b"Content-Length: 2\r\n", b"ok"))
            for name, fields in kept.items()
        ),
        Case("response field: none at all but the length", get(), FOUND),
        Case(
            "response field: Keep-Alive and Connection end here",
            get(),
            answer(b"Connection: keep-alive\r\nKeep-Alive: timeout=5, max=9\r\nContent-Length: 2\r\n", b"ok"),
            response_drops=(b"connection", b"keep-alive"),
        ),
        Case(
            "response field: what is for one hop by its name ends here",
            get(),
            answer(
                b"Proxy-Authorization: x\r\nProxy-Authentication-Info: x\r\nHTTP2-Settings: x\r\nKeep-Alive: x\r\n"
                b"Proxy-Connection: x\r\nTE: x\r\nUpgrade: x\r\nX: 1\r\nContent-Length: 2\r\n",
                b"ok",
            ),
            response_drops=(
                b"proxy-authorization",
                b"proxy-authentication-info",
                b"http2-settings",
                b"keep-alive",
                b"proxy-connection",
                b"te",
                b"upgrade",
            ),
        ),
        Case(
            "response field: the upstream's Connection: close is not the client's",
            get(),
            answer(b"Connection: close\r\nContent-Length: 2\r\n", b"ok"),
            response_drops=(b"connection",),
            upstream_closes=True,
        ),
        Case(
            "response field: what Connection nominates ends here",
            get(),
            answer(b"X-Hop: 1\r\nConnection: X-Hop\r\nContent-Length: 2\r\nX-Stays: 1\r\n", b"ok"),
            response_drops=(b"connection", b"x-hop"),
        ),
        Case(
            "response field: Connection cannot nominate the framing away",
            get(),
            answer(b"Connection: content-length\r\nContent-Length: 2\r\n", b"ok"),
            response_drops=(b"connection",),
        ),
        Case(
            "response field: an offer to upgrade ends here",
            get(),
            answer(b"Upgrade: h2,h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n", b"ok"),
            response_drops=(b"connection", b"upgrade"),
        ),
        Case(
            "response field: 426 says what to upgrade to",
            get(),
            answer(
                b"Upgrade: websocket\r\nConnection: Upgrade\r\nX: 1\r\nContent-Length: 2\r\n",
                b"up",
                b"HTTP/1.1 426 Upgrade Required",
            ),
            response_drops=(b"connection", b"upgrade"),
            response_adds=(b"Connection: Upgrade", b"Upgrade: websocket"),
        ),
        Case(
            "response field: a challenge to a proxy ends here",
            get(),
            answer(b"Proxy-Authenticate: Basic\r\nContent-Length: 2\r\n", b"ok"),
            response_drops=(b"proxy-authenticate",),
        ),
    ]


def _response_framing() -> list[Case]:
    every = bytes(range(256))
    code = b"Transfer-Encoding: chunked\r\n"
    closing = {"response_adds": (b"Connection: close",), "upstream_closes": True, "client_closes": True}
    return [
        Case("response body: of length 0", get(), answer(b"Content-Length: 0\r\n")),
        Case("response body: every octet", get(), answer(b"Content-Length: 256\r\n", every)),
        Case("response body: looks like a response", get(), answer(b"Content-Length: %d\r\n" % len(FOUND), FOUND)),
        Case("response body: 20 kB", get(), answer(b"Content-Length: %d\r\n" % (256 * 80), every * 80)),
        Case("response body: Content-Length with leading zeros", get(), answer(b"Content-Length: 0002\r\n", b"ok")),
        Case("response body: empty, chunked", get(), answer(code, chunked())),
        Case("response body: one chunk", get(), answer(code, chunked(b"abc"))),
        Case("response body: many chunks", get(), answer(code, chunked(*(b"%d" % i for i in range(50))))),
        Case("response body: chunks of every octet", get(), answer(code, chunked(every, every))),
        Case("response body: chunk extensions", get(), answer(code, b'3;a="b;c"\r\nabc\r\n0;z\r\n\r\n')),
        Case("response body: CRLF CRLF in chunks", get(), answer(code, chunked(b"\r\n\r\n", b"0\r\n\r\n"))),
        Case(
            "response body: trailers",
            get(fields=b"X: 1\r\n"),
            answer(code + b"Trailer: X-Sum\r\n", chunked(b"abc", trailers=b"X-Sum: 1\r\nServer-Timing: a;dur=1\r\nX-Sum: 2\r\n")),
        ),
        Case("response body: trailers without announcement", get(), answer(code, chunked(b"abc", trailers=b"X-Sum: 1\r\n"))),
        Case(
            "response body: trailers that a head would have",
            get(),
            answer(code, chunked(b"abc", trailers=b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Type: x\r\nETag: 1\r\nAuthorization: x\r\nWWW-Authenticate: Bearer\r\n")),
        ),
        Case(
            "response body: trailers of one connection end here",
            get(),
            answer(b"Connection: X-Hop\r\n" + code, chunked(b"abc", trailers=b"X-Hop: 1\r\nKeep-Alive: max=9\r\nX-Sum: 1\r\nConnection: close\r\n")),
            response_drops=(b"connection", b"keep-alive", b"x-hop"),
        ),
        Case("response body: until the connection closes", get(), answer(b"X: 1\r\n", b"until the end"), **closing),  # type: ignore[arg-type]
        Case("response body: empty, until the connection closes", get(), answer(b"X: 1\r\n"), **closing),  # type: ignore[arg-type]
        Case("response body: every octet, until the connection closes", get(), answer(b"", every), **closing),  # type: ignore[arg-type]
        Case("response without content: 204", get(), answer(b"X: 1\r\n", b"", b"HTTP/1.1 204 No Content")),
        Case("response without content: 204 of length 0", get(), answer(b"Content-Length: 0\r\n", b"", b"HTTP/1.1 204 No Content")),
        Case("response without content: 304", get(), answer(b'ETag: "x"\r\n', b"", b"HTTP/1.1 304 Not Modified")),
        Case(
            "response without content: 304 with a length",
            get(),
            answer(b'ETag: "x"\r\nContent-Length: 4711\r\n', b"", b"HTTP/1.1 304 Not Modified"),
        ),
        Case("response without content: 304 with chunked", get(), answer(code, b"", b"HTTP/1.1 304 Not Modified")),
        Case("response without content: HEAD with a length", get(method=b"HEAD"), answer(b"Content-Length: 4711\r\n")),
        Case("response without content: HEAD with chunked", get(method=b"HEAD"), answer(code)),
        Case("response without content: HEAD without either", get(method=b"HEAD"), answer(b"X: 1\r\n")),
        Case("response without content: HEAD with 404", get(method=b"HEAD"), answer(b"Content-Length: 9\r\n", b"", b"HTTP/1.1 404 No")),
        Case("response body: 205 of length 0", get(), answer(b"Content-Length: 0\r\n", b"", b"HTTP/1.1 205 Reset Content")),
        Case(
            "response body: 206 of several ranges",
            get(fields=b"Range: bytes=0-0,2-2\r\n"),
            answer(b"Content-Type: multipart/byteranges; boundary=x\r\nContent-Length: 5\r\n", b"--x--", b"HTTP/1.1 206 Partial Content"),
        ),
        Case("response of HTTP/1.0 with a length", get(), b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", upstream_closes=True),
        Case(
            "response of HTTP/1.0 that keeps alive",
            get(),
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
            response_drops=(b"connection",),
        ),
        Case("response of HTTP/1.0 until the connection closes", get(), b"HTTP/1.0 200 OK\r\n\r\nok", **closing),  # type: ignore[arg-type]
        Case(
            "response of HTTP/1.0 to a client of HTTP/1.0",
            b"GET / HTTP/1.0\r\nHost: api.example.test\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nX: 1\r\n\r\nok",
            version=True,
            **closing,  # type: ignore[arg-type]
        ),
        Case(
            "response: server-sent events",
            get(fields=b"Accept: text/event-stream\r\n"),
            answer(b"Content-Type: text/event-stream\r\n" + code, chunked(b"data: 1\n\n", b": ping\n\n", b"data: 2\n\n")),
        ),
        Case("response: gzip is not unpacked", get(), answer(b"Content-Encoding: gzip\r\nContent-Length: 4\r\n", b"\x1f\x8b\x08\x00")),
        Case("interim: 100 that nobody asked for", get(), b"HTTP/1.1 100 Continue\r\n\r\n" + FOUND),
        Case("interim: 102", get(), b"HTTP/1.1 102 Processing\r\nX: 1\r\n\r\n" + FOUND),
        Case(
            "interim: 103 with links",
            get(),
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nlink: </b>\r\n\r\n" + FOUND,
        ),
        Case("interim: three of them", get(), b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nA: b\r\n\r\n" + FOUND),
        Case("interim: an unknown one", get(), b"HTTP/1.1 199 Whatever\r\nX: y\r\n\r\n" + FOUND),
        Case("interim: before a response in chunks", get(), b"HTTP/1.1 103 E\r\n\r\n" + answer(code, chunked(b"abc"))),
        Case("interim: before a 204", get(), b"HTTP/1.1 103 E\r\n\r\n" + NOTHING),
        Case("interim: before the answer to HEAD", get(method=b"HEAD"), b"HTTP/1.1 103 E\r\n\r\n" + answer(b"Content-Length: 9\r\n")),
    ]  # fmt: skip


CASES: Final = (
    *_targets(),
    *_request_lines(),
    *_request_fields(),
    *_request_framing(),
    *_status_lines(),
    *_response_fields(),
    *_response_framing(),
)
