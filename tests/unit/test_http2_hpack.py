"""HPACK: every example of RFC 7541, what no block may say, and what enters a table."""

from __future__ import annotations

from typing import Final

import hpack
import pytest

from proxy.relay.http2.decoder import Decoder
from proxy.relay.http2.encoder import Encoder, format_integer, format_secret
from proxy.relay.http2.faults import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault
from proxy.relay.http2.huffman import decode_huffman

GET: Final = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
GET_AGAIN: Final = [*GET, (b"cache-control", b"no-cache")]
GET_PAGE: Final = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/index.html"),
    (b":authority", b"www.example.com"),
    (b"custom-key", b"custom-value"),
]
FOUND: Final = [
    (b":status", b"302"),
    (b"cache-control", b"private"),
    (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"),
    (b"location", b"https://www.example.com"),
]
TEMPORARY: Final = [(b":status", b"307"), *FOUND[1:]]
OK: Final = [
    (b":status", b"200"),
    (b"cache-control", b"private"),
    (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT"),
    (b"location", b"https://www.example.com"),
    (b"content-encoding", b"gzip"),
    (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
]
# Where the examples' table has 256 bytes, the first block says so.
TABLE_OF_256: Final = "3fe101"

EXAMPLES: Final = {
    "C.2.1": [("400a637573746f6d2d6b65790d637573746f6d2d686561646572", [(b"custom-key", b"custom-header")])],
    "C.2.2": [("040c2f73616d706c652f70617468", [(b":path", b"/sample/path")])],
    "C.2.3": [("100870617373776f726406736563726574", [(b"password", b"secret")])],
    "C.2.4": [("82", [(b":method", b"GET")])],
    "C.3": [
        ("828684410f7777772e6578616d706c652e636f6d", GET),
        ("828684be58086e6f2d6361636865", GET_AGAIN),
        ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", GET_PAGE),
    ],
    "C.4": [
        ("828684418cf1e3c2e5f23a6ba0ab90f4ff", GET),
        ("828684be5886a8eb10649cbf", GET_AGAIN),
        ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", GET_PAGE),
    ],
    "C.5": [
        (
            TABLE_OF_256 + "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
            "6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
            FOUND,
        ),
        ("4803333037c1c0bf", TEMPORARY),
        (
            (
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a58"
                "4f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31"
            ),
            OK,
        ),
    ],
    "C.6": [
        (
            TABLE_OF_256
            + "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97"
            "c8e9ae82ae43d3",
            FOUND,
        ),
        ("4883640effc1c0bf", TEMPORARY),
        (
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672"
                "c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
            ),
            OK,
        ),
    ],
}


def decoder() -> Decoder:
    return Decoder(65_536, 200)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_rfc_are_decoded(name: str) -> None:
    one = decoder()
    for block, fields in EXAMPLES[name]:
        assert one.decode(bytes.fromhex(block)) == fields


@pytest.mark.parametrize(
    ("value", "mask", "octets"), [(10, 0x1F, "0a"), (1_337, 0x1F, "1f9a0a"), (42, 0xFF, "2a"), (31, 0x1F, "1f00")]
)
def test_the_integers_of_the_rfc_are_encoded(value: int, mask: int, octets: str) -> None:
    assert format_integer(value, mask, 0) == bytes.fromhex(octets)


def test_a_never_indexed_field_stays_one() -> None:
    one = decoder()
    one.decode(bytes.fromhex(EXAMPLES["C.2.3"][0][0]))
    assert one.never_indexed == [b"password"]
    one.decode(bytes.fromhex("82"))
    assert one.never_indexed == []


@pytest.mark.parametrize(
    ("block", "section"),
    [
        pytest.param("80", "§6.1", id="index 0"),
        pytest.param("be", "§2.3.3", id="index of nothing"),
        pytest.param("ffffffffffffff7f", "§5.1", id="endless integer"),
        pytest.param("ff80", "§2.3.3", id="integer cut off"),
        pytest.param("400a6375", "§5.2", id="string cut off"),
        pytest.param("40", "§2.3.3", id="nothing behind a literal"),
        pytest.param("8220", "§4.2", id="size changes behind a field"),
        pytest.param("3fe21f", "§6.3", id="size over the limit"),
        pytest.param("0083f1e3ff0161", "§5.2", id="padding of a whole byte"),
        pytest.param("008118" + "0161", "§5.2", id="padding of zeros"),
        pytest.param("0084ffffffff0161", "§5.2", id="EOS inside"),
    ],
)
def test_a_block_that_cannot_be_decoded_ends_the_connection(block: str, section: str) -> None:
    with pytest.raises(ConnectionFault, match=section) as caught:
        decoder().decode(bytes.fromhex(block))
    assert caught.value.code == COMPRESSION_ERROR


def test_every_code_of_the_huffman_table_means_its_byte() -> None:
    encoder = hpack.Encoder()
    for byte in range(256):
        for context in (b"", b"a", b"\xff"):
            string = context + bytes([byte]) + context
            assert decode_huffman(encoder.huffman_coder.encode(string)) == string


def test_more_fields_than_allowed_are_read_so_that_the_table_stays_right() -> None:
    one = Decoder(1_000, 3)
    assert one.decode(bytes.fromhex("82868482" + "400161016240016301" + "64")) == [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
    ]
    assert one.is_over
    assert one.decode(bytes.fromhex("bebf")) == [(b"c", b"d"), (b"a", b"b")]
    assert not one.is_over


def test_fields_that_are_longer_than_allowed_are_over_and_four_times_as_long_are_too_much() -> None:
    one = Decoder(100, 200)
    assert one.decode(bytes.fromhex("8282")) == [(b":method", b"GET")] * 2
    one.decode(bytes.fromhex("82") * 3)
    assert one.is_over
    with pytest.raises(ConnectionFault) as caught:
        one.decode(bytes.fromhex("82") * 10)
    assert caught.value.code == ENHANCE_YOUR_CALM


def test_an_entry_larger_than_the_table_empties_it() -> None:
    one = decoder()
    one.decode(bytes.fromhex("4001610162"))
    one.decode(b"\x40\x01a\x7f\x81\x1f" + b"x" * 4_096)  # RFC 7541 §4.4
    with pytest.raises(ConnectionFault):
        one.decode(bytes.fromhex("be"))


def test_secrets_and_what_nobody_knows_enter_no_table() -> None:
    fields = [(b"authorization", b"Bearer a"), (b"cookie", b"b=c"), (b"x-api-key", b"d"), (b":path", b"/e")]
    encoder = Encoder()
    assert encoder.encode(fields) == encoder.encode(fields)
    decoded = hpack.Decoder().decode(encoder.encode(fields), raw=True)
    assert [type(field) is hpack.NeverIndexedHeaderTuple for field in decoded] == [True, True, False, False]


def test_a_name_that_was_never_indexed_stays_so() -> None:
    block = Encoder().encode([(b"accept", b"a")], frozenset({b"accept"}))
    assert [type(field) for field in hpack.Decoder().decode(block, raw=True)] == [hpack.NeverIndexedHeaderTuple]


def test_a_token_is_encoded_once_and_fits_behind_any_block() -> None:
    encoder, other = Encoder(), hpack.Decoder()
    token = format_secret(b"authorization", b"Bearer " + b"x" * 1_300)
    for _ in range(3):
        fields = other.decode(encoder.encode(GET) + token, raw=True)
        assert fields == [*GET, (b"authorization", b"Bearer " + b"x" * 1_300)]
        assert type(fields[-1]) is hpack.NeverIndexedHeaderTuple


def test_what_repeats_is_one_byte() -> None:
    encoder = Encoder()
    encoder.encode(GET)
    assert len(encoder.encode(GET)) == len(GET)


def test_the_other_sides_table_may_be_smaller_and_grow_again() -> None:
    encoder, other = Encoder(), hpack.Decoder()
    other.decode(encoder.encode(GET_AGAIN))
    for size in (0, 100, 4_096, 1 << 20):
        other.max_allowed_table_size = min(size, 4_096)
        encoder.set_limit(size)
        for _ in range(3):
            assert other.decode(encoder.encode(GET_AGAIN), raw=True) == GET_AGAIN
        assert other.header_table_size == min(size, 4_096)


def test_a_full_table_is_emptied_once_other_fields_repeat() -> None:
    encoder, other = Encoder(), hpack.Decoder()
    for number in range(400):
        fields = [(b"user-agent", b"%d" % (number // 200) + b"x" * 200 + b"%d" % (number % 200))]
        assert other.decode(encoder.encode(fields), raw=True) == fields
    for _ in range(2):
        last = encoder.encode(GET)
        assert other.decode(last, raw=True) == GET
    assert len(last) == len(GET)
