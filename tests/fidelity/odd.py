"""Responses that are not as they should be: what each proxy makes of them, in a few words. Plays over loopback."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tests.fidelity.steps import HELD_S, NotReached, holds, reach_upstream
from tests.fidelity.transcript import Message, read_responses
from tests.wire.corpus_bad_responses import BAD_BODIES, BAD_HEADS, CODED
from tests.wire.corpus_repaired_responses import PADDED_CHUNKS, REPAIRED, Repaired
from tests.wire.rig import HOST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.fidelity.ways import Way

BEGIN: Final = "<!-- The table of odd responses is written by `make fidelity-table`. -->"
END: Final = "<!-- Here the table of odd responses ends. -->"
# In which a proxy closes a connection that it does not want to use again.
_CLOSES_S: Final = 0.3

_BAD_HEADS: Final = (
    "both framings",
    "two lengths that differ",
    "two lengths of one value, written in two ways",
    "a list of lengths that differ",
    "a length with a plus",
    "identity and a length",
    "identity and chunked",
    "gzip as transfer coding",
    "chunked twice",
    "chunked in HTTP/1.0",
    "white space within a name",
    "folded field",
    "no colon",
    "NUL in a field",
    "bare CR in a field",
    "lines end with LF",
    "status of two digits",
    "interim with content",
)
_BAD_BODIES: Final = (
    "chunk size with a blank in front",
    "chunk size with a blank inside",
    "chunk size followed by LF",
    "chunk content followed by LF",
    "trailer: Content-Length",
)
# What the upstream sends, by the names of the corpora.
ODD: Final[Mapping[str, Repaired]] = {
    **{f"repaired {name}": case for name, case in REPAIRED.items()},
    **{f"padded chunk sizes: {name}": Repaired(CODED + body, b"") for name, body in PADDED_CHUNKS.items()},
    **{f"bad {name}": Repaired(BAD_HEADS[name], b"") for name in _BAD_HEADS},
    **{f"bad {name}": Repaired(BAD_BODIES[name], b"") for name in _BAD_BODIES},
}


async def play_odd(way: Way, case: Repaired) -> str:
    """Plays one exchange from a clean start; returns what the client got, and what became of the upstream's connection."""
    await way.reset()
    client = await way.connect()
    client.send(way.form(b"%b /x HTTP/1.1\r\nHost: %b\r\n\r\n" % (case.method, HOST.encode())))
    try:
        upstream = await reach_upstream(way, client)
    except NotReached as outcome:
        return str(outcome)
    await holds(upstream, lambda peer: b"\r\n\r\n" in peer.received or peer.lost)
    upstream.send(case.sent)
    if case.until_close:
        upstream.close()

    def read() -> Message | None:
        return read_responses(bytes(client.received), ended=client.ended, has_content=case.method != b"HEAD")[1]

    def is_over(_: object) -> bool:
        message = read()
        return client.lost or client.ended or (message is not None and message.is_complete)

    await holds(client, is_over, HELD_S)
    message = read()
    if not case.until_close:
        await holds(upstream, lambda peer: peer.ended or peer.lost, _CLOSES_S)
    is_closed = upstream.ended or upstream.lost
    is_cut = client.lost or client.ended
    client.transport.abort()
    await asyncio.sleep(0)
    words = describe(message, case.sent, is_cut=is_cut)
    return words if case.until_close else f"{words}; {'closes' if is_closed else 'keeps'}"


def describe(message: Message | None, sent: bytes, *, is_cut: bool) -> str:
    """Says in a few words what the client got.

    Args:
        message: as far as it came; None without a head.
        sent: what the upstream sent.
        is_cut: whether the client's connection has ended.
    """
    if message is None:
        return "cut" if is_cut else "nothing"
    status = message.head.status
    if b" %d" % status not in sent:
        return f"{status}"
    words = f"passes {status}"
    if message.content:
        words += f", {len(message.content)} bytes"
    if not message.is_complete:
        words += ", then cut" if is_cut else ", then hangs"
    return words


def format_odd(rows: Mapping[str, Mapping[str, str]], titles: Mapping[str, str]) -> str:
    """Formats the table: a row for what the upstream sends, a column for each way in `titles`."""
    lines = [f"| the upstream sends | {' | '.join(titles.values())} |", "|---" * (len(titles) + 1) + "|"]
    lines += [f"| `{name}` | {' | '.join(cells[way] for way in titles)} |" for name, cells in rows.items()]
    return "\n".join(lines)


def put_odd(page: str, table: str) -> str:
    """Puts the table in place of the one that the page has."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def read_odd(page: str) -> dict[str, Sequence[str]]:
    """Reads the rows back: what is sent, and the cells."""
    table = page.partition(BEGIN)[2].partition(END)[0]
    rows = (line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `"))
    return {name.strip("`"): cells for name, *cells in rows}
