"""Entra ID's codes in words."""

from __future__ import annotations

import pytest

from proxy.identity.aadsts import choose_code, explain, find_code, known_codes, parse_code


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


THUMBPRINT = "Thumbprint of key used by client: '977B10FB9D1C087E3105564B1D31B09D247BEBCD'"
FOUND_KEY = "Found key 'Start=02/07/2021 17:00:39, End=02/06/2026 17:00:39'"
VISIT = (
    "Please visit the Azure Portal, Graph Explorer or directly use MS Graph to see configured keys for app Id"
    " '00000000-0000-0000-0000-000000000000'. Review the documentation at https://docs.microsoft.com/en-us/graph/deployments to"
    " determine the corresponding service endpoint and"
    " https://docs.microsoft.com/en-us/graph/api/application-get?view=graph-rest-1.0&tabs=http to build a query request URL,"
    " such as 'https://graph.microsoft.com/beta/applications/00000000-0000-0000-0000-000000000000'"
)
SNI = (
    " Alternatively, SNI may be configured on the app. Please ensure that client assertion is being sent with the x5c claim in"
    " the JWT header using MSAL's WithSendX5C() method so that Azure Active Directory can validate the certificate being used."
)
LABELS = (
    " Trace ID: 62d60ed5-56c3-45a0-b960-93d4ec917d00 Correlation ID: 23f6c5a9-1ff9-4e6a-9dc8-b8b5fa539613"
    " Timestamp: 2021-10-29 10:23:09Z"
)
INVALID = "AADSTS700027: Client assertion contains an invalid signature."


# Whole texts as users have published them; ids changed.
@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param(
            f"{INVALID} [Reason - The provided signature value did not match the expected signature value., {THUMBPRINT},"
            f" {FOUND_KEY}, {VISIT}].{LABELS}",
            "another private key",
            id="signature did not match",
        ),
        pytest.param(
            f"{INVALID} [Reason - Key was found, but use of the key to verify the signature failed., {THUMBPRINT},"
            f" {FOUND_KEY}, {VISIT}].{LABELS}",
            "another private key",
            id="key found, signature failed",
        ),
        pytest.param(
            f"{INVALID} [Reason - The key was not found., {THUMBPRINT}, {VISIT}].{SNI}{LABELS}",
            "not registered",
            id="not found",
        ),
        pytest.param(
            f"{INVALID} [Reason - The key was not found., {THUMBPRINT}, Please visit"
            " 'https://developer.microsoft.com/en-us/graph/graph-explorer' and query for"
            " 'https://graph.microsoft.com/beta/applications/00000000-0000-0000-0000-000000000000' to see configured keys]\r\n"
            "Trace ID: c36d5a6e-a82a-49c5-9af1-a6e16de60a00\r\nTimestamp: 2020-05-27 10:00:00Z",
            "not registered",
            id="not found, older form",
        ),
        pytest.param(
            "AADSTS700027: The certificate with identifier used to sign the client assertion is expired on application."
            f" [Reason - The key used is expired., {THUMBPRINT}, {FOUND_KEY}, {VISIT}].{LABELS}",
            "has expired",
            id="expired",
        ),
        pytest.param(
            f"{INVALID} [Reason - The key used is expired. {THUMBPRINT}, {FOUND_KEY}].{LABELS}",
            "has expired",
            id="expired, without a comma",
        ),
        pytest.param(
            "AADSTS70002: Error validating credentials. AADSTS50012: Client assertion contains an invalid signature. [Reason - The"
            " key used is expired., Thumbprint of key used by client: 'C49C25705D60569884EDC91986CEF8A01A495783', Found key"
            " 'Start=08/03/2016, End=08/03/2017, Thumbprint=C39C25705D60569884EDC91986CEF8A01A4956D1', Configured keys:"
            " [Key0:Start=08/03/2016, End=08/03/2017, Thumbprint=C39C25705D60569884EDC91986CEF8A01A4956D1;]]\r\n"
            "Trace ID: e4d34f1c-a584-47f5-884e-1235026d5000",
            "has expired",
            id="expired, of 2017",
        ),
    ],
)
def test_a_reason_is_told_by_its_sentence_not_by_the_details_behind_it(text: str, word: str) -> None:
    """D5: the key that was found has a start and an end, and says nothing about why it was refused."""
    code = find_code(text)
    assert code is not None
    explanation = explain(code, text)

    assert explanation is not None
    assert word in explanation.cause


@pytest.mark.parametrize("code", [650052, 50105, 500014, 650056, 70002, 50012, 5000225, 90094])
def test_codes_that_users_have_met_are_explained(code: int) -> None:
    """D8."""
    assert explain(code) is not None


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


@pytest.mark.parametrize(
    ("codes", "chosen"),
    [
        ([70002, 50032], 50032),
        ([70002, 50012], 70002),
        ([50027, 70002], 50027),
        ([9, 700016], 700016),
        ([7], 7),
        ([], None),
    ],
)
def test_the_code_that_says_most_is_chosen(codes: list[int], chosen: int | None) -> None:
    assert choose_code(codes) == chosen


def test_an_unknown_code_has_no_explanation() -> None:
    assert explain(1) is None
