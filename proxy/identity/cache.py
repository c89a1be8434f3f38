"""The state of one token, as a pure state machine: what to hand out, when to ask, when to wait. Does no I/O.

`proxy.identity.source` drives it: it asks `wants_flight`, reports `begin` and then exactly one of `succeed` and `fail`.

Invariants:
- at most one flight at a time;
- a token is handed out only before ``usable_until_mono``, and never after it was rejected;
- failures delay the next attempt but never end the attempts; a usable token outlasts every failure;
- an error of one client is never told to another: what an endpoint asks of everybody is told in words of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.errors import CredentialRejected, IdentityError, IdentityPlatformUnavailable
from proxy.identity.access_token import age_token
from proxy.identity.lifetime import backoff_s, throttled_wait_s
from proxy.identity.token_response import ClientThrottled, EndpointOverloaded

if TYPE_CHECKING:
    from proxy.identity.access_token import AccessToken

# A token this young that an upstream refuses will not be cured by another: audience, issuer or role are wrong.
REJECTION_GUARD_S = 60.0
# One forced request in this time, however many exchanges are refused: an API that always says 401 must cause no storm.
REJECTION_COOLDOWN_S = 60.0


@dataclass(slots=True)
class Pause:
    """Until when somebody asked to be left alone; shared by all tokens that it concerns."""

    until_mono: float = -math.inf

    def extend(self, until_mono: float) -> None:
        """Note a Retry-After; a shorter one never shortens a longer one."""
        self.until_mono = max(self.until_mono, until_mono)


@dataclass(slots=True)
class TokenCache:
    """One token of one (credential, scope).

    Attributes:
        endpoint_pause: shared by everybody who asks the host of the token endpoint.
        client_pause: shared by the tokens of one client id at one token endpoint.
        token: the current token; perhaps no longer usable.
        claims: what the next request must ask for: the decoded claims of a challenge, or None.
        failures: in a row, since the last success.
        last_error: of the last failure; None after a success.
        attempt_after_mono: no request before this moment.
        renewal_wanted: treat the token as stale, whatever its age.
    """

    endpoint_pause: Pause = field(default_factory=Pause)
    client_pause: Pause = field(default_factory=Pause)
    token: AccessToken | None = None
    claims: str | None = None
    failures: int = 0
    last_error: IdentityError | None = None
    attempt_after_mono: float = -math.inf
    renewal_wanted: bool = False
    _in_flight: bool = False
    # 429s in a row: what failed in an outage before says nothing of a limit.
    _throttled: int = 0
    _flight_claims: str | None = None
    _forced_at_mono: float = -math.inf

    @property
    def in_flight(self) -> bool:
        """Whether a request for this token is under way."""
        return self._in_flight

    def usable(self, now_mono: float) -> AccessToken | None:
        """Return the token if it may be put on a request now."""
        token = self.token
        return token if token is not None and now_mono < token.usable_until_mono else None

    def wants_flight(self, now_mono: float) -> bool:
        """Whether a request should be sent now: there is no usable and fresh token, and nothing forbids it."""
        if self._in_flight or now_mono < self.next_attempt_mono():
            return False
        token = self.usable(now_mono)
        return token is None or self.renewal_wanted or now_mono >= token.refresh_at_mono

    def next_attempt_mono(self) -> float:
        """Return the moment before which no request is sent, for failures of this token or a pause."""
        return max(self.attempt_after_mono, self._paused_until_mono())

    def is_paused(self, now_mono: float) -> bool:
        """Whether the endpoint asked to be left alone until later than now, by this client or by everybody."""
        return now_mono < self._paused_until_mono()

    def due_mono(self) -> float:
        """Return the moment at which `wants_flight` becomes true, if nothing else happens until then."""
        fresh = self.token is not None and not self.renewal_wanted
        stale_at = self.token.refresh_at_mono if self.token is not None and fresh else -math.inf
        return max(stale_at, self.next_attempt_mono())

    def begin(self) -> str | None:
        """Note that a request is being sent; return the claims it must ask for."""
        self._in_flight = True
        self.renewal_wanted = False
        self._flight_claims = self.claims
        return self.claims

    def succeed(self, token: AccessToken) -> bool:
        """Note the flight's token. False: it does not answer claims that were demanded meanwhile, and is not kept."""
        self._in_flight = False
        self.failures = self._throttled = 0
        self.last_error = None
        self.attempt_after_mono = -math.inf
        if self.claims != self._flight_claims:
            return False
        self.claims = None
        self.token = token
        return True

    def fail(self, error: IdentityError, now_mono: float, jitter: float) -> None:
        """Note the flight's failure and work out when to try again.

        Args:
            error: why; a Retry-After holds for whom its class concerns, else for this token.
            now_mono: when it failed.
            jitter: 0 to 1.
        """
        self._in_flight = False
        wait_s: float = error.retry_after_s or 0
        if isinstance(error, EndpointOverloaded):
            self.endpoint_pause.extend(now_mono + wait_s)
        elif isinstance(error, ClientThrottled):
            self.client_pause.extend(now_mono + wait_s)
        refused = isinstance(error, CredentialRejected)
        if refused and self._flight_claims is not None and self._flight_claims == self.claims:
            # An upstream must not be able to keep us without a token by demanding claims the platform refuses: the next
            # request goes without them, at once.
            self.claims = None
            return
        self.failures += 1
        self.last_error = error
        wait_s = max(wait_s, backoff_s(self.failures, jitter, refused=refused))
        if isinstance(error, ClientThrottled):
            usable = self.usable(now_mono)
            left_s = math.inf if usable is None else usable.usable_until_mono - now_mono
            self._throttled += 1
            wait_s = throttled_wait_s(wait_s, self._throttled, jitter, left_s=left_s)
        else:
            self._throttled = 0
        self.attempt_after_mono = now_mono + wait_s

    def abandon(self) -> None:
        """Note that the flight ended without an outcome."""
        self._in_flight = False

    def refusal(self, now_mono: float) -> IdentityError | None:
        """Return why no request may be sent now, with the seconds to wait; None where one may."""
        wait_s = self.next_attempt_mono() - now_mono
        if wait_s <= 0:
            return None
        error = self.last_error
        if error is None and now_mono < self.endpoint_pause.until_mono:
            error = IdentityPlatformUnavailable(
                "The token endpoint's host is overloaded and asked to be left alone for a while. The proxy waits, and then"
                " tries by itself.",
                code="endpoint_paused",
            )
        elif error is None:
            error = IdentityPlatformUnavailable(
                "The token endpoint asked this client to wait, because it asks for too many tokens. The proxy waits, and then"
                " tries by itself; see what else uses the same client id.",
                code="too_many_requests",
            )
        return renew_error(error, max(math.ceil(wait_s), 1))

    def _paused_until_mono(self) -> float:
        return max(self.endpoint_pause.until_mono, self.client_pause.until_mono)

    def reject(self, token: AccessToken, now_mono: float, claims: str | None, *, certain: bool) -> bool:
        """Note that an upstream refused a token; True: another one is to be had, so one replay makes sense.

        Args:
            token: the one that was on the request.
            now_mono: now.
            claims: decoded JSON text of a claims challenge, or None.
            certain: the upstream said that the token is to blame, so its age does not acquit it.
        """
        if not self.is_current(token):
            return True  # Somebody was faster: its successor is here, or on the way.
        if now_mono - self._forced_at_mono < REJECTION_COOLDOWN_S:
            return False
        if not certain and claims is None and now_mono - token.obtained_at_mono < REJECTION_GUARD_S:
            return False
        self._forced_at_mono = now_mono
        self.token = None
        if claims is not None:
            self.claims = claims
        return True

    def is_current(self, token: AccessToken) -> bool:
        """Return whether a token is the one in use, perhaps as it was before the machine slept: `age` puts another in its place."""
        return self.token is not None and self.token.value == token.value

    def age(self, seconds: float) -> None:
        """Let the token grow older by time that the monotonic clock did not count."""
        if self.token is not None:
            self.token = age_token(self.token, seconds)

    def forgive(self) -> None:
        """Forget failures: what caused them may have been changed. Tokens stay."""
        self.failures = self._throttled = 0
        self.last_error = None
        self.attempt_after_mono = -math.inf


def renew_error(error: IdentityError, retry_after_s: int | None) -> IdentityError:
    """Return a copy for one more waiter: an exception raised many times would gather all their tracebacks."""
    return type(error)(error.detail, retry_after_s=retry_after_s, code=error.code)
