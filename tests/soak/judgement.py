"""Judges what came of an exchange: the upstream's response to this very request, or a failure that something excuses. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tests.soak.connection import Way
from tests.soak.plan import DIES, IDEMPOTENT, Behaviour, Ending, Framing, content_of
from tests.soak.response import IDENTIFIER

if TYPE_CHECKING:
    from tests.soak.journal import Ticket, Weather
    from tests.soak.plan import Plan
    from tests.soak.response import Response

# limits.replay_bytes, less what chunking adds.
REPLAYED_BYTES: Final = 65_000
_IDENTITY_ERRORS: Final = frozenset(("proxy_internal_response", "proxy_configuration_error"))


class Verdict(NamedTuple):
    """What came of an exchange.

    Attributes:
        outcome: in few words, for counting.
        fault: what must not have been; empty where all is well.
    """

    outcome: str
    fault: str = ""


def judge(ticket: Ticket, response: Response, weather: Weather) -> Verdict:
    """Judges the exchange of a client that has stayed until the response ended, one way or the other."""
    if response.own_error:
        return _judge_own_answer(ticket, response, weather)
    plan = ticket.plan
    if not response.status:
        return Verdict("no answer", "the connection ended without a byte of an answer")
    fault = _find_foreign(plan, response)
    if fault:
        return Verdict("foreign", fault)
    if not response.complete:
        excused = plan.behaviour is Behaviour.DIES_IN_CONTENT
        return Verdict("cut", "" if excused else f"the response was cut after {len(response.content)} bytes")
    if plan.behaviour in DIES and not _ends_properly(ticket):
        return Verdict("complete", "the upstream died, and the response ended as if it were complete")
    return Verdict(f"{response.status}", _find_difference(plan, response))


def judge_partial(plan: Plan, response: Response) -> Verdict:
    """Judges as much as has come to a client that went."""
    if response.own_error or not response.status:
        return Verdict("client went")
    return Verdict("client went", _find_foreign(plan, response))


def _judge_own_answer(ticket: Ticket, response: Response, weather: Weather) -> Verdict:
    plan, error = ticket.plan, response.own_error
    outcome = f"own {response.status} {error}"
    if error in _IDENTITY_ERRORS and weather.lacks_tokens:
        return Verdict(outcome)
    # A connection that ends as the request is written to it: the request may go on another only where that is safe.
    unlucky = ticket.seen == 0 and (plan.method not in IDEMPOTENT or plan.request_bytes > REPLAYED_BYTES)
    if error == "connection_terminated" and (plan.behaviour in DIES or unlucky):
        return Verdict(outcome)
    return Verdict(outcome, f"the proxy answered {bytes(response.content)!r}; the upstream saw {ticket.seen}")


def _ends_properly(ticket: Ticket) -> bool:
    """Whether the upstream's death looks like the end of a response: without TLS a FIN is all there is (RFC 9112 §6.3)."""
    plan = ticket.plan
    return (
        ticket.way == Way.PLAIN
        and plan.behaviour is Behaviour.DIES_IN_CONTENT
        and plan.response_framing is Framing.UNTIL_CLOSE
        and plan.ending is Ending.VANISH
    )


def _find_foreign(plan: Plan, response: Response) -> str:
    """Says which part of a response is another exchange's; empty where none is."""
    name = plan.identifier.encode()
    for where, found in (
        ("field", [response.fields.get(IDENTIFIER)]),
        ("interim response", response.interims),
        ("trailers", [response.trailers[IDENTIFIER]] if IDENTIFIER in response.trailers else []),
    ):
        for identifier in found:
            if identifier != name:
                return f"CROSSED: the {where} says {identifier!r}"
    if not content_of(plan.identifier, plan.response_bytes).startswith(response.content):
        return f"CROSSED: the content is not its own: {bytes(response.content[:160])!r}"
    return ""


def _find_difference(plan: Plan, response: Response) -> str:
    """Says how a complete response differs from what the upstream sent; empty where it does not."""
    statuses = (200, 401) if plan.behaviour is Behaviour.REFUSES_TOKEN else (plan.status,)
    if response.status not in statuses:
        return f"the status is {response.status}, the upstream sent {plan.status}"
    wanted = plan.response_bytes if plan.has_response_content else 0
    if len(response.content) != wanted:
        return f"{len(response.content)} of {wanted} bytes came, and then a proper end"
    if plan.behaviour is Behaviour.INTERIM and len(response.interims) != 1:
        return f"{len(response.interims)} interim responses came, one was sent"
    if response.framing is Framing.CHUNKED and IDENTIFIER not in response.trailers:
        return "the trailers are missing"
    return ""
