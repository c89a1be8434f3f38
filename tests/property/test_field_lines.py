"""Field lines that are read without llhttp: as llhttp reads them, and never where it refuses them."""

from __future__ import annotations

import re
from typing import Final

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.relay.field_lines import read_fields
from proxy.relay.message import Head
from tests.fuzz.targets import field_lines, judge_by_llhttp

TOKEN_CHARACTERS: Final = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
NOTABLE: Final = (
    b"Host",
    b"Content-Length",
    b"content-length",
    b"Transfer-Encoding",
    b"Connection",
    b"Upgrade",
    b"Keep-Alive",
)
FRAMING: Final = re.compile(rb"(?i:content-length|transfer-encoding|upgrade)")

names = st.one_of(st.sampled_from(NOTABLE), st.text(TOKEN_CHARACTERS, min_size=1, max_size=20).map(str.encode))
any_values = st.one_of(
    st.sampled_from(
        (
            b"5",
            b"0",
            b"+5",
            b"5,5",
            b"18446744073709551616",
            b"999999999999999999",
            b"chunked",
            b"gzip, chunked",
            b"close",
        )
    ),
    st.binary(max_size=12),
)
well_formed_values = st.binary(max_size=40).map(
    lambda raw: bytes(byte for byte in raw if byte == 9 or 32 <= byte != 127)
)
colons = st.sampled_from((b":", b": ", b":\t", b" :", b":  "))
line_ends = st.one_of(st.just(b"\r\n"), st.sampled_from((b"\n", b"\r", b" \r\n", b"\t\r\n", b"\r\r\n", b"\r\n ")))
nearly_lines = st.lists(st.tuples(names, colons, any_values, line_ends).map(b"".join), max_size=5).map(b"".join)
plain_lines = st.lists(
    st.tuples(
        names.filter(lambda name: not FRAMING.fullmatch(name)), st.just(b": "), well_formed_values, st.just(b"\r\n")
    ).map(b"".join),
    max_size=8,
).map(b"".join)


@given(st.one_of(st.binary(max_size=60), nearly_lines))
def test_what_is_read_without_llhttp_is_what_llhttp_reads(fields: bytes) -> None:
    field_lines(fields)


@given(plain_lines)
@example(b"")
@example(b"Host: api.example.com\r\nContent-Length: 12\r\nConnection: close\r\n")
@example(b"Transfer-Encoding: chunked\r\nTrailer: X\r\n")
@example(b"Content-Length: 999999999999999999\r\n")
def test_ordinary_heads_need_no_llhttp(fields: bytes) -> None:
    head = Head(1, fields)
    assert read_fields(head)
    assert head.names == judge_by_llhttp(fields, request=True) == judge_by_llhttp(fields, request=False)


def test_a_head_that_llhttp_has_to_judge_is_left_as_it_is() -> None:
    head = Head(1, b"A: b\r\nX : c\r\n")
    assert not read_fields(head)
    assert head.names == []
