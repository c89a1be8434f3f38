"""What the relay counts: plain integers that the hot path adds to and the admin site reads. Does no I/O."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

# Seconds. Prometheus' default buckets start at 5 ms; a relay on one machine is mostly faster than that.
# Of any length, or mypyc would keep it unboxed and make fourteen floats of it for each search.
LATENCY_BOUNDS_S: Final[tuple[float, ...]] = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)


# Versions of HTTP as the relay counts them. NO_HTTP: nothing that could be read as a request, or no upstream.
NO_HTTP: Final = 0
HTTP_1_0: Final = 1
HTTP_1_1: Final = 2
HTTP_2: Final = 3
# As logs and metrics have them, by these numbers. Of any length for the reason above.
VERSION_NAMES: Final[tuple[str, ...]] = ("", "1.0", "1.1", "2")
_VERSIONS: Final = 4


class Histogram:
    """Observations in buckets, not cumulated.

    Attributes:
        buckets: counts; bucket i holds values up to and including ``LATENCY_BOUNDS_S[i]``, the last one all above.
        total: the sum of all values, in seconds.
    """

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value, in seconds."""
        self.buckets[bisect_left(LATENCY_BOUNDS_S, value)] += 1
        self.total += value


class Counters:
    """Everything one relay process counts. Totals only grow; what is open now comes from the sets themselves.

    Attributes:
        exchanges: by route name (``-``: no route; empty: no destination) and status (0: cut before there was one).
        versions: exchanges by the client's version times four plus the upstream's; see `by_version`.
        errors: own answers, by RFC 9209 token.
        aborts: exchanges cut after the response head, by the side that is to blame: ``client``, ``upstream``, ``timeout``.
        http2_faults: RST_STREAM and GOAWAY that we sent because of what clients and upstreams did, by reason.
        received_bytes, sent_bytes: content of requests and responses.
        client_connections, upstream_connections: accepted, opened.
        reused: exchanges that found a kept-alive upstream connection.
        retries: exchanges sent again on a new connection because a kept-alive one was dead.
        replays: exchanges sent again with another token.
        tunnels, upgrades, intercepts: CONNECT passed blind, 101 spliced, TLS ended here.
        duration: from the request's head to the response's last byte.
        upstream_wait: from the request's head being sent to the response's head.
        token_wait: what requests without a token at hand waited for one.
    """

    def __init__(self) -> None:
        self.exchanges: dict[tuple[str, int], int] = {}
        self.versions = [0] * (_VERSIONS * _VERSIONS)
        self.errors: dict[str, int] = {}
        self.aborts: dict[str, int] = {}
        self.http2_faults: dict[str, int] = {}
        self.received_bytes = 0
        self.sent_bytes = 0
        self.client_connections = 0
        self.upstream_connections = 0
        self.reused = 0
        self.retries = 0
        self.replays = 0
        self.tunnels = 0
        self.upgrades = 0
        self.intercepts = 0
        self.duration = Histogram()
        self.upstream_wait = Histogram()
        self.token_wait = Histogram()

    def count_versions(self, client: int, upstream: int) -> None:
        """Count an exchange by the version of HTTP that the client spoke, and that of the upstream."""
        self.versions[client * _VERSIONS + upstream] += 1

    def by_version(self) -> dict[tuple[str, str], int]:
        """Return how many exchanges there were of each pair of versions, the client's first, that occurred."""
        return {
            (VERSION_NAMES[pair // _VERSIONS], VERSION_NAMES[pair % _VERSIONS]): count
            for pair, count in enumerate(self.versions)
            if count
        }

    def count_error(self, token: str) -> None:
        """Count one own answer."""
        self.errors[token] = self.errors.get(token, 0) + 1

    def count_abort(self, side: str) -> None:
        """Count one cut exchange."""
        self.aborts[side] = self.aborts.get(side, 0) + 1

    def count_http2_fault(self, reason: str) -> None:
        """Count one stream or connection of HTTP/2 that was ended for what the other side did."""
        self.http2_faults[reason] = self.http2_faults.get(reason, 0) + 1
