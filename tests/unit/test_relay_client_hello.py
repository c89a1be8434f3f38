"""What a ClientHello says, in whatever pieces it comes; what is none; and how long it may be."""

from __future__ import annotations

import ssl
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import MalformedRequest
from proxy.relay.client_hello import ClientHello, ClientHelloReader
from tests.client_hellos import ECH, GREASE, USUAL, extension, message, protocols, records, server_name, vector


def read(*pieces: bytes) -> ClientHello | None:
    """Feed the pieces; nothing may come behind what completes the message."""
    reader = ClientHelloReader()
    found = None
    for piece in pieces:
        assert found is None
        found = reader.feed(piece)
    assert reader.received == b"".join(pieces)
    return found


EXPECTED = ClientHello("api.example.test", (b"h2", b"http/1.1"), has_ech=False)


@pytest.mark.parametrize(
    ("hello", "expected"),
    [
        pytest.param(USUAL, EXPECTED, id="usual"),
        pytest.param(records(message()), ClientHello(None, (), has_ech=False), id="no extensions"),
        pytest.param(records(message(extension(GREASE, b"\0"))), ClientHello(None, (), has_ech=False), id="no name"),
        pytest.param(
            records(message(server_name(b"outer.test"), extension(ECH, bytes(200)))),
            ClientHello("outer.test", (), has_ech=True),
            id="ECH",
        ),
        pytest.param(
            records(message(protocols(b"\x0a\x0a", b"h2"), extension(GREASE, b""), server_name(b"A.Test."))),
            ClientHello("A.Test.", (b"\x0a\x0a", b"h2"), has_ech=False),
            id="GREASE everywhere",
        ),
        pytest.param(USUAL + b"\x17\x03\x03\x00\x01x", EXPECTED, id="early data behind it"),
        pytest.param(USUAL.replace(b"\x16\x03\x01", b"\x16\x03\x03", 1), EXPECTED, id="another version of the record"),
    ],
)
def test_it_says_what_is_asked_for(hello: bytes, expected: ClientHello) -> None:
    assert read(hello) == expected


def test_it_is_the_same_in_two_pieces_wherever_it_is_cut() -> None:
    for at in range(1, len(USUAL)):
        assert read(USUAL[:at], USUAL[at:]) == EXPECTED


def test_it_is_the_same_byte_by_byte() -> None:
    assert read(*(USUAL[at : at + 1] for at in range(len(USUAL)))) == EXPECTED


def test_it_is_the_same_in_two_records_wherever_they_are_cut() -> None:
    whole = USUAL[5:]
    for at in range(1, len(whole)):
        assert read(records(whole, [at])) == EXPECTED


@given(st.lists(st.integers(1, len(USUAL) - 6), unique=True, max_size=20), st.lists(st.integers(1, 1_400), max_size=8))
def test_it_is_the_same_in_any_records_and_any_pieces(cuts: list[int], places: list[int]) -> None:
    wire = records(USUAL[5:], cuts)
    ends = [0, *sorted({place for place in places if place < len(wire)}), len(wire)]
    assert read(*(wire[start:end] for start, end in pairwise(ends))) == EXPECTED


@given(st.integers(0, len(USUAL) - 1))
def test_a_part_of_it_is_nothing_yet(end: int) -> None:
    assert read(USUAL[:end]) is None


MALFORMED = {
    "HTTP": b"GET / HTTP/1.1\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SSLv2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "a version there never was": b"\x16\x02\x00\x00\x01\x01",
    "an empty record": b"\x16\x03\x01\x00\x00",
    "a record that is too long": b"\x16\x03\x01\x40\x01",
    "a ServerHello": b"\x16\x03\x03\x00\x05\x02\x00\x00\x01\x00",
    "an alert between two records": records(USUAL[5:], [50])[:55] + b"\x15\x03\x01\x00\x02\x02\x28",
    "a message that is too long": b"\x16\x03\x01\x00\x04\x01\x01\x00\x00",
    "the same, before its record is complete": b"\x16\x03\x01\x10\x00\x01\x00\x40\x00",
    "an end within the random": records(b"\x01" + vector(bytes(30), 3)),
    # The list of extensions says one byte more than there is.
    "extensions that are longer than the message": records(
        message(server_name(b"a.test")).replace(b"\x00\x0f\x00\x00", b"\x00\x10\x00\x00")
    ),
    "something behind the extensions": records(b"\x01" + vector(message(server_name(b"a.test"))[4:] + b"x", 3)),
    "a name twice": records(message(server_name(b"a.test"), server_name(b"b.test"))),
    "two names": records(message(extension(0, vector((b"\0" + vector(b"a.test", 2)) * 2, 2)))),
    "an empty name": records(message(server_name(b""))),
    "an empty list of names": records(message(extension(0, vector(b"", 2)))),
    "a name of another kind": records(message(extension(0, vector(b"\x01" + vector(b"a.test", 2), 2)))),
    "a name with a NUL": records(message(server_name(b"a.test\0.example"))),
    "a name with a line end": records(message(server_name(b"a.test\r\nX: y"))),
    "a name that is not ASCII": records(message(server_name("ä.test".encode()))),
    "a list of protocols with a wrong length": records(message(extension(16, vector(b"\x05h2", 2)))),
}


@pytest.mark.parametrize("wire", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_client_hello_is_refused_however_it_comes(wire: bytes) -> None:
    with pytest.raises(MalformedRequest, match="What the client sent") as refusal:
        read(wire)
    assert refusal.value.code == "client_hello_malformed"
    with pytest.raises(MalformedRequest):
        read(*(wire[at : at + 1] for at in range(len(wire))))


def test_it_is_not_read_for_ever() -> None:
    """Records of one byte each are sound, and could be sent for as long as somebody likes."""
    reader = ClientHelloReader()
    endless = records(message(extension(GREASE, bytes(12_000))), range(1, 12_000))
    pieces = (endless[at : at + 100] for at in range(0, len(endless), 100))
    with pytest.raises(MalformedRequest, match="longer than that of any client"):
        list(map(reader.feed, pieces))
    assert len(reader.received) <= 20_480 + 100


def test_pythons_own_is_read() -> None:
    """OpenSSL as a client, whatever its version."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    for name in ("contoso.azure-api.net", "127.0.0.1"):
        outgoing = ssl.MemoryBIO()
        client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        expected = name if name[0] == "c" else None  # an address is no server name (RFC 6066 §3)
        assert read(outgoing.read()) == ClientHello(expected, (b"http/1.1",), has_ech=False)
