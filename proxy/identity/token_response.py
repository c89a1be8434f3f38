"""What a token endpoint's answer means: a token, a refusal, or a fault of the platform. Does no I/O.

Source: RFC 6749 §5.1, §5.2; Entra ID's shapes: numbers as strings (v1), HTML for some 400s, plain text for 429.

Invariants: any bytes give a `TokenResponse` or an `IdentityError`; neither shows a token, an assertion or a secret; a
token that could not stand in a field value, or that has no life left, is never returned.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from proxy.errors import CredentialRejected, IdentityError, IdentityPlatformUnavailable
from proxy.identity.aadsts import choose_code, explain, find_code

if TYPE_CHECKING:
    from collections.abc import Mapping

# The longest life Entra ID gives an app-only token (28 h with continuous access evaluation). A longer promise is cut to
# this, so that a mistake in one answer does not keep a token for years.
LONGEST_LIFE_S = 100_800.0
# RFC 6749 §5.1 lets a server leave expires_in out; five minutes is shorter than any life Entra ID can be set to.
ASSUMED_LIFE_S = 300.0
# Entra ID asks for 60 s. A longer wait than an hour is taken as an hour.
LONGEST_RETRY_AFTER_S = 3_600
# Servers in use take field lines of 8 to 64 KiB.
_TOKEN_LIMIT = 65_536
_DESCRIPTION_LIMIT = 300

_SENDABLE = re.compile(r"[\x21-\x7e]+\Z", re.ASCII)  # RFC 6749 A.12 less the space, as RFC 6750 §2.1.
_NUMBER = re.compile(r"\s*-?\d{1,15}(?:\.\d{1,9})?\s*\Z", re.ASCII)
_ERROR_NAME = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,64}\Z", re.ASCII)  # RFC 6749 §5.2
_TRACE_ID = re.compile(r"[0-9A-Fa-f-]{8,64}\Z", re.ASCII)
_LABELS = re.compile(r"\s*(?:Trace ID|Correlation ID|Timestamp)\s*:.*", re.DOTALL | re.IGNORECASE)
_LONG_RUN = re.compile(r"[A-Za-z0-9_\-+/=.~]{60,}")

# RFC 6749 §5.2, for token endpoints that give no code of their own.
_OAUTH_ERRORS = {
    # A client assertion's audience is the commonest trap: RFC 7523 §3 leaves it open which of its names a server insists on.
    "invalid_client": (
        "it does not accept the client id or its proof; check both, the registered certificate, and `assertion_audience`: many "
        "servers want their issuer's URL there and not the token endpoint's."
    ),
    "invalid_grant": "it does not accept the grant; check that the client may use client credentials.",
    "unauthorized_client": "the client may not use client credentials; allow that grant in its registration.",
    "unsupported_grant_type": "it does not know client credentials; check `token_endpoint`.",
    "invalid_scope": "it does not accept the scope; check the route's `scope`.",
    "invalid_target": "it does not accept the resource; check the route's `resource`.",
    "invalid_request": "it finds the request malformed; check `token_endpoint` and `assertion_audience`.",
    "access_denied": "it denies the client this access; ask whoever runs it.",
}
# Refusals of the proof that would be worth another proof even under another OAuth error.
_PROOF_CODES = frozenset({700024, 700027, 7000215, 7000222})
_PASSING_ERRORS = frozenset({"temporarily_unavailable", "server_error", "slow_down"})


class EndpointOverloaded(IdentityPlatformUnavailable):
    """The endpoint answers 503 (RFC 9110 §15.6.4): where it says how long to wait, everybody who asks it should."""


class ClientThrottled(IdentityPlatformUnavailable):
    """This client asks the endpoint too often (RFC 6585 §4); other clients of the same endpoint do not."""


class ProofRejected(CredentialRejected):
    """The platform does not accept how we prove who we are; another certificate may be accepted (RFC 6749 §5.2)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A token endpoint's HTTP response, as far as it matters here.

    Attributes:
        status: the HTTP status code.
        content: the body, bounded by the reader.
        retry_after: the field's value, or None.
        date: the field's value, or None.
        challenge: WWW-Authenticate's value, or None.
    """

    status: int
    content: bytes = field(repr=False)
    retry_after: str | None = None
    date: str | None = None
    challenge: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """What Entra ID says in an answer that another service passes on.

    Attributes:
        code: of AADSTS, or None.
        explanation: name, cause and fix where the code is known, else empty.
    """

    code: int | None
    explanation: str


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """A usable answer.

    Attributes:
        access_token: visible ASCII.
        expires_in_s: seconds from the moment the platform made the answer; over zero, at most `LONGEST_LIFE_S`.
        refresh_in_s: when the platform suggests to ask again; over zero, or None.
        notes: short reasons for what was corrected, e.g. ``expires_in_clamped``.
    """

    access_token: str = field(repr=False)
    expires_in_s: float
    refresh_in_s: float | None = None
    notes: tuple[str, ...] = ()


def parse_answer(answer: Answer, *, now_at: float, secrets: tuple[str, ...] = ()) -> TokenResponse:
    """Return the token in an answer.

    Args:
        answer: what came.
        now_at: our own clock, Unix seconds; used where the answer has no Date.
        secrets: what the request carried and no error may repeat.

    Raises:
        CredentialRejected: the endpoint understood, and said no.
        IdentityPlatformUnavailable: it is overloaded, broken, or not a token endpoint.
    """
    members = _parse_members(answer.content)
    if answer.status == 200 and members is not None and "error" not in members:
        return _parse_token(members, parse_date(answer.date) or now_at)
    raise _parse_refusal(answer, members, now_at, secrets)


def read_refusal(answer: Answer) -> Refusal:
    """Return the code of Entra ID's that an answer repeats, as a managed identity's endpoint does, and what it means."""
    members = _parse_members(answer.content) or {}
    description = members.get("error_description")
    text = description if isinstance(description, str) else answer.content[:_TOKEN_LIMIT].decode("utf-8", "replace")
    code = _choose_code(members.get("error_codes"), text)
    explanation = explain(code, text) if code is not None else None
    if explanation is None or explanation.passing:
        return Refusal(None if explanation is not None else code, "")
    return Refusal(code, f"{explanation.name}: {explanation.cause} {explanation.fix}")


def parse_date(value: str | None) -> float | None:
    """Return an HTTP-date (RFC 9110 §5.6.7) as Unix seconds, or None for anything else."""
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
        return moment.timestamp() if moment.tzinfo else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def parse_retry_after(value: str | None, now_at: float) -> int | None:
    """Return Retry-After (RFC 9110 §10.2.3), seconds or date, as whole seconds from 0 to `LONGEST_RETRY_AFTER_S`."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:12])
    else:
        until = parse_date(text)
        if until is None:
            return None
        seconds = until - now_at
    return min(max(math.ceil(seconds), 0), LONGEST_RETRY_AFTER_S)


