"""One token on an event loop: what the relay asks for an access token. Does I/O through its requester.

`TokenCache` decides; this class runs the flights, the timer and the waiting.

Invariants: `peek` never waits; all who wait share one flight, and none of them can cancel it; a failure that may be a blip
is waited out, but once an endpoint has failed for the source's patience, nobody waits longer than `PATIENCE_S` for it; what
is raised is always an `IdentityError`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxy.errors import IdentityError, IdentityPlatformUnavailable
from proxy.identity.access_token import AccessToken, create_access_token
from proxy.identity.cache import Pause, TokenCache, renew_error
from proxy.identity.lifetime import BACKOFF_CAP_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.identity.credential import IssuedToken, Target
    from proxy.identity.sharing.shared_token import SharedToken

__all__ = ["AccessToken", "SourceStatistics", "TokenRequester", "TokenSource"]

logger = logging.getLogger("proxy.identity")

# After a failure the next flight is a probe: long enough for an endpoint that works again, too short to queue behind
# one that does not.
PATIENCE_S = 2.0
# A signer's ten seconds and two requests of ten each. Nothing may hold a flight for ever.
FLIGHT_LIMIT_S = 30.0
# When a pause ends, the sources that share it come back spread over this.
_SPREAD_S = 1.0
_SHORTEST_TIMER_S = 0.01
_ROUNDS = 3


class TokenRequester(Protocol):
    """Who asks the token endpoint."""

    async def request_token(self, target: Target, claims: str | None) -> IssuedToken:
        """Return a new token, or raise `IdentityError`."""
        ...


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """A snapshot for metrics and health.

    Attributes:
        credential: its name in the configuration.
        target: scope or resource.
        obtained: whether there ever was a token.
        usable: whether there is one now.
        age_s: of the current token; None without one.
        expires_in_s: of the current token, may be negative; None without one.
        flights: requests begun.
        rejections: tokens dropped because an upstream refused them.
        failures: in a row.
        failure_code: of the last failure; empty after a success.
        refresh_in_s: when the current token is to be replaced, negative once that is due; None without one.
        failure_detail: of the last failure, a sentence; empty after a success.
        without_s: for how long there has been no usable token although one was wanted; None where there is one, or none was.
        retry_in_s: for how long no request is sent after a failure; 0 where one may be.
    """

    credential: str
    target: str
    obtained: bool
    usable: bool
    age_s: float | None
    expires_in_s: float | None
    flights: int
    rejections: int
    failures: int
    failure_code: str
    refresh_in_s: float | None = None
    failure_detail: str = ""
    without_s: float | None = None
    retry_in_s: float = 0.0


class TokenSource:
    """The access token of one (credential, scope)."""

    def __init__(
        self,
        requester: TokenRequester,
        target: Target,
        *,
        credential_name: str,
        endpoint_pause: Pause | None = None,
        client_pause: Pause | None = None,
        patience_s: float = 0.0,
        shared: SharedToken | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Prepare; nothing is requested before `peek`, `acquire` or `keep_fresh`.

        Args:
            requester: who asks.
            target: what for.
            credential_name: for logs and metrics.
            endpoint_pause: shared by the sources that ask one host.
            client_pause: shared by the sources of one client id at one token endpoint.
            patience_s: for how long requests wait for further attempts after a failure that may be a blip.
            shared: the same token of other replicas; None where it is not shared.
            clock: monotonic seconds; the one whose values `peek` is given.
            jitter: 0 to 1.
        """
        self._requester = requester
        self._target = target
        self._credential_name = credential_name
        self._clock = clock
        self._jitter = jitter
        self._cache = TokenCache(endpoint_pause or Pause(), client_pause or Pause())
        self.patience_s = patience_s
        self.shared = shared
        self._flight: asyncio.Task[AccessToken | IdentityError | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._keeps_fresh = False
        self._is_closed = False
        self._obtained = False
        # Since when a token is wanted, where there is none at all; one that has ended says itself since when.
        self._wanted_since_mono: float | None = None
        # When the first flight began of those that have failed in a row.
        self._failing_since_mono: float | None = None
        self._flight_began_mono = 0.0
        self._slept_in_flight_s = 0.0
        self._flights = 0
        self._rejections = 0

    @property
    def obtained(self) -> bool:
        """Whether there ever was a token."""
        return self._obtained

    def peek(self, now_mono: float) -> AccessToken | None:
        """Return a usable token or None, at once; a stale one starts its refresh in the background.

        Args:
            now_mono: by the clock this source was made with.
        """
        token = self._cache.token
        if token is not None and now_mono < token.refresh_at_mono:
            return token
        self._begin_if_due(now_mono)
        return self._cache.usable(now_mono)

    def look(self, now_mono: float) -> AccessToken | None:
        """Return a usable token or None, at once, and begin nothing: to look is not to want one."""
        return self._cache.usable(now_mono)

    async def acquire(self) -> AccessToken:
        """Return a usable token, waiting for the flight that brings it, and for the next one where that may help.

        A waiter that is cancelled cancels nobody else.

        Raises:
            IdentityError: the flight failed, or a recent one did and it is too early for another.
        """
        asked_at_mono = self._clock()
        rounds = 0
        while rounds < _ROUNDS:
            now = self._clock()
            token = self.peek(now)
            if token is not None:
                return token
            outcome = await self._join_flight(now, asked_at_mono)
            if isinstance(outcome, IdentityError):
                wait_s = self._wait_s(outcome, asked_at_mono)
                if wait_s is None:
                    raise renew_error(outcome, self._retry_after_s(outcome))
                await asyncio.sleep(wait_s)
                continue
            if outcome is not None and self._clock() < outcome.usable_until_mono:
                return outcome
            rounds += 1
        raise IdentityPlatformUnavailable(
            "The identity platform's tokens do not live long enough to be used.", code="expired_on_arrival"
        )

    def report_refusal(
        self, token: AccessToken, now_mono: float, claims: str | None = None, *, certain: bool = False
    ) -> bool:
        """Report that an upstream refused a token.

        Args:
            token: the one that was on the request.
            now_mono: now.
            claims: decoded JSON text of a claims challenge: the next token is asked for with it.
            certain: the upstream blamed the token itself (``error="invalid_token"``): a young one is dropped, too.

        Returns:
            True: another token is to be had from `acquire`, and replaying the exchange once makes sense.
        """
        dropped = self._cache.is_current(token)
        replay = self._cache.reject(token, now_mono, claims, certain=certain)
        if replay and dropped:
            self._rejections += 1
            if self.shared is not None:
                self.shared.refuse(token.value)
            self._wanted_since_mono = now_mono
            logger.warning(
                "credential %s: an upstream refused the access token for %s; it is replaced",
                self._credential_name,
                self._target,
            )
            self._begin_if_due(now_mono)
        return replay

    def keep_fresh(self) -> None:
        """Obtain a token now and renew it from now on whether it is used or not. Needs the running loop."""
        self._keeps_fresh = True
        self._tick()

    def wake(self, slept_s: float) -> None:
        """Age the token, and one that is on its way, by the time that the machine slept: the monotonic clock did not count it."""
        self._cache.age(slept_s)
        self._slept_in_flight_s += slept_s
        if self._keeps_fresh and not self._is_closed:
            self._tick()

    def forgive(self) -> None:
        """Forget failures, as when something about the credential has changed. Tokens stay."""
        self._cache.forgive()
        self._failing_since_mono = None
        if self._keeps_fresh and not self._is_closed:
            self._tick()

    def renew(self) -> None:
        """Forget failures and replace the token soon, as when the certificate has changed.

        The token in hand stays in use meanwhile, so whether the new certificate is accepted shows while it does no harm.
        """
        self._cache.renewal_wanted = self._obtained
        self.forgive()
        if self._obtained:
            self._begin_if_due(self._clock())

    def statistics(self) -> SourceStatistics:
        """Return a snapshot."""
        now = self._clock()
        token = self._cache.token
        last_error = self._cache.last_error
        return SourceStatistics(
            credential=self._credential_name,
            target=str(self._target),
            obtained=self._obtained,
            usable=self._cache.usable(now) is not None,
            age_s=None if token is None else now - token.obtained_at_mono,
            expires_in_s=None if token is None else token.expires_at_mono - now,
            flights=self._flights,
            rejections=self._rejections,
            failures=self._cache.failures,
            failure_code="" if last_error is None else last_error.code,
            refresh_in_s=None if token is None else token.refresh_at_mono - now,
            failure_detail="" if last_error is None else last_error.detail,
            without_s=self._without_s(now),
            retry_in_s=max(self._cache.next_attempt_mono() - now, 0.0),
        )

    def _without_s(self, now_mono: float) -> float | None:
        token = self._cache.token
        since_mono = self._wanted_since_mono if token is None else token.usable_until_mono
        return None if since_mono is None or now_mono < since_mono else now_mono - since_mono

    async def close(self) -> None:
        """End the timer and the flight; who waits gets an error."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        flight = self._flight
        if flight is not None:
            flight.cancel()
            await asyncio.wait({flight})

    def _begin_if_due(self, now_mono: float) -> None:
        if not self._is_closed and self._cache.wants_flight(now_mono):
            claims = self._cache.begin()
            self._flights += 1
            self._flight_began_mono = now_mono
            if now_mono > self._cache.next_attempt_mono() + BACKOFF_CAP_S:
                self._failing_since_mono = None  # Nobody has asked for so long that this is another story.
            if self._cache.token is None and self._wanted_since_mono is None:
                self._wanted_since_mono = now_mono
            self._flight = asyncio.get_running_loop().create_task(self._fly(claims), name=f"token for {self._target}")

    def _patient_until_mono(self, asked_at_mono: float) -> float:
        """Return until when one who asked at a moment waits for further attempts: the longer an outage lasts, the shorter."""
        since_mono = self._failing_since_mono
        return (asked_at_mono if since_mono is None else min(asked_at_mono, since_mono)) + self.patience_s

    def _wait_s(self, error: IdentityError, asked_at_mono: float) -> float | None:
        """Return how long to wait for the attempt after a failure; None where the failure is to be told."""
        if self._is_closed or not isinstance(error, IdentityPlatformUnavailable):
            return None
        next_mono = self._cache.next_attempt_mono()
        return max(next_mono - self._clock(), 0.0) if next_mono < self._patient_until_mono(asked_at_mono) else None

    async def _join_flight(self, now_mono: float, asked_at_mono: float) -> AccessToken | IdentityError | None:
        flight = self._flight
        if flight is None:
            if self._is_closed:
                return _closed()
            # `peek` has just declined to begin a flight, so there is a reason to wait.
            return self._cache.refusal(now_mono) or IdentityPlatformUnavailable("There is no access token now.")
        known_failure = self._cache.last_error
        limit_s = max(self._patient_until_mono(asked_at_mono) - now_mono, PATIENCE_S)
        # Not wait_for: it would cancel the flight with its waiter.
        await asyncio.wait({flight}, timeout=None if known_failure is None else limit_s)
        if not flight.done():
            return known_failure
        return _closed() if flight.cancelled() else flight.result()

    async def _fly(self, claims: str | None) -> AccessToken | IdentityError | None:
        """Run one flight. None: its token does not answer the claims demanded meanwhile."""
        outcome: AccessToken | IdentityError | None
        try:
            outcome = await self._request(claims)
        except IdentityError as error:
            self._note_failure(error)
            outcome = error
        except asyncio.CancelledError:
            self._cache.abandon()
            raise
        except Exception as error:  # noqa: BLE001 -- the top of a task: a fault of ours must not end the attempts
            # Without the traceback, whose exception text could show a secret.
            logger.error("credential %s: token request failed: %s", self._credential_name, type(error).__name__)  # noqa: TRY400
            outcome = IdentityError("The proxy failed while it asked for an access token.", code="internal_error")
            self._note_failure(outcome)
        finally:
            self._flight = None
        self._schedule()
        return outcome

    async def _request(self, claims: str | None) -> AccessToken | None:
        self._slept_in_flight_s = 0.0
        try:
            async with asyncio.timeout(FLIGHT_LIMIT_S):
                issued = await self._request_or_adopt(claims)
        except TimeoutError:
            raise IdentityPlatformUnavailable(
                f"No access token came within {FLIGHT_LIMIT_S:g} s.", code="timeout"
            ) from None
        token = create_access_token(
            issued.value,
            # A sleep that is noticed once the token is here ages it like any other.
            requested_at_mono=issued.requested_at_mono - self._slept_in_flight_s,
            expires_in_s=issued.expires_in_s,
            refresh_in_s=issued.refresh_in_s,
            jitter=self._jitter(),
            proof=issued.proof,
            age_s=issued.age_s,
        )
        if self._clock() >= token.usable_until_mono:
            raise IdentityPlatformUnavailable(
                "The access token had expired before it arrived; the identity platform is too slow.",
                code="expired_on_arrival",
            )
        if not self._cache.succeed(token):
            return None
        self._obtained = True
        self._wanted_since_mono = self._failing_since_mono = None
        return token

    async def _request_or_adopt(self, claims: str | None) -> IssuedToken:
        if self.shared is None:
            return await self._requester.request_token(self._target, claims)
        return await self.shared.request(
            lambda: self._requester.request_token(self._target, claims), claims, self._cache.usable(self._clock())
        )

    def _note_failure(self, error: IdentityError) -> None:
        now = self._clock()
        self._cache.fail(error, now, self._jitter())
        if self._failing_since_mono is None:
            self._failing_since_mono = self._flight_began_mono
        logger.warning(
            "credential %s: no access token for %s (%s): %s %s",
            self._credential_name,
            self._target,
            error.code or error.title,
            error.detail.removeprefix(f"{error.code}: "),
            "The current token is used until it expires."
            if self._cache.usable(now) is not None
            else "There is no valid token to use meanwhile.",
        )

    def _retry_after_s(self, error: IdentityError) -> int | None:
        refusal = self._cache.refusal(self._clock())
        return refusal.retry_after_s if refusal is not None else error.retry_after_s

    def _tick(self) -> None:
        self._timer = None
        self._begin_if_due(self._clock())
        if self._flight is None:
            self._schedule()

    def _schedule(self) -> None:
        """Set the timer for the next flight; demand alone drives a source that is not kept fresh."""
        if not self._keeps_fresh or self._is_closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        wait_s = max(self._cache.due_mono() - self._clock(), _SHORTEST_TIMER_S)
        if self._cache.is_paused(self._clock()):
            wait_s += _SPREAD_S * self._jitter()
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._tick)


def _closed() -> IdentityPlatformUnavailable:
    return IdentityPlatformUnavailable("The proxy is shutting down.", code="closing")
