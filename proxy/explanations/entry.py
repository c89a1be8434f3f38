"""One explanation: what happened, whose fault it is, what to do next. Does no I/O."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Fault(Enum):
    """Who has to change something."""

    CLIENT = "the client"
    CONFIGURATION = "the proxy's configuration"
    MACHINE = "the proxy's machine or network"
    IDENTITY = "the identity platform"
    UPSTREAM = "the upstream"
    UPSTREAM_PROXY = "the upstream proxy"
    PROXY = "this proxy"
    NOBODY = "nobody"


class Entry(NamedTuple):
    """An explanation.

    Attributes:
        code: as the product prints it; ``NNN`` stands for any HTTP status.
        fault: who has to change something.
        cause: what happened, in whole sentences.
        fix: what to do next, in whole sentences.
    """

    code: str
    fault: Fault
    cause: str
    fix: str
