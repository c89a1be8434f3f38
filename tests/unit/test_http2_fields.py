"""What fields a message of HTTP/2 may have, and what a head of HTTP/1.1 becomes of them and they of it."""

from __future__ import annotations

import pytest

from proxy.relay.head import format_request_head, format_response_head, parse_request_head, parse_response_head
from proxy.relay.http2.faults import MalformedMessage
from proxy.relay.http2.fields import RequestFields, ResponseFields, check_trailers, read_request, read_response
from proxy.relay.http2.translation import (
    make_request_fields,
    make_request_head,
    make_response_fields,
    make_response_head,
    make_response_trailer_lines,
    make_trailer_fields,
    make_trailer_lines,
)
from proxy.relay.message import HOP_BY_HOP
from tests.http2_peer import REQUEST

METHOD, SCHEME, PATH, AUTHORITY = REQUEST
LENGTH = (b"content-length", b"5")


def request(*fields: tuple[bytes, bytes]) -> RequestFields:
    return read_request([*REQUEST, *fields])


def response(*fields: tuple[bytes, bytes], status: bytes = b"200") -> ResponseFields:
    return read_response([(b":status", status), *fields])


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([(b":method", b"GE T"), SCHEME, PATH, AUTHORITY], id="blank in :method"),
        pytest.param([(b":method", b"GET\r\n"), SCHEME, PATH, AUTHORITY], id="line end in :method"),
        pytest.param([METHOD, (b":scheme", b"ht tp"), PATH, AUTHORITY], id="blank in :scheme"),
        pytest.param([METHOD, SCHEME, (b":path", b"/a b"), AUTHORITY], id="blank in :path"),
        pytest.param([METHOD, SCHEME, (b":path", b"/a HTTP/1.1\r\nx: y"), AUTHORITY], id="line end in :path"),
        pytest.param([METHOD, SCHEME, (b":path", b"/a#b"), AUTHORITY], id="fragment in :path"),
        pytest.param([METHOD, SCHEME, (b":path", b"a"), AUTHORITY], id=":path without slash"),
        pytest.param([METHOD, SCHEME, (b":path", b"http://other.example/"), AUTHORITY], id="absolute :path"),
        pytest.param([METHOD, SCHEME, (b":path", b"*"), AUTHORITY], id="asterisk for GET"),
        pytest.param([METHOD, SCHEME, PATH, (b":authority", b"u@api.example.test")], id="user information"),
        pytest.param([METHOD, SCHEME, PATH, (b":authority", b"api.example.test/a")], id="path in :authority"),
        pytest.param([METHOD, SCHEME, PATH, (b":authority", b"")], id="empty :authority"),
        pytest.param([METHOD, SCHEME, PATH], id="no authority at all"),
        pytest.param([*REQUEST, (b"host", b"other.example.test")], id="Host of another"),
        pytest.param([METHOD, SCHEME, PATH, (b"host", b"a.example"), (b"host", b"a.example")], id="Host twice"),
        pytest.param([*REQUEST, AUTHORITY], id=":authority twice"),
        pytest.param([*REQUEST, (b":protocol", b"websocket")], id=":protocol"),
        pytest.param([(b":method", b"CONNECT"), SCHEME, PATH, AUTHORITY], id="CONNECT with :path"),
        pytest.param([*REQUEST, (b"", b"a")], id="no name"),
        pytest.param([*REQUEST, (b"x y", b"a")], id="blank in a name"),
        pytest.param([*REQUEST, (b"x:y", b"a")], id="colon in a name"),
        pytest.param([*REQUEST, (b"x\xff", b"a")], id="not ASCII in a name"),
        pytest.param([*REQUEST, (b"x", b"a\r\nb: c")], id="line end in a value"),
        pytest.param([*REQUEST, (b"x", b"a\nb")], id="LF in a value"),
        pytest.param([*REQUEST, (b"x", b"a\0b")], id="NUL in a value"),
        pytest.param([*REQUEST, (b"x", b"a\x7fb")], id="DEL in a value"),
        pytest.param([*REQUEST, (b"x", b" a")], id="blank before a value"),
        pytest.param([*REQUEST, (b"x", b"a\t")], id="tab behind a value"),
        pytest.param([*REQUEST, (b"te", b"gzip")], id="TE"),
        pytest.param([*REQUEST, (b"transfer-encoding", b"chunked")], id="Transfer-Encoding"),
        pytest.param([*REQUEST, (b"upgrade", b"websocket")], id="Upgrade"),
        pytest.param([*REQUEST, (b"proxy-connection", b"close")], id="Proxy-Connection"),
        pytest.param([*REQUEST, (b"keep-alive", b"5")], id="Keep-Alive"),
        pytest.param([*REQUEST, (b"content-length", b"+1")], id="signed length"),
        pytest.param([*REQUEST, (b"content-length", b"1, 1")], id="list of lengths"),
        pytest.param([*REQUEST, (b"content-length", b"1"), (b"content-length", b"1")], id="two lengths"),
        pytest.param([*REQUEST, (b"content-length", b"9" * 19)], id="endless length"),
    ],
)
def test_a_malformed_request_is_refused(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(MalformedMessage):
        read_request(fields)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([], id="no status"),
        pytest.param([(b":status", b"20")], id="two digits"),
        pytest.param([(b":status", b"099")], id="below 100"),
        pytest.param([(b":status", b"200"), (b":status", b"200")], id="twice"),
        pytest.param([(b":status", b"200"), (b":path", b"/")], id="of requests"),
        pytest.param([(b"x", b"a"), (b":status", b"200")], id="behind others"),
        pytest.param([(b":status", b"101")], id="101"),
        pytest.param([(b":status", b"200"), (b"connection", b"close")], id="of a connection"),
        pytest.param([(b":status", b"200"), (b"te", b"trailers")], id="TE"),
        pytest.param([(b":status", b"200"), (b"x", b"a\r\n")], id="line end"),
    ],
)
def test_a_malformed_response_is_refused(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(MalformedMessage):
        read_response(fields)


def test_a_name_that_is_known_is_refused_all_the_same_with_a_bad_value() -> None:
    request((b"x-known", b"a"))
    with pytest.raises(MalformedMessage):
        request((b"x-known", b"a\n"))


def test_trailers_are_held_to_the_same_grammar() -> None:
    check_trailers([(b"grpc-status", b"0")])
    for bad in ((b":path", b"/"), (b"X", b"a"), (b"connection", b"close"), (b"x", b"a\n")):
        with pytest.raises(MalformedMessage):
            check_trailers([bad])


def test_host_stands_in_for_the_authority_and_is_no_field() -> None:
    found = read_request([METHOD, SCHEME, PATH, (b"x", b"a"), (b"host", b"Api.example.test")])
    assert found.authority == b"Api.example.test"
    assert found.fields == [(b"x", b"a")]
    assert request((b"host", b"API.example.test")).fields == []


def test_connect_names_an_authority_alone() -> None:
    found = read_request([(b":method", b"CONNECT"), (b":authority", b"api.example.test:443")])
    assert (found.method, found.authority, found.path) == (b"CONNECT", b"api.example.test:443", b"")


# Translation


def wire_of(found: RequestFields, *, ends: bool) -> bytes:
    head = make_request_head(found, ends)
    return format_request_head(head, head.target, b"api.example.test", HOP_BY_HOP, b"", upgrades=False)


@pytest.mark.parametrize(
    ("fields", "ends", "lines"),
    [
        pytest.param([], True, b"", id="no content"),
        pytest.param([], False, b"transfer-encoding: chunked\r\n", id="content of unknown length"),
        pytest.param([(b"content-length", b"5")], False, b"content-length: 5\r\n", id="content of known length"),
        pytest.param([(b"content-length", b"0")], True, b"content-length: 0\r\n", id="no content, and it says so"),
        pytest.param([(b"te", b"trailers")], True, b"Connection: TE\r\nTE: trailers\r\n", id="TE"),
        pytest.param(
            [(b"cookie", b"a=b"), (b"x", b"y"), (b"cookie", b"c=d")],
            True,
            b"x: y\r\ncookie: a=b; c=d\r\n",
            id="cookies",
        ),
        pytest.param([(b"proxy-authorization", b"Basic a")], True, b"", id="Proxy-Authorization"),
        pytest.param([(b"http2-settings", b"a")], True, b"", id="HTTP2-Settings"),
        pytest.param([(b"x", b""), (b"x", b"\xff")], True, b"x: \r\nx: \xff\r\n", id="values"),
    ],
)
def test_a_request_becomes_one_of_http_1(fields: list[tuple[bytes, bytes]], ends: bool, lines: bytes) -> None:
    wire = wire_of(request(*fields), ends=ends)
    assert wire == b"GET / HTTP/1.1\r\nhost: api.example.test\r\n" + lines + b"\r\n"
    head = make_request_head(request(*fields), ends)
    again = parse_request_head(wire, target_bytes=100, field_count=10)
    assert (again.length, again.chunked, again.has_content) == (head.length, head.chunked, head.has_content)
    assert len(head.names) == len(head.lines)


def test_what_the_relay_acts_on_is_read() -> None:
    found = request((b"expect", b"100-Continue"), (b"proxy-authorization", b"Basic a"), (b"te", b"trailers"))
    head = make_request_head(found, True)
    assert head.expects_continue
    assert head.proxy_authorization == b"Basic a"
    assert head.accepts_trailers
    assert head.host == b"api.example.test"
    with pytest.raises(MalformedMessage):
        make_request_head(request((b"proxy-authorization", b"a"), (b"proxy-authorization", b"b")), True)


@pytest.mark.parametrize(
    ("status", "fields", "to_head", "wire"),
    [
        pytest.param(b"200", [], False, b"200 OK\r\ntransfer-encoding: chunked\r\n", id="unknown length"),
        pytest.param(b"200", [], False, b"200 OK\r\ntransfer-encoding: chunked\r\n", id="no content"),
        pytest.param(b"200", [], True, b"200 OK\r\n", id="to HEAD"),
        pytest.param(b"204", [], False, b"204 No Content\r\n", id="204"),
        pytest.param(b"304", [LENGTH], False, b"304 Not Modified\r\ncontent-length: 5\r\n", id="304"),
        pytest.param(b"103", [(b"link", b"</a>")], False, b"103 Early Hints\r\nlink: </a>\r\n", id="103"),
        pytest.param(b"799", [LENGTH], False, b"799 Unknown\r\ncontent-length: 5\r\n", id="799"),
        pytest.param(b"204", [(b"proxy-authenticate", b"a")], False, b"204 No Content\r\n", id="of this hop"),
    ],
)
def test_a_response_becomes_one_of_http_1(
    status: bytes, fields: list[tuple[bytes, bytes]], to_head: bool, wire: bytes
) -> None:
    head = make_response_head(response(*fields, status=status), to_head)
    whole = b"HTTP/1.1 " + wire + b"\r\n"
    assert format_response_head(head, b"", chunked=True) == whole
    again = parse_response_head(whole, field_count=10, to_head=to_head)
    assert (again.status, again.length, again.chunked) == (head.status, head.length, head.chunked)


@pytest.mark.parametrize("status", [b"204", b"103"])
def test_a_response_without_content_declares_none(status: bytes) -> None:
    with pytest.raises(MalformedMessage):
        make_response_head(response((b"content-length", b"5"), status=status), False)


def test_a_request_of_http_1_becomes_fields() -> None:
    head = parse_request_head(
        b"POST http://a.example/b?c HTTP/1.1\r\nHost: a.example\r\nX-A:  1 \r\nConnection: x-b, TE\r\nX-B: 2\r\nTE: trailers\r\n"
        b"Transfer-Encoding: chunked\r\nKeep-Alive: 5\r\nAuthorization: mine\r\nCookie: a=b; c=d\r\n\r\n",
        target_bytes=100,
        field_count=20,
    )
    assert make_request_fields(head, b"/b?c", b"a.example", b"https", frozenset({b"authorization"})) == [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"a.example"),
        (b":path", b"/b?c"),
        (b"x-a", b"1"),
        (b"cookie", b"a=b; c=d"),
        (b"te", b"trailers"),
    ]


