"""What the soak has seen: how often each thing came, what each exchange came to, and every violation. Does no I/O."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from tests.soak.plan import Plan
    from tests.soak.response import Response

# One mistake shows itself many times; what is behind the first few of them is known by then.
_SHOWN: Final = 40


@dataclass(slots=True)
class Ticket:
    """One exchange under way.

    Attributes:
        way: how the client reaches the upstream.
        seen: how often the request has reached the upstream, at least its head.
        refused_token: the Authorization value that the upstream has refused; empty without.
        response: what came back to a client that stayed until its end; None where none did.
    """

    plan: Plan
    way: str
    seen: int = 0
    refused_token: bytes = b""
    response: Response | None = None


class Account(NamedTuple):
    """What an exchange has come to, for the access log to agree with.

    Attributes:
        reached: whether its request has reached the upstream.
        status: of the response that came to its end; 0 where none did.
        content_bytes: that response's content; None where the proxy answered in its own name, or the stream went on.
    """

    reached: bool
    status: int = 0
    content_bytes: int | None = None


@dataclass
class Journal:
    """Everything that is counted.

    Attributes:
        tickets: the exchanges under way, by identifier.
        outcomes: by way, by what was planned, by what came of it.
        accounts: the exchanges that are over, by identifier.
        tunnels: blind ones that were opened.
        happenings: of what was done to the proxy, how often.
        violations: of which there are to be none.
    """

    tickets: dict[str, Ticket] = field(default_factory=dict)
    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    accounts: dict[str, Account] = field(default_factory=dict)
    tunnels: int = 0
    happenings: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    violation_count: int = 0
    began: float = field(default_factory=time.monotonic)

    def count(self, way: str, planned: str, outcome: str) -> None:
        self.outcomes[way, planned, outcome] += 1

    def settle(self, ticket: Ticket) -> None:
        """Takes an exchange off the list of those under way."""
        name, response = ticket.plan.identifier, ticket.response
        del self.tickets[name]
        if response is None or not response.complete:
            self.accounts[name] = Account(ticket.seen > 0)
            return
        counted = not response.own_error and response.status != 101
        self.accounts[name] = Account(ticket.seen > 0, response.status, len(response.content) if counted else None)

    def violate(self, what: str) -> None:
        """Writes down that a promise was broken."""
        self.violation_count += 1
        if len(self.violations) < _SHOWN:
            self.violations.append(f"after {time.monotonic() - self.began:.1f} s: {what}")

    @property
    def exchanges(self) -> int:
        """How many there were."""
        return self.outcomes.total()


@dataclass
class Weather:
    """What may excuse an answer of the proxy's own at present.

    Attributes:
        no_tokens_until: monotonic seconds; until then it may lack an access token.
    """

    no_tokens_until: float = 0.0

    @property
    def lacks_tokens(self) -> bool:
        return time.monotonic() < self.no_tokens_until
