"""The comparison of the access log with what clients saw finds each way in which they can disagree."""

from __future__ import annotations

import json

import pytest

from tests.soak.accounts import compare
from tests.soak.journal import Account

ACCOUNTS = {
    "a": Account(reached=True, status=200, content_bytes=3),
    "b": Account(reached=True),
    "c": Account(reached=False),
}


def line(path: str | None = "/soak/a", mode: str = "forward", method: str = "GET", **changes: object) -> str:
    entry = {"mode": mode, "method": method, "path": path, "status": 200, "sent_bytes": 3, "outcome": "ok"}
    return json.dumps(entry | changes)


A, B, TUNNEL = line(), line("/soak/b", status=None), line(None, "tunnel", "CONNECT")
HANDSHAKE = line(None, "connect", "CONNECT", status=None)


def test_a_log_that_agrees_is_left_alone() -> None:
    assert list(compare(ACCOUNTS, 1, 3, [A, B, TUNNEL, HANDSHAKE])) == []


@pytest.mark.parametrize(
    ("lines", "counted", "said"),
    [
        pytest.param([B, TUNNEL], 2, "lacks a", id="a complete exchange is missing"),
        pytest.param([A, TUNNEL], 2, "lacks b", id="an exchange that reached the upstream is missing"),
        pytest.param([line(status=502), B, TUNNEL], 3, "status=200", id="another status"),
        pytest.param([line(sent_bytes=2), B, TUNNEL], 3, "content_bytes=3", id="other content"),
        pytest.param([line(outcome="aborted_client"), B, TUNNEL], 3, "aborted_client", id="another outcome"),
        pytest.param([A, A, B, TUNNEL], 4, "a 2 times", id="one exchange twice"),
        pytest.param([A, B, TUNNEL, line("/soak/z")], 4, "no client made", id="an exchange that never was"),
        pytest.param([A, B], 2, "blind tunnels", id="a tunnel is missing"),
        pytest.param([A, B, TUNNEL], 4, "metrics count 4", id="the metrics count more"),
    ],
)
def test_a_log_that_disagrees_is_found_out(lines: list[str], counted: int, said: str) -> None:
    found = list(compare(ACCOUNTS, 1, counted, lines))
    assert len(found) == 1
    assert said in found[0]