def _parse_members(content: bytes) -> Mapping[str, object] | None:
    try:
        parsed: object = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _parse_token(members: Mapping[str, object], server_now_at: float) -> TokenResponse:
    token_type = members.get("token_type")
    if not isinstance(token_type, str) or token_type.lower() != "bearer":  # RFC 6749 §7.1: without regard to case.
        raise _unusable("wrong_token_type", "a token that is not of type Bearer")
    token = members.get("access_token")
    if not isinstance(token, str) or not token:
        raise _unusable("no_access_token", "a success without an access token")
    if len(token) > _TOKEN_LIMIT or not _SENDABLE.match(token):
        raise _unusable("token_not_sendable", "an access token with characters that are not allowed in a header field")
    life_s, notes = _parse_life(members, server_now_at)
    refresh_in_s = _parse_number(members.get("refresh_in"))
    if refresh_in_s is not None and refresh_in_s <= 0:
        refresh_in_s = None
    return TokenResponse(token, life_s, refresh_in_s, notes)


def _parse_life(members: Mapping[str, object], server_now_at: float) -> tuple[float, tuple[str, ...]]:
    raw = members.get("expires_in")
    life_s = _parse_number(raw)
    if raw is None:
        expires_on = _parse_number(members.get("expires_on"))
        if expires_on is None:
            return ASSUMED_LIFE_S, ("expires_in_missing",)
        life_s = expires_on - server_now_at
    if life_s is None:
        raise _unusable("expires_in_invalid", "an expires_in that is not a number")
    if life_s <= 0:
        raise _unusable("expires_in_invalid", "a token that has already expired")
    if life_s > LONGEST_LIFE_S:
        return LONGEST_LIFE_S, ("expires_in_clamped",)
    return life_s, ()


