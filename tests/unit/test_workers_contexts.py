"""The TLS contexts of a relay process: fetched once for all siblings below a wildcard route, and replaced with the CA."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from proxy.interception.authority import InterceptionCA, issue
from proxy.workers.contexts import _REMEMBERED, _WAITING, RemoteContexts
from proxy.workers.messages import Leaf, WantLeaf
from proxy.workers.relays import LeafMint

if TYPE_CHECKING:
    from proxy.workers.messages import Message

HOSTS = ["contoso.azure-api.net", "*.apis.contoso.com"]


@pytest.fixture(scope="module")
def ca() -> InterceptionCA:
    return issue(HOSTS, datetime.now(UTC), reason="created")


class ControlProcess:
    """Answers as control does, when it is told to."""

    def __init__(self, ca: InterceptionCA) -> None:
        self._mint = LeafMint(ca, HOSTS)
        self.asked: list[str] = []
        self.takes = True

    def take(self, message: Message) -> bool:
        assert isinstance(message, WantLeaf)
        self.asked.append(message.host)
        return self.takes

    def leaf(self, host: str) -> Leaf:
        leaf = self._mint(host)
        return Leaf(host=host, name=leaf.name, pem=leaf.pem().decode())


def test_what_was_fetched_for_one_name_serves_its_siblings(ca: InterceptionCA) -> None:
    control = ControlProcess(ca)
    contexts = RemoteContexts(control.take, HOSTS)
    arrived: list[str] = []
    assert contexts.context_for("a.apis.contoso.com") is None
    contexts.fetch("a.apis.contoso.com", lambda: arrived.append("a"))
    contexts.take(control.leaf("a.apis.contoso.com"))
    assert arrived == ["a"]
    shared = contexts.context_for("a.apis.contoso.com")
    assert shared is not None
    assert all(contexts.context_for(f"host{number}.apis.contoso.com") is shared for number in range(20))
    assert control.asked == ["a.apis.contoso.com"]
    assert contexts.context_for("a_b.apis.contoso.com") is None, "verifiers disagree about a star in its place"
    assert contexts.context_for("a.b.apis.contoso.com") is None, "a star stands for one label"
    contexts.take(control.leaf(HOSTS[0]))
    assert contexts.context_for(HOSTS[0]) not in (None, shared)


def test_a_host_with_a_route_of_its_own_shares_no_context(ca: InterceptionCA) -> None:
    control = ControlProcess(ca)
    contexts = RemoteContexts(control.take, [*HOSTS, "own.apis.contoso.com"])
    contexts.take(control.leaf("a.apis.contoso.com"))
    assert contexts.context_for("other.apis.contoso.com") is not None
    assert contexts.context_for("own.apis.contoso.com") is None


def test_another_ca_leaves_nothing_of_the_one_before(ca: InterceptionCA) -> None:
    control = ControlProcess(ca)
    contexts = RemoteContexts(control.take, HOSTS)
    for host in (HOSTS[0], "a.apis.contoso.com"):
        contexts.take(control.leaf(host))
        assert contexts.context_for(host) is not None
    contexts.forget()
    assert contexts.context_for(HOSTS[0]) is None
    assert contexts.context_for("a.apis.contoso.com") is None


def test_a_host_that_control_does_not_sign_for_is_told_to_who_waits(ca: InterceptionCA) -> None:
    control = ControlProcess(ca)
    contexts = RemoteContexts(control.take, HOSTS)
    arrived: list[str] = []
    contexts.fetch("other.example", lambda: arrived.append("told"))
    contexts.take(Leaf(host="other.example", name="other.example", pem=None))
    assert arrived == ["told"]
    assert contexts.context_for("other.example") is None


def test_those_who_wait_for_a_leaf_are_bounded_and_the_others_hear_at_once(ca: InterceptionCA) -> None:
    """A11: each CONNECT adds one until control answers, and control may not."""
    control = ControlProcess(ca)
    contexts = RemoteContexts(control.take, HOSTS)
    arrived: list[int] = []
    for number in range(_WAITING + 10):
        contexts.fetch(HOSTS[0], lambda number=number: arrived.append(number))  # type: ignore[misc]  # mypy knows no defaults of lambdas
    assert arrived == list(range(_WAITING, _WAITING + 10))
    assert control.asked == [HOSTS[0]]
    contexts.take(control.leaf(HOSTS[0]))
    assert sorted(arrived) == list(range(_WAITING + 10))
    contexts.fetch("a.apis.contoso.com", lambda: arrived.append(-1))
    assert arrived[-1] == _WAITING - 1, "there is room again"


def test_who_asks_while_control_takes_no_more_hears_at_once_and_may_ask_again(ca: InterceptionCA) -> None:
    control = ControlProcess(ca)
    control.takes = False
    contexts = RemoteContexts(control.take, HOSTS)
    arrived: list[str] = []
    contexts.fetch(HOSTS[0], lambda: arrived.append("refused"))
    assert arrived == ["refused"]
    control.takes = True
    contexts.fetch(HOSTS[0], lambda: arrived.append("served"))
    contexts.take(control.leaf(HOSTS[0]))
    assert arrived == ["refused", "served"]
    assert control.asked == [HOSTS[0]] * 2


def test_a_renewal_is_asked_for_once(ca: InterceptionCA, monkeypatch: pytest.MonkeyPatch) -> None:
    control = ControlProcess(ca)
    contexts = RemoteContexts(control.take, HOSTS)
    contexts.take(control.leaf(HOSTS[0]))
    now = time.monotonic() + 4 * 86_400
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(100):
        assert contexts.context_for(HOSTS[0]) is not None
    assert control.asked == [HOSTS[0]]
    assert contexts._waiting == {(HOSTS[0], False): []}


def test_what_is_in_use_outlasts_a_client_that_walks_through_names(ca: InterceptionCA) -> None:
    """As with one process: of too many contexts, that goes which has not been used for longest."""
    control = ControlProcess(ca)
    contexts = RemoteContexts(control.take, HOSTS)
    contexts.take(control.leaf(HOSTS[0]))
    pem = control.leaf("walked.apis.contoso.com").pem
    for number in range(_REMEMBERED + 1):
        assert contexts.context_for(HOSTS[0]) is not None
        name = f"a.b{number}.apis.contoso.com"
        contexts.take(Leaf(host=name, name=name, pem=pem))
    assert contexts.context_for("a.b0.apis.contoso.com") is None
