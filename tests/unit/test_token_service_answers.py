"""How long an answer to a gateway holds: never longer than its token may be sent."""

from __future__ import annotations

import json

import pytest

from proxy.errors import CredentialRejected, IdentityPlatformUnavailable, ProxyError, SecretRequired
from proxy.identity.access_token import create_access_token
from proxy.token_service.answers import authorize, issue, refuse_gateway, refuse_program

TOKEN = create_access_token("t", requested_at_mono=1_000.0, expires_in_s=3_600, refresh_in_s=None, jitter=0)


@pytest.mark.parametrize(
    ("now_mono", "expected"),
    [
        pytest.param(1_000.0, "max-age=1800, stale-if-error=1795", id="new"),
        pytest.param(1_000.9, "max-age=1799, stale-if-error=1795", id="rounded down"),
        pytest.param(2_800.0, "max-age=0, stale-if-error=1795", id="stale"),
        pytest.param(4_594.5, "max-age=0, stale-if-error=0", id="in its last second"),
    ],
)
def test_a_gateway_may_keep_a_token_until_it_may_no_longer_be_sent(now_mono: float, expected: str) -> None:
    answer = authorize(TOKEN, now_mono)
    assert answer.fields["Cache-Control"] == expected
    assert answer.fields["Authorization"] == "Bearer t"
    assert repr(answer) == "Response(status=200, closes=False)"
    fresh_s, more_s = (int(part.partition("=")[2]) for part in expected.split(", "))
    assert now_mono + fresh_s + more_s <= TOKEN.usable_until_mono


def test_a_program_is_told_when_the_token_may_no_longer_be_sent() -> None:
    found = json.loads(issue(TOKEN, 2_000.0, 1_800_000_000.7, resource="api://orders", client_id="c").content)
    assert found["expires_on"] == "1800002595"
    assert found["expires_in"] == 2_595


@pytest.mark.parametrize(
    ("error", "retry_after"),
    [
        pytest.param(IdentityPlatformUnavailable("Away.", retry_after_s=7), "7", id="as the platform says"),
        pytest.param(IdentityPlatformUnavailable("Away."), "1", id="where it says nothing"),
        pytest.param(CredentialRejected("No."), "1", id="refused"),
        pytest.param(SecretRequired("No."), None, id="not a matter of time"),
    ],
)
def test_a_gateway_is_told_when_to_come_again(error: ProxyError, retry_after: str | None) -> None:
    for form in (refuse_gateway, refuse_program):
        answer = form(error)
        assert answer.status == error.status
        assert answer.fields.get("Retry-After") == retry_after
        assert "Authorization" not in answer.fields
        assert answer.fields["Cache-Control"] == "no-store"
