"""Entra ID's codes in words."""

from __future__ import annotations

import pytest

from proxy.identity.aadsts import explain, find_code, known_codes, parse_code


def test_at_least_45_codes_are_explained_each_with_cause_and_fix() -> None:
    assert len(known_codes()) >= 45
    for code in known_codes():
        explanation = explain(code)
        assert explanation is not None
        assert explanation.code == code
        assert len(explanation.cause) > 15
        assert len(explanation.fix) > 15
        assert explanation.cause.endswith(".")


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (700027, "upload"),
        (700024, "clock"),
        (700016, "Application (client) ID"),
        (7000229, "az ad sp create"),
        (1002012, "/.default"),
        (500011, "Application ID URI"),
        (501051, "app role"),
        (7000222, "certificate"),
        (90002, "tenant_id"),
        (53003, "Conditional Access"),
        (5002730, "RS256"),
    ],
)
def test_the_fix_names_what_to_do(code: int, word: str) -> None:
    explanation = explain(code)

    assert explanation is not None
    assert word in explanation.fix


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("The key was not found.", "not registered"),
        ("Client assertion contains an invalid signature.", "another private key"),
        ("The key used is expired.", "expired"),
        ("The key used has a start in the future.", "not valid yet"),
        ("RSA key size 1024 is less than 2048.", "shorter than 2048"),
        ("something new", "could not verify"),
    ],
)
def test_the_variants_of_700027_are_told_apart_by_the_platforms_reason(reason: str, word: str) -> None:
    explanation = explain(700027, f"AADSTS700027: The assertion failed. [Reason - {reason}, Thumbprint of key: '00AA']")

    assert explanation is not None
    assert word in explanation.cause


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("AADSTS700027", 700027),
        ("aadsts7000222", 7000222),
        ("90002", 90002),
        (" 90002 ", 90002),
        ("AADSTS", None),
        ("https://api.example.com", None),
        ("123", None),
        ("1234567890", None),
        ("٧٠٠٠٢٧", None),
    ],
)
def test_a_code_is_read_from_what_people_type(text: str, code: int | None) -> None:
    assert parse_code(text) == code


def test_a_code_is_found_inside_a_page() -> None:
    assert find_code("<html>Sorry: AADSTS90013: Invalid input</html>") == 90013
    assert find_code("nothing here") is None


def test_an_unknown_code_has_no_explanation() -> None:
    assert explain(1) is None
