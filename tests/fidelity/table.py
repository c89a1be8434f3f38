"""The table of the page on behaviour: written from transcripts, and read back. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from tests.fidelity.transcript import Transcript, describe_differences, describe_direct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BEGIN: Final = "<!-- The table is written by `make fidelity-table`. -->"
END: Final = "<!-- Here the table ends. -->"
SAME: Final = "same"
HABITUAL: Final = "as always"

# Exchange: way: what was seen.
Seen = dict[str, dict[str, Transcript]]


def find_habits(seen: Seen, way: str) -> list[str]:
    """What a way changes in more than half of the exchanges; said once, it leaves the cells to what is particular."""
    counted = Counter(words for by in seen.values() for words in describe_differences(by["direct"], by[way]))
    return [words for words, times in counted.items() if times * 2 > len(seen)]


def format_cell(direct: Transcript, through: Transcript, habits: Sequence[str] = ()) -> str:
    """What a cell says of one way."""
    found = describe_differences(direct, through)
    particular = [words for words in found if words not in habits]
    return "; ".join(particular) or (HABITUAL if found else SAME)


def format_table(groups: Mapping[str, Sequence[str]], seen: Seen, titles: Mapping[str, str]) -> str:
    """Formats all groups, and the sum in front.

    Args:
        groups: the names of the exchanges, by group.
        seen: for each exchange, what was seen directly (`direct`) and by each way.
        titles: the ways and what their columns are called.
    """
    habits = {way: find_habits(seen, way) for way in titles}
    cells = {
        name: {way: format_cell(by["direct"], by[way], habits[way]) for way in titles} for name, by in seen.items()
    }
    count = {way: sum(by[way] == SAME for by in cells.values()) for way in titles}
    lines = [f"Unchanged, of {len(cells)} exchanges: {', '.join(f'{titles[way]} {count[way]}' for way in titles)}."]
    for way, always in habits.items():
        if always:
            rest = sum(by[way] in (SAME, HABITUAL) for by in cells.values())
            sentence = (
                f"In most exchanges {titles[way]} does this: {'; '.join(always)}. Its column leaves that out, and says "
                f"`{HABITUAL}` where there is nothing else. But for that, {rest} are unchanged."
            )
            lines += ["", sentence]
    for group, names in groups.items():
        lines += ["", f"| {group} | direct | {' | '.join(titles.values())} |", "|---" * (len(titles) + 2) + "|"]
        for name in names:
            row = [f"`{name}`", describe_direct(seen[name]["direct"]), *(cells[name][way] for way in titles)]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def put_table(page: str, table: str) -> str:
    """Puts a table in place of the one that the page has."""
    before, _, rest = page.partition(BEGIN)
    _, _, behind = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{behind}"


def read_rows(page: str) -> dict[str, list[str]]:
    """Reads the rows back: the exchange's name, and its cells."""
    table = page.partition(BEGIN)[2].partition(END)[0]
    rows = (line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `"))
    return {name.strip("`"): cells for name, *cells in rows}
