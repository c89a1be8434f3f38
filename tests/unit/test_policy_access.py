"""Who a client is, what it may do, and how a password is judged."""

from __future__ import annotations

import base64
import hashlib
from ipaddress import ip_address, ip_network

import pytest

from proxy.errors import ClientError, ClientRefused, ProxyAuthenticationRequired
from proxy.policy.access import (
    THIS_MACHINE,
    Client,
    PasswordClaim,
    Peer,
    certificate_names,
    is_this_machine,
    parse_basic,
    parse_peer_address,
    place,
    recognise,
)
from proxy.policy.authority import parse_authority
from proxy.policy.local_names import is_local_name
from proxy.policy.passwords import PasswordHash, hash_password, parse_password_hash
from proxy.policy.rate import TokenBucket

LIGHT = PasswordHash(1, 1, 1, b"0123456789abcdef", b"k" * 32)
BATCH = Client("batch", networks=(ip_network("10.1.0.0/16"),), password=LIGHT)
OFFICE = Client("office", networks=(ip_network("10.1.2.0/24"), ip_network("fd00::/8")))
LOCAL = Client("local", users=frozenset({1001}))
REPORTS = Client("reports", certificate_names=frozenset({"reports.contoso.com"}))
ANYWHERE = Client("anywhere", password=LIGHT)
EVERY = (BATCH, OFFICE, LOCAL, REPORTS, ANYWHERE)


def at(address: str) -> Peer:
    return Peer(parse_peer_address(address))


def basic(text: str) -> bytes:
    return b"Basic " + base64.b64encode(text.encode())


@pytest.mark.parametrize(
    ("peer", "names"),
    [
        pytest.param(at("10.1.2.3"), ["batch", "office", "anywhere"], id="in two networks"),
        pytest.param(at("::ffff:10.1.9.9"), ["batch", "anywhere"], id="IPv4 as IPv6"),
        pytest.param(at("fd00::1%eth0"), ["office", "anywhere"], id="IPv6 with a zone"),
        pytest.param(at("192.0.2.1"), ["anywhere"], id="elsewhere"),
        pytest.param(Peer(user=1001), ["local", "anywhere"], id="a Unix user"),
        pytest.param(Peer(user=1002), ["anywhere"], id="another Unix user"),
        pytest.param(Peer(), ["anywhere"], id="nothing known"),
        pytest.param(
            Peer(ip_address("192.0.2.1"), None, frozenset({"reports.contoso.com", "x"})),
            ["reports", "anywhere"],
            id="a certificate",
        ),
    ],
)
def test_a_client_is_known_by_all_that_its_entry_names(peer: Peer, names: list[str]) -> None:
    assert [client.name for client in EVERY if client.fits(peer)] == names


def test_an_entry_that_names_nothing_fits_nobody() -> None:
    assert not Client("nobody").fits(at("127.0.0.1"))


def test_an_entry_with_two_marks_needs_both() -> None:
    both = Client("both", networks=(ip_network("10.0.0.0/8"),), certificate_names=frozenset({"a"}))
    assert not both.fits(Peer(ip_address("10.0.0.1")))
    assert not both.fits(Peer(ip_address("192.0.2.1"), None, frozenset({"a"})))
    assert both.fits(Peer(ip_address("10.0.0.1"), None, frozenset({"a"})))


def test_without_credentials_the_first_entry_without_a_password_is_meant() -> None:
    assert recognise([BATCH, OFFICE, LOCAL], None) is OFFICE


def test_credentials_are_ignored_where_no_entry_has_a_password() -> None:
    assert recognise([OFFICE], basic("office:anything")) is OFFICE


def test_credentials_are_judged_even_where_none_are_needed() -> None:
    """A client that says who it is wants to be that one: its limits and its name in the log are that one's."""
    assert recognise([OFFICE, BATCH], basic("batch:secret")) == PasswordClaim(BATCH, b"secret")


def test_an_unknown_name_is_a_claim_like_a_known_one() -> None:
    assert recognise([BATCH], basic("nobody:secret")) == PasswordClaim(None, b"secret")


def test_a_name_without_a_password_is_none_to_log_in_with() -> None:
    assert recognise([OFFICE, BATCH], basic("office:secret")) == PasswordClaim(None, b"secret")


def test_where_only_passwords_are_left_one_is_asked_for() -> None:
    with pytest.raises(ProxyAuthenticationRequired) as raised:
        recognise([BATCH, ANYWHERE], None)
    assert raised.value.status == 407


