"""What is fuzzed, and what has to hold of whatever comes out. Does no network I/O.

Each target takes any bytes and returns, or raises AssertionError. They are ordinary functions: the fuzzer drives them
towards new code, and the test suite runs them over their seeds and over every input that once broke one.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httptools

from proxy.config.loading import load_settings
from proxy.errors import (
    ConfigurationError,
    FieldsTooLarge,
    MalformedRequest,
    ProxyError,
    TargetTooLong,
    UpstreamProtocolError,
)
from proxy.identity.token_response import Answer, parse_answer
from proxy.policy.access import parse_basic
from proxy.policy.authority import parse_authority
from proxy.relay.chunked import ChunkedReader, format_chunk, format_last_chunk
from proxy.relay.client_hello import ClientHelloReader
from proxy.relay.field_lines import read_fields
from proxy.relay.head import format_request_head, format_response_head, parse_request_head, parse_response_head
from proxy.relay.message import HOP_BY_HOP, Head
from tests.fuzz.connection import client_connection, redirected_connection
from tests.fuzz.http2 import http2_connection, http2_fields, http2_upstream
from tests.fuzz.machines import draining_events, exchange_events

if TYPE_CHECKING:
    from collections.abc import Callable

_SECRET: Final = "eyJ-the-client-assertion-of-the-fuzzer"
_TOKEN_LINE: Final = b"Authorization: Bearer token-of-the-fuzzer\r\n"
# Strict on purpose, and nothing of the product's: RFC 9110 §5.1, §5.5, RFC 9112 §3, §4.
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_PLAIN_FRAMING: Final = re.compile(rb"(?i:content-length): (?:0|[1-9][0-9]*)|(?i:transfer-encoding): chunked")
_REQUEST_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [^\x00-\x20\x7f]+ HTTP/1\.1")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 [1-9][0-9][0-9](?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|[0-9a-f:]+(?:[0-9.]+)?")


def _lines(wire: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The start line and the fields of a head, read by nothing but this grammar."""
    assert wire.endswith(b"\r\n\r\n")
    assert wire.count(b"\r\n\r\n") == 1
    start, *rest = wire[:-4].split(b"\r\n")
    fields = []
    for line in rest:
        if line.lower().startswith((b"content-length:", b"transfer-encoding:")):
            assert _PLAIN_FRAMING.fullmatch(line), line
        match = _FIELD.fullmatch(line)
        assert match is not None, line
        fields.append((match[1].lower(), match[2].strip(b" \t")))
    return start, fields


def _assert_one_framing(fields: list[tuple[bytes, bytes]]) -> None:
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    assert len(lengths) + len(codings) <= 1, fields
    assert all(re.fullmatch(rb"[0-9]+", length) for length in lengths)
    assert all(coding == b"chunked" for coding in codings)


def request_head(data: bytes) -> None:
    """A request head is refused, or what goes upstream has one reading: the one that was validated."""
    raw = data.partition(b"\r\n\r\n")[0].removesuffix(b"\r\n") + b"\r\n\r\n"
    try:
        head = parse_request_head(raw, target_bytes=16_384, field_count=200)
    except (MalformedRequest, TargetTooLong, FieldsTooLarge):
        return
    assert len(head.names) == len(head.lines)
    wire = format_request_head(
        head, b"/", b"api.example.com", HOP_BY_HOP | {b"authorization"}, _TOKEN_LINE, upgrades=head.upgrade is not None
    )
    start, fields = _lines(wire)
    assert _REQUEST_LINE.fullmatch(start)
    names = [name for name, _ in fields]
    assert [value for name, value in fields if name == b"host"] == [b"api.example.com"]
    assert [value for name, value in fields if name == b"authorization"] == [b"Bearer token-of-the-fuzzer"]
    assert b"proxy-authorization" not in names
    _assert_one_framing(fields)
    again = parse_request_head(wire, target_bytes=16_384, field_count=400)
    assert (again.length, again.chunked, again.method) == (head.length, head.chunked, head.method)


def response_head(data: bytes) -> None:
    """A response head is refused, or what goes to the client has one reading."""
    raw = data.partition(b"\r\n\r\n")[0].removesuffix(b"\r\n") + b"\r\n\r\n"
    try:
        head = parse_response_head(raw, field_count=200)
    except UpstreamProtocolError:
        return
    for chunked in (True, False):
        start, fields = _lines(format_response_head(head, b"Connection: close\r\n", chunked=chunked))
        assert _STATUS_LINE.fullmatch(start), start
        assert [value for name, value in fields if name == b"connection"] == [b"close"]
        _assert_one_framing(fields)
        assert chunked or not any(name == b"transfer-encoding" for name, _ in fields)


def judge_by_llhttp(fields: bytes, *, request: bool) -> list[bytes] | None:
    """The names of field lines as llhttp reads them, in lower case; None: it refuses them."""
    head = Head(1, fields)
    try:
        if request:
            httptools.HttpRequestParser(head).feed_data(b"POST / HTTP/1.1\r\n" + fields + b"\r\n")
        else:
            httptools.HttpResponseParser(head).feed_data(b"HTTP/1.1 200 \r\n" + fields + b"\r\n")
    except httptools.HttpParserUpgrade:
        return head.names if request else None
    except httptools.HttpParserError:
        return None
    return head.names


