"""What the soak has seen: how often each thing came, and every violation of a promise. Does no I/O."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.soak.plan import Plan

# One mistake shows itself many times; what is behind the first few of them is known by then.
_SHOWN: Final = 40


@dataclass(slots=True)
class Ticket:
    """One exchange under way.

    Attributes:
        way: how the client reaches the upstream.
        seen: how often the request has reached the upstream, at least its head.
        refused_token: the Authorization value that the upstream has refused; empty without.
    """

    plan: Plan
    way: str
    seen: int = 0
    refused_token: bytes = b""


@dataclass
class Journal:
    """Everything that is counted.

    Attributes:
        tickets: the exchanges under way, by identifier.
        outcomes: by way, by what was planned, by what came of it.
        happenings: of what was done to the proxy, how often.
        violations: of which there are to be none.
    """

    tickets: dict[str, Ticket] = field(default_factory=dict)
    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    happenings: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    violation_count: int = 0
    began: float = field(default_factory=time.monotonic)

    def count(self, way: str, planned: str, outcome: str) -> None:
        self.outcomes[way, planned, outcome] += 1

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
