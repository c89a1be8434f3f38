"""Whatever the product can print has an explanation, and the page that is made of the table is up to date (E7, F15)."""

from __future__ import annotations

import fnmatch
import functools
import re
from pathlib import Path
from typing import Final

import pytest

import proxy.server  # noqa: F401  # every class of the error tree is defined below it
from proxy.errors import ConfigurationError, ProxyError
from proxy.explanations.codes import (
    CLIENT_CODES,
    CODES,
    CONNECTION_CODES,
    IDENTITY_LISTENER_CODES,
    OAUTH_CODES,
    OUTCOMES,
    TOKEN_CODES,
)
from proxy.explanations.lookup import advise, find_entries, find_entry, find_symptoms, similar_codes
from proxy.explanations.page import format_page
from proxy.explanations.statuses import STATUSES
from proxy.explanations.symptoms import SYMPTOMS
from proxy.identity.token_response import _OAUTH_ERRORS, _PASSING_ERRORS
from tests.codes_in_source import Found, collect_codes, product_sources

PAGE: Final = Path(__file__).parent.parent / "docs" / "troubleshooting.md"
ENTRIES: Final = [*CODES.values(), *STATUSES.values()]


@functools.cache
def found_in_source() -> Found:
    """Takes seconds, which each test process would spend before its first test."""
    return collect_codes(product_sources())


def kinds(kind: type[ProxyError] = ProxyError) -> set[type[ProxyError]]:
    return {kind}.union(*(kinds(below) for below in kind.__subclasses__()))


def has_entry(code: str) -> bool:
    return code == "AADSTS*" or any(fnmatch.fnmatchcase(known.replace("NNN", "500"), code) for known in CODES)


def test_every_code_in_the_source_has_an_explanation() -> None:
    """E7: an entry in proxy/explanations/codes.py is missing for what this names."""
    missing = {code: places for code, places in found_in_source().codes.items() if not has_entry(code)}
    assert missing == {}
    assert len(found_in_source().codes) > 50


def test_every_code_is_written_where_it_can_be_found() -> None:
    """E7: write the code as a text, or say in PASSED_ON of tests/codes_in_source.py where it comes from."""
    assert found_in_source().unclear == []


def test_every_error_token_and_status_of_our_own_has_an_explanation() -> None:
    seen = {kind for kind in kinds() if not issubclass(kind, ConfigurationError)}
    assert {kind.proxy_status for kind in seen} <= set(CODES)
    assert {kind.default_code for kind in seen} - {""} <= set(CODES)
    assert {str(kind.status) for kind in seen} <= set(STATUSES)


def test_every_oauth_error_that_has_words_has_an_explanation() -> None:
    assert {*_OAUTH_ERRORS, *_PASSING_ERRORS} <= set(CODES)


def test_no_code_is_explained_twice() -> None:
    codes = [
        entry.code
        for table in (OUTCOMES, CLIENT_CODES, CONNECTION_CODES, IDENTITY_LISTENER_CODES, TOKEN_CODES, OAUTH_CODES)
        for entry in table
    ]
    assert sorted(codes) == sorted(CODES)


def test_no_entry_outlives_its_code() -> None:
    """An entry whose code nothing prints any more goes, too."""
    tokens = {word for kind in kinds() for word in (kind.proxy_status, kind.default_code)}
    elsewhere = {*_OAUTH_ERRORS, *_PASSING_ERRORS, "expires_in_clamped", "other"}
    idle = [
        code
        for code in CODES
        if code not in tokens | elsewhere
        and not any(fnmatch.fnmatchcase(code.replace("NNN", "500"), found) for found in found_in_source().codes)
    ]
    assert idle == []


@pytest.mark.parametrize("entry", [*ENTRIES, *SYMPTOMS], ids=lambda entry: f"{entry[0]} {entry[1]}"[:60])
def test_an_explanation_is_in_whole_sentences(entry: tuple[str, ...]) -> None:
    for sentences in entry[-2:]:
        assert re.search(r"[^.]\.\Z", sentences)


