"""Arithmetic on a token's life and on waiting after failures. Does no I/O; the clock is monotonic, jitter an argument.

A token has three moments, in this order: stale (refresh it now, it is still good), unusable (its life less a flight
margin is over) and expired.
"""

from __future__ import annotations

# validate-jwt allows no clock skew by default: a token must still be good when it has travelled. A margin of minutes,
# as MSAL keeps, would make a token that lives five minutes useless, hence the share.
FLIGHT_MARGIN_S = 5.0
FLIGHT_MARGIN_SHARE = 0.1

# A token of half an hour or more is renewed at half its life, which leaves the other half to outlast an outage. A
# shorter one is renewed ahead of a margin, so that it is not asked for all the time.
LONG_LIFE_S = 1_800.0
REFRESH_MARGIN_S = 300.0
REFRESH_MARGIN_SHARE = 0.25
# However early the platform suggests, a token that lives longer than this is kept for this long.
SHORTEST_REFRESH_S = 30.0
# Refreshes happen up to this share of the planned wait earlier, so that many proxies do not come at once.
REFRESH_JITTER_SHARE = 0.1

BACKOFF_START_S = 1.0
BACKOFF_CAP_S = 30.0
# A refusal is not cured by time alone: start later, lest a hot loop of clients become one of token requests.
REFUSAL_BACKOFF_START_S = 5.0
BACKOFF_JITTER_SHARE = 0.25

# After a first 429 the replicas of a fleet come back spread over as long as they were told to wait. Five doublings of a minute
# are 17 minutes on average, which keeps 10,000 replicas at ten requests a second.
THROTTLED_SPREAD = 1.0
THROTTLED_DOUBLINGS = 5
# The longest Retry-After that is obeyed.
THROTTLED_CAP_S = 3_600.0


def flight_margin_s(life_s: float) -> float:
    """Return how long before its expiry a token is no longer put on a request."""
    return min(FLIGHT_MARGIN_S, life_s * FLIGHT_MARGIN_SHARE)


def refresh_after_s(life_s: float, refresh_in_s: float | None, jitter: float) -> float:
    """Return after how many seconds a token is stale: over zero, and before it becomes unusable.

    Args:
        life_s: ``expires_in``.
        refresh_in_s: ``refresh_in`` where the platform gave one; obeyed within reason.
        jitter: 0 to 1.
    """
    margin_s = min(REFRESH_MARGIN_S, life_s * REFRESH_MARGIN_SHARE)
    planned = life_s / 2 if life_s >= LONG_LIFE_S else life_s - margin_s
    if refresh_in_s is not None and refresh_in_s < life_s - flight_margin_s(life_s):
        planned = max(refresh_in_s, min(SHORTEST_REFRESH_S, planned))
    return planned * (1 - REFRESH_JITTER_SHARE * jitter)


def backoff_s(failures: int, jitter: float, *, refused: bool) -> float:
    """Return how long to wait after the given number of failures in a row.

    Args:
        failures: 1 or more.
        jitter: 0 to 1; shortens the wait.
        refused: the platform said no, rather than being away.
    """
    start = REFUSAL_BACKOFF_START_S if refused else BACKOFF_START_S
    # The exponent is bounded because a float is: 2.0**1024 raises.
    wait = min(start * 2.0 ** min(failures - 1, 16), BACKOFF_CAP_S)
    return wait * (1 - BACKOFF_JITTER_SHARE * jitter)


def throttled_wait_s(wait_s: float, times: int, jitter: float, *, left_s: float) -> float:
    """Return how long to wait after the identity platform has throttled this client: never less than it asked for.

    All replicas of a fleet have one limit, and are told the same time. If each came back just then, the herd would meet the limit
    again, together, and where refused requests count too it would never get below it. So each waits for a random part longer
    than it was told, and the part grows with each time.

    Args:
        wait_s: what was asked for, or our own back-off.
        times: 429s in a row, 1 or more.
        jitter: 0 to 1; lengthens the wait.
        left_s: of the token in use; an attempt is made before half of that has passed, if the platform allows.
    """
    spread_s = wait_s * THROTTLED_SPREAD * 2.0 ** min(times - 1, THROTTLED_DOUBLINGS) * jitter
    return max(wait_s, min(wait_s + spread_s, THROTTLED_CAP_S, left_s / 2))