def _parse_number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return float(min(max(value, -(10**15)), 10**15))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str) and _NUMBER.match(value):
        return float(value)
    return None


def _unusable(code: str, what: str) -> IdentityPlatformUnavailable:
    return IdentityPlatformUnavailable(
        f"The token endpoint answered with {what}. If this stays, check `authority` or `token_endpoint`,"
        " and what is between it and the proxy.",
        code=code,
    )


def _parse_refusal(
    answer: Answer, members: Mapping[str, object] | None, now_at: float, secrets: tuple[str, ...]
) -> IdentityError:
    retry_after_s = parse_retry_after(answer.retry_after, parse_date(answer.date) or now_at)
    members = members or {}
    name = members.get("error")
    error = name if isinstance(name, str) and _ERROR_NAME.match(name) else ""
    description = members.get("error_description")
    text = description if isinstance(description, str) else ""
    code = _choose_code(members.get("error_codes"), text or answer.content[:_TOKEN_LIMIT].decode("utf-8", "replace"))
    explanation = explain(code, text) if code is not None else None

    reason = f"AADSTS{code}" if code is not None else error or f"http_{answer.status}"
    passing = error in _PASSING_ERRORS or (explanation is not None and explanation.passing)
    if answer.status == 429:
        return ClientThrottled(
            "The token endpoint answers 429: this client asks it for too many tokens. The proxy waits as long as it was"
            " told; see what else uses the same client id.",
            retry_after_s=retry_after_s,
            code="too_many_requests",
        )
    if answer.status >= 500 or answer.status == 408 or passing:
        cause = explanation.cause if explanation is not None else "It has a fault of its own."
        kind = EndpointOverloaded if answer.status == 503 else IdentityPlatformUnavailable
        return kind(
            f"The token endpoint answers {answer.status} ({reason}). {cause} The proxy tries again by itself.",
            retry_after_s=retry_after_s,
            code=reason,
        )
    # RFC 6749 §5.2 wants 400 for an error; some servers say 200, and mean it all the same.
    if answer.status < 300 and not error:
        return _unusable("malformed_answer", f"{answer.status} and something that is not a token response")
    if 300 <= answer.status < 400:
        return _unusable("redirected", f"{answer.status}, a redirect, which is never followed with a credential")
    detail = _format_rejection(answer.status, error, code, text, secrets)
    trace_id = members.get("trace_id")
    if isinstance(trace_id, str) and _TRACE_ID.match(trace_id):
        detail += f" (trace id {trace_id})"
    rejection = ProofRejected if error == "invalid_client" or code in _PROOF_CODES else CredentialRejected
    return rejection(detail, retry_after_s=retry_after_s, code=reason)


def _choose_code(codes: object, text: str) -> int | None:
    """Return the most specific code: an answer may hold an older, general code beside the real one."""
    numbers = [one for one in codes if isinstance(one, int) and 0 < one < 10**8] if isinstance(codes, list) else []
    return choose_code(numbers) or find_code(text)


def _format_rejection(status: int, error: str, code: int | None, text: str, secrets: tuple[str, ...]) -> str:
    explanation = explain(code, text) if code is not None else None
    if explanation is not None:
        return f"{explanation.name}: {explanation.cause} {explanation.fix}"
    said = sanitise(text, secrets)
    quoted = f" It says: {said!r}." if said else ""
    if code is not None:
        return (
            f"AADSTS{code}: Entra ID refused the token request.{quoted}"
            f" Look the code up: https://login.microsoftonline.com/error?code={code}"
        )
    if error:
        meaning = _OAUTH_ERRORS.get(error, "check the credential and the scope.")
        return f"The token endpoint answers {status} {error}: {meaning}{quoted}"
    return (
        f"The token endpoint answers {status} without an OAuth error. Check `authority`, `tenant_id` or"
        " `token_endpoint`, and what is between it and the proxy."
    )


def sanitise(text: str, secrets: tuple[str, ...] = ()) -> str:
    """Return a platform's text as one short printable line without trace labels, secrets, or what is as long as one."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[redacted]")
    text = _LONG_RUN.sub("[redacted]", _LABELS.sub("", text))
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= _DESCRIPTION_LIMIT else line[: _DESCRIPTION_LIMIT - 1] + "…"
