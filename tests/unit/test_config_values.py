"""References to the environment, and addresses to listen on and to call."""

from __future__ import annotations

import pytest

from proxy.config.addresses import ListenAddress, parse_https_url, parse_listen_address, parse_origin
from proxy.config.environment import Substitution, substitute
from proxy.errors import ConfigurationError
from proxy.policy.authority import Authority

_ENVIRON = {"A": "1", "EMPTY": "", "NESTED": "${A}", "_b2": "2"}


@pytest.mark.parametrize(
    ("text", "expected", "replaced"),
    [
        ("plain", "plain", False),
        ("$A $ $$ {A}", "$A $ $$ {A}", False),
        ("${A}", "1", True),
        ("x${A}y${_b2}z", "x1y2z", True),
        ("${EMPTY}", "", True),
        ("${EMPTY:-default}", "default", True),
        ("${NO:-}", "", True),
        ("${NO:-a b:-c}", "a b:-c", True),
        ("${A:-default}", "1", True),
        ("${NESTED}", "${A}", True),
        ("$${A}", "${A}", False),
        ("$$${A}", "$${A}", False),
    ],
)
def test_references_are_replaced_once(text: str, expected: str, replaced: bool) -> None:
    assert substitute(text, _ENVIRON) == Substitution(expected, replaced, ())


@pytest.mark.parametrize("text", ["${", "${}", "${A", "${A-b}", "${1A}", "${A B}", "${A:b}", "${:-x}"])
def test_a_broken_reference_is_a_problem_and_never_kept(text: str) -> None:
    assert len(substitute(text, _ENVIRON).problems) == 1


def test_every_variable_that_is_not_set_is_named() -> None:
    problems = substitute("${X} ${A} ${Y}", _ENVIRON).problems
    assert [problem.split()[3] for problem in problems] == ["X", "Y"]


@pytest.mark.parametrize(
    ("text", "expected", "is_loopback"),
    [
        ("127.0.0.1:8080", ListenAddress("127.0.0.1", 8080), True),
        ("127.1.2.3:0", ListenAddress("127.1.2.3", 0), True),
        ("LOCALHOST:1", ListenAddress("localhost", 1), True),
        ("[::1]:8080", ListenAddress("::1", 8080), True),
        ("[::ffff:127.0.0.1]:8080", ListenAddress("127.0.0.1", 8080), True),
        ("0.0.0.0:8080", ListenAddress("0.0.0.0", 8080), False),  # noqa: S104 - not listened on
        ("[::]:8080", ListenAddress("::", 8080), False),
        ("[::ffff:0.0.0.0]:8080", ListenAddress("0.0.0.0", 8080), False),  # noqa: S104 - not listened on
        ("192.0.2.1:65535", ListenAddress("192.0.2.1", 65_535), False),
    ],
)
def test_listen_addresses_are_canonical_and_know_who_reaches_them(
    text: str, expected: ListenAddress, is_loopback: bool
) -> None:
    address = parse_listen_address(text)
    assert address == expected
    assert address.is_loopback is is_loopback
    assert parse_listen_address(str(address)) == address


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("127.0.0.1:80", "localhost:80", True),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:80", "0.0.0.0:80", True),
        ("127.0.0.1:80", "[::1]:80", False),
        ("[::]:80", "[::1]:80", True),
        ("[::]:80", "0.0.0.0:80", False),
    ],
)
def test_addresses_that_cannot_be_listened_on_together_are_known(one: str, other: str, overlap: bool) -> None:
    first, second = parse_listen_address(one), parse_listen_address(other)
    assert first.overlaps(second) is overlap
    assert second.overlaps(first) is overlap


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://api.contoso.com", Authority("api.contoso.com", 443)),
        ("HTTPS://API.contoso.com:8443/", Authority("api.contoso.com", 8443)),
        ("https://[::1]:1", Authority("::1", 1)),
    ],
)
def test_an_origin_is_a_host_and_a_port(text: str, expected: Authority) -> None:
    assert parse_origin(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "api.contoso.com",
        "//api.contoso.com",
        "http://api.contoso.com",
        "https://",
        "https:///",
        "https://api.contoso.com/x",
        "https://api.contoso.com//",
        "https://api.contoso.com?",
        "https://api.contoso.com#",
        "https://a@api.contoso.com",
        "https://api.contoso.com\\@evil.example",
        "https://api.contoso.com:x",
        "https://api.contoso.com\n",
        "https://bücher.example",
    ],
)
def test_what_is_more_or_less_than_an_https_origin_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_origin(text)


def test_a_token_endpoint_may_have_a_path_and_a_query() -> None:
    assert parse_https_url("https://login.example.com/oauth2/token?p=x") == Authority("login.example.com", 443)
