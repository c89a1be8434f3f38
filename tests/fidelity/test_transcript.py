"""Differences between transcripts are found and named; what belongs to one hop is not one."""

from __future__ import annotations

import pytest

from tests.fidelity.transcript import (
    Transcript,
    describe_differences,
    describe_direct,
    read_message,
    read_responses,
)
from tests.wire.messages import chunked

REQUEST = b"POST /a%2Fb HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nX-one: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(
    b"abc", trailers=b"X-Sum: 1\r\n"
)
RESPONSE = b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 Fine\r\nA: 1\r\nB: 2\r\nContent-Length: 2\r\n\r\nok"
PLAIN = b"POST /a%2Fb HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nX-one: 2\r\nContent-Length: 3\r\n\r\nabc"


def transcript(request: bytes = REQUEST, response: bytes = RESPONSE) -> Transcript:
    interim, answer = read_responses(response, ended=True)
    return Transcript(read_message(request, ended=True, is_request=True) if request else None, interim, answer)


@pytest.mark.parametrize(
    ("request_then", "response_then", "words"),
    [
        (REQUEST, RESPONSE, []),
        (REQUEST.replace(b"3\r\nabc", b"1\r\na\r\n2\r\nbc"), RESPONSE, []),
        (REQUEST.replace(b"Host: h", b"Connection: keep-alive\r\nHost: h"), RESPONSE, []),
        (REQUEST.replace(b"%2F", b"/"), RESPONSE, ["request: `/a%2Fb` became `/a/b`"]),
        (REQUEST.replace(b"POST", b"PUT"), RESPONSE, ["request: method POST became PUT"]),
        (REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), RESPONSE, ["request: sent as HTTP/1.0"]),
        (REQUEST.replace(b"X-One", b"x-one"), RESPONSE, ["request: X-One name written in another case"]),
        (
            REQUEST.replace(b"X-One: 1\r\nX-one: 2", b"X-One: 1, 2"),
            RESPONSE,
            ["request: X-One joined into one line"],
        ),
        (REQUEST.replace(b"X-One: 1", b"X-One:1"), RESPONSE, ["request: X-One white space changed"]),
        (REQUEST.replace(b"X-One: 1", b"X-One: 3"), RESPONSE, ["request: X-One value changed"]),
        (REQUEST.replace(b"Host: h", b"Via: x\r\nHost: h"), RESPONSE, ["request: Via added"]),
        (REQUEST.replace(b"3\r\nabc", b"3;e\r\nabc"), RESPONSE, ["request: chunk extensions added"]),
        (REQUEST.replace(b"abc", b"abd"), RESPONSE, ["request: content changed"]),
        (REQUEST.replace(b"X-Sum: 1\r\n", b""), RESPONSE, ["request: trailers dropped"]),
        (REQUEST.replace(b"X-Sum: 1", b"X-Sum: 2"), RESPONSE, ["request: trailer X-Sum value changed"]),
        (PLAIN, RESPONSE, ["request: chunked became a length", "request: trailers dropped"]),
        (REQUEST, RESPONSE.replace(b"Fine", b"OK"), ["response: reason phrase changed"]),
        (REQUEST, RESPONSE.replace(b" Fine", b" "), ["response: reason phrase dropped"]),
        (REQUEST, RESPONSE.replace(b"200", b"502"), ["response: 502 in place of 200"]),
        (REQUEST, RESPONSE.replace(b"A: 1\r\nB: 2", b"B: 2\r\nA: 1"), ["response: fields reordered"]),
        (REQUEST, RESPONSE.replace(b"A: 1\r\n", b""), ["response: A removed"]),
        (REQUEST, RESPONSE.partition(b"\r\n\r\n")[2], ["response: 103 not passed on"]),
        (REQUEST, RESPONSE.replace(b"Link: x", b"Link: y"), ["response: 103: Link value changed"]),
        (REQUEST, RESPONSE[:-1], ["response: content cut", "response: its end is lost"]),
        (REQUEST, b"", ["response: none"]),
        (b"", RESPONSE, ["answers 200 itself"]),
        (b"", b"", ["no answer"]),
    ],
)
def test_each_difference_is_named(request_then: bytes, response_then: bytes, words: list[str]) -> None:
    assert describe_differences(transcript(), transcript(request_then, response_then)) == words


def test_what_is_for_one_hop_is_to_end_there() -> None:
    sent = REQUEST.replace(b"Host: h", b"Host: h\r\nConnection: x-hop\r\nX-Hop: 1\r\nProxy-Authorization: x")
    ended = transcript(REQUEST)
    assert describe_differences(transcript(sent), ended) == []
    assert describe_differences(transcript(sent), transcript(sent)) == ["request: X-Hop, Proxy-Authorization passed on"]


def test_steps_that_end_otherwise_are_told() -> None:
    direct = Transcript(facts={"head": "passes", "rest": "arrives"})
    assert describe_differences(direct, Transcript(facts={"head": "passes", "rest": "is lost"})) == ["rest is lost"]
    assert describe_direct(direct) == "head passes; rest arrives"
    assert describe_direct(transcript()) == "103, then 200"