@pytest.mark.parametrize(
    ("source", "codes"),
    [
        ('raise X("…", code="new_code")', {"new_code"}),
        ('code = "a_b" if x else f"http_{n}"\nfail(code=code)', {"a_b", "http_*"}),
        ('class A:\n  def f(self, outcome: str): ...\n  def g(self): self.f("cut_off")', {"cut_off"}),
        ('T = ((b"x", "some_code"),)\ndef f(raw):\n  for start, code in T:\n    raise X(code=code)', {"some_code"}),
        ('class R(NamedTuple):\n  at: float\n  code: str\nR(1.0, "of_record")', {"of_record"}),
    ],
)
def test_the_collection_finds_a_new_code(source: str, codes: set[str]) -> None:
    assert set(collect_codes([("module.py", source)]).codes) == codes


def test_the_collection_says_what_it_cannot_follow() -> None:
    assert collect_codes([("module.py", "raise X(code=somewhere())")]) == Found({}, ["module.py:1: somewhere()"])


def test_the_page_is_up_to_date() -> None:
    """Run `make troubleshooting` after a change of the table."""
    assert PAGE.read_text(encoding="utf-8") == format_page()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("client_distrusts_ca", "CLIENT_DISTRUSTS_CA"),
        ("Name_Not_Resolved", "name_not_resolved"),
        ("upstream_proxy_407", "upstream_proxy_407"),
        ("upstream_proxy_502", "upstream_proxy_502"),
        ("http_503", "http_503"),
        ("401", "401"),
    ],
)
def test_a_code_is_found_as_people_write_it(text: str, code: str) -> None:
    found = find_entry(text)
    assert found is not None
    assert found.code == code


def test_what_is_no_code_has_no_entry() -> None:
    assert find_entry("599") is None
    assert find_entry("nonsense") is None
    assert find_entries("rate 401 ok") == []
    assert similar_codes("client_distrust_ca") == ["CLIENT_DISTRUSTS_CA"]


def test_a_pasted_line_is_searched_for_codes() -> None:
    line = 'Proxy-Status: apim-auth-proxy; error=destination_unavailable; details="name_not_resolved"'
    assert [entry.code for entry in find_entries(line)] == ["destination_unavailable", "name_not_resolved"]


def test_a_message_is_found_in_what_surrounds_it() -> None:
    found = find_symptoms("curl: (56) CONNECT tunnel failed, response 403\n")
    assert "curl" in [symptom.program for symptom in found]


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("curl: (60) SSL certificate problem: self-signed certificate in certificate chain", "curl"),
        ("curl: (60) SSL certificate problem: self signed certificate in certificate chain", "curl"),
        ("curl: (60) schannel: SEC_E_UNTRUSTED_ROOT (0x80090325) - The certificate chain was issued by", "curl"),
        ("curl: (7) Failed to connect to 127.0.0.1 port 28081 after 0 ms: Couldn't connect to server", "curl"),
        ("curl: (97) Received invalid version in initial SOCKS5 response.", "curl"),
        ("curl: (97) connection to proxy closed; SOCKS4: Failed receiving", "curl"),
        ('{ "statusCode": 401, "message": "JWT not present." }', "any program"),
        ('{ "statusCode": 401, "message": "Invalid JWT." }', "any program"),
        ('{ "statusCode": 401, "message": "Unauthorized. Access token is missing or invalid." }', "any program"),
    ],
)
def test_a_message_is_explained_first_for_whom_it_holds(text: str, program: str) -> None:
    found = find_symptoms(text)
    assert found
    assert found[0].program == program


def test_a_401_of_the_gateway_is_not_taken_for_a_missing_token() -> None:
    """The message that nearly every policy has hides whether a token was missing or not accepted: both are looked into."""
    found = find_symptoms("Unauthorized. Access token is missing or invalid.")[0]
    assert "does not accept" in found.cause
    assert "access log" in found.fix
    assert "--claims" in found.fix


@pytest.mark.parametrize(
    ("exchange", "code"),
    [
        ((502, "destination_unavailable", "name_not_resolved"), "name_not_resolved"),
        ((502, "destination_unavailable", "unheard_of"), "destination_unavailable"),
        ((408, "http_request_error", ""), "408"),
        ((0, "tls_alert_received", "CLIENT_DISTRUSTS_CA"), "CLIENT_DISTRUSTS_CA"),
        ((504, "http_response_timeout", ""), "http_response_timeout"),
    ],
)
def test_an_exchange_has_the_advice_that_says_most(exchange: tuple[int, str, str], code: str) -> None:
    found = advise(*exchange)
    assert found is not None
    assert found.code == code
