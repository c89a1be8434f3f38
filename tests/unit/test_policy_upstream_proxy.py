"""What an upstream proxy's URL means, what is exempt from it, and that its password shows nowhere."""

from __future__ import annotations

import base64

import pytest

from proxy.errors import ConfigurationError
from proxy.policy.authority import Authority
from proxy.policy.upstream_proxy import UpstreamProxies, UpstreamProxy, parse_exemption, parse_proxy_url


@pytest.mark.parametrize(
    ("text", "authority", "is_tls"),
    [
        ("http://proxy.corp:3128", Authority("proxy.corp", 3128), False),
        ("http://PROXY.corp/", Authority("proxy.corp", 80), False),
        ("HTTPS://proxy.corp", Authority("proxy.corp", 443), True),
        ("http://[::1]:8080", Authority("::1", 8080), False),
        ("http://10.1.2.3:3128", Authority("10.1.2.3", 3128), False),
    ],
)
def test_a_url_names_scheme_host_and_port(text: str, authority: Authority, is_tls: bool) -> None:
    assert parse_proxy_url(text) == UpstreamProxy(authority, is_tls)


@pytest.mark.parametrize(
    ("userinfo", "said"),
    [
        ("user:pass", b"user:pass"),
        ("user", b"user:"),
        ("user:", b"user:"),
        ("user:a:b@c/d", b"user:a:b@c/d"),
        ("dom%5Cuser:p%25%3A%C3%A9", "dom\\user:p%:é".encode()),
    ],
)
def test_user_and_password_become_basic_credentials(userinfo: str, said: bytes) -> None:
    proxy = parse_proxy_url(f"http://{userinfo}@proxy.corp:3128")
    assert proxy.authorization == b"Basic " + base64.b64encode(said)
    assert proxy.authority == Authority("proxy.corp", 3128)


def test_nothing_that_is_printed_holds_the_password() -> None:
    proxy = parse_proxy_url("http://user:hunter2@proxy.corp:3128")
    shown = f"{proxy} {proxy!r} {UpstreamProxies(proxy)!r}"
    for secret in ("hunter2", "user", base64.b64encode(b"user:hunter2").decode()):
        assert secret not in shown


@pytest.mark.parametrize(
    "text",
    ["", "proxy.corp:3128", "socks5://hunter2@proxy.corp", "http://", "http://hunter2@", "http://:hunter2@p.corp:1",
     "http://u:hunter2@p.corp:0", "http://u:hunter2@p.corp/path", "http://u:hunter2%0d%0aX:y@p.corp", "http://a%3ab:hunter2@p.corp",
     "http://u:hunter2@p.corp:99999", "http://u:hunter2@p corp"],
)  # fmt: skip
def test_other_urls_are_refused_without_repeating_them(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_proxy_url(text)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("entry", "host", "port", "is_covered"),
    [
        ("corp.example", "corp.example", 443, True),
        ("corp.example", "a.b.corp.example", 443, True),
        ("corp.example", "notcorp.example", 443, False),
        (".corp.example", "a.corp.example", 443, True),
        (".corp.example", "corp.example", 443, True),
        ("*.corp.example", "a.corp.example", 443, True),
        ("*.corp.example", "corp.example", 443, False),
        ("CORP.example", "corp.example", 443, True),
        ("corp.example:8443", "corp.example", 8443, True),
        ("corp.example:8443", "corp.example", 443, False),
        ("10.0.0.0/8", "10.9.8.7", 443, True),
        ("10.1.2.3/8", "10.9.8.7", 443, True),
        ("10.0.0.0/8", "11.0.0.1", 443, False),
        ("10.0.0.0/8", "ten.example", 443, False),
        ("10.1.2.3", "10.1.2.3", 443, True),
        ("10.1.2.3:80", "10.1.2.3", 443, False),
        ("::1", "::1", 443, True),
        ("[::1]:8443", "::1", 8443, True),
        ("fd00::/8", "fd12::1", 443, True),
        ("fd00::/8", "10.1.2.3", 443, False),
        ("*", "anything.example", 1, True),
        ("localhost", "localhost", 443, True),
    ],
)
def test_an_exemption_covers(entry: str, host: str, port: int, is_covered: bool) -> None:
    assert parse_exemption(entry).covers(host, port) is is_covered


@pytest.mark.parametrize("entry", ["", "*corp.example", "a.*.b", "10.0.0.0/33", "a b", "http://x", "host:99999", "-"])
def test_other_entries_are_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_exemption(entry)


TLS, PLAIN = parse_proxy_url("http://tls.corp:1"), parse_proxy_url("http://plain.corp:2")


def test_plain_http_and_everything_else_may_have_proxies_of_their_own() -> None:
    proxies = UpstreamProxies(TLS, PLAIN)
    assert proxies.choose(["api.example"], 443) == TLS
    assert proxies.choose(["api.example"], 80, is_plain=True) == PLAIN
    assert UpstreamProxies(None, PLAIN).choose(["api.example"], 443) is None


@pytest.mark.parametrize("hosts", [("10.1.2.3", "api.example"), ("api.example", "api.example")])
def test_a_connection_is_direct_where_what_is_dialled_or_whom_it_is_for_is_exempt(hosts: tuple[str, str]) -> None:
    proxies = UpstreamProxies(TLS, PLAIN, (parse_exemption("api.example"),))
    assert proxies.choose(hosts, 443) is None
    assert proxies.choose(("10.1.2.3", "other.example"), 443) == TLS


@pytest.mark.parametrize("host", ["169.254.169.254", "fe80::1"])
def test_link_local_addresses_are_always_reached_directly(host: str) -> None:
    assert UpstreamProxies(TLS, PLAIN).choose([host], 80, is_plain=True) is None


@pytest.mark.parametrize("url", ["http://proxy.corp:3128", "https://proxy.corp:3128"])
def test_a_proxy_is_shown_as_its_url(url: str) -> None:
    assert str(parse_proxy_url(url)) == url


def test_an_exemption_with_a_port_is_for_that_port_alone() -> None:
    proxy = parse_proxy_url("http://proxy.corp:3128")
    proxies = UpstreamProxies(proxy, exemptions=(parse_exemption("example.com:8443"), parse_exemption("192.0.2.1:1")))
    assert proxies.choose(["example.com"], 8443) is None
    assert proxies.choose(["example.com"], 443) is proxy
    assert proxies.choose(["192.0.2.1"], 1) is None
    assert proxies.choose(["192.0.2.1"], 2) is proxy


def test_text_that_is_no_unicode_is_refused_like_any_other() -> None:
    """What the environment holds comes with surrogates where it is no UTF-8."""
    with pytest.raises(ConfigurationError, match="cannot be read"):
        parse_proxy_url("http://pr\udcffxy.corp")
    with pytest.raises(ConfigurationError, match="not a host"):
        parse_exemption("ex\udcffmple.com")