def test_a_response_of_http_1_becomes_fields() -> None:
    head = parse_response_head(
        b"HTTP/1.1 299 Any Thing\r\nServer: a\r\nConnection: close, x-b\r\nX-B: 2\r\nTransfer-Encoding: chunked\r\n"
        b"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\nKeep-Alive: timeout=5\r\n\r\n",
        field_count=20,
    )
    fields = [(b":status", b"299"), (b"server", b"a"), (b"set-cookie", b"a=b"), (b"set-cookie", b"c=d")]
    assert make_response_fields(head) == fields
    assert read_response(fields).status == 299


def test_trailers_pass_both_ways() -> None:
    fields = make_trailer_fields(b"Grpc-Status: 0\r\nX:\r\n")
    assert fields == [(b"grpc-status", b"0"), (b"x", b"")]
    assert make_trailer_lines(fields) == make_response_trailer_lines(fields) == b"grpc-status: 0\r\nx: \r\n"
    assert make_trailer_fields(b"") == []


@pytest.mark.parametrize("name", [b"authorization", b"content-length", b"host", b"cookie", b"te", b"x-route"])
def test_a_trailer_that_frames_routes_or_authenticates_is_refused(name: bytes) -> None:
    with pytest.raises(MalformedMessage):
        make_trailer_lines([(name, b"a")], frozenset({b"x-route"}))


def test_a_responses_trailers_leave_out_what_is_of_a_connection_and_refuse_what_frames() -> None:
    assert make_response_trailer_lines([(b"proxy-authenticate", b"a"), (b"set-cookie", b"b")]) == b"set-cookie: b\r\n"
    with pytest.raises(MalformedMessage):
        make_response_trailer_lines([(b"content-length", b"5")])
