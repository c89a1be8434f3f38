"""Names: what may stand in a certificate, and which names a CA for given routes may sign for."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from cryptography import x509

from proxy.errors import ConfigurationError
from proxy.interception.names import Constraints, Name, parse_name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        pytest.param("contoso.azure-api.net", "contoso.azure-api.net", id="dns"),
        pytest.param("Contoso.Azure-API.net.", "contoso.azure-api.net", id="case-and-trailing-dot"),
        pytest.param("localhost", "localhost", id="single-label"),
        pytest.param("xn--bcher-kva.example", "xn--bcher-kva.example", id="a-label"),
        pytest.param("my_api.internal", "my_api.internal", id="underscore"),
        pytest.param("10.1.2.3", IPv4Address("10.1.2.3"), id="ipv4"),
        pytest.param("::1", IPv6Address("::1"), id="ipv6"),
        pytest.param("[2001:DB8::1]", IPv6Address("2001:db8::1"), id="ipv6-in-brackets"),
    ],
)
def test_a_host_has_one_name(host: str, name: Name) -> None:
    assert parse_name(host) == name


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("", id="empty"),
        pytest.param("api.internal:8443", id="port"),
        pytest.param("bücher.example", id="u-label"),
        pytest.param("a..example", id="empty-label"),
        pytest.param("-a.example", id="leading-hyphen"),
        pytest.param("a" * 64 + ".example", id="label-too-long"),
        pytest.param(".".join(["a" * 60] * 5), id="name-too-long"),
        pytest.param("*.example.com", id="wildcard"),
        pytest.param("a.example\nx", id="line-break"),
        pytest.param("a.example\n", id="trailing-line-break"),
        pytest.param("127.1", id="short-ipv4"),
        pytest.param("0x7f.0.0.1", id="hex-ipv4"),
        pytest.param("2130706433", id="decimal-ipv4"),
        pytest.param("fe80::1%eth0", id="zone"),
    ],
)
def test_what_no_certificate_can_name_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_name(host)


@pytest.mark.parametrize(
    ("hosts", "name", "permitted"),
    [
        pytest.param(["api.example"], "api.example", True, id="literal"),
        pytest.param(["api.example"], "v2.api.example", True, id="below-literal"),
        pytest.param(["api.example"], "example", False, id="above-literal"),
        pytest.param(["api.example"], "evilapi.example", False, id="suffix-that-is-no-subtree"),
        pytest.param(["API.example."], "api.example", True, id="route-spelled-otherwise"),
        pytest.param(["*.apis.example"], "a.apis.example", True, id="wildcard"),
        pytest.param(["*.apis.example"], "a.b.apis.example", True, id="wildcard-two-labels"),
        pytest.param(["*.apis.example"], "other.example", False, id="beside-wildcard"),
        pytest.param(["api.example"], "10.0.0.1", False, id="address-where-none-is-routed"),
        pytest.param(["10.0.0.1"], "10.0.0.1", True, id="ipv4"),
        pytest.param(["10.0.0.1"], "10.0.0.2", False, id="other-ipv4"),
        pytest.param(["10.0.0.1"], "::1", False, id="ipv6-where-ipv4-is-routed"),
        pytest.param(["10.0.0.1"], "api.example", False, id="dns-where-an-address-is-routed"),
        pytest.param(["[::1]"], "::1", True, id="ipv6"),
    ],
)
def test_a_ca_permits_the_routed_hosts_and_no_others(hosts: list[str], name: str, permitted: bool) -> None:
    assert Constraints.of_hosts(hosts).permits(parse_name(name)) is permitted


@pytest.mark.parametrize("host", ["*.10.0.0.1", "*.", "*", "a.*.example", "*.*.example"])
def test_a_wildcard_stands_only_before_a_dns_name(host: str) -> None:
    with pytest.raises(ConfigurationError):
        Constraints.of_hosts([host])


def test_a_ca_for_nothing_is_refused() -> None:
    """Constraints that permit no name would be an empty extension, which constrains nothing."""
    with pytest.raises(ConfigurationError):
        Constraints.of_hosts([])


def test_every_type_of_name_is_constrained_where_only_dns_names_are_routed() -> None:
    extension = Constraints.of_hosts(["*.apis.example", "a.example"]).extension()
    assert extension.permitted_subtrees == [x509.DNSName("a.example"), x509.DNSName("apis.example")]
    assert extension.excluded_subtrees == [
        x509.IPAddress(IPv4Network("0.0.0.0/0")),
        x509.IPAddress(IPv6Network("::/0")),
    ]


def test_every_type_of_name_is_constrained_where_only_addresses_are_routed() -> None:
    extension = Constraints.of_hosts(["::1", "10.0.0.1"]).extension()
    assert extension.permitted_subtrees == [
        x509.DNSName("invalid"),
        x509.IPAddress(IPv4Network("10.0.0.1/32")),
        x509.IPAddress(IPv6Network("::1/128")),
    ]
    assert extension.excluded_subtrees is None


def test_missing_names_the_hosts_as_written() -> None:
    constraints = Constraints.of_hosts(["a.example", "*.b.example"])
    hosts = ["a.example", "v1.a.example", "b.example", "*.b.example", "C.example", "*.example", "10.0.0.1"]
    assert constraints.missing(hosts) == ("C.example", "*.example", "10.0.0.1")
