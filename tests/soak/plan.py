"""What one exchange of the soak is to be like, chosen by chance from a seed. Pure: does no I/O.

Client and upstream know the plan by the exchange's identifier, which travels in the request's target, in a field and in the
content, and comes back in a field and in the content. The content of both messages is worked out from the identifier alone, so
that a byte of another message cannot look right.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

_Choice = TypeVar("_Choice")

IDEMPOTENT: Final = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))


class Behaviour(StrEnum):
    """What the upstream does."""

    PLAIN = "plain"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"
    EVENTS = "events"
    INTERIM = "interim"
    NO_CONTENT = "204"
    NOT_MODIFIED = "304"
    EARLY = "early answer"
    CLOSES = "says close"
    SLOW = "slow"
    REFUSES_TOKEN = "401 for the token"
    OWN_401 = "401 of its own"
    BYTES_BEHIND = "bytes behind"
    CLOSES_LATER = "closes when idle"
    DIES_UNANSWERED = "dies unanswered"
    DIES_IN_HEAD = "dies in head"
    DIES_IN_CONTENT = "dies in content"


class Conduct(StrEnum):
    """What the client does."""

    WHOLE = "whole"
    SLOW_READER = "slow reader"
    SLOW_WRITER = "slow writer"
    HALF_CLOSES = "half-closes"
    GOES_SENDING = "goes while sending"
    GOES_WAITING = "goes while waiting"
    GOES_READING = "goes while reading"


class Framing(StrEnum):
    """How a message says where it ends."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


class Ending(StrEnum):
    """How a connection is ended."""

    CLOSE = "close"  # properly, with close_notify under TLS
    VANISH = "vanish"  # FIN without close_notify, as of a program that was killed
    RESET = "reset"  # RST


