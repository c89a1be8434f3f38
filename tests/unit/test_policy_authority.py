"""What `parse_authority` makes of the spellings of a destination."""

from __future__ import annotations

import pytest

from proxy.errors import MalformedRequest
from proxy.policy.authority import Authority, parse_authority


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(b"api.contoso.com", "api.contoso.com:443", id="no port takes the default"),
        pytest.param(b"api.contoso.com:8443", "api.contoso.com:8443", id="port"),
        pytest.param(b"API.Contoso.COM", "api.contoso.com:443", id="case"),
        pytest.param(b"api.contoso.com.", "api.contoso.com:443", id="one trailing dot"),
        pytest.param(b"api.contoso.com.:443", "api.contoso.com:443", id="trailing dot and port"),
        pytest.param(b"_dmarc.my_host.example", "_dmarc.my_host.example:443", id="underscores"),
        pytest.param(b"localhost", "localhost:443", id="single label"),
        pytest.param(b"r3---sn-x.example", "r3---sn-x.example:443", id="hyphens in a row"),
        pytest.param(b"1.example", "1.example:443", id="a number in front"),
        pytest.param(b"3com", "3com:443", id="last label begins with a digit"),
        pytest.param(b"0xyz.0x1g", "0xyz.0x1g:443", id="last label looks like hexadecimal but is not"),
        pytest.param("bücher.example".encode(), "xn--bcher-kva.example:443", id="U-label"),
        pytest.param("BÜCHER.Example:8443".encode(), "xn--bcher-kva.example:8443", id="U-label in capitals"),
        pytest.param(b"XN--BCHER-KVA.example", "xn--bcher-kva.example:443", id="A-label"),
        pytest.param("faß.example".encode(), "xn--fa-hia.example:443", id="IDNA 2008 keeps sharp s"),
        pytest.param("bücher.a_b.example".encode(), "xn--bcher-kva.a_b.example:443", id="U-label beside an underscore"),
        pytest.param("\uff41\uff50\uff49.contoso.com".encode(), "api.contoso.com:443", id="full-width letters"),
        pytest.param("\u212a.example".encode(), "k.example:443", id="Kelvin sign"),
        pytest.param("bücher。example".encode(), "xn--bcher-kva.example:443", id="ideographic full stop"),
        pytest.param(b"10.1.2.3", "10.1.2.3:443", id="IPv4"),
        pytest.param("127。0。0。1".encode(), "127.0.0.1:443", id="IPv4 with ideographic full stops"),
        pytest.param(b"[::1]", "[::1]:443", id="IPv6"),
        pytest.param(b"[::1]:65535", "[::1]:65535", id="IPv6 and port"),
        pytest.param(b"[2001:DB8:0:0:0:0:0:1]", "[2001:db8::1]:443", id="IPv6 compressed"),
        pytest.param(b"[::ffff:10.1.2.3]:80", "10.1.2.3:80", id="IPv4-mapped IPv6"),
        pytest.param(b"[::ffff:a01:203]", "10.1.2.3:443", id="IPv4-mapped IPv6 in hexadecimal"),
        pytest.param(b"a" * 63 + b".example", "a" * 63 + ".example:443", id="longest label"),
    ],
)
def test_spellings_of_one_authority_have_one_form(raw: bytes, expected: str) -> None:
    authority = parse_authority(raw, 443)
    assert str(authority) == expected
    assert parse_authority(str(authority).encode(), None) == authority


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        pytest.param(b"", "no host", id="empty"),
        pytest.param(b":443", "no host", id="only a port"),
        pytest.param(b".", "DNS name", id="only a dot"),
        pytest.param(b"user@api.contoso.com", "user information", id="userinfo"),
        pytest.param(b"user:secret@api.contoso.com:443", "user information", id="userinfo with password"),
        pytest.param(b"api.contoso.com:", "port", id="empty port"),
        pytest.param(b"api.contoso.com:0", "port", id="port 0"),
        pytest.param(b"api.contoso.com:65536", "port", id="port too large"),
        pytest.param(b"api.contoso.com:0443", "port", id="port with a leading zero"),
        pytest.param(b"api.contoso.com:+443", "port", id="port with a sign"),
        pytest.param(b"api.contoso.com:4_43", "port", id="port with an underscore"),
        pytest.param(b"api.contoso.com:443 ", "port", id="space after the port"),
        pytest.param("api.contoso.com:\uff14\uff14\uff13".encode(), "port", id="full-width digits"),
        pytest.param(b"api.contoso.com:443:443", "several colons", id="two ports"),
        pytest.param(b"::1", "several colons", id="IPv6 without brackets"),
        pytest.param(b"api%2econtoso.com", "percent", id="percent-encoding"),
        pytest.param(b"api..contoso.com", "DNS name", id="empty label"),
        pytest.param(b"api.contoso.com..", "DNS name", id="two trailing dots"),
        pytest.param(b".contoso.com", "DNS name", id="leading dot"),
        pytest.param(b"-api.contoso.com", "DNS name", id="leading hyphen"),
        pytest.param(b"api-.contoso.com", "DNS name", id="trailing hyphen"),
        pytest.param(b"api contoso.com", "DNS name", id="space"),
        pytest.param(b"api.contoso.com\x00.evil.example", "DNS name", id="NUL"),
        pytest.param(b"api.contoso.com\n", "DNS name", id="line feed at the end"),
        pytest.param(b"api.contoso.com/", "DNS name", id="slash"),
        pytest.param(b"api.contoso.com\\", "DNS name", id="backslash"),
        pytest.param(b"api.contoso.com#", "DNS name", id="fragment"),
        pytest.param(b"*.contoso.com", "DNS name", id="wildcard"),
        pytest.param("evil\uff1a443.example".encode(), "DNS name", id="full-width colon"),
        pytest.param("a\uff0fb.example".encode(), "DNS name", id="full-width slash"),
        pytest.param(b"a" * 64 + b".example", "63", id="label too long"),
        pytest.param(b".".join([b"a" * 60] * 5), "253", id="name too long"),
        pytest.param(b"a" * 2_000, "253", id="far too long"),
        pytest.param(b"\xff.example", "internationalised", id="not UTF-8"),
        pytest.param("a\u200db.example".encode(), "internationalised", id="joiner out of place"),
        pytest.param(b"2130706433", "four decimal", id="IPv4 as one number"),
        pytest.param(b"0x7f.1", "four decimal", id="IPv4 in two parts, hexadecimal"),
        pytest.param(b"0x7f000001", "four decimal", id="IPv4 as one hexadecimal number"),
        pytest.param(b"0177.0.0.1", "four decimal", id="IPv4 octal"),
        pytest.param(b"127.0.0.0x1", "four decimal", id="last part hexadecimal"),
        pytest.param(b"127.1", "four decimal", id="IPv4 short"),
        pytest.param(b"127.0.0.256", "four decimal", id="IPv4 part too large"),
        pytest.param(b"1.2.3.4.5", "four decimal", id="five parts"),
        pytest.param(b"127.0.0.1.", "four decimal", id="IPv4 with trailing dot"),
        pytest.param(b"api.contoso.0x", "four decimal", id="a name ending in 0x"),
        pytest.param("\uff11\uff12\uff17.1".encode(), "four decimal", id="IPv4 short, full-width"),
        pytest.param(b"[::1", "closed", id="bracket not closed"),
        pytest.param(b"[::1]443", "closed", id="no colon after the bracket"),
        pytest.param(b"[::1].example", "closed", id="name after the bracket"),
        pytest.param(b"[fe80::1%25eth0]", "zone", id="zone id"),
        pytest.param(b"[fe80::1%eth0]", "zone", id="zone id, not encoded"),
        pytest.param(b"[v1.fe80]", "IPv6", id="IPvFuture"),
        pytest.param(b"[127.0.0.1]", "IPv6", id="IPv4 in brackets"),
        pytest.param(b"[]", "IPv6", id="empty brackets"),
        pytest.param(b"[::1]:", "port", id="IPv6 with empty port"),
    ],
)
def test_an_ambiguous_or_broken_authority_is_refused_with_its_reason(raw: bytes, word: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        parse_authority(raw, 443)
    assert word in caught.value.detail


def test_user_information_is_not_repeated_in_the_reason() -> None:
    with pytest.raises(MalformedRequest) as caught:
        parse_authority(b"user:hunter2@api.contoso.com", 443)
    assert "hunter2" not in caught.value.detail


def test_a_port_has_to_be_written_where_there_is_no_default() -> None:
    with pytest.raises(MalformedRequest, match="no port"):
        parse_authority(b"api.contoso.com", None)


@pytest.mark.parametrize(
    ("raw", "is_ip"),
    [
        (b"api.contoso.com", False),
        (b"1.example", False),
        (b"10.1.2.3", True),
        (b"[2001:db8::1]", True),
        (b"[::ffff:10.1.2.3]", True),
    ],
)
def test_addresses_are_told_from_names(raw: bytes, is_ip: bool) -> None:
    assert parse_authority(raw, 443).is_ip is is_ip


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        (Authority("api.contoso.com", 443), b"api.contoso.com"),
        (Authority("api.contoso.com", 8443), b"api.contoso.com:8443"),
        (Authority("2001:db8::1", 443), b"[2001:db8::1]"),
        (Authority("2001:db8::1", 80), b"[2001:db8::1]:80"),
    ],
)
def test_the_host_field_omits_only_the_default_port(authority: Authority, expected: bytes) -> None:
    assert authority.host_field(443) == expected
