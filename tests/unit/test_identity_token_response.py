"""What a token endpoint's answers mean, whatever their shape."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import CredentialRejected, IdentityError, IdentityPlatformUnavailable
from proxy.identity.aadsts import explain
from proxy.identity.token_response import (
    Answer,
    ClientThrottled,
    EndpointOverloaded,
    ProofRejected,
    Refusal,
    TokenResponse,
    parse_answer,
    parse_date,
    parse_retry_after,
    read_refusal,
    sanitise,
)

NOW = 1_780_000_000.0
DATE = "Thu, 28 May 2026 20:26:40 GMT"  # NOW as an HTTP-date.
GOOD: dict[str, object] = {
    "token_type": "Bearer",
    "expires_in": 3599,
    "ext_expires_in": 3599,
    "access_token": "abc.def",
}


def _answer(members: object = None, status: int = 200, **fields: str) -> Answer:
    content = members if isinstance(members, bytes) else json.dumps(members).encode()
    return Answer(status, content, fields.get("retry_after"), fields.get("date"))


def _parse(answer: Answer) -> TokenResponse:
    return parse_answer(answer, now_at=NOW)


@pytest.mark.parametrize(
    ("changes", "life_s", "notes"),
    [
        pytest.param({}, 3599, (), id="v2_number"),
        pytest.param({"expires_in": "3599"}, 3599, (), id="v1_string"),
        pytest.param({"expires_in": " 3599 "}, 3599, (), id="string_with_blanks"),
        pytest.param({"expires_in": 3599.5}, 3599.5, (), id="fraction"),
        pytest.param({"token_type": "bearer"}, 3599, (), id="lower_case_type"),
        pytest.param({"token_type": "BEARER"}, 3599, (), id="upper_case_type"),
        pytest.param({"expires_in": 0.5}, 0.5, (), id="half_a_second"),
        pytest.param({"expires_in": 100_800}, 100_800, (), id="the_longest"),
        pytest.param({"expires_in": 100_801}, 100_800, ("expires_in_clamped",), id="over_the_longest"),
        pytest.param({"expires_in": 10**400}, 100_800, ("expires_in_clamped",), id="enormous"),
        pytest.param({"expires_in": None}, 300, ("expires_in_missing",), id="missing"),
        pytest.param({"expires_in": None, "expires_on": str(int(NOW) + 900)}, 900, (), id="v1_expires_on"),
        pytest.param({"expires_in": None, "expires_on": "soon"}, 300, ("expires_in_missing",), id="expires_on_rubbish"),
        pytest.param({"refresh_token": "ignored", "scope": "x"}, 3599, (), id="members_of_no_interest"),
    ],
)
def test_a_usable_answer_gives_a_token(changes: dict[str, object], life_s: float, notes: tuple[str, ...]) -> None:
    members = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}

    response = _parse(_answer(members, date=DATE))

    assert response == TokenResponse("abc.def", life_s, None, notes)
    assert "abc.def" not in repr(response)


@pytest.mark.parametrize(
    ("refresh_in", "expected"),
    [(1800, 1800), ("1800", 1800), (0.5, 0.5), (0, None), (-5, None), ("x", None), (True, None), (None, None)],
)
def test_refresh_in_is_taken_where_it_is_a_positive_number(refresh_in: object, expected: float | None) -> None:
    assert _parse(_answer({**GOOD, "refresh_in": refresh_in})).refresh_in_s == expected


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param({**GOOD, "token_type": "mac"}, "wrong_token_type", id="token_type"),
        pytest.param({**GOOD, "token_type": None}, "wrong_token_type", id="token_type_null"),
        pytest.param({"access_token": "x", "expires_in": 1}, "wrong_token_type", id="token_type_missing"),
        pytest.param({"token_type": "Bearer", "expires_in": 1}, "no_access_token", id="token_missing"),
        pytest.param({**GOOD, "access_token": ""}, "no_access_token", id="token_empty"),
        pytest.param({**GOOD, "access_token": 5}, "no_access_token", id="token_number"),
        pytest.param({**GOOD, "access_token": "a b"}, "token_not_sendable", id="token_with_blank"),
        pytest.param({**GOOD, "access_token": "a\r\nX: y"}, "token_not_sendable", id="token_with_crlf"),
        pytest.param({**GOOD, "access_token": "a\n"}, "token_not_sendable", id="token_with_last_newline"),
        pytest.param({**GOOD, "access_token": "a\x00"}, "token_not_sendable", id="token_with_nul"),
        pytest.param({**GOOD, "access_token": "tök"}, "token_not_sendable", id="token_not_ascii"),
        pytest.param({**GOOD, "access_token": "a" * 70_000}, "token_not_sendable", id="token_too_long"),
        pytest.param({**GOOD, "expires_in": -1}, "expires_in_invalid", id="life_negative"),
        pytest.param({**GOOD, "expires_in": 0}, "expires_in_invalid", id="life_zero"),
        pytest.param({**GOOD, "expires_in": "soon"}, "expires_in_invalid", id="life_text"),
        pytest.param({**GOOD, "expires_in": True}, "expires_in_invalid", id="life_boolean"),
        pytest.param({**GOOD, "expires_in": [1]}, "expires_in_invalid", id="life_list"),
        pytest.param(
            {"token_type": "Bearer", "access_token": "x", "expires_on": 5}, "expires_in_invalid", id="long_ago"
        ),
        pytest.param(
            b'{"token_type":"Bearer","access_token":"x","expires_in":NaN}', "expires_in_invalid", id="life_nan"
        ),
        pytest.param(b"", "malformed_answer", id="empty"),
        pytest.param(b"<html>Welcome to our network</html>", "malformed_answer", id="captive_portal"),
        pytest.param(b"{", "malformed_answer", id="cut"),
        pytest.param(b"\xff\xfe", "malformed_answer", id="not_utf8"),
        pytest.param(b"[" * 100_000, "malformed_answer", id="deep"),
        pytest.param([1], "malformed_answer", id="list"),
    ],
)
def test_a_success_that_cannot_be_used_is_the_platforms_fault(content: object, code: str) -> None:
    with pytest.raises(IdentityPlatformUnavailable) as caught:
        _parse(_answer(content))

    assert caught.value.code == code


def _entra(code: int, error: str, text: str | None = None, codes: list[int] | None = None) -> dict[str, object]:
    return {
        "error": error,
        "error_description": text
        or f"AADSTS{code}: It did not work.\r\nTrace ID: 1\r\nCorrelation ID: 2\r\nTimestamp: 3",
        "error_codes": codes or [code],
        "timestamp": "2026-05-28 20:26:40Z",
        "trace_id": "0f0f0f0f-1111-2222-3333-444444444444",
        "correlation_id": "2",
    }


@pytest.mark.parametrize(
    ("answer", "kind", "code", "words"),
    [
        pytest.param(
            _answer(_entra(700027, "invalid_client"), 401), ProofRejected, "AADSTS700027", "upload", id="unknown_key"
        ),
        pytest.param(
            _answer(_entra(7000222, "invalid_client"), 401), ProofRejected, "AADSTS7000222", "expired", id="secret"
        ),
        pytest.param(
            _answer(_entra(700024, "invalid_request"), 400), ProofRejected, "AADSTS700024", "clock", id="by_code"
        ),
        pytest.param(
            _answer(_entra(1, "invalid_client", codes=[70002, 50032]), 401),
            ProofRejected,
            "AADSTS50032",
            "2048",
            id="umbrella",
        ),
        pytest.param(
            _answer(_entra(700016, "unauthorized_client"), 400),
            CredentialRejected,
            "AADSTS700016",
            "client id",
            id="client",
        ),
        pytest.param(
            _answer(_entra(1002012, "invalid_scope"), 400), CredentialRejected, "AADSTS1002012", "/.default", id="scope"
        ),
        pytest.param(
            _answer(_entra(90002, "invalid_request"), 400),
            CredentialRejected,
            "AADSTS90002",
            "no such tenant",
            id="tenant",
        ),
        pytest.param(
            _answer(_entra(123456, "invalid_request"), 400),
            CredentialRejected,
            "AADSTS123456",
            "It did not work.",
            id="code_unknown",
        ),
        pytest.param(
            _answer(b"<html>AADSTS90013: Invalid</html>", 400),
            CredentialRejected,
            "AADSTS90013",
            "placeholder",
            id="html",
        ),
        pytest.param(
            _answer({"error": "invalid_client"}, 401),
            ProofRejected,
            "invalid_client",
            "registered certificate",
            id="rfc6749",
        ),
        pytest.param(
            _answer({"error": "invalid_client", "error_description": "bad proof"}, 401),
            ProofRejected,
            "invalid_client",
            "`assertion_audience`: many servers want their issuer's URL there",
            id="rfc6749, the audience is the likely cause",
        ),
        pytest.param(
            _answer({"error": "invalid_scope", "error_description": "no such scope"}, 400),
            CredentialRejected,
            "invalid_scope",
            "no such scope",
            id="text",
        ),
        pytest.param(_answer(b"not found", 404), CredentialRejected, "http_404", "token_endpoint", id="not_found"),
        pytest.param(_answer(b"", 407), CredentialRejected, "http_407", "is between it", id="corporate_proxy"),
        pytest.param(
            _answer({"error": ["x"], "error_description": 5, "error_codes": "y"}, 400),
            CredentialRejected,
            "http_400",
            "without",
            id="wrong_types",
        ),
        pytest.param(
            _answer({"error": "a\r\nb"}, 400), CredentialRejected, "http_400", "without", id="error_not_a_name"
        ),
        pytest.param(_answer(b"Too Many Requests", 429), ClientThrottled, "too_many_requests", "429", id="throttled"),
        pytest.param(
            _answer(_entra(90055, "temporarily_unavailable"), 400),
            IdentityPlatformUnavailable,
            "AADSTS90055",
            "throttled",
            id="passing_400",
        ),
        pytest.param(
            _answer(_entra(90033, "server_error"), 503),
            EndpointOverloaded,
            "AADSTS90033",
            "passing",
            id="passing_503",
        ),
        pytest.param(
            _answer({"error": "temporarily_unavailable"}, 400),
            IdentityPlatformUnavailable,
            "temporarily_unavailable",
            "400",
            id="passing_name",
        ),
        pytest.param(_answer(b"", 502), IdentityPlatformUnavailable, "http_502", "502", id="empty_502"),
        pytest.param(_answer(b"", 503), EndpointOverloaded, "http_503", "503", id="empty_503"),
        pytest.param(
            _answer(_entra(700016, "unauthorized_client"), 200),
            CredentialRejected,
            "AADSTS700016",
            "client id is not known",
            id="error_of_entra_under_200",
        ),
        pytest.param(
            _answer({"error": "invalid_client"}, 200), ProofRejected, "invalid_client", "200", id="error_under_200"
        ),
        pytest.param(
            _answer({"error": "temporarily_unavailable"}, 200),
            IdentityPlatformUnavailable,
            "temporarily_unavailable",
            "200",
            id="passing_under_200",
        ),
        pytest.param(_answer(b"", 302), IdentityPlatformUnavailable, "redirected", "never followed", id="redirect"),
        pytest.param(_answer(GOOD, 201), IdentityPlatformUnavailable, "malformed_answer", "201", id="created"),
    ],
)
def test_a_refusal_is_told_from_a_fault_and_explained(
    answer: Answer, kind: type[IdentityError], code: str, words: str
) -> None:
    """D8: an OAuth error keeps its code under every status."""
    with pytest.raises(IdentityError) as caught:
        _parse(answer)

    assert type(caught.value) is kind
    assert caught.value.code == code
    assert words in caught.value.detail


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("60", 60),
        (" 60 ", 60),
        ("0", 0),
        ("86400", 3_600),
        ("9" * 400, 3_600),
        ("Thu, 28 May 2026 20:27:10 GMT", 30),
        ("Thu, 28 May 2026 20:26:00 GMT", 0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("²", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_bounded(value: str | None, expected: int | None) -> None:
    assert parse_retry_after(value, NOW) == expected


def test_a_retry_after_date_is_measured_by_the_servers_own_clock() -> None:
    answer = Answer(429, b"", retry_after="Thu, 28 May 2026 20:27:40 GMT", date=DATE)

    with pytest.raises(IdentityPlatformUnavailable) as caught:
        parse_answer(answer, now_at=NOW - 7_200)

    assert caught.value.retry_after_s == 60


def test_no_error_repeats_what_was_sent_or_anything_like_a_token() -> None:
    token = "eyJ" + "a1" * 60
    answer = _answer({"error": "invalid_client", "error_description": f"bad secret s3cr3t in {token}\x1b[31m\n!"}, 401)

    with pytest.raises(ProofRejected) as caught:
        parse_answer(answer, now_at=NOW, secrets=("s3cr3t",))

    assert "s3cr3t" not in caught.value.detail
    assert token not in caught.value.detail
    assert caught.value.detail.isprintable()


def test_long_texts_are_cut() -> None:
    assert len(sanitise("word " * 1_000)) == 300


def test_dates_that_are_none_give_none() -> None:
    assert parse_date(DATE) == NOW
    for rubbish in (None, "", "x", "Thu, 99 May 2026 20:26:40 GMT", "28 May 2026 20:26:40"):
        assert parse_date(rubbish) is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)
_NAMES = [
    "token_type",
    "access_token",
    "expires_in",
    "expires_on",
    "refresh_in",
    "error",
    "error_description",
    "error_codes",
    "trace_id",
]


@given(
    status=st.integers(100, 599),
    content=st.binary(max_size=60)
    | st.dictionaries(st.sampled_from(_NAMES), _JSON | st.sampled_from(["Bearer", "3599", "AADSTS700027: x"])).map(
        lambda members: json.dumps(members).encode()
    ),
    retry_after=st.none() | st.text(max_size=12),
    date=st.none() | st.text(max_size=30),
)
def test_any_answer_gives_a_token_that_can_be_sent_or_an_identity_error(
    status: int, content: bytes, retry_after: str | None, date: str | None
) -> None:
    outcome: TokenResponse | IdentityError
    try:
        outcome = parse_answer(Answer(status, content, retry_after, date), now_at=NOW)
    except IdentityError as error:
        outcome = error
    if isinstance(outcome, IdentityError):
        assert outcome.retry_after_s is None or 0 <= outcome.retry_after_s <= 3_600
        assert outcome.code.isascii()
    else:
        assert 0 < outcome.expires_in_s <= 100_800
        assert all(0x21 <= byte <= 0x7E for byte in outcome.access_token.encode())


def test_the_longest_token_that_is_taken() -> None:
    assert _parse(_answer({**GOOD, "access_token": "a" * 65_536})).access_token == "a" * 65_536
    with pytest.raises(IdentityPlatformUnavailable):
        _parse(_answer({**GOOD, "access_token": "a" * 65_537}))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(
            {"error": "invalid_client", "error_description": "AADSTS700016: Application was not found."},
            700016,
            id="description",
        ),
        pytest.param({"error_codes": [700016], "error_description": "no code in it"}, 700016, id="error_codes"),
        pytest.param(b"<p>AADSTS700016: Application</p>", 700016, id="no_json"),
        pytest.param({"message": "AADSTS700016: passed on in another member"}, 700016, id="another_member"),
        pytest.param([1], None, id="a_list"),
        pytest.param(b"", None, id="nothing"),
        pytest.param({"error_description": 5}, None, id="a_number"),
        pytest.param(b"\xff AADSTS700016: \xff", 700016, id="not_utf8"),
        pytest.param(b" " * 65_536 + b"AADSTS700016: ", None, id="too_far_behind"),
    ],
)
def test_a_refusal_that_another_service_passes_on_is_read(content: object, expected: int | None) -> None:
    refusal = read_refusal(_answer(content, 400))
    assert refusal.code == expected
    if expected is None:
        assert refusal.explanation == ""
    else:
        known = explain(700016, "")
        assert known is not None
        assert refusal.explanation == f"{known.name}: {known.cause} {known.fix}"


def test_a_refusal_without_an_explanation_has_its_code_alone_and_a_passing_one_nothing() -> None:
    assert read_refusal(_answer({"error_codes": [999_999]}, 400)) == Refusal(999_999, "")
    passing = next(code for code in (90033, 50196, 90024, 90025) if (known := explain(code, "")) and known.passing)
    assert read_refusal(_answer({"error_codes": [passing]}, 400)) == Refusal(None, "")