DIES: Final = frozenset((Behaviour.DIES_UNANSWERED, Behaviour.DIES_IN_HEAD, Behaviour.DIES_IN_CONTENT))
GOES: Final = frozenset((Conduct.GOES_SENDING, Conduct.GOES_WAITING, Conduct.GOES_READING))
# What answers to HEAD, and what may stand in the middle of a pipeline.
SIMPLE: Final = (Behaviour.PLAIN, Behaviour.CHUNKED, Behaviour.INTERIM)
# What reaches the proxy in one piece: bytes behind it come with it, and no reset can overtake it.
_BRIEF: Final = (Behaviour.BYTES_BEHIND, Behaviour.CLOSES_LATER)
_BRIEF_BYTES: Final = 2_000
_STATUSES: Final = {
    Behaviour.NO_CONTENT: 204,
    Behaviour.NOT_MODIFIED: 304,
    Behaviour.REFUSES_TOKEN: 401,
    Behaviour.OWN_401: 401,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """One exchange.

    Attributes:
        identifier: its own, in all the soak.
        request_bytes, response_bytes: of content.
        response_framing: of responses that have content.
        ending: of the side that dies or goes.
        expects_continue: whether the client says so; it sends its content without waiting.
    """

    identifier: str
    method: str
    behaviour: Behaviour
    conduct: Conduct
    request_framing: Framing
    request_bytes: int
    response_framing: Framing
    response_bytes: int
    ending: Ending
    expects_continue: bool

    @property
    def status(self) -> int:
        """What the upstream answers in the end."""
        return _STATUSES.get(self.behaviour, 200)

    @property
    def has_response_content(self) -> bool:
        return self.method != "HEAD" and self.status not in (204, 304)


_BEHAVIOURS: Final[Mapping[Behaviour, float]] = {
    Behaviour.PLAIN: 40,
    Behaviour.CHUNKED: 14,
    Behaviour.UNTIL_CLOSE: 3,
    Behaviour.EVENTS: 4,
    Behaviour.INTERIM: 4,
    Behaviour.NO_CONTENT: 3,
    Behaviour.NOT_MODIFIED: 3,
    Behaviour.EARLY: 4,
    Behaviour.CLOSES: 3,
    Behaviour.SLOW: 3,
    Behaviour.REFUSES_TOKEN: 1,
    Behaviour.OWN_401: 1,
    Behaviour.BYTES_BEHIND: 2,
    Behaviour.CLOSES_LATER: 6,
    Behaviour.DIES_UNANSWERED: 3,
    Behaviour.DIES_IN_HEAD: 2,
    Behaviour.DIES_IN_CONTENT: 4,
}
_CONDUCTS: Final[Mapping[Conduct, float]] = {
    Conduct.WHOLE: 82,
    Conduct.SLOW_READER: 3,
    Conduct.SLOW_WRITER: 3,
    Conduct.HALF_CLOSES: 3,
    Conduct.GOES_SENDING: 3,
    Conduct.GOES_WAITING: 3,
    Conduct.GOES_READING: 3,
}


def choose_plan(chance: random.Random, identifier: str) -> Plan:
    """Returns any plan."""
    behaviour = _pick(chance, _BEHAVIOURS)
    conduct = _pick(chance, _CONDUCTS)
    needs_content = behaviour is Behaviour.EARLY or conduct in (Conduct.GOES_SENDING, Conduct.SLOW_WRITER)
    if needs_content:
        method = chance.choice(("POST", "PUT"))
    else:
        method = chance.choice(("GET", "GET", "GET", "POST", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"))
    if method == "HEAD" and behaviour not in SIMPLE:
        method = "GET"
    framing = Framing.NONE
    if needs_content or method in ("POST", "PUT"):
        framing = chance.choice((Framing.LENGTH, Framing.CHUNKED))
    request_bytes = 0 if framing is Framing.NONE else _size(chance)
    if conduct is Conduct.GOES_SENDING:
        request_bytes += 20_000
    response_bytes = _size(chance) + (1 if behaviour is Behaviour.DIES_IN_CONTENT else 0)
    response_framing = _response_framing(chance, behaviour)
    if behaviour in _BRIEF:
        response_bytes = min(response_bytes, _BRIEF_BYTES)
    endings = [Ending.VANISH, Ending.RESET]
    if response_framing is not Framing.UNTIL_CLOSE or behaviour not in DIES:
        endings.append(Ending.CLOSE)
    return Plan(
        identifier=identifier,
        method=method,
        behaviour=behaviour,
        conduct=conduct,
        request_framing=framing,
        request_bytes=request_bytes,
        response_framing=response_framing,
        response_bytes=response_bytes,
        ending=chance.choice(endings),
        expects_continue=framing is not Framing.NONE and behaviour is not Behaviour.EARLY and chance.random() < 0.1,
    )


def choose_simple_plan(chance: random.Random, identifier: str) -> Plan:
    """Returns a plan after which the connection goes on: for pipelines."""
    method = chance.choice(("GET", "GET", "POST", "DELETE", "HEAD"))
    framing = Framing.LENGTH if method == "POST" else Framing.NONE
    return Plan(
        identifier=identifier,
        method=method,
        behaviour=chance.choice(SIMPLE),
        conduct=Conduct.WHOLE,
        request_framing=framing,
        request_bytes=0 if framing is Framing.NONE else chance.randrange(3_000),
        response_framing=chance.choice((Framing.LENGTH, Framing.CHUNKED)),
        response_bytes=chance.randrange(20_000),
        ending=Ending.CLOSE,
        expects_continue=False,
    )


def content_of(identifier: str, size: int) -> bytes:
    """Returns the content that belongs to an identifier: of that many bytes, none of them like another identifier's."""
    block = f"{hashlib.sha256(identifier.encode()).hexdigest()} {identifier}\n".encode()
    return (block * (size // len(block) + 1))[:size]


def _pick(chance: random.Random, weights: Mapping[_Choice, float]) -> _Choice:
    return chance.choices(list(weights), list(weights.values()))[0]


def _size(chance: random.Random) -> int:
    """Mostly small; now and then more than any buffer holds."""
    kind = chance.random()
    if kind < 0.1:
        return 0
    if kind < 0.85:
        return chance.randrange(1, 4_000)
    if kind < 0.99:
        return chance.randrange(4_000, 200_000)
    return chance.randrange(500_000, 4_000_000)


def _response_framing(chance: random.Random, behaviour: Behaviour) -> Framing:
    if behaviour is Behaviour.UNTIL_CLOSE:
        return Framing.UNTIL_CLOSE
    if behaviour in (Behaviour.CHUNKED, Behaviour.EVENTS):
        return Framing.CHUNKED
    if behaviour is Behaviour.DIES_IN_CONTENT:
        return chance.choice((Framing.LENGTH, Framing.CHUNKED, Framing.UNTIL_CLOSE))
    return chance.choice((Framing.LENGTH, Framing.LENGTH, Framing.CHUNKED))
