"""HPACK against the `hpack` package, both ways: whatever either writes, the other reads."""

from __future__ import annotations

import contextlib

import hpack
from hypothesis import given
from hypothesis import strategies as st

from proxy.relay.http2.decoder import Decoder
from proxy.relay.http2.encoder import Encoder
from proxy.relay.http2.faults import ConnectionFault
from proxy.relay.http2.static_table import STATIC_TABLE

names = st.one_of(
    st.sampled_from([field[0] for field in STATIC_TABLE]),
    st.sampled_from([b"user-agent", b"accept", b"x-a"]),
    st.binary(max_size=20),
)
values = st.one_of(st.sampled_from([b"", b"GET", b"a"]), st.binary(max_size=80), st.integers(100, 6_000).map(bytes))
fields = st.one_of(st.sampled_from(STATIC_TABLE), st.tuples(names, values))
blocks = st.lists(st.tuples(st.lists(fields, max_size=12), st.booleans(), st.integers(0, 5_000)), max_size=6)


@given(blocks)
def test_what_the_package_encodes_is_decoded(blocks: list[tuple[list[tuple[bytes, bytes]], bool, int]]) -> None:
    encoder, decoder = hpack.Encoder(), Decoder(1 << 20, 1_000)
    for block, is_coded, size in blocks:
        encoder.header_table_size = min(size, 4_096)
        assert decoder.decode(encoder.encode(block, huffman=is_coded)) == block


@given(blocks)
def test_what_is_encoded_is_read_by_the_package(blocks: list[tuple[list[tuple[bytes, bytes]], bool, int]]) -> None:
    encoder, decoder = Encoder(), hpack.Decoder(max_header_list_size=1 << 20)
    for block, changes, size in blocks:
        if changes:
            encoder.set_limit(size)
            decoder.max_allowed_table_size = min(size, 4_096)
        assert decoder.decode(encoder.encode(block), raw=True) == block


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_any_bytes_mean_the_same_to_both_or_are_refused(blocks: list[bytes]) -> None:
    ours, theirs = Decoder(1 << 20, 1_000), hpack.Decoder(max_header_list_size=1 << 20)
    for block in blocks:
        try:
            found = ours.decode(block)
        except ConnectionFault:
            return
        with contextlib.suppress(hpack.InvalidTableSizeError):  # the package wants it sooner
            assert theirs.decode(block, raw=True) == found