def test_whom_no_entry_fits_is_refused_without_being_asked() -> None:
    with pytest.raises(ClientRefused) as raised:
        recognise([], basic("batch:secret"))
    assert raised.value.status == 403


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (basic("batch:secret"), ("batch", b"secret")),
        (basic("batch:a:b:c"), ("batch", b"a:b:c")),
        (b"BASIC " + base64.b64encode(b"n:p"), ("n", b"p")),
        (basic("batch:"), ("batch", b"")),
        (basic("bätch:sécret"), ("bätch", "sécret".encode())),
    ],
)
def test_basic_credentials_are_read(field: bytes, expected: tuple[str, bytes]) -> None:
    assert parse_basic(field) == expected


@pytest.mark.parametrize(
    "field",
    [
        b"",
        b"Basic",
        b"Basic ",
        b"Bearer abc",
        b"Basic ***",
        b"Basic " + base64.b64encode(b"no-colon"),
        b"Basic " + base64.b64encode(b"\xff\xfe:x"),
        b"Basic " + base64.b64encode(b"n:" + b"p" * 2_000),
        b"Basic " + base64.b64encode(b"n:p") + b" trailing",
    ],
)
def test_other_credentials_are_refused_without_repeating_them(field: bytes) -> None:
    with pytest.raises(ProxyAuthenticationRequired) as raised:
        parse_basic(field)
    encoded = field.partition(b" ")[2].decode("latin-1")
    assert not encoded or encoded not in raised.value.detail


def test_each_refusal_has_a_code_of_its_own() -> None:
    """`explain` and scripts go by it."""
    codes = []
    for refuse in (
        lambda: recognise([], None),
        lambda: recognise([ANYWHERE], None),
        lambda: parse_basic(b"Bearer abc"),
        lambda: parse_basic(b"Basic ***"),
        lambda: Client("c", routes=frozenset()).check_route("api.example.com"),
    ):
        with pytest.raises(ClientError) as raised:
            refuse()
        codes.append(raised.value.code)
    assert codes == ["unknown_client", "no_credentials", "not_basic", "malformed_credentials", "route_not_allowed"]


def test_credentials_are_bounded() -> None:
    """They are decoded and hashed for whoever sends them."""
    longest = base64.b64encode(b"n:" + b"p" * 766)
    assert len(longest) == 1_024
    assert parse_basic(b"Basic " + longest) == ("n", b"p" * 766)
    with pytest.raises(ProxyAuthenticationRequired):
        parse_basic(b"Basic " + base64.b64encode(b"n:" + b"p" * 767))


@pytest.mark.parametrize("field", [b"Basic \tbjpw", b"Basic bjpw\n"])
def test_no_blank_but_spaces_stands_around_credentials(field: bytes) -> None:
    with pytest.raises(ProxyAuthenticationRequired):
        parse_basic(field)


def test_an_unknown_name_takes_as_long_as_a_known_one() -> None:
    """The claim carries a hash that costs the same, so that time does not tell who there is."""
    claim = recognise([ANYWHERE], basic("nobody:secret"))
    assert isinstance(claim, PasswordClaim)
    assert claim.client is None
    assert claim.like is LIGHT
    assert claim.name == "nobody"


@pytest.mark.parametrize(
    ("text", "counted_by"),
    [
        ("127.0.0.1", THIS_MACHINE),
        ("::1", THIS_MACHINE),
        ("::ffff:127.0.0.1", THIS_MACHINE),
        ("unix", THIS_MACHINE),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
    ],
)
def test_wrong_passwords_are_counted_by_place(text: str, counted_by: str) -> None:
    assert place(text) == counted_by
    assert is_this_machine(text) == (counted_by is THIS_MACHINE)


def test_a_client_keeps_to_its_routes() -> None:
    client = Client("c", routes=frozenset({"api.example.com"}))
    client.check_route("api.example.com")
    for route in ("other.example.com", "-"):
        with pytest.raises(ClientRefused, match="may not use that host"):
            client.check_route(route)


def test_names_of_a_certificate_are_its_common_name_and_alternative_names() -> None:
    certificate = {
        "subject": ((("organizationName", "Contoso"),), (("commonName", "Reports"),)),
        "subjectAltName": (
            ("DNS", "Reports.contoso.com"),
            ("URI", "spiffe://contoso/reports"),
            ("email", "a@contoso.com"),
            ("IP Address", "10.0.0.1"),
        ),
    }
    assert certificate_names(certificate) == {
        "reports",
        "reports.contoso.com",
        "spiffe://contoso/reports",
        "a@contoso.com",
    }
    assert certificate_names(None) == certificate_names({}) == frozenset()


def test_a_password_is_right_or_wrong() -> None:
    stored = parse_password_hash(str(hash_password(b"secret", b"0123456789abcdef")))
    assert stored.verify(b"secret")
    assert not stored.verify(b"Secret")
    assert not stored.verify(b"")


