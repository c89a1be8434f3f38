"""Which addresses may be dialled for hosts that no route names: the address decides, in every form it can take."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import DestinationRefused
from proxy.policy.destinations import check_destination

PORTS = (443, 80)

REFUSED = {
    "loopback": ["127.0.0.1", "127.9.9.9", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12:3456::1"],
    "link-local": ["169.254.0.1", "fe80::1", "fe80::1%eth0"],
    "metadata": [
        "169.254.169.254",
        "fd00:ec2::254",
        "168.63.129.16",
        "192.0.0.192",
        "100.100.100.200",
        "169.254.170.2",
    ],
    "this network": ["0.0.0.0", "0.1.2.3", "::"],  # noqa: S104  # judged, not bound
    "shared": ["100.64.0.1", "100.127.255.255"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"],
    "benchmarks": ["198.18.0.1", "198.19.255.255"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "4000::1", "e000::1", "100::1", "5f00::1"],
    "site-local": ["fec0::1"],
    "IPv4-mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:7f00:1"],
    "IPv4-compatible": ["::127.0.0.1", "::10.0.0.1", "::a9fe:a9fe"],
    "NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"],
    "6to4": ["2002:7f00:1::1", "2002:a00:1::1", "2002:a9fe:a9fe::1"],
    "Teredo": ["2001:0:4136:e378:8000:63bf:80ff:fffe"],
}
PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::808:808", "::ffff:8.8.8.8"]


@pytest.mark.parametrize(("kind", "address"), [(kind, one) for kind, some in REFUSED.items() for one in some])
def test_what_is_no_public_address_is_refused(kind: str, address: str) -> None:
    with pytest.raises(DestinationRefused) as raised:
        check_destination(address, 443, [], PORTS)
    assert raised.value.status == 403, kind


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    check_destination(address, 443, [], PORTS)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.0.0/16"),
        ("::ffff:10.1.2.3", "10.1.0.0/16"),
        ("127.0.0.1", "127.0.0.1/32"),
        ("::1", "::1/128"),
        ("fd00::5", "fd00::/8"),
        ("169.254.169.254", "169.254.169.254/32"),
    ],
)
def test_a_range_that_is_named_passes(address: str, network: str) -> None:
    check_destination(address, 443, [ip_network(network)], PORTS)


@pytest.mark.parametrize(
    ("address", "network"), [("10.2.0.1", "10.1.0.0/16"), ("127.0.0.1", "10.0.0.0/8"), ("::1", "127.0.0.1/32")]
)
def test_another_range_that_is_named_does_not_help(address: str, network: str) -> None:
    with pytest.raises(DestinationRefused):
        check_destination(address, 443, [ip_network(network)], PORTS)


def test_both_halves_of_an_address_with_another_in_it_have_to_be_allowed() -> None:
    """2002::/16 is delivered to the IPv4 address it embeds: naming one half lets nothing through."""
    with pytest.raises(DestinationRefused):
        check_destination("2002:a00:1::1", 443, [ip_network("2002::/16")], PORTS)


def test_one_allowed_half_does_not_carry_the_other() -> None:
    """Each form is judged, whatever was said of the one before it."""
    # Teredo (RFC 4380 §4): the server is 8.8.8.8, the client, with its bits inverted, 10.0.0.1.
    teredo = "2001:0:808:808::f5ff:fffe"
    check_destination(teredo, 443, [ip_network("2001::/32"), ip_network("10.0.0.0/8")], PORTS)
    with pytest.raises(DestinationRefused, match=r"10\.0\.0\.1"):
        check_destination(teredo, 443, [ip_network("2001::/32")], PORTS)
    with pytest.raises(DestinationRefused, match="2001:"):
        check_destination(teredo, 443, [ip_network("10.0.0.0/8")], PORTS)
    with pytest.raises(DestinationRefused, match=r"10\.0\.0\.2"):
        check_destination("::10.0.0.2", 443, [], PORTS)
    with pytest.raises(DestinationRefused, match=r"0\.0\.0\.2"):
        check_destination("::2", 443, [], PORTS)
    with pytest.raises(DestinationRefused, match=r"fe80::1,"):
        check_destination("fe80::1%eth0", 443, [], PORTS)


@pytest.mark.parametrize("port", [22, 25, 53, 8080, 8443, 9901, 65_535])
def test_other_ports_are_refused_even_to_public_addresses(port: int) -> None:
    with pytest.raises(DestinationRefused, match="ports"):
        check_destination("93.184.216.34", port, [], PORTS)


@given(st.ip_addresses(v=4, network="10.0.0.0/8") | st.ip_addresses(v=4, network="127.0.0.0/8"))
def test_no_ipv6_form_of_a_private_address_passes(address: object) -> None:
    low = int(address)  # type: ignore[call-overload]
    for form in (f"::ffff:{address}", f"::{address}", f"64:ff9b::{address}", f"2002:{low >> 16:x}:{low & 0xFFFF:x}::1"):
        with pytest.raises(DestinationRefused):
            check_destination(form, 443, [], PORTS)
