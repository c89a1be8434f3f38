"""The table: what is measured, on whom, and the target. Does no I/O itself; `loads.py` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks import loads
from benchmarks.figures import Round, Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.rivals import Rival
    from benchmarks.stage import Stage


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table.

    Attributes:
        name: as in `--cells`.
        title: for people.
        unit: of the figure.
        rivals: who takes part.
        targets: what our figure is held to.
        run: one round: the stage, the proxy, about how many seconds it may take.
        check: raises if the proxy does not do the job; runs once before the rounds.
    """

    name: str
    title: str
    unit: str
    rivals: tuple[str, ...]
    targets: tuple[Target, ...]
    run: Callable[[Stage, Rival, float], Round]
    check: Callable[[Stage, Rival], None]


CELLS: Final = (
    Cell(
        name="plain-get",
        title="absolute-form, small GET, plain upstream, no token",
        unit="µs/request",
        rivals=("nginx", "ours"),
        targets=(Target(2.2, "nginx"), Target(0.45, "squid"), Target(1 / 4, "proxy.py"), Target(1 / 40, "mitmproxy")),
        run=loads.plain_get,
        check=loads.check_plain,
    ),
    Cell(
        name="tls-get",
        title="absolute-form, small GET, TLS upstream",
        unit="µs/request",
        rivals=("nginx", "nginx-unlogged", "bare", "ours"),
        targets=(Target(2.2, "nginx"),),
        run=loads.tls_get,
        check=loads.check_tls,
    ),
)
