"""The published table of what proxies change says of ours what is measured now, and of the others something in every row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.fidelity.exchanges import EXCHANGES
from tests.fidelity.odd import ODD, play_odd, read_odd
from tests.fidelity.table import SAME, find_habits, format_cell, format_table, put_table, read_rows
from tests.fidelity.transcript import describe_direct
from tests.fidelity.ways import open_direct_way, open_own_way, play, ticking
from tests.wire.rig import Rig, Upstream, Wire

if TYPE_CHECKING:
    from tests.fidelity.table import Seen

PAGE: Final = (Path(__file__).parents[2] / "docs" / "behaviour.md").read_text(encoding="utf-8")
ROWS: Final = read_rows(PAGE)
SUM: Final = re.compile(r"^Unchanged, of (\d+) exchanges: (.*)\.$", re.MULTILINE)


@pytest.mark.parametrize("group", EXCHANGES)
def test_the_table_says_of_this_proxy_what_is_measured_now(uv_wire: Wire, group: str) -> None:
    async def work(rig: Rig) -> Seen:
        upstream = Upstream()
        await upstream.start(None)
        ways = {"direct": open_direct_way(upstream), "ours": open_own_way(rig, "forward")}
        try:
            async with ticking(rig):
                return {
                    name: {way: await play(ways[way], exchange) for way in ways}
                    for name, exchange in EXCHANGES[group].items()
                }
        finally:
            await ways["direct"].reset()
            upstream.close()

    seen = uv_wire.run(work)
    measured = {
        name: [describe_direct(by["direct"]), format_cell(by["direct"], by["ours"])] for name, by in seen.items()
    }
    assert find_habits(seen, "ours") == []
    assert {name: ROWS[name][:2] for name in measured} == measured


def test_the_table_of_odd_responses_says_what_is_measured_now(uv_wire: Wire) -> None:
    """C4: our column; the other ones have something in every row."""

    async def work(rig: Rig) -> dict[str, str]:
        own = open_own_way(rig, "forward")
        async with ticking(rig):
            return {name: await play_odd(own, case) for name, case in ODD.items()}

    rows = read_odd(PAGE)
    assert {name: cells[0] for name, cells in rows.items()} == uv_wire.run(work)
    assert {len(cells) for cells in rows.values()} == {5}
    assert all(cell for cells in rows.values() for cell in cells)


def test_every_exchange_has_its_row_and_every_row_its_cells() -> None:
    names = [name for exchanges in EXCHANGES.values() for name in exchanges]
    assert list(ROWS) == names
    assert len(names) >= 100
    assert {len(cells) for cells in ROWS.values()} == {5}
    assert all(cell for cells in ROWS.values() for cell in cells)


def test_the_sum_is_that_of_the_rows() -> None:
    total, told = SUM.findall(PAGE)[0]
    assert int(total) == len(ROWS)
    counts = [sum(cells[column] == SAME for cells in ROWS.values()) for column in range(1, 5)]
    assert [int(part.rpartition(" ")[2]) for part in told.split(", ")] == counts


def test_what_is_written_is_read_back(uv_wire: Wire) -> None:
    async def work(rig: Rig) -> Seen:
        own = open_own_way(rig, "forward")
        exchange = EXCHANGES["Request content"]["request body: chunk extensions"]
        transcript = await play(own, exchange)
        await own.reset()
        return {"request body: chunk extensions": {"direct": transcript, "ours": transcript}}

    seen = uv_wire.run(work)
    table = format_table({"Group": list(seen)}, seen, {"ours": "ours"})
    assert read_rows(put_table(PAGE, table)) == {"request body: chunk extensions": ["200", SAME]}
