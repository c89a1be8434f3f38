"""A state machine over the token cache: whatever happens in whatever order, its invariants hold and it recovers."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.errors import CredentialRejected, IdentityError, IdentityPlatformUnavailable
from proxy.identity.access_token import AccessToken, create_access_token
from proxy.identity.cache import Pause, TokenCache
from proxy.identity.token_response import (
    LONGEST_RETRY_AFTER_S,
    ClientThrottled,
    EndpointOverloaded,
    ProofRejected,
)

JITTER = st.floats(0, 1)


class TokenLife(RuleBasedStateMachine):
    """One cache, a clock that only goes forward, and a platform, an upstream and an operator that do as they please."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.endpoint_pause, self.client_pause = Pause(), Pause()
        self.cache = TokenCache(self.endpoint_pause, self.client_pause)
        self.flight_began: float | None = None
        self.flight_claims: str | None = None
        self.begun: list[float] = []
        self.rejected: list[AccessToken] = []
        self.forced: list[float] = []
        self.last_failure: float | None = None
        self.own_wait_until = 0.0
        self.given = 0

    @rule(seconds=st.floats(0, 10) | st.floats(0, 100_000))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.cache.wants_flight(self.now))
    @rule()
    def begin(self) -> None:
        assert self.flight_began is None, "two flights for one key"
        assert self.now >= self.endpoint_pause.until_mono, "asked while the endpoint wants rest"
        assert self.now >= self.client_pause.until_mono, "asked while this client has to wait"
        self.flight_claims = self.cache.begin()
        self.flight_began = self.now
        self.begun.append(self.now)

    @precondition(lambda self: self.flight_began is not None)
    @rule(life_s=st.floats(0.5, 100_800), refresh_in_s=st.none() | st.floats(0.1, 100_000), jitter=JITTER)
    def the_platform_answers(self, life_s: float, refresh_in_s: float | None, jitter: float) -> None:
        assert self.flight_began is not None
        self.given += 1
        token = create_access_token(
            f"t{self.given}",
            requested_at_mono=self.flight_began,
            expires_in_s=life_s,
            refresh_in_s=refresh_in_s,
            jitter=jitter,
        )
        kept = self.cache.succeed(token)
        assert kept == (self.cache.token is token)
        self.flight_began = None
        self.last_failure = None

    @precondition(lambda self: self.flight_began is not None)
    @rule(
        kind=st.sampled_from(
            [
                IdentityPlatformUnavailable,
                EndpointOverloaded,
                ClientThrottled,
                CredentialRejected,
                ProofRejected,
                IdentityError,
            ]
        ),
        retry_after_s=st.none() | st.integers(0, LONGEST_RETRY_AFTER_S),
        jitter=JITTER,
    )
    def the_platform_fails(self, kind: type[IdentityError], retry_after_s: int | None, jitter: float) -> None:
        usable = self.cache.usable(self.now)
        endpoint_until, client_until = self.endpoint_pause.until_mono, self.client_pause.until_mono
        self.cache.fail(kind("no", retry_after_s=retry_after_s), self.now, jitter)
        assert kind is EndpointOverloaded or self.endpoint_pause.until_mono == endpoint_until, "everybody was paused"
        assert kind is ClientThrottled or self.client_pause.until_mono == client_until, "its client was paused"
        if kind is ClientThrottled:
            # Longer than it was told, so that a fleet does not come back at once.
            self.own_wait_until = max(self.own_wait_until, self.cache.attempt_after_mono)
            assert self.cache.attempt_after_mono >= self.now + (retry_after_s or 0), "it comes back too early"
        elif kind is not EndpointOverloaded:
            self.own_wait_until = max(self.own_wait_until, self.now + (retry_after_s or 0))
        assert self.cache.usable(self.now) is usable, "a failure took a usable token away"
        self.flight_began = None
        # Claims that are refused are simply not asked for again, which need not wait.
        excused = issubclass(kind, CredentialRejected) and self.flight_claims is not None
        self.last_failure = None if excused else self.now

    @precondition(lambda self: self.flight_began is not None)
    @rule()
    def the_flight_is_abandoned(self) -> None:
        self.cache.abandon()
        self.flight_began = None

    @precondition(lambda self: self.cache.usable(self.now) is not None)
    @rule(claims=st.none() | st.sampled_from(["{}", '{"access_token":{}}']), certain=st.booleans())
    def an_upstream_rejects_the_token(self, claims: str | None, certain: bool) -> None:
        token = self.cache.usable(self.now)
        assert token is not None
        if self.cache.reject(token, self.now, claims, certain=certain):
            self.rejected.append(token)
            self.forced.append(self.now)

    @precondition(lambda self: self.rejected)
    @rule()
    def an_upstream_rejects_a_token_of_the_past(self) -> None:
        current = self.cache.token
        assert self.cache.reject(self.rejected[0], self.now, None, certain=True)
        assert self.cache.token is current, "the wrong token was dropped"

    @rule()
    def the_operator_changes_something(self) -> None:
        self.cache.forgive()
        self.last_failure = None

    @rule(seconds=st.integers(0, LONGEST_RETRY_AFTER_S), everybody=st.booleans())
    def another_token_is_told_to_wait(self, seconds: int, everybody: bool) -> None:
        (self.endpoint_pause if everybody else self.client_pause).extend(self.now + seconds)

    @invariant()
    def no_expired_or_rejected_token_is_handed_out(self) -> None:
        token = self.cache.usable(self.now)
        if token is not None:
            assert self.now < token.usable_until_mono < token.expires_at_mono
            assert token not in self.rejected

    @invariant()
    def forced_requests_are_a_minute_apart(self) -> None:
        assert all(later - earlier >= 60 for earlier, later in zip(self.forced, self.forced[1:], strict=False))

    @invariant()
    def there_is_always_a_token_a_flight_or_a_reason(self) -> None:
        if self.cache.usable(self.now) is None and not self.cache.in_flight and not self.cache.wants_flight(self.now):
            refusal = self.cache.refusal(self.now)
            assert refusal is not None
            assert refusal.retry_after_s is not None
            assert refusal.retry_after_s >= 1

    @invariant()
    def waiting_is_bounded(self) -> None:
        # Added, not subtracted: the difference of two moments is rounded, and may come out a hair above the bound.
        assert self.cache.next_attempt_mono() <= self.now + LONGEST_RETRY_AFTER_S
        if not self.cache.is_paused(self.now) and self.now >= self.own_wait_until:
            assert self.cache.next_attempt_mono() <= self.now + 30

    @invariant()
    def a_failure_is_followed_by_rest(self) -> None:
        if self.last_failure is not None and self.begun and self.begun[-1] > self.last_failure and self.cache.failures:
            assert self.begun[-1] - self.last_failure >= 0.75

    def teardown(self) -> None:
        """Whatever happened: leave it in peace for an hour, let the platform answer, and there is a token."""
        if self.flight_began is not None:
            self.cache.abandon()
        for _ in range(2):  # The first answer may lack claims that were demanded during its flight.
            self.now += LONGEST_RETRY_AFTER_S
            if self.cache.wants_flight(self.now):
                self.cache.begin()
                self.cache.succeed(
                    create_access_token(
                        "t", requested_at_mono=self.now, expires_in_s=7_300, refresh_in_s=None, jitter=0
                    )
                )
        assert self.cache.usable(self.now) is not None, "it did not recover"


TokenLife.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestTokenLife = pytest.mark.timeout(120)(TokenLife.TestCase)
