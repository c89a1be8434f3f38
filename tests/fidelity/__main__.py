"""Measures what proxies change, and writes the tables of docs/behaviour.md: ``python -m tests.fidelity [--print]``. Does I/O.

Plays each exchange without a proxy, through ours, and through mitmproxy, nginx and squid, all on this machine; odd responses
through ours, nginx, squid, Envoy and Go's reverse proxy. Needs nginx and squid (`.ci/install-test-tools`), Debian's golang-go, and
PyPI for mitmproxy and Envoy, which are kept in environments of their own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.processes import BenchmarkError
from tests.fidelity.exchanges import EXCHANGES
from tests.fidelity.odd import ODD, format_odd, play_odd, put_odd
from tests.fidelity.rivals import ODD_RIVALS, RIVALS, open_rival, title
from tests.fidelity.table import Seen, format_table, put_table
from tests.fidelity.ways import Way, open_direct_way, open_own_way, play, ticking
from tests.wire.rig import Rig, Trust, Upstream

_PAGE: Final = Path(__file__).parents[2] / "docs" / "behaviour.md"


def main() -> int:
    """Measures, and writes or prints; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tests.fidelity", description=__doc__)
    parser.add_argument("--print", action="store_true", help="print the table, and leave the page as it is")
    parser.add_argument("--only", default="", help="play only the exchanges whose names hold this, and print")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fidelity-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # squid drops to a user of its own
        try:
            titles = {"ours": "ours"} | {rival: title(rival) for rival in RIVALS}
            odd_titles = {"ours": "ours"} | {rival: title(rival) for rival in ODD_RIVALS}
            seen, odd = uvloop.run(_measure(directory, arguments.only))
        except BenchmarkError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    groups = {group: [name for name in exchanges if name in seen] for group, exchanges in EXCHANGES.items()}
    table = format_table({group: names for group, names in groups.items() if names}, seen, titles)
    odd_table = format_odd(odd, odd_titles)
    if arguments.print or arguments.only:
        sys.stdout.write(f"{table}\n\n{odd_table}\n")
    else:
        page = put_odd(put_table(_PAGE.read_text(encoding="utf-8"), table), odd_table)
        _PAGE.write_text(page, encoding="utf-8")
    return 0


async def _measure(directory: Path, only: str) -> tuple[Seen, dict[str, dict[str, str]]]:
    seen: Seen = {}
    odd: dict[str, dict[str, str]] = {}
    async with AsyncExitStack() as stack:
        rig = Rig(Trust.create())
        await rig.start()
        stack.push_async_callback(rig.stop)
        await stack.enter_async_context(ticking(rig))
        upstream = Upstream()
        await upstream.start(None)
        stack.callback(upstream.close)
        ways: dict[str, Way] = {
            "direct": open_direct_way(upstream),
            "ours": open_own_way(rig, "forward"),
        }
        for name in dict.fromkeys((*RIVALS, *ODD_RIVALS)):
            sys.stderr.write(f"starting {name}\n")
            ways[name] = stack.enter_context(open_rival(name, directory, upstream))
        for group, exchanges in EXCHANGES.items():
            sys.stderr.write(f"{group}\n")
            for name, exchange in exchanges.items():
                if only in name:
                    seen[name] = {way: await play(ways[way], exchange) for way in ("direct", "ours", *RIVALS)}
        sys.stderr.write("Odd responses\n")
        for name, case in ODD.items():
            if only in name:
                odd[name] = {way: await play_odd(ways[way], case) for way in ("ours", *ODD_RIVALS)}
    return seen, odd


if __name__ == "__main__":
    sys.exit(main())
