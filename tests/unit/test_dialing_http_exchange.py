"""One exchange of the proxy's own: what is made of responses in every form, and of those that break off or are too long."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import TYPE_CHECKING, Any, cast

import pytest

from proxy.dialing.http_exchange import ResponseTooLarge, exchange

if TYPE_CHECKING:
    from proxy.dialing.http_exchange import Response

HEAD = b"HTTP/1.1 200 OK\r\n"
LIMIT = 100
TEXT = b"the content"


class Writer:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    async def drain(self) -> None:
        """Do nothing."""


def _exchange(
    raw: bytes, writer: Writer | None = None, fields: dict[str, str] | None = None, **options: Any
) -> Response:
    async def work() -> Response:
        reader = asyncio.StreamReader()
        reader.feed_data(raw)
        reader.feed_eof()
        written = cast("asyncio.StreamWriter", writer or Writer())
        return await exchange(reader, written, "GET /a", fields or {"Host": "a.test"}, limit_bytes=LIMIT, **options)

    return asyncio.run(work())


def test_the_request_says_that_the_connection_ends_and_how_long_its_content_is() -> None:
    writer = Writer()
    _exchange(HEAD + b"Content-Length: 0\r\n\r\n", writer, content=b"abc")
    assert writer.written == b"GET /a HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\r"])
def test_no_field_can_end_its_line(value: str) -> None:
    writer = Writer()
    with pytest.raises(ValueError, match="line end"):
        _exchange(HEAD, writer, {"X": value})
    assert writer.written == b""


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(HEAD + b"Content-Length: 11\r\n\r\n" + TEXT, id="length"),
        pytest.param(HEAD + b"\r\n" + TEXT, id="until the end"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nthe \r\n7\r\ncontent\r\n0\r\nX: trailer\r\n\r\n",
            id="chunked",
        ),
        pytest.param(
            b"HTTP/1.1 103 Early Hints\r\nX: early\r\n\r\n" + HEAD + b"Content-Length: 11\r\n\r\n" + TEXT, id="interim"
        ),
        pytest.param(HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(TEXT), id="gzip"),
        pytest.param(HEAD + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(TEXT), id="deflate"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n" + TEXT, id="HTTP/1.0"),
        pytest.param(
            HEAD + b"Content-Length: 11\r\n\r\n" + TEXT + b"HTTP/1.1 500 Another\r\n\r\n", id="more behind it"
        ),
    ],
)
def test_a_response_is_read_in_each_form(raw: bytes) -> None:
    response = _exchange(raw)
    assert (response.status, response.content) == (200, TEXT)
    assert response.values(b"x") == []


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        pytest.param(b"", ConnectionError, id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", ConnectionError, id="cut in the head"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", ConnectionError, id="interim only"),
        pytest.param(HEAD + b"Content-Length: 11\r\n\r\nthe", ConnectionError, id="cut by length"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nthe ", ConnectionError, id="cut in chunks"),
        pytest.param(b"220 mail.test ESMTP\r\n", ValueError, id="no HTTP"),
        pytest.param(HEAD + b"Content-Encoding: gzip\r\n\r\nno gzip", ValueError, id="no gzip"),
        pytest.param(HEAD + b"\r\n" + b"x" * (LIMIT + 1), ResponseTooLarge, id="too long"),
        pytest.param(
            HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 80_000),
            ResponseTooLarge,
            id="unpacks to too much",
        ),
        pytest.param(HEAD + (b"X: " + b"y" * 1_000 + b"\r\n") * 300, ConnectionError, id="a head without end"),
    ],
)
def test_what_is_no_whole_response_is_none(raw: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        _exchange(raw)


@pytest.mark.parametrize("raw", [b"\r\n" + b"x" * 5_000, b"Content-Length: 500\r\n\r\n" + b"x" * 100])
def test_what_is_only_looked_at_is_cut(raw: bytes) -> None:
    assert _exchange(HEAD + raw, cuts=True).content == b"x" * LIMIT
