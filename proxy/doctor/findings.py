"""One thing that was looked at, what was found, and what to do about it. Does no I/O.

Invariant: no finding holds a token, an assertion, a key, a password or the value of a configured field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

Fact: TypeAlias = "str | int | float | list[str]"


class Level(StrEnum):
    """How much it matters."""

    OK = "ok"
    WARNING = "warning"
    """Works today; does not fail a check."""
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        level: how much it matters.
        subject: what was looked at: ``credential orders-client``, ``listener 127.0.0.1:8080``.
        message: what was found, a sentence or two.
        advice: what to do next; empty where nothing is to be done, or the message says it.
        facts: the same for programs.
    """

    level: Level
    subject: str
    message: str
    advice: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)


def ok(subject: str, message: str, **facts: Fact) -> Finding:
    """Return a finding that nothing is wrong."""
    return Finding(Level.OK, subject, message, facts=facts)


def warning(subject: str, message: str, advice: str = "", **facts: Fact) -> Finding:
    """Return a finding that will matter one day, or matters to some."""
    return Finding(Level.WARNING, subject, message, advice, facts)


def error(subject: str, message: str, advice: str = "", **facts: Fact) -> Finding:
    """Return a finding that keeps the proxy from doing its work."""
    return Finding(Level.ERROR, subject, message, advice, facts)


def days_left(end: datetime, now: datetime) -> int:
    """Return whole days from now to the end; negative once it is past."""
    return (end - now) // timedelta(days=1)