def test_a_hash_from_elsewhere_is_understood() -> None:
    """RFC 7914 §12, third test vector, in the PHC string format."""
    text = (
        "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU"
        "$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofLVQylVYT8Pz2LUlwUkKpr55h6F3A1lHkDfzwF7RVdYhw"
    )
    stored = parse_password_hash(text)
    assert stored.verify(b"pleaseletmein")
    assert not stored.verify(b"pleaseletmeout")
    assert str(stored) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "$2b$12$abcdefghijklmnopqrstuv",
        "$scrypt$ln=14,r=8,p=5$c2FsdHNhbHQ$short",
        "$scrypt$ln=30,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
        "$scrypt$ln=14,r=8,p=99$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
    ],
)
def test_a_hash_that_is_none_or_costs_too_much_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="hash") as raised:
        parse_password_hash(text)
    assert not text or text not in str(raised.value)


SALT_AND_KEY = "$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"


@pytest.mark.parametrize(
    ("parameters", "is_taken"),
    [
        ("ln=18,r=8,p=1", True),  # 256 MiB
        ("ln=18,r=9,p=1", False),
        ("ln=19,r=8,p=1", False),
        ("ln=14,r=8,p=16", True),
        ("ln=14,r=8,p=17", False),
    ],
)
def test_what_a_hash_may_cost_ends_at_256_mib_and_16_rounds(parameters: str, is_taken: bool) -> None:
    text = f"$scrypt${parameters}{SALT_AND_KEY}"
    if is_taken:
        assert str(parse_password_hash(text)) == text
        return
    with pytest.raises(ValueError, match="too much memory or time"):
        parse_password_hash(text)


def test_a_hash_of_another_length_is_compared_whole() -> None:
    """The derived key is as long as the stored one."""
    stored = parse_password_hash(f"$scrypt$ln=1,r=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg${'A' * 86}")
    assert len(stored.key) == 64
    derived = hashlib.scrypt(b"secret", salt=b"0123456789abcdef", n=2, r=1, p=1, dklen=64)
    assert PasswordHash(1, 1, 1, b"0123456789abcdef", derived).verify(b"secret")


def test_a_damaged_hash_is_told_apart_and_not_repeated() -> None:
    text = "$scrypt$ln=14,r=8,p=1$MDEyMzQ1Njc4O$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"
    with pytest.raises(ValueError, match=r"^the password hash is damaged; `apim-auth-proxy client add NAME`"):
        parse_password_hash(text)


def test_nothing_shows_a_hash_or_a_password() -> None:
    stored = hash_password(b"secret", b"0123456789abcdef")
    shown = repr(stored) + repr(Client("c", password=stored)) + repr(PasswordClaim(None, b"secret"))
    assert "secret" not in shown
    assert str(stored).rpartition("$")[2] not in shown


def test_a_bucket_gives_a_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(per_s=2, burst=3, now=100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [0, 0, 0, 1]
    assert bucket.take(100.4) == 1
    assert bucket.take(100.5) == 0
    assert bucket.take(100.5) == 1
    assert [bucket.take(200.0) for _ in range(4)] == [0, 0, 0, 1]


def test_a_bucket_says_how_long_to_wait_and_takes_nothing_for_it() -> None:
    bucket = TokenBucket(per_s=0.1, burst=1, now=0.0)
    assert bucket.wait_s(0.0) == 0
    assert bucket.take(0.0) == 0
    assert bucket.wait_s(0.0) == 10
    assert bucket.wait_s(9.5) == 1
    assert bucket.take(10.0) == 0


def test_a_bucket_gives_nothing_to_a_clock_that_goes_back() -> None:
    bucket = TokenBucket(per_s=1, burst=1, now=10.0)
    assert bucket.take(10.0) == 0
    assert bucket.take(5.0) == 1
    assert bucket.take(5.5) == 1


def test_a_bucket_takes_back_what_was_taken_for_nothing_and_no_more_than_it_holds() -> None:
    bucket = TokenBucket(per_s=1, burst=2, now=0.0)
    assert [bucket.take(0.0) for _ in range(3)] == [0, 0, 1]
    bucket.give_back()
    assert [bucket.take(0.0) for _ in range(2)] == [0, 1]
    for _ in range(5):
        bucket.give_back()
    assert [bucket.take(0.0) for _ in range(3)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("printer", True),
        ("localhost", True),
        ("a.localhost", True),
        ("orders.shop.svc", True),
        ("orders.shop.svc.cluster.local", True),
        ("a.internal", True),
        ("192.0.2.1", True),
        ("[2001:db8::1]", True),
        ("example.com", False),
        ("internal.example.com", False),
        ("local.example", False),
        ("testing.example", False),
    ],
)
def test_a_name_that_nobody_on_the_internet_can_own_is_local(host: str, is_local: bool) -> None:
    assert is_local_name(parse_authority(host.encode(), 443)) is is_local
