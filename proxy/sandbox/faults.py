"""What can be made to go wrong, and the switches for it: plain values that the servers read at each request.

Does no I/O. A fault with `times` strikes that many requests and then clears itself; without, it lasts until it is
cleared.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from typing import Annotated, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import replace

Times = Annotated[int, Meta(ge=1)]
Delay = Annotated[float, Meta(ge=0, le=3600)]
FieldValue = Annotated[str, Meta(pattern=r"^[ -~]*$")]
ServerErrorStatus = Annotated[int, Meta(ge=500, le=599)]


class TokenFault(enum.StrEnum):
    """What the token endpoint does instead of its work."""

    SLOW = "slow"
    """Answer properly, after `delay_s`."""
    TOO_MANY_REQUESTS = "too_many_requests"
    """429 in plain text with Retry-After, as the real one."""
    SERVER_ERROR_JSON = "server_error_json"
    """503 (or `status`) with an AADSTS90033 error."""
    SERVER_ERROR_EMPTY = "server_error_empty"
    """502 (or `status`) with no content."""
    BAD_REQUEST_HTML = "bad_request_html"
    """400 with a page of HTML, as the real one sends for some malformed URLs."""
    MALFORMED_JSON = "malformed_json"
    """200 with JSON that breaks off."""
    NO_ACCESS_TOKEN = "no_access_token"  # noqa: S105 - the name of a fault
    """200 without `access_token`."""
    WRONG_TOKEN_TYPE = "wrong_token_type"  # noqa: S105 - the name of a fault
    """200 with `token_type` "mac"."""
    EXPIRES_IN_ABSURD = "expires_in_absurd"
    """200 with an `expires_in` of 10^15 seconds."""
    EXPIRES_IN_NEGATIVE = "expires_in_negative"
    """200 with an `expires_in` of -1."""
    EXPIRES_IN_STRING = "expires_in_string"
    """200 with `expires_in` as a string of digits, as version 1 has it."""
    EXPIRES_IN_WORD = "expires_in_word"
    """200 with an `expires_in` that is no number."""
    EXPIRES_IN_MISSING = "expires_in_missing"
    """200 without `expires_in`."""
    OVERSIZE = "oversize"
    """200 with more than a mebibyte of JSON."""
    CUT = "cut"
    """200 whose connection breaks in the middle of the content."""
    DEAD = "dead"
    """No answer at all: the connection breaks."""


class TokenEndpointFault(Struct, frozen=True, forbid_unknown_fields=True):
    """A fault of the token endpoint.

    Attributes:
        kind: what happens.
        times: how many requests it strikes; None until cleared.
        delay_s: how long it waits first, whatever the kind.
        retry_after: the Retry-After field of `too_many_requests` and `server_error_empty`; empty leaves it out. None is
            the real service's ``60`` for the first, and nothing for the other.
        status: the status of the 5xx kinds, where another one than the usual is wanted.
        client_id: whose requests it strikes; None for everybody's.
    """

    kind: TokenFault
    times: Times | None = None
    delay_s: Delay = 0.0
    retry_after: FieldValue | None = None
    status: ServerErrorStatus | None = None
    client_id: str | None = None


class AlwaysUnauthorized(Struct, frozen=True, forbid_unknown_fields=True):
    """The gateway refuses every token.

    Attributes:
        times: how many requests it strikes; None until cleared.
        with_challenge: answer with ``WWW-Authenticate: Bearer error="invalid_token"`` (RFC 6750 §3.1) instead of
            validate-jwt's bare refusal.
    """

    times: Times | None = None
    with_challenge: bool = False


class Revocation(Struct, frozen=True, forbid_unknown_fields=True):
    """The gateway refuses tokens issued before a moment (Unix seconds, the sandbox's clock)."""

    before_at: float
    with_challenge: bool = False


class ClaimsChallenge(Struct, frozen=True, forbid_unknown_fields=True):
    """The API wants a token obtained with a claims request for this ``nbf`` or a later one, and says so in a challenge.

    Attributes:
        nbf_at: Unix seconds.
        times: how many requests it strikes; None until cleared.
        padded: whether the challenge's base64 keeps its padding; both are seen.
    """

    nbf_at: int
    times: Times | None = None
    padded: bool = True


_Counted = TypeVar("_Counted", TokenEndpointFault, AlwaysUnauthorized, ClaimsChallenge)


def _left_of(fault: _Counted | None) -> _Counted | None:
    if fault is None or fault.times is None:
        return fault
    return replace(fault, times=fault.times - 1) if fault.times > 1 else None


@dataclass(slots=True)
class Faults:
    """The switches. Assign to them at any time, from the event loop's thread.

    Attributes:
        token_endpoint: what the token endpoint does instead of its work.
        managed_identity: what the managed identity endpoints do instead of theirs; kinds that spoil an answer do nothing.
        token_lifetime_s: `expires_in` of the tokens issued from now on, and their real life; None is the usual hour.
        refresh_in_s: adds `refresh_in` to the answers.
        clock_offset_s: how far the sandbox's clock, `Date` fields included, is ahead of the real time.
        always_unauthorized: the gateway refuses every token.
        revocation: the gateway refuses older tokens.
        claims_challenge: the API asks for a token with particular claims.
    """

    token_endpoint: TokenEndpointFault | None = None
    managed_identity: TokenEndpointFault | None = None
    token_lifetime_s: int | None = None
    refresh_in_s: int | None = None
    clock_offset_s: float = 0.0
    always_unauthorized: AlwaysUnauthorized | None = None
    revocation: Revocation | None = None
    claims_challenge: ClaimsChallenge | None = None

    def take_token_endpoint(self, client_id: str | None) -> TokenEndpointFault | None:
        """Return the fault for a token request of this client, using up one of its times."""
        fault = self.token_endpoint
        if fault is not None and fault.client_id not in {None, client_id}:
            return None
        self.token_endpoint = _left_of(fault)
        return fault

    def take_managed_identity(self, client_id: str | None) -> TokenEndpointFault | None:
        """Return the fault for a request to a managed identity endpoint, using up one of its times."""
        fault = self.managed_identity
        if fault is not None and fault.client_id not in {None, client_id}:
            return None
        self.managed_identity = _left_of(fault)
        return fault

    def take_always_unauthorized(self) -> AlwaysUnauthorized | None:
        """Return the fault for this API request, using up one of its times."""
        fault = self.always_unauthorized
        self.always_unauthorized = _left_of(fault)
        return fault

    def take_claims_challenge(self) -> ClaimsChallenge | None:
        """Return the challenge for this API request, using up one of its times."""
        challenge = self.claims_challenge
        self.claims_challenge = _left_of(challenge)
        return challenge

    def clear(self) -> None:
        """Make everything work again."""
        for each in fields(self):
            setattr(self, each.name, each.default)
