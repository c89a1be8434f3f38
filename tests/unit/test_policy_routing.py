"""Which route an authority takes, and which patterns are refused or can never be reached."""

from __future__ import annotations

import itertools

import pytest

from proxy.errors import ConfigurationError
from proxy.policy.authority import Authority, parse_authority
from proxy.policy.routing import HostPattern, RouteTable, Shadowed, parse_host_pattern

_PATTERNS = (
    "api.contoso.com",
    "api.contoso.com:8443",
    "*.contoso.com",
    "*.apis.contoso.com",
    "*.contoso.com:8443",
    "10.1.2.3",
    "[::1]:9443",
)


def _table(*patterns: str) -> RouteTable:
    return RouteTable((parse_host_pattern(text), index) for index, text in enumerate(patterns))


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        pytest.param("api.contoso.com:443", "api.contoso.com", id="exact beats wildcard"),
        pytest.param("API.contoso.com.:443", "api.contoso.com", id="in any spelling"),
        pytest.param("api.contoso.com:8443", "api.contoso.com:8443", id="exact with port"),
        pytest.param("www.contoso.com:443", "*.contoso.com", id="wildcard"),
        pytest.param("a.b.contoso.com:443", "*.contoso.com", id="wildcard stands for several labels"),
        pytest.param("a.apis.contoso.com:443", "*.apis.contoso.com", id="longest wildcard"),
        pytest.param("a.b.apis.contoso.com:443", "*.apis.contoso.com", id="longest wildcard, several labels"),
        pytest.param("apis.contoso.com:443", "*.contoso.com", id="a wildcard's own domain is not below it"),
        pytest.param("www.contoso.com:8443", "*.contoso.com:8443", id="wildcard with port"),
        pytest.param("a.apis.contoso.com:8443", "*.contoso.com:8443", id="the port selects before the length"),
        pytest.param("[::ffff:10.1.2.3]:443", "10.1.2.3", id="address in another form"),
        pytest.param("[0::1]:9443", "[::1]:9443", id="IPv6"),
        pytest.param("contoso.com:443", None, id="the domain of a wildcard"),
        pytest.param("api.contoso.com:80", None, id="another port"),
        pytest.param("www.contoso.com:80", None, id="another port of a wildcard"),
        pytest.param("evilcontoso.com:443", None, id="same ending, other label"),
        pytest.param("api.contoso.com.evil.example:443", None, id="same beginning"),
        pytest.param("10.1.2.4:443", None, id="another address"),
        pytest.param("[::1]:443", None, id="address, another port"),
    ],
)
def test_the_most_specific_pattern_wins(authority: str, expected: str | None) -> None:
    found = _table(*_PATTERNS).find(parse_authority(authority.encode(), None))
    assert (None if found is None else _PATTERNS[found]) == expected


def test_a_host_is_named_whatever_the_port() -> None:
    table = RouteTable((parse_host_pattern(text), 0) for text in ("api.internal:8443", "*.apis.internal"))
    named = ("api.internal", "a.apis.internal", "a.b.apis.internal")
    assert all(table.names(host) for host in named)
    assert not any(table.names(host) for host in ("internal", "apis.internal", "x.api.internal", "xapi.internal"))


def test_the_order_of_patterns_changes_nothing() -> None:
    patterns = ("api.contoso.com", "*.contoso.com", "*.apis.contoso.com")
    for order in itertools.permutations(patterns):
        table = _table(*order)
        for host, expected in (("api.contoso.com", 0), ("x.contoso.com", 1), ("x.apis.contoso.com", 2)):
            found = table.find(Authority(host, 443))
            assert found is not None
            assert order[found] == patterns[expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Api.Contoso.com.", HostPattern(Authority("api.contoso.com", 443))),
        ("*.Contoso.com:8443", HostPattern(Authority("contoso.com", 8443), is_wildcard=True)),
        ("*.bücher.example", HostPattern(Authority("xn--bcher-kva.example", 443), is_wildcard=True)),
        ("[::FFFF:10.1.2.3]:1", HostPattern(Authority("10.1.2.3", 1))),
    ],
)
def test_a_pattern_is_canonical_and_written_as_it_can_be_read(text: str, expected: HostPattern) -> None:
    pattern = parse_host_pattern(text)
    assert pattern == expected
    assert parse_host_pattern(str(pattern)) == pattern


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("https://api.contoso.com", "scheme", id="URL"),
        pytest.param("api.contoso.com/orders", "path", id="path"),
        pytest.param("*", "whole labels", id="star alone"),
        pytest.param("*.", "no host", id="star and dot"),
        pytest.param("*.*.contoso.com", "whole labels", id="two stars"),
        pytest.param("api.*.com", "whole labels", id="star inside"),
        pytest.param("*api.contoso.com", "whole labels", id="star for part of a label"),
        pytest.param("*.10.1.2.3", "IP address", id="star before an address"),
        pytest.param("*.[::1]", "IP address", id="star before an IPv6 address"),
        pytest.param("", "no host", id="empty"),
        pytest.param("api.contoso.com:https", "port", id="port by name"),
        pytest.param("user@api.contoso.com", "user information", id="userinfo"),
        pytest.param("api contoso", "DNS name", id="space"),
        pytest.param("127.1", "four decimal", id="short IPv4"),
        pytest.param("a\udc80", "internationalised", id="lone surrogate"),
        pytest.param("a\ud800", "internationalised", id="lone high surrogate"),
    ],
)
def test_a_pattern_that_could_be_misread_is_refused(text: str, word: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_host_pattern(text)
    assert word in caught.value.detail


def test_patterns_that_can_never_be_reached_are_named_with_what_hides_them() -> None:
    table = _table("api.contoso.com", "*.contoso.com", "API.contoso.com:443", "*.contoso.com.", "*.contoso.com:8443")
    assert table.shadowed() == [
        Shadowed(parse_host_pattern("api.contoso.com"), index=2, by=0),
        Shadowed(parse_host_pattern("*.contoso.com"), index=3, by=1),
    ]
    assert table.find(Authority("api.contoso.com", 443)) == 0


def test_a_host_listed_twice_for_one_index_is_named_too() -> None:
    pattern = parse_host_pattern("api.contoso.com")
    assert RouteTable([(pattern, 7), (pattern, 7)]).shadowed() == [Shadowed(pattern, 7, 7)]
