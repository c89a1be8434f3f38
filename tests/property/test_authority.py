"""`parse_authority` over arbitrary bytes: one kind of refusal, and a form that stays what it is."""

from __future__ import annotations

import ipaddress

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import MalformedRequest
from proxy.policy.authority import Authority, parse_authority

_ALPHABET = "aZ09.-_:[]@%x* \x00\n/\\üß。\uff11\u212aא\u0301\u200d\u0660"
_LABELS = st.text("abcxyz0189_", min_size=1, max_size=12)
_NAMES = st.lists(_LABELS, min_size=1, max_size=4).map(lambda labels: ".".join([*labels, "example"]))
_PORTS = st.integers(1, 65_535)


def _parse(raw: bytes) -> Authority | None:
    try:
        return parse_authority(raw, 443)
    except MalformedRequest:
        return None


@given(st.binary(max_size=64) | st.text(_ALPHABET, max_size=24).map(str.encode) | st.text(max_size=24).map(str.encode))
@example("xn--\x80".encode())
@example("xn--a.ü".encode())
@example(b"[::ffff:0:0]")
def test_any_bytes_are_refused_as_malformed_or_become_a_canonical_form(raw: bytes) -> None:
    authority = _parse(raw)
    if authority is None:
        return
    assert parse_authority(str(authority).encode("ascii"), None) == authority
    assert parse_authority(authority.host_field(443), 443) == authority
    assert authority.host == authority.host.lower()
    assert not authority.host.endswith(".")
    if authority.is_ip:
        assert str(ipaddress.ip_address(authority.host)) == authority.host


@given(_NAMES, _PORTS, st.data())
def test_case_and_one_trailing_dot_make_no_difference(name: str, port: int, data: st.DataObject) -> None:
    capitals = data.draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    spelt = "".join(
        letter.upper() if capital else letter for letter, capital in zip(name, capitals, strict=True)
    ) + data.draw(st.sampled_from(["", "."]))
    assert parse_authority(f"{spelt}:{port}".encode(), None) == Authority(name, port)


@given(st.ip_addresses(v=4), _PORTS)
def test_an_ipv4_address_and_its_mapped_ipv6_form_are_one_authority(address: ipaddress.IPv4Address, port: int) -> None:
    plain = parse_authority(f"{address}:{port}".encode(), None)
    assert parse_authority(f"[::ffff:{address}]:{port}".encode(), None) == plain == Authority(str(address), port)


@given(st.ip_addresses(v=6))
def test_every_spelling_of_an_ipv6_address_is_one_authority(address: ipaddress.IPv6Address) -> None:
    assert _parse(f"[{address.exploded.upper()}]".encode()) == _parse(f"[{address.compressed}]".encode())