def field_lines(data: bytes) -> None:
    """Field lines that are read without llhttp are read as llhttp reads them, in requests and in responses."""
    end = data.find(b"\r\n\r\n")
    head = Head(1, data if end < 0 else data[: end + 2])
    if read_fields(head):
        for request in (True, False):
            assert judge_by_llhttp(head.fields, request=request) == head.names, head.fields
        assert b"".join(line + b"\r\n" for line in head.lines) == head.fields


def chunked_body(data: bytes) -> None:
    """A chunked body means the same however it is cut, and what is written again means that, too."""
    whole = ChunkedReader()
    cut = ChunkedReader()
    step = data[0] % 7 + 1 if data else 1
    expected: tuple[bytes, bytes, bytes, bool] | None
    try:
        pieces, rest = whole.feed(data)
        expected = b"".join(pieces), whole.trailers, rest, whole.complete
    except MalformedRequest:
        expected = None
    found = b""
    left = b""
    try:
        for at in range(0, len(data), step):
            if cut.complete:
                left += data[at : at + step]
                continue
            pieces, left = cut.feed(data[at : at + step])
            found += b"".join(pieces)
        seen = found, cut.trailers, left, cut.complete
    except MalformedRequest:
        assert expected is None or not expected[3], "refused in pieces, complete as a whole"
        return
    if expected is None:
        assert not cut.complete, "complete in pieces, refused as a whole"
        return
    assert seen == expected
    if cut.complete:
        _lines(b"GET / HTTP/1.1\r\n" + cut.trailers + b"\r\n")
        again = ChunkedReader()
        wire = (format_chunk(found) if found else b"") + format_last_chunk(cut.trailers)
        pieces, rest = again.feed(wire)
        assert (b"".join(pieces), again.trailers, rest, again.complete) == (found, cut.trailers, b"", True)


def authority(data: bytes) -> None:
    """An authority is refused, or has a canonical form that means itself."""
    for default_port in (443, None):
        try:
            found = parse_authority(data, default_port)
        except MalformedRequest:
            continue
        assert _HOST.fullmatch(found.host), found
        assert 1 <= found.port <= 65_535
        assert parse_authority(str(found).encode(), None) == found
        assert parse_authority(found.host_field(443), 443) == found
        assert len(found.host) <= 253
        assert not found.host.endswith(".")


def configuration(data: bytes) -> None:
    """A configuration is read, or refused with faults of our own words."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "config.yaml"
        file.write_bytes(data)
        said = ""
        try:
            load_settings(file, {"HOME": "/home/u", "KEY": _SECRET}, check_files=False)
        except ConfigurationError as error:
            said = str(error)
        assert _SECRET not in said
        assert "Traceback" not in said


def token_response(data: bytes) -> None:
    """Whatever a token endpoint says gives a token that can be sent, or an error that shows no secret."""
    status = 200 + (data[0] if data else 0) * 2
    fields = data[1:].split(b"\0", 2)
    retry_after, date, *_ = *(field.decode("latin-1") for field in fields[1:]), None, None
    answer = Answer(status, fields[0] if fields else b"", retry_after, date)
    refusal: ProxyError | None = None
    try:
        found = parse_answer(answer, now_at=1_700_000_000.0, secrets=(_SECRET,))
    except ProxyError as error:
        refusal = error
    if refusal is not None:
        assert _SECRET not in str(refusal)
        assert refusal.retry_after_s is None or 0 <= refusal.retry_after_s <= 3_600
        return
    assert re.fullmatch(r"[\x21-\x7e]+", found.access_token)
    assert 0 < found.expires_in_s <= 100_800
    assert found.access_token not in repr(found) or len(found.access_token) < 12


def proxy_authorization(data: bytes) -> None:
    """Credentials are read or refused, and never repeated."""
    with contextlib.suppress(ProxyError):
        name, password = parse_basic(data)
        assert ":" not in name
        assert isinstance(password, bytes)


def client_hello(data: bytes) -> None:
    """A ClientHello means the same however it is cut, is bounded, and names what could be a host."""
    whole, expected = ClientHelloReader(), None
    with contextlib.suppress(MalformedRequest):
        expected = whole.feed(data)
    step = data[-1] % 7 + 1 if data else 1
    cut, found = ClientHelloReader(), None
    with contextlib.suppress(MalformedRequest):
        for at in range(0, len(data), step):
            found = cut.feed(data[at : at + step])
            if found is not None:
                break
    assert found == expected
    assert len(cut.received) <= 20_480 + step
    if found is not None and found.server_name is not None:
        assert re.fullmatch(r"[\x21-\x7e]+", found.server_name)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    one.__name__: one
    for one in (
        request_head,
        response_head,
        field_lines,
        chunked_body,
        authority,
        configuration,
        token_response,
        proxy_authorization,
        client_connection,
        client_hello,
        redirected_connection,
        http2_connection,
        http2_upstream,
        http2_fields,
        exchange_events,
        draining_events,
    )
}
