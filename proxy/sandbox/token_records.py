"""The record of token requests: what clients sent and what became of it, without anything that could be used again.

Does no I/O. Neither a raw assertion, its signature, a client secret nor an access token ever enters a record.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxy.sandbox.assertions import Assertion

_SECRET_FIELDS = frozenset({"client_assertion", "client_secret", "assertion", "password", "refresh_token"})

KEPT = 10_000
"""Records kept; the oldest go first. A long-running sandbox must not grow without bound."""


@dataclass(slots=True)
class TokenRequest:
    """One request to a token endpoint. `status` and `outcome` are set when it is answered.

    Attributes:
        at: when it arrived, Unix seconds of the sandbox's clock.
        path: the request target.
        client_request_id: the ``client-request-id`` field.
        form: the form's fields in order, secrets left out.
        assertion_header: the client assertion's JOSE header, if it had one that can be read.
        assertion_claims: its claims.
        status: the answer's HTTP status; None while pending, and 0 where the connection was broken on purpose.
        outcome: ``pending``, ``issued``, ``AADSTS…`` or ``fault: …``.
    """

    at: float
    path: str
    client_request_id: str | None
    form: tuple[tuple[str, str], ...]
    assertion_header: Mapping[str, object] | None
    assertion_claims: Mapping[str, object] | None
    status: int | None = None
    outcome: str = "pending"


def record_token_request(
    at: float, path: str, client_request_id: str | None, form: Mapping[str, str], assertion: Assertion | None
) -> TokenRequest:
    """Return the record of a request that has just arrived."""
    kept = tuple((name, value) for name, value in form.items() if name not in _SECRET_FIELDS)
    if assertion is None:
        return TokenRequest(at, path, client_request_id, kept, None, None)
    return TokenRequest(at, path, client_request_id, kept, assertion.header, assertion.claims)


def format_token_requests(records: Iterable[TokenRequest], count: int) -> dict[str, object]:
    """Return the records as a JSON object; `count` is of all there ever were."""
    return {"count": count, "requests": [asdict(record) for record in records]}
