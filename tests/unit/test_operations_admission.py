from __future__ import annotations

import base64

import pytest

from proxy.operations.admission import Admission, Denial

TOKEN = "s3cret-ünïcode"
LOOPBACK = Admission(is_loopback=True, server_names=frozenset({"proxy.internal"}))
OPEN = Admission(is_loopback=False)
GUARDED = Admission(is_loopback=False, token=TOKEN)


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


def status(denial: Denial | None) -> int:
    return 200 if denial is None else denial.status


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", 200),
        ("localhost:9901", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:9901", 200),
        ("127.8.9.1", 200),
        ("[::1]:9901", 200),
        ("proxy.internal:9901", 200),
        (None, 200),
        ("rebound.example", 421),
        ("localhost.example", 421),
        ("127.0.0.1.example", 421),
        ("10.0.0.1", 421),
        ("169.254.169.254", 421),
        ("", 421),
        ("localhost:9901:1", 421),
        ("localhost@rebound.example", 421),
        ("2130706433", 421),
        ("\udcff", 421),
    ],
)
@pytest.mark.parametrize("path", ["/metrics", "/readyz"])
def test_on_loopback_only_its_own_names_are_answered(host: str | None, expected: int, path: str) -> None:
    assert status(LOOPBACK.decide(path, host, "127.0.0.1", None)) == expected


def test_the_address_a_connection_came_in_on_is_a_name_of_its_own() -> None:
    """Link-local and other addresses that stand for this machine alone."""
    assert status(LOOPBACK.decide("/metrics", "10.0.0.1", "10.0.0.1", None)) == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz"])
@pytest.mark.parametrize("admission", [OPEN, GUARDED])
def test_elsewhere_the_probes_are_open_under_any_name(admission: Admission, path: str) -> None:
    assert status(admission.decide(path, "pod.cluster.local", "10.0.0.1", None)) == 200


@pytest.mark.parametrize("path", ["/metrics", "/", "/livez/", "//livez", "/LIVEZ", "/api/state"])
def test_elsewhere_nothing_else_is_open(path: str) -> None:
    assert status(OPEN.decide(path, "localhost", "10.0.0.1", None)) == 403
    assert status(OPEN.decide(path, "localhost", "10.0.0.1", "Bearer ")) == 403
    assert status(GUARDED.decide(path, "localhost", "10.0.0.1", None)) == 401


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
        (basic(TOKEN), 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer ", 401),
        ("Bearer", 401),
        (TOKEN, 401),
        (f"Digest {TOKEN}", 401),
        (basic("wrong"), 401),
        ("Basic !!!", 401),
        ("Basic " + base64.b64encode(TOKEN.encode()).decode(), 401),
        ("Bearer \udcff", 401),
        ("", 401),
    ],
)
def test_the_token_opens_everything_and_nothing_else_does(authorization: str, expected: int) -> None:
    assert status(GUARDED.decide("/metrics", "any.example", "10.0.0.1", authorization)) == expected


def test_a_client_without_the_token_is_told_how_to_send_it() -> None:
    denial = GUARDED.decide("/metrics", None, "10.0.0.1", None)
    assert denial is not None
    assert denial.challenge.startswith("Bearer ")
    assert "Authorization: Bearer" in denial.detail


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(GUARDED)
    assert TOKEN not in repr(GUARDED.decide("/metrics", None, "10.0.0.1", "Bearer x"))


def test_with_a_token_a_loopback_site_wants_it_too() -> None:
    guarded = Admission(is_loopback=True, token=TOKEN)
    assert status(guarded.decide("/metrics", "localhost", "127.0.0.1", None)) == 401
    assert status(guarded.decide("/metrics", "any.example", "127.0.0.1", f"Bearer {TOKEN}")) == 200
    assert status(guarded.decide("/readyz", "rebound.example", "127.0.0.1", None)) == 421
