"""The identity platform's refusals: AADSTS codes, the OAuth ``error`` and the HTTP status each one comes with.

Does no I/O. The HTTP status follows one rule: ``invalid_client`` is 401 (RFC 6749 §5.2), everything else 400.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Every code the sandbox can answer with, and the OAuth error the real service sends it under.
OAUTH_ERRORS: Mapping[int, str] = MappingProxyType(
    {
        28003: "invalid_scope",
        50001: "invalid_resource",
        50027: "invalid_request",
        50048: "invalid_client",
        50049: "invalid_instance",
        90002: "invalid_request",
        90011: "invalid_request",
        90013: "invalid_request",
        90014: "invalid_request",
        90033: "temporarily_unavailable",
        70003: "unsupported_grant_type",
        70011: "invalid_scope",
        501051: "invalid_grant",
        500011: "invalid_resource",
        700016: "unauthorized_client",
        700021: "invalid_client",
        700022: "invalid_request",
        700023: "invalid_client",
        700024: "invalid_client",
        700211: "invalid_client",
        700212: "invalid_client",
        700213: "invalid_client",
        700027: "invalid_client",
        900023: "invalid_request",
        900144: "invalid_request",
        900561: "invalid_request",
        901002: "invalid_request",
        1002012: "invalid_scope",
        5002723: "invalid_client",
        5002738: "invalid_client",
        7000215: "invalid_client",
        7000216: "invalid_client",
        7000229: "invalid_client",
        9001023: "invalid_request",
        9002313: "invalid_request",
    }
)


class AadstsError(Exception):
    """The identity platform says no.

    Attributes:
        code: the AADSTS number.
        sentence: what is wrong, in our own words, without the code.
        error: the OAuth 2.0 error (RFC 6749 §5.2).
        status: the HTTP status.
    """

    def __init__(self, code: int, sentence: str, *, error: str | None = None, status: int | None = None) -> None:
        super().__init__(f"AADSTS{code}: {sentence}")
        self.code = code
        self.sentence = sentence
        self.error = OAUTH_ERRORS[code] if error is None else error
        usual = 401 if self.error == "invalid_client" else 400
        self.status = usual if status is None else status


@dataclass(frozen=True, slots=True)
class Exchange:
    """What an error answer says about the exchange it belongs to: its two identifiers and the server's time."""

    trace_id: str
    correlation_id: str
    at: float


def format_timestamp(at: float) -> str:
    """Return Unix seconds as ``YYYY-MM-DD HH:MM:SSZ``."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def format_error(refusal: AadstsError, exchange: Exchange, *, identity_url: str, separator: str) -> dict[str, object]:
    r"""Return the error answer's JSON object with its seven members.

    Args:
        refusal: what is wrong.
        exchange: identifiers and time.
        identity_url: the origin ``error_uri`` points to.
        separator: what parts the labels in ``error_description``; newer answers of the real service have a blank, older
            ones CR LF, and a client has to read both.
    """
    timestamp = format_timestamp(exchange.at)
    description = separator.join(
        [
            f"AADSTS{refusal.code}: {refusal.sentence}",
            f"Trace ID: {exchange.trace_id}",
            f"Correlation ID: {exchange.correlation_id}",
            f"Timestamp: {timestamp}",
        ]
    )
    return {
        "error": refusal.error,
        "error_description": description,
        "error_codes": [refusal.code],
        "timestamp": timestamp,
        "trace_id": exchange.trace_id,
        "correlation_id": exchange.correlation_id,
        "error_uri": f"{identity_url}/error?code={refusal.code}",
    }
